"""What exports leave in diffraction patterns: scale bars, letters, arrows and frames burned in, and areas outside the detector.

Both are one value where a detector's counts scatter. Marks are pieces of strokes or rectangles, with the background of the
pattern on all sides of them; a saturated disk is round and compact, a part of a disk has the disk beside it. Areas outside
the detector (a turned or padded picture, the mask of a round detector, a data bar) reach the border, set in at once, and leave
a convex field.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

#: Least part of the picture outside the field, and of the border's pixels that have its value; most values tried; least depth in
#: px; least part of the picture that the field covers.
_LEAST_OUTSIDE, _OF_BORDER, _MOST_VALUES, _LEAST_DEPTH, _LEAST_FIELD = 0.002, 0.02, 4, 4, 0.2
#: Farthest, in px, that counts are from each other in a field; part of all counted pixels that lies in it (letters may lie outside).
_FARTHEST, _IN_FIELD = 12, 0.95
#: Rings inside the rim of a field in px, (first, last); counts in the near one over those in the far one; pixels that tell;
#: sectors of the near ring, and part of the usual number of counted pixels that each has, where that is enough to tell.
_NEAR, _FAR, _AT_ONCE, _LEAST_NEAR, _SECTORS, _ALL_ALONG, _LEAST_LIT = (2, 6), (9, 16), 0.6, 40, 16, 0.2, 10
#: Widest data bar as part of the picture, counted pixels in a line beside it, and part of its length that has some.
_WIDEST_BAR, _LEAST_IN_LINE, _MOST_ALONG = 0.25, 4.0, 0.9
#: Counted pixels that an outer area would have, were it part of the field; part of that which it may have.
_EXPECTED, _STRAY = 40.0, 0.05
#: Fewest pixels of a mark, and of one value in a picture that may have marks.
_LEAST_MARK, _LEAST_VALUE = 8, 24
#: In 8 bit, values within this of the end of the range are at its end: pictures that went through JPEG.
_JPEG = 20
#: A mark stands out of what is beside it by this part of the range, a dark one by more, and what is beside it is even to this part of that step.
_STEP, _DARK_STEP, _EVEN = 0.2, 0.35, 0.3
#: Diagonal over thickness of strokes; about 1.5 for a disk.
_STROKE = 2.4
#: Least length of what is drawn, in px and as part of the picture; part of its box that a rectangle fills (a disk: 0.79); spread
#: across over that along a straight line or an arrow, and its length over its thickness; side over thickness of a frame.
_LEAST_LONG_PX, _LEAST_LONG, _RECTANGLE, _STRAIGHT, _ARROW, _THIN = 10, 0.04, 0.93, 0.2, 4.5, 12.0
#: Letters of a line that has nothing else drawn near it, how many heights they reach, and how many they lie from what is drawn.
_IN_LINE, _LINE, _BESIDE = 4, 4.0, 2.5
#: Largest letter, as part of the picture.
_LETTER = 0.14
#: Letters lie within this part of the picture, or so many px, of a mark that is no larger than a part of it, and differ from its
#: value by less than this part of its step.
_NEAR_SHARE, _LEAST_NEAR_PX, _LARGE, _SOFT = 0.1, 12, 0.5, 0.6
#: No mark covers more of the picture.
_MOST_MARKED = 0.15


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
    field = _hull(other & (labels == main))
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
    usual = lit.sum() / pixels.sum() * pixels
    # as many pixels with counts in all directions: no disks, nor what a threshold left of a background
    if np.any((usual > _LEAST_LIT) & (lit < _ALL_ALONG * usual)):
        return False
    ring = height[near | far]
    most = 2 * float(np.median(ring[ring > 0])) if np.any(ring > 0) else 0.0  # disks count no more than what is around them
    return bool(np.minimum(height[near], most).mean() > _AT_ONCE * np.minimum(height[far], most).mean() > 0)


def _hull(pixels: Mask) -> Mask | None:
    """Convex hull of pixels, as a mask; None where they lie on a line."""
    from scipy.spatial import ConvexHull, QhullError

    rows = np.flatnonzero(pixels.any(axis=1))
    first, last = pixels[rows].argmax(axis=1), pixels.shape[1] - 1 - pixels[rows][:, ::-1].argmax(axis=1)
    try:
        sides = ConvexHull(np.concatenate([np.stack([rows, first], 1), np.stack([rows, last], 1)]).astype(float)).equations
    except QhullError:
        return None
    row, col = np.ogrid[: pixels.shape[0], : pixels.shape[1]]
    inside = np.ones(pixels.shape, bool)
    for down, right, offset in np.unique(sides, axis=0):
        inside &= down * row + right * col + offset <= 1e-6
    return inside


def burned_in(values: NDArray[Any], changing: Mask | None = None, known: Mask | None = None) -> Mask:
    """Scale bars, letters, arrows, frames and boxes drawn into a picture of a pattern.

    Parameters
    ----------
    values
        (rows, cols) one pattern, in its own data type.
    changing
        (rows, cols) True where patterns of the scan differ.
    known
        (rows, cols) True where something is known to be missing.

    Returns
    -------
    (rows, cols) True on marks and their soft edges.
    """
    from scipy import ndimage

    image = np.nan_to_num(np.asarray(values, np.float64))
    none = np.zeros(image.shape, bool)
    free = ~none if known is None else ~known
    if changing is not None:
        free = free & ~changing
    inside = image[free]
    if inside.size < 64 or not inside.max() > inside.min():
        return none
    marks = none.copy()
    for value, tolerance in _flat_values(values, inside):
        drawn = (np.abs(image - value) <= tolerance) & free
        if _LEAST_VALUE <= drawn.sum() < 0.4 * image.size:
            marks |= _pieces(image, drawn, value, float(inside.max() - inside.min()))
    if marks.any():
        marks |= _letters_beside(image, marks, free)
    if not marks.any() or marks.mean() > _MOST_MARKED:
        return none
    return np.asarray(ndimage.binary_dilation(marks, np.ones((5, 5), bool)))


def _flat_values(values: NDArray[Any], inside: Floats) -> list[tuple[float, float]]:
    """(value, tolerance) of what may be drawn: the ends of the range."""
    low, high = float(inside.min()), float(inside.max())
    ends = [(high, 0.0), (low, 0.0)]
    return [*ends, (high, float(_JPEG))] if values.dtype == np.uint8 else ends


def _pieces(image: Floats, drawn: Mask, value: float, span: float, beside: Mask | None = None) -> Mask:
    """Connected pieces of what has one value that are strokes or rectangles on an even ground.

    Parameters
    ----------
    beside
        (rows, cols) a mark that is known, of which letters may lie beside.
    """
    from scipy import ndimage

    labels, n = ndimage.label(drawn, np.ones((3, 3), bool))
    area = np.bincount(labels.ravel(), minlength=n + 1)
    boxes = ndimage.find_objects(labels)
    candidates = 1 + np.flatnonzero(area[1:] >= _LEAST_MARK)
    pieces = np.isin(labels, candidates) if beside is None else np.isin(labels, candidates) | beside
    pieces = ndimage.binary_dilation(pieces, np.ones((5, 5), bool))
    known = [] if beside is None else ndimage.find_objects(beside.astype(np.int8))
    strokes: list[int] = []
    sure: list[int] = []
    for label in candidates.tolist():
        box = boxes[label - 1]
        piece = ndimage.binary_closing(np.pad(labels[box] == label, 5), np.ones((3, 3), bool))
        if not _on_even_ground(image, pieces, piece, box, value, span):
            continue
        thick = 2 * float(ndimage.distance_transform_edt(piece).max()) - 0.5
        if beside is None and _is_drawn(piece, thick, box, image.shape):
            sure.append(label)
        elif _extent(box) > _STROKE * thick and not _is_round(piece, box):
            strokes.append(label)
    return np.isin(labels, sure + _letters(strokes, [boxes[label - 1] for label in sure] + known, boxes))


def _extent(box: tuple[slice, ...]) -> float:
    return float(np.hypot(*(side.stop - side.start for side in box)))


def _is_drawn(piece: Mask, thick: float, box: tuple[slice, ...], shape: tuple[int, ...]) -> bool:
    """Whether a piece is a box, a bar, a straight line, an arrow or a frame: no disk and no part of one is."""
    from scipy import ndimage

    sides = [side.stop - side.start for side in box]
    if max(sides) < max(_LEAST_LONG_PX, _LEAST_LONG * min(shape)):
        return False
    if any(side > _LARGE * n for side, n in zip(sides, shape, strict=True)) and max(sides) > _THIN * thick:
        return True
    if min(sides) > 1 and ndimage.binary_fill_holes(piece).sum() >= _RECTANGLE * sides[0] * sides[1]:
        return True
    inner = piece[5:-5, 5:-5]  # letters may be cut out of a box
    straight = [inner[0].mean(), inner[-1].mean(), inner[:, 0].mean(), inner[:, -1].mean()]
    if np.sort(straight)[1] > _RECTANGLE:
        return True
    across, along = np.sqrt(np.linalg.eigvalsh(np.cov(np.nonzero(piece))))
    return bool(across < _STRAIGHT * along and _extent(box) > _ARROW * thick)


def _is_round(piece: Mask, box: tuple[slice, ...]) -> bool:
    """Whether a piece is a disk or a ring."""
    from scipy import ndimage

    low, high = sorted(side.stop - side.start for side in box)
    return low > 0.8 * high and 0.6 * low * high < ndimage.binary_fill_holes(piece).sum() < 0.9 * low * high


def _letters_beside(image: Floats, marks: Mask, free: Mask) -> Mask:
    """Letters near marks whose strokes are too thin to reach the marks' value: soft edges are all that they have."""
    from scipy import ndimage

    reach = max(_LEAST_NEAR_PX, int(_NEAR_SHARE * min(image.shape)))
    letters = new = _beside(image, marks, free, (reach, reach), marks)
    while new.any():  # along the line
        new = _beside(image, letters, free, (2, 2 * reach), marks | letters) & ~letters
        letters = letters | new
    line = np.ones((1, 2 * reach + 1), bool)
    wide = np.pad(letters, ((0, 0), (reach, reach)))
    return np.asarray(ndimage.binary_closing(wide, line)[:, reach:-reach])


def _beside(image: Floats, marks: Mask, free: Mask, reach: tuple[int, int], known: Mask) -> Mask:
    """Letters within `reach` (rows, cols) of each of some marks."""
    from scipy import ndimage

    out = np.zeros(image.shape, bool)
    labels, _ = ndimage.label(marks, np.ones((3, 3), bool))
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        if any(side.stop - side.start > _LARGE * n for side, n in zip(box, image.shape, strict=True)):
            continue  # a frame
        around = tuple(slice(max(0, side.start - far), side.stop + far) for side, far in zip(box, reach, strict=True))
        part, value = image[around], float(np.median(image[labels == number]))
        ground = float(np.median(part))
        if value < ground:
            continue
        here = labels[around] == number
        drawn = (np.abs(part - value) < _SOFT * abs(value - ground)) & free[around] & ~known[around]
        found = _pieces(part, drawn, value, float(np.ptp(image)), here)
        sizes, _ = ndimage.label(found, np.ones((3, 3), bool))
        for label, place in enumerate(ndimage.find_objects(sizes), 1):
            if max(side.stop - side.start for side in place) > _LETTER * min(image.shape):
                found[sizes == label] = False
        out[around] |= found
    return out


def _on_even_ground(image: Floats, beside: Mask, piece: Mask, box: tuple[slice, ...], value: float, span: float) -> bool:
    """Whether what lies around a piece, three to five pixels off, is far from its value and about as far on all sides.

    Parameters
    ----------
    beside
        (rows, cols) True on all pieces and up to two pixels off.
    piece
        The piece in its box, padded by five pixels.
    """
    from scipy import ndimage

    around = ndimage.binary_dilation(ndimage.binary_fill_holes(piece), np.ones((3, 3), bool), iterations=5)
    rows, cols = (np.arange(side.start - 5, side.stop + 5) for side in box)
    on = [(at >= 0) & (at < n) for at, n in zip((rows, cols), image.shape, strict=True)]
    part = np.ix_(rows[on[0]], cols[on[1]])
    around = around[np.ix_(*on)] & ~beside[part]
    if around.sum() < _LEAST_MARK:
        return False
    away = np.abs(image[part][around] - value)
    step = float(np.median(away))
    return step > (_STEP if value > 0.5 * span else _DARK_STEP) * span and float(np.percentile(away, 25)) > (1 - _EVEN) * step


def _letters(strokes: list[int], drawn: list[tuple[slice, ...]], boxes: list[tuple[slice, ...]]) -> list[int]:
    """Strokes that are letters: near to what is surely drawn, or several in a line close together."""
    out = []
    for label in strokes:
        rows, cols = boxes[label - 1]
        height = rows.stop - rows.start
        if any(_apart(boxes[label - 1], other) < _BESIDE * height for other in drawn):
            out.append(label)
            continue
        line = 1
        for other in strokes:
            r, c = boxes[other - 1]
            level = min(r.stop, rows.stop) - max(r.start, rows.start) > 0.7 * max(height, r.stop - r.start)
            line += other != label and level and -height < max(c.start - cols.stop, cols.start - c.stop) < _LINE * height
        if line >= _IN_LINE:
            out.append(label)
    return out


def _apart(one: tuple[slice, ...], other: tuple[slice, ...]) -> int:
    """Pixels between two boxes."""
    return max(max(a.start - b.stop, b.start - a.stop) for a, b in zip(one, other, strict=True))
