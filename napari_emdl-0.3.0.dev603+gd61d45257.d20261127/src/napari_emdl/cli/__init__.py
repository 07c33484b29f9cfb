"""The command line: the same parameters and jobs as the panels, headless."""

from napari_emdl.cli.app import main, program

__all__ = ["main", "program"]
