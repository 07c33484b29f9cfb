"""The vector of imaging conditions that a column network takes beside the image: each has a flag, so that unknown stays
allowed."""

from __future__ import annotations

import numpy as np

#: (name, scale) of the numeric conditions; each takes two entries, known (0 or 1) and value / scale
NUMERIC = (
    ("energy_keV", 300.0),
    ("Cs_A", 1e6),
    ("C10_A", 100.0),
    ("focal_spread_A", 30.0),
    ("sampling_A", 0.1),
    ("C12_A", 50.0),
    ("log10_dose_e_per_A2", 2.0),
)
ZONES = ("110", "100", "111", "sheet")
SIZE = 2 + 2 * len(NUMERIC) + len(ZONES)
#: kinds of images, one-hot behind the others for networks that take neighbouring frames; both 0: unknown
MODES = ("hrtem", "stem")
#: frames behind the second and third channel of such networks (means of the frames next to the middle one, and of those two to
#: four away), each over the most there can be
NEIGHBOURS = (2, 6)
FULL_SIZE = SIZE + len(MODES) + len(NEIGHBOURS)


def encode(contrast: str | None = None, zone: str | None = None, **numeric: float | None) -> np.ndarray:
    """Vector (SIZE,) float32 of the known conditions.

    Entries 0 and 1 are bright and dark contrast (both 0: unknown), then known flag and scaled value of each of
    `NUMERIC`, then the zone
    axis one-hot over `ZONES` (all 0: unknown; "sheet" is graphene or a MoS2-type monolayer).

    Parameters
    ----------
    contrast
        "bright" (atoms white), "dark" or None.
    numeric
        Any of the names in `NUMERIC`; None or absent means unknown. C10 is positive for overfocus.
    """
    v = np.zeros(SIZE, np.float32)
    if contrast in ("bright", "dark"):
        v[0 if contrast == "bright" else 1] = 1
    elif contrast not in (None, "auto", "unknown"):
        raise ValueError(f"contrast must be bright, dark or unknown, got {contrast!r}")
    names = [n for n, _ in NUMERIC]
    for key, value in numeric.items():
        if key not in names:
            raise ValueError(f"unknown imaging condition {key!r}; known are {', '.join(names)}")
        if value is not None:
            i = names.index(key)
            v[2 + 2 * i], v[3 + 2 * i] = 1, value / NUMERIC[i][1]
    if zone is not None:
        if zone not in ZONES:
            raise ValueError(f"unknown zone {zone!r}; use one of {', '.join(ZONES)}")
        v[2 + 2 * len(NUMERIC) + ZONES.index(zone)] = 1
    return v


def encode_full(
    contrast: str | None = None,
    zone: str | None = None,
    mode: str | None = None,
    frames: tuple[int, int] = (0, 0),
    **numeric: float | None,
) -> np.ndarray:
    """Vector (FULL_SIZE,) float32 for networks that take neighbouring frames: `encode`, the mode, and the neighbours' numbers.

    Parameters
    ----------
    mode
        "hrtem", "stem" or None.
    frames
        Frames in the means of the near and of the far neighbours, 0 without.
    """
    v = np.zeros(FULL_SIZE, np.float32)
    v[:SIZE] = encode(contrast, zone, **numeric)
    if mode in MODES:
        v[SIZE + MODES.index(mode)] = 1
    elif mode not in (None, "auto"):
        raise ValueError(f"mode must be hrtem, stem or unknown, got {mode!r}")
    v[SIZE + len(MODES) :] = np.array(frames) / NEIGHBOURS
    return v
