"""Options that say how a file is read, shared by all commands that open data."""

from __future__ import annotations

from napari_emdl.base.params import OpenParams
from napari_emdl.cli.options import Section

#: What columns and occupancy ask for themselves, and what only scans have.
_NOT_FOR_MOVIES = frozenset(
    {
        "pixel_nm",
        "q_pixel_invA",
        "energy_keV",
        "semiangle_mrad",
        "frame_interval_s",
        "qr_rotation_rad",
        "qr_flip",
        "scan_crop",
        "scan_bin",
        "drop_cols",
    }
)

OPENING = Section(OpenParams, as_dict=True)
CUBE_OPENING = Section(OpenParams, frozenset({"frame_interval_s", "defocus_step_A"}), as_dict=True)
MOVIE_OPENING = Section(OpenParams, _NOT_FOR_MOVIES, as_dict=True)
