"""Scale bars, letters, arrows, boxes and frames that an export draws into a diffraction pattern.

They have the value at an end of the range, and the background of the pattern on all sides of them. A saturated disk is round
and compact; a saturated part of a disk has the disk beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

#: Fewest pixels of a mark, and of one value in a picture that may have marks; no marks cover more of the picture.
_LEAST_MARK, _LEAST_VALUE, _MOST_MARKED = 8, 24, 0.15
#: Fewest pixels of a letter beside a mark.
_LEAST_LETTER = 5
#: In 8 bit, values within this of the end of the range are at its end: pictures that went through JPEG.
_JPEG = 20
#: A mark stands out of what is beside it by this part of the range, a dark one by more; that is even to a part of the step.
_STEP, _DARK_STEP, _EVEN = 0.2, 0.35, 0.3
#: Diagonal over thickness of strokes; about 1.5 for a disk.
_STROKE = 2.4
#: Gaps are not closed in pieces smaller than this, in px: letters have some.
_SMALL = 20
#: Least length of what is drawn, in px and as part of the picture; part of its box that a rectangle fills (a disk: 0.79).
_LEAST_LONG_PX, _LEAST_LONG, _RECTANGLE = 10, 0.04, 0.93
#: Spread across over that along a straight line or an arrow, its length over its thickness; side over thickness of a frame.
_STRAIGHT, _ARROW, _THIN = 0.2, 4.5, 12.0
#: Letters of a line that has nothing else drawn near it, how many heights they reach, and how many they lie from what is drawn.
_IN_LINE, _LINE, _BESIDE = 4, 4.0, 2.5
#: Largest letter as part of the picture. Letters lie within a part of it, or so many px, of a mark no larger than a part of it,
#: and differ from the value of that mark by less than this part of its step.
_LETTER, _NEAR_SHARE, _LEAST_NEAR_PX, _LARGE, _SOFT = 0.14, 0.1, 12, 0.5, 0.65


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
        if value < inside.max():
            drawn &= ~_reaching_in(drawn)
        if _LEAST_VALUE <= drawn.sum() < 0.4 * image.size:
            marks |= _pieces(image, drawn, value, float(inside.max() - inside.min()))
    if marks.any():
        marks |= _letters_beside(image, marks, free)
    if not marks.any() or marks.mean() > _MOST_MARKED:
        return none
    return np.asarray(ndimage.binary_dilation(marks, np.ones((5, 5), bool)))


def _reaching_in(drawn: Mask) -> Mask:
    """Dark pieces that touch the border: stops, gaps between modules, dead lines, empty corners."""
    from scipy import ndimage

    labels, _ = ndimage.label(drawn, np.ones((3, 3), bool))
    at_border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    return np.asarray(np.isin(labels, at_border[at_border > 0]))


def _flat_values(values: NDArray[Any], inside: Floats) -> list[tuple[float, float]]:
    """(value, tolerance) of what may be drawn: the ends of the range."""
    low, high = float(inside.min()), float(inside.max())
    return [(high, float(_JPEG) if values.dtype == np.uint8 else 0.0), (low, 0.0)]


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
    candidates = 1 + np.flatnonzero(area[1:] >= (_LEAST_MARK if beside is None else _LEAST_LETTER))
    pieces = np.isin(labels, candidates) if beside is None else np.isin(labels, candidates) | beside
    pieces = ndimage.binary_dilation(pieces, np.ones((3, 3), bool))
    known = [] if beside is None else ndimage.find_objects(beside.astype(np.int8))
    strokes: list[int] = []
    sure: list[int] = []
    for label in candidates.tolist():
        box = boxes[label - 1]
        piece = ndimage.binary_closing(np.pad(labels[box] == label, 5), np.ones((3, 3), bool))
        if not _on_even_ground(image, pieces, piece, box, value, span):
            continue
        thin = piece if _is_round(piece, box) or _extent(box) > _SMALL else np.pad(labels[box] == label, 5)
        thick = 2 * float(ndimage.distance_transform_edt(thin).max()) - 0.5
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

    whole = ndimage.binary_fill_holes(piece)
    around = ndimage.binary_dilation(whole, np.ones((3, 3), bool), iterations=5)
    around &= ~ndimage.binary_dilation(piece, np.ones((5, 5), bool))
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
