"""What is wrong with frames, counted while they are searched, so that a strange result has its reason beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.peaks import PeakTable

FLAWS = {
    "blank_frames": "constant or without a finite pixel: no columns there",
    "filled_frames": "with bad pixels (NaN or infinite), filled with the median",
    "saturated_frames": "saturated: columns there may be missing or displaced",
    "crowded_frames": "with more candidates than the network returns: columns may be missing; check the pixel size, or crop",
    "marked_frames": "with marks burned in (a scale bar, letters): no columns are looked for there; export frames without them",
    "lined_frames": "with dead or hot lines of pixels, filled from the lines beside them",
    "inverted_frames": "with a part in which the contrast of the crystal turns over: columns there are placed by its lattice",
    "wrapped_frames": "of signed 8-bit numbers that reach both ends, perhaps wrapped round: save as uint8 or uint16",
}
#: flaws that finders count themselves
COUNTED_BY_FINDERS = ("crowded_frames", "marked_frames", "lined_frames", "inverted_frames")
#: a frame is saturated when more than this share of its pixels has the highest value, and fewer come near it
SATURATED_SHARE = 0.005
#: highest values of cameras, by bits
CAMERA_LIMITS = tuple(2**bits - 1 for bits in (7, 8, 10, 12, 14, 15, 16))
#: smaller fields of view hold too little of a crystal for the network and for the choice of the contrast
LEAST_FIELD_A = 15.0


class Judged:
    """A finder's ``find`` whose tables count the frames with flaws; picklable when `find` is.

    With `dtype`, frames come with the means of their neighbours, as numbers of another type: then only the frame itself is
    judged, as the numbers of `dtype` that it was.
    """

    def __init__(self, find: Callable[..., PeakTable], *args: Any, dtype: Any = None) -> None:
        self.find, self.args, self.dtype = find, args, dtype

    def __call__(self, frames: NDArray[Any]) -> PeakTable:
        """Columns of frames, with the counts as attributes."""
        table = self.find(frames, *self.args)
        own = {name: table.attrs.get(name, 0) for name in COUNTED_BY_FINDERS}
        counts = count_flaws(frames if self.dtype is None else frames[:, :1].astype(self.dtype))
        # what is drawn at the end of the range is no saturated image
        counts["saturated_frames"] = max(0, counts["saturated_frames"] - own["marked_frames"])
        table.attrs.update(counts | own)
        return table


def count_flaws(frames: NDArray[Any]) -> dict[str, int]:
    """How many frames (n, rows, cols) or (n, foci, rows, cols) have each of `FLAWS`."""
    counts = dict.fromkeys(FLAWS, 0)
    for images in frames:
        found = {name for image in (images if images.ndim == 3 else images[None]) for name in _flaws(image)}
        for name in found:
            counts[name] += 1
    return counts


def _flaws(image: NDArray[Any]) -> list[str]:
    low, high = image.min(), image.max()
    if image.dtype.kind == "f" and not (np.isfinite(low) and np.isfinite(high)):
        finite = image[np.isfinite(image)]
        return ["blank_frames"] if not finite.size or not np.ptp(finite) > 0 else ["filled_frames", *_piled_up(finite)]
    if low == high:
        return ["blank_frames"]
    if image.dtype == np.int8 and low == -128 and high == 127:
        return ["wrapped_frames"]
    return _piled_up(image)


def _piled_up(values: NDArray[Any]) -> list[str]:
    """Whether values were cut off at a limit: many have the highest value, fewer come near it."""
    high, low = values.max(), values.min()
    if values.dtype.kind == "b" or (values.dtype.kind in "ui" and int(high) not in CAMERA_LIMITS):
        return []
    at = np.count_nonzero(values == high)
    if at <= SATURATED_SHARE * values.size:
        return []
    near = np.count_nonzero(values >= high - 0.1 * (float(high) - float(low))) - at
    # floats may be scaled low counts, where the highest of a few levels is common
    return ["saturated_frames"] if near < at and (near or values.dtype.kind != "f") else []


def flaws_of(counts: Mapping[str, int], total: int, field_A: float) -> list[str]:
    """What the user should know of the frames, a line for each; `field_A` is the smaller side of a frame."""
    notes = [f"{counts[name]} of {total} frames {what}" for name, what in FLAWS.items() if counts.get(name)]
    if field_A < LEAST_FIELD_A:
        notes.append(f"frames of {field_A:.3g} Å hold too little to judge: check the pixel size and the result")
    return notes
