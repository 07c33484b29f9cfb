"""Caveats as the workflow sees them; they lie in `base`, because files and finders know them too."""

from napari_emdl.base.caveats import DEVICE, FIT, INPUT, KEY, RANGE, Caveat, Caveats

__all__ = ["DEVICE", "FIT", "INPUT", "KEY", "RANGE", "Caveat", "Caveats"]
