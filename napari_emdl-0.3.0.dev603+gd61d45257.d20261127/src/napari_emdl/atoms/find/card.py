"""What a column network's card tells: thresholds, ranges, and the vector of conditions it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.caveats import RANGE, Caveats


def threshold_of(default: float | dict[str, float] | None, contrast: str) -> float:
    """Default threshold for a contrast."""
    if isinstance(default, dict):
        return float(default.get(contrast, default.get("unknown", max(default.values()))))
    return 0.5 if default is None else float(default)


def outside_range(ranges: dict[str, tuple[float, float]], pixel_A: float) -> Caveats:
    """What to say of a pixel size the network was not trained for."""
    low, high = ranges.get("rescaled_pixel_A", ranges.get("pixel_A", (0.0, np.inf)))
    if low <= pixel_A <= high:
        return Caveats()
    line = f"pixel size {pixel_A:.3g} Å is outside the {low:.3g} to {high:.3g} Å the network was trained for: check the result"
    return Caveats([line], RANGE)


def encode_conditions(
    layout: dict[str, Any], contrast: str, known: dict[str, float | None], sampling_A: float, mode: str = "auto"
) -> NDArray[np.float32]:
    """Vector of imaging conditions in the layout of the card; what is unknown stays zero.

    Parameters
    ----------
    layout
        ``config.emdl.conditions``: size, contrast and mode (name -> entry), numeric (list of name, known, value, scale), zone.
    contrast
        "bright", "dark" or "unknown".
    known
        Values by name; names the network does not take are left out, None is unknown.
    sampling_A
        Pixel size of what the network sees.
    mode
        "hrtem", "stem" or "auto".
    """
    vector = np.zeros(int(layout.get("size", 20)), np.float32)
    for told, entries in ((contrast, layout.get("contrast", {})), (mode, layout.get("mode", {}))):
        if told in entries:
            vector[int(entries[told])] = 1
    values = {**known, "sampling_A": sampling_A}
    for entry in layout.get("numeric", ()):
        value = values.get(entry["name"])
        if value is not None:
            vector[int(entry["known"])] = 1
            vector[int(entry["value"])] = value / float(entry["scale"])
    return vector


def with_frames(vector: NDArray[np.float32], layout: dict[str, Any], counts: tuple[int, int]) -> NDArray[np.float32]:
    """Conditions that also tell how many frames are behind the neighbours' channels."""
    entries = layout.get("frames", ())
    if not entries:
        return vector
    told = vector.copy()
    for entry, count in zip(entries, counts, strict=True):
        if int(entry["entry"]) < len(told):  # a card that says otherwise is refused when the network runs
            told[int(entry["entry"])] = count / float(entry["most"])
    return told
