"""Sphinx configuration: `make docs` builds the site, warnings are errors.

``EMDL_DOCS_QUICK=1`` builds without executing the tutorials, as `make test` does.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "agg")
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE / "_ext"))

import napari_emdl  # noqa: E402

QUICK = bool(os.environ.get("EMDL_DOCS_QUICK"))

project = "napari-emdl"
author = "napari-emdl developers"
copyright = author
release = version = napari_emdl.__version__

extensions = [
    "sphinx.ext.autodoc",
    "numpydoc",
    "myst_parser",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "emdl_pages",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "_ext", "_static", "**/README.md"]
# sphinx-gallery writes its files before anybody can say that it kept a function of this file in the configuration
suppress_warnings = ["config.cache"]

myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 4

autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": [str(ROOT / "examples")],
    "gallery_dirs": ["tutorials"],
    "filename_pattern": r"\.py$",
    "plot_gallery": "False" if QUICK else "True",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "remove_config_comments": True,
    "abort_on_example_error": True,
    "copyfile_regex": r".*\.rst",
    "min_reported_time": 1,
}

html_theme = "pydata_sphinx_theme"
html_title = "napari-emdl"
html_static_path = ["_static"]
html_css_files = ["emdl.css"]
html_show_sourcelink = False
html_context = {"default_mode": "auto"}
html_sidebars = {name: [] for name in ("index", "benchmarks", "gallery")}  # pages without pages below them
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": True,
    "header_links_before_dropdown": 6,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}

logging.getLogger("napari_emdl").setLevel(logging.ERROR)  # what a tutorial has to say stands in its results
