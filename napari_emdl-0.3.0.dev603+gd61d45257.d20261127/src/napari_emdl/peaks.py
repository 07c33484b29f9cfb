"""The peak table. It lives in :mod:`napari_emdl.base.peaks`; this name is public and stays."""

from napari_emdl.base.peaks import PeakTable

__all__ = ["PeakTable"]
