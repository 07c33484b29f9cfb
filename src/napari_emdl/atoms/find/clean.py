"""What cameras, alignments and exports leave in frames, taken out before a network sees them: bad pixels and lines, spikes,
empty borders, marks, slopes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emdl.atoms.find.marks import JPEG, LEVELS, burned_in
from napari_emdl.atoms.find.mending import fill_thin, levelled, standing_out, thin_and_wide

#: a pixel is a spike when it lies so many standard deviations above the median, alone among its neighbours
SPIKE_SIGMAS = 10.0
#: frames in which more than this share of the pixels stands out so have no spikes but bright features
SPIKE_SHARE = 2e-3
#: side of a square of one value, pixels, and the most pixels of that value elsewhere, that make an empty border
BORDER_PX, BORDER_ELSEWHERE = 7, 0.3
#: values so near to that of a border are its rim where a picture of 8 bit went through JPEG, so many pixels in
JPEG_BORDER, JPEG_REACH_PX = 40, 10
#: pieces of the image smaller than this part of the largest one, all around in the border, belong to it
ISLAND = 0.05


class Clean(NamedTuple):
    """A frame without all that.

    Attributes
    ----------
    image
        (rows, cols) float32.
    hidden
        Pixels that hold no image; None where all do.
    flaws
        What was taken out, by the names of `flaws.FLAWS`.
    """

    image: NDArray[np.float32]
    hidden: NDArray[np.bool_] | None
    flaws: tuple[str, ...] = ()


def cleaned(image: NDArray[Any]) -> Clean | None:
    """A frame (rows, cols) without spikes, marks and bad lines, levelled, and where it holds no image.

    What is thin (dead lines, strokes) is filled from both sides, what is wide with the median.

    Returns
    -------
    None for a constant frame or one without a finite pixel.
    """
    values = np.asarray(image, np.float32)
    finite = np.isfinite(values)
    bad: NDArray[np.bool_] | None = None
    if not finite.all():
        if not finite.any():
            return None
        bad = ~finite
        values = np.where(finite, values, np.median(values[finite]))
    if not np.ptp(values) > 0:
        return None
    bad, flaws = without_an_image(values, bad)
    if bad is not None and bad.all():
        return None
    hidden: NDArray[np.bool_] | None = None
    if bad is not None:
        thin, wide = thin_and_wide(bad)
        values = np.where(wide, np.median(values[~bad]), values).astype(np.float32)
        fill_thin(values, thin, bad)
        hidden = wide if wide.any() else None
    return Clean(without_spikes(levelled(values, hidden)), hidden, tuple(flaws))


def without_an_image(values: NDArray[np.float32], bad: NDArray[np.bool_] | None) -> tuple[NDArray[np.bool_] | None, list[str]]:
    """Empty borders, dead and hot lines and burned-in marks of a frame, and flaws by the names of `flaws.FLAWS`.

    Parameters
    ----------
    values
        (rows, cols), finite.
    bad
        Pixels known to hold no image; they come back with the others.
    """
    flaws = []
    for look, flaw in ((empty_border, ""), (standing_out, "lined_frames"), (burned_in, "marked_frames")):
        if bad is not None and bad.all():
            break
        found = look(values, bad)
        if found is not None:
            flaws += [flaw] if flaw else []
            bad = found if bad is None else bad | found
    return bad, flaws


def without_spikes(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Image with single pixels far above the rest replaced by the median of their neighbours; NaN stays."""
    sample = image.ravel()[:: max(1, image.size // 40000)]
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return image
    low, middle, high = np.percentile(sample, [5, 50, 95])
    within = sample[(sample >= 2 * low - middle - 1e-6) & (sample <= 2 * high - middle + 1e-6)]
    width = max(float(within.std()), float(high - low) / 3.3)
    r, c = np.nonzero(image > middle + SPIKE_SIGMAS * width) if width > 0 else (np.zeros(0, int), np.zeros(0, int))
    if not len(r) or len(r) > max(4, SPIKE_SHARE * image.size):
        return image
    out = image.copy()
    padded = np.pad(image, 1, mode="reflect")
    around = np.stack([padded[r + i, c + j] for i in range(3) for j in range(3) if (i, j) != (1, 1)])
    # columns are wider than a pixel: of their neighbours more than one is bright as well
    alone = np.sort(around, axis=0)[-2] - middle < 0.3 * (image[r, c] - middle)
    out[r[alone], c[alone]] = np.nan_to_num(np.median(around[:, alone], axis=0), nan=middle)
    return out


def empty_border(image: NDArray[np.float32], known: NDArray[np.bool_] | None = None) -> NDArray[np.bool_] | None:
    """Pixels at the edges that hold one value, as alignments and turned or padded pictures have them; None without any.

    Parameters
    ----------
    image
        (rows, cols).
    known
        Pixels known to hold no image.
    """
    rows, cols = image.shape
    if min(rows, cols) < 2 * BORDER_PX:
        return None
    corners = [image[r, c] for r in (0, -1) for c in (0, -1)]
    middles = [image[0, cols // 2], image[-1, cols // 2], image[rows // 2, 0], image[rows // 2, -1]]
    lines = (image[0], image[-1], image[:, 0], image[:, -1])
    values = {float(v) for v in (*corners, *middles)}
    found = None
    for value in values:
        if not any(np.count_nonzero(line == value) >= 0.2 * len(line) for line in lines):
            continue
        same = image == value
        if known is not None:
            same |= known
        if not _solid_edge(same):
            continue
        solid = ndi.binary_opening(np.pad(same, BORDER_PX, constant_values=True), np.ones((BORDER_PX, BORDER_PX)))
        label, _ = ndi.label(solid)
        region = (label == label[0, 0])[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] & same
        rest = ~region
        if region.any() and np.count_nonzero(same & rest) <= BORDER_ELSEWHERE * max(1, int(np.count_nonzero(rest))):
            region = _to_the_rim(image, region, value)
            found = region if found is None else found | region
    return None if found is None else _with_islands(found)


def _to_the_rim(image: NDArray[np.float32], region: NDArray[np.bool_], value: float) -> NDArray[np.bool_]:
    """An empty border of 8 bit with what JPEG and interpolation left of it beside the image."""
    low, high = float(image.min()), float(image.max())
    if not 4 * JPEG < high - low < LEVELS or min(value - low, high - value) > JPEG:
        return region
    near = np.abs(image - value) <= JPEG_BORDER
    grown = ndi.binary_dilation(region, np.ones((3, 3)), iterations=JPEG_REACH_PX, mask=near | region)
    return np.asarray(ndi.binary_closing(np.pad(grown, 2, mode="edge"), np.ones((3, 3)))[2:-2, 2:-2] | grown)


def _with_islands(border: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A border with the small islands in it: what is written on a data bar, the line of a frame."""
    label, count = ndi.label(~border)
    if count < 2:
        return border
    area = np.bincount(label.ravel())[1:]
    small = 1 + np.flatnonzero(area < ISLAND * area.max())
    return border | np.isin(label, small)


def _solid_edge(same: NDArray[np.bool_]) -> bool:
    """Whether a whole square at one of the edges belongs to a mask: a quick look before the border's shape is found."""
    side = BORDER_PX // 2 + 1
    for strip in (same[:side], same[-side:], same[:, :side].T, same[:, -side:].T):
        length = strip.shape[1] // side * side
        if strip[:, :length].reshape(side, -1, side).all((0, 2)).any():
            return True
    return False


def is_blank(images: NDArray[Any]) -> bool:
    """Whether any image of a field of view is constant or has no finite pixel."""
    for image in images:
        values = np.asarray(image)
        finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        if not finite.size or not np.ptp(finite) > 0:
            return True
    return False
