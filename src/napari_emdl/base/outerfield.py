"""Areas of a pattern outside the field of its detector: corners of a turned picture, padding, a round mask, data bars.

They have one value where counts scatter, reach the border, set in at once, and leave a convex field.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

#: Least part of the picture outside the field; least part of the border's pixels that have its value; most values tried.
_LEAST_OUTSIDE, _OF_BORDER, _MOST_VALUES = 0.002, 0.02, 4
#: Least depth of an area in px; least part of the picture that the field covers.
_LEAST_DEPTH, _LEAST_FIELD = 4, 0.2
#: Farthest, in px, that counts are from each other in a field; part of all counted pixels in it (letters may lie outside).
_FARTHEST, _IN_FIELD = 12, 0.95
#: Rings inside the rim of a field in px, (first, last); counts in the near one over those in the far one; pixels that tell.
_NEAR, _FAR, _AT_ONCE, _LEAST_NEAR = (2, 6), (9, 16), 0.6, 40
#: Sectors of the near ring, how many counted pixels each has on average, and part of the usual number that each has where that
#: is more than so many.
_SECTORS, _LEAST_EACH, _ALL_ALONG, _LEAST_LIT = 16, 5, 0.2, 10
#: Widest data bar as part of the picture, counted pixels in a line beside it, and part of its length that has some.
_WIDEST_BAR, _LEAST_IN_LINE, _MOST_ALONG = 0.25, 4.0, 0.9
#: Counted pixels that an outer area would have, were it part of the field; part of that which it may have.
_EXPECTED, _STRAY = 40.0, 0.05


def outside_field(values: NDArray[Any], changing: Mask | None = None, marks: Mask | None = None) -> Mask:
    """Areas of one value outside the convex field that a detector has in a picture.

    Parameters
    ----------
    values
        (rows, cols) of a pattern, or a mean of several; NaN is a value like any other.
    changing
        (rows, cols) True where patterns differ, which no such area does.
    marks
        (rows, cols) True on letters and bars, which may lie outside.

    Returns
    -------
    (rows, cols) True outside the field; all False where there is none.
    """
    image = np.asarray(values, np.float64)
    out = np.zeros(image.shape, bool)
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    found, counts = np.unique(border, return_counts=True)
    for value in found[np.argsort(-counts)][: int((counts >= _OF_BORDER * border.size).sum())][:_MOST_VALUES]:
        same = np.isnan(image) if np.isnan(value) else image == value
        if changing is not None:
            same &= ~changing
        if marks is not None:
            same |= marks
        if same.sum() >= _LEAST_OUTSIDE * image.size:
            bar = _data_bar(~same)
            out |= _outside(image, same | bar, float(value)) | bar
    return out


def _data_bar(other: Mask) -> Mask:
    """Strips with letters along the sides of a picture: empty lines part them from lines where counts set in at once.

    Parameters
    ----------
    other
        (rows, cols) True for pixels that have not the strip's value.
    """
    out = np.zeros(other.shape, bool)
    for turn in range(4):
        counts = np.rot90(other, turn).sum(axis=1)
        strip = counts[: int(_WIDEST_BAR * len(counts))]
        empty = np.flatnonzero((strip[1:] == 0) & (strip[:-1] == 0))
        if strip[0] or not len(empty):
            continue
        last = int(empty[-1]) + 2
        near, far = (counts[last + first : last + end].mean() for first, end in ((1, _NEAR[1]), _FAR))
        beside = np.array_split(np.rot90(other, turn)[last : last + _FAR[1]], _SECTORS, axis=1)
        along = np.mean([part.any() for part in beside])  # disks on an empty detector are no ground
        if near > max(_LEAST_IN_LINE, _AT_ONCE * far) and last > _LEAST_DEPTH and along > _MOST_ALONG:
            np.rot90(out, turn)[:last] = True
    return out


def _outside(image: Floats, same: Mask, value: float) -> Mask:
    """What lies outside the hull of the pixels that have another value than this one."""
    from scipy import ndimage

    none = np.zeros(image.shape, bool)
    other = ~same
    share = float(other.mean())
    if not share:
        return none
    reach = int(np.clip(np.ceil(1 / np.sqrt(share)), 1, _FARTHEST))
    labels, _ = ndimage.label(ndimage.maximum_filter(other, 2 * reach + 1))
    counts = np.bincount(labels[other])
    main = int(counts.argmax())
    if counts[main] < _IN_FIELD * counts.sum():
        return none
    field = hull(other & (labels == main))
    if field is None or field.mean() < _LEAST_FIELD or 1 - field.mean() < _LEAST_OUTSIDE:
        return none
    inward = ndimage.distance_transform_edt(np.pad(field, 1, mode="edge"))[1:-1, 1:-1]
    height = np.abs(np.nan_to_num(image) - (0 if np.isnan(value) else value))
    if not (np.isnan(value) or _sets_in(height, inward)):
        return none
    out = inward <= 1  # pixels on the rim are in part outside
    bands = [(inward > first) & (inward <= last) for first, last in (_NEAR, _FAR)]
    parts, _ = ndimage.label(out)
    depth = ndimage.distance_transform_edt(~field)
    for number, place in enumerate(ndimage.find_objects(parts), 1):
        wide = tuple(slice(max(0, side.start - _FAR[1]), side.stop + _FAR[1]) for side in place)
        part = parts[wide] == number
        beside = ndimage.distance_transform_edt(~part) <= _FAR[1] + 2
        near, far = (float(other[wide][band[wide] & beside].mean()) if np.any(band[wide] & beside) else 0.0 for band in bands)
        # in few counts, and where they fall off, a corner may be empty by chance
        expected = part.sum() * min(near, 2 * near - far)
        counted = other[wide][part & (depth[wide] > 0)].sum()
        if expected < _EXPECTED or counted > _STRAY * expected or depth[wide][part].max() < _LEAST_DEPTH:
            out[wide] &= ~part
    return np.asarray(out)


def _sets_in(height: Floats, inward: Floats) -> bool:
    """Whether counts set in at once all along the rim of a field, `inward` px from what lies outside."""
    near, far = ((inward > first) & (inward <= last) & np.isfinite(height) for first, last in (_NEAR, _FAR))
    if near.sum() < _LEAST_NEAR or not far.any():
        return False
    rows, cols = np.nonzero(near)
    middle = np.array(height.shape) / 2
    turn = np.arctan2(rows - middle[0], cols - middle[1]) / (2 * np.pi) + 0.5
    sector = np.minimum((turn * _SECTORS).astype(int), _SECTORS - 1)
    pixels, lit = np.bincount(sector, minlength=_SECTORS), np.bincount(sector, height[near] > 0, _SECTORS)
    if lit.sum() < _SECTORS * _LEAST_EACH:
        return False
    usual = lit.sum() / pixels.sum() * pixels
    # as many pixels with counts in all directions: no disks, nor what a threshold left of a background
    if np.any((usual > _LEAST_LIT) & (lit < _ALL_ALONG * usual)):
        return False
    ring = height[near | far]
    most = 2 * float(np.median(ring[ring > 0])) if np.any(ring > 0) else 0.0  # disks count no more than what is around them
    return bool(np.minimum(height[near], most).mean() > _AT_ONCE * np.minimum(height[far], most).mean() > 0)


def hull(pixels: Mask) -> Mask | None:
    """Convex hull of pixels, as a mask; None where they are too few."""
    rows = np.flatnonzero(pixels.any(axis=1))
    if len(rows) < 3:
        return None
    first, last = pixels[rows].argmax(axis=1), pixels.shape[1] - 1 - pixels[rows][:, ::-1].argmax(axis=1)
    every, cols = np.arange(pixels.shape[0]), np.arange(pixels.shape[1])
    left, right = (np.interp(every, *_lower_chain(rows, side)) for side in (first, -last))
    inside = (cols >= left[:, None] - 1e-6) & (cols <= 1e-6 - right[:, None])
    return np.asarray(inside & (every >= rows[0])[:, None] & (every <= rows[-1])[:, None])


def _lower_chain(x: NDArray[np.intp], y: NDArray[np.intp]) -> tuple[list[int], list[int]]:
    """Lower part of the convex hull of points in the order of x (Andrew's monotone chain)."""
    chain: list[tuple[int, int]] = []
    for point in zip(x.tolist(), y.tolist(), strict=True):
        while len(chain) > 1 and _turns_right(chain[-2], chain[-1], point):
            chain.pop()
        chain.append(point)
    return [a for a, _ in chain], [b for _, b in chain]


def _turns_right(one: tuple[int, int], two: tuple[int, int], three: tuple[int, int]) -> bool:
    return (two[0] - one[0]) * (three[1] - one[1]) <= (two[1] - one[1]) * (three[0] - one[0])
