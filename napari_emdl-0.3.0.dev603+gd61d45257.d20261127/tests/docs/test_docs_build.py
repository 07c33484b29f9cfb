"""The site builds without a warning; the tutorials themselves are executed by `make docs` only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import napari_emdl as emdl
from helpers.docs_text import ROOT

pytest.importorskip("sphinx", reason="Sphinx is not installed: pip install 'napari-emdl[docs]'")
for module in ("myst_parser", "numpydoc", "sphinx_gallery", "pydata_sphinx_theme", "sphinx_design", "sphinx_copybutton"):
    pytest.importorskip(module, reason=f"{module} is not installed: pip install 'napari-emdl[docs]'")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quick build, made from a copy so that it writes nothing into the checkout."""
    copy = tmp_path_factory.mktemp("docs")
    written = shutil.ignore_patterns("_build", "tutorials", "generated", "sg_execution_times.rst")
    shutil.copytree(ROOT / "docs", copy / "docs", ignore=written)
    shutil.copytree(ROOT / "examples", copy / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, copy / name)
    run = subprocess.run(
        [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", str(copy / "docs"), str(copy / "html")],
        env=os.environ | {"EMDL_DOCS_QUICK": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "the tutorials were not executed" in run.stdout, "a build says what it leaves out"
    return copy / "html"


def text_of(page: Path) -> str:
    """Text of a page without its tags."""
    parts: list[str] = []
    parser = HTMLParser()
    parser.handle_data = parts.append  # type: ignore[method-assign]
    parser.feed(page.read_text(encoding="utf-8"))
    return " ".join(" ".join(parts).split())


def test_pages_made_from_the_program_hold_what_the_program_has(site: Path) -> None:
    from napari_emdl.base.params import DiskParams

    parameters = text_of(site / "reference/generated/parameters.html")
    assert all(name in parameters for name in DiskParams.model_fields)
    assert "--reference-lattice" in text_of(site / "reference/generated/cli.html")
    names = text_of(site / "reference/api.html")
    assert all(name in names for name in emdl.__all__ if name != "__version__")


def test_every_shipped_network_has_its_card(site: Path) -> None:
    from napari_emdl.models.registry import list_models, load_model

    shipped = [entry for entry in list_models() if entry.source == "shipped"]
    assert shipped
    for entry in shipped:
        page = text_of(site / f"reference/generated/models/{entry.name}.html")
        card = load_model(entry.folder).card
        assert "Limits" in page and "Errors by condition" in page and f"Version {card.version}" in page


def test_every_tutorial_is_listed(site: Path) -> None:
    index = (site / "tutorials/index.html").read_text(encoding="utf-8")
    for tutorial in (ROOT / "examples").glob("plot_*.py"):
        assert f"{tutorial.stem}.html" in index
