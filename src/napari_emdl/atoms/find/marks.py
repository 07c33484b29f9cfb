"""Marks that exports burn into images: scale bars, letters, arrows, outlines and boxes: no image, but they look like columns.

Marks are drawn with one value, the brightest or the darkest there is or nearly, and set in at once: what lies two pixels
beside them is as far from their value as what lies farther off. Columns and films that are cut off at the end of the range
come near it slowly. A bar, a box, a long outline or a line of letters must be there; single flat spots are none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

Mask = NDArray[np.bool_]
Image = NDArray[np.float32]

#: fewest squares of two by two pixels in marks and the largest share of the image; fewest pixels of a piece, most pieces
LEAST_SOLID, MOST_SHARE, LEAST_PIECE_PX, MOST_PIECES = 16, 0.25, 6, 150
#: whole numbers that span no more than this come from 8 bit; values so near to the end of such a range are its end after JPEG
LEVELS, JPEG = 256, 14
#: how many times commoner than those next to it a drawn value is, and the most such values that are looked at
SPIKE, MOST_VALUES = 4, 3
#: what is beside a mark differs from it by this share of the range, and by this share of what is farther off
STEP, AT_ONCE = 0.2, 0.75
#: rings beside a piece, pixels
NEAR, FAR = (2, 3), (5, 8)
#: marks are at least this share of what has their value
OF_VALUE = 0.5
#: share of its box that a bar or box fills; length and ratio of the sides of a bar
FULL, BAR_PX, BAR_RATIO = 0.9, 16, 3.0
#: area over that of the largest disk inside: of a stroke, and of outlines and arrows, which are so long, pixels
STROKE, OUTLINE, OUTLINE_PX = 2.5, 12.0, 30
#: outlines have so many holes; dark nets between columns have more
MOST_HOLES = 3
#: letters of a line where there is no bar, and how far from a bar they stand, in heights
LETTERS, APART = 3, 1.5
#: largest letter, by the shorter side of the image
MOST_LETTER = 0.15
#: pixels around marks that their soft edges reach
SOFT_PX = 2


@dataclass(frozen=True)
class _Piece:
    """A connected piece of one value: its label, its box (rows, cols), and "bar" (or box), "outline", "letter" or "dot"."""

    label: int
    box: tuple[slice, slice]
    kind: str

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.box[0].stop - self.box[0].start)


def burned_in(image: Image, hidden: Mask | None = None) -> Mask | None:
    """Pixels of marks and of their soft edges; None without any.

    Parameters
    ----------
    image
        (rows, cols), finite.
    hidden
        Pixels known to hold no image.
    """
    solid = (image[:-1, :-1] == image[1:, :-1]) & (image[:-1, 1:] == image[1:, 1:]) & (image[:-1, :-1] == image[:-1, 1:])
    if hidden is not None:
        solid &= ~hidden[:-1, :-1]
    if np.count_nonzero(solid) < LEAST_SOLID:
        return None
    inside = image if hidden is None else image[~hidden]
    low, high = float(inside.min()), float(inside.max())
    marks: Mask | None = None
    for value, tolerance in _values_drawn(image[:-1, :-1][solid], inside, low, high):
        drawn = np.abs(image - value) <= tolerance if tolerance else image == value
        if hidden is not None:
            drawn &= ~hidden
        if not LEAST_SOLID < np.count_nonzero(drawn) <= MOST_SHARE * image.size:
            continue
        found = _marks_of(image, drawn, value, high - low)
        if found is not None:
            marks = found if marks is None else marks | found
    return marks


def _values_drawn(solid: Image, inside: Image, low: float, high: float) -> list[tuple[float, float]]:
    """Values that may be drawn, and how far from them pixels may lie.

    Of the values of squares of two by two pixels those at the ends of the range, and in 8 bit those far commoner than the ones
    next to them; thinner nothing is drawn.
    """
    eight_bit = high - low < LEVELS and not np.any(np.mod(inside[:: max(1, inside.size // 4096)], 1))
    if not eight_bit:
        return [(value, 0.0) for value in (high, low) if np.count_nonzero(solid == value) >= LEAST_SOLID]
    count = np.bincount((solid - low).astype(np.intp), minlength=int(high - low) + 1)
    beside = ndi.median_filter(count, 9, mode="mirror")
    spikes = np.flatnonzero((count >= LEAST_SOLID) & (count > SPIKE * (beside + 1)))
    values = [(low + float(k), 0.0) for k in spikes[np.argsort(-count[spikes])][:MOST_VALUES]]
    if high - low > 4 * JPEG:
        for value, from_end in ((high, count[::-1]), (low, count)):
            if from_end[: JPEG + 1].sum() > max(LEAST_SOLID, SPIKE * from_end[JPEG + 1 : 2 * JPEG + 2].sum()):
                values.append((value, float(JPEG)))
    return values


def _solid(drawn: Mask) -> Mask:
    """Corners of squares of two by two pixels."""
    return drawn[:-1, :-1] & drawn[1:, :-1] & drawn[:-1, 1:] & drawn[1:, 1:]


def _marks_of(image: Image, drawn: Mask, value: float, span: float) -> Mask | None:
    """Marks among the pixels of one value."""
    labels, count = ndi.label(drawn, np.ones((3, 3)))
    area = np.bincount(labels.ravel(), minlength=count + 1)
    held = np.zeros(count + 1, bool)
    held[labels[:-1, :-1][_solid(drawn)]] = True
    held[0] = False
    large = np.flatnonzero(held & (area >= LEAST_PIECE_PX))
    if not 0 < len(large) <= MOST_PIECES:
        return None
    boxes = ndi.find_objects(labels)
    pieces = [p for k in large if (p := _piece(image, drawn, labels, int(k), int(area[k]), boxes[k - 1], value, span))]
    chosen = _chosen(pieces)
    if area[[p.label for p in chosen]].sum() < OF_VALUE * area[large].sum():
        # the image itself is cut off at this value, and what looks like a letter may be a row of columns
        chosen = _beside_bars([p for p in pieces if p.kind != "outline"])
    if not chosen:
        return None
    out = np.zeros(image.shape, bool)
    for piece in chosen:
        out[piece.box] |= _filled(labels[piece.box] == piece.label)
    return np.asarray(ndi.binary_dilation(out, iterations=SOFT_PX))


def _piece(
    image: Image, drawn: Mask, labels: NDArray[np.int32], label: int, area: int, box: tuple[slice, slice], value: float,
    span: float,
) -> _Piece | None:  # fmt: skip
    """A piece that sets in at once; None for another."""
    reach = FAR[1]
    wide = tuple(slice(max(0, s.start - reach), s.stop + reach) for s in box)
    own, others = labels[wide] == label, drawn[wide]
    away = ndi.distance_transform_cdt(~own, "chessboard")
    apart = np.abs(image[wide] - value)
    near, far = (apart[(away >= a) & (away <= b) & ~others] for a, b in (NEAR, FAR))
    if near.size < LEAST_PIECE_PX or far.size < LEAST_PIECE_PX:
        return None
    step = float(np.median(near))
    if step < STEP * span or step < AT_ONCE * float(np.median(far)):
        return None
    inner = np.pad(labels[box] == label, 1)
    height, width = (s.stop - s.start for s in box)
    longest, shortest, whole = max(height, width), min(height, width), float(_filled(inner).sum())
    thick = float(ndi.distance_transform_edt(inner).max())
    ratio = area / (np.pi * thick**2)
    if whole >= FULL * height * width and longest >= BAR_PX and (longest >= BAR_RATIO * shortest or whole > area):
        return _Piece(label, box, "bar")
    if ratio >= OUTLINE and longest >= OUTLINE_PX and ndi.label(~inner)[1] <= MOST_HOLES + 1:
        return _Piece(label, box, "outline")
    if longest > MOST_LETTER * min(image.shape):
        return None
    return _Piece(label, box, "letter" if ratio >= STROKE else "dot")


def _filled(piece: Mask) -> Mask:
    """A piece with its holes where it is mostly full: a box with letters in it; an outline stays one."""
    whole = ndi.binary_fill_holes(piece)
    return np.asarray(whole if np.count_nonzero(piece) >= 0.5 * np.count_nonzero(whole) else piece)


def _chosen(pieces: list[_Piece]) -> list[_Piece]:
    """Bars and outlines, letters beside bars, and lines of letters."""
    chosen = _beside_bars(pieces) + [p for p in pieces if p.kind == "outline"]
    for line in _lines([p for p in pieces if p not in chosen]):
        if sum(p.kind == "letter" for p in line) >= LETTERS:
            chosen += line
    return chosen


def _beside_bars(pieces: list[_Piece]) -> list[_Piece]:
    """Bars, with the lines of letters and dots beside them."""
    bars = [p for p in pieces if p.kind == "bar"]
    chosen = list(bars)
    for line in _lines([p for p in pieces if p.kind in ("letter", "dot")]):
        if any(p.kind == "letter" for p in line) and any(_beside(p, bar) for p in line for bar in bars):
            chosen += line
    return chosen


def _lines(pieces: list[_Piece]) -> list[list[_Piece]]:
    """Pieces that stand beside each other at one height."""
    left, lines = list(pieces), []
    while left:
        line, left = [left[0]], left[1:]
        while more := [p for p in left if any(_in_line(p, q) for q in line)]:
            line += more
            left = [p for p in left if p not in more]
        lines.append(line)
    return lines


def _in_line(one: _Piece, other: _Piece) -> bool:
    """Whether two pieces share half of the smaller one's height, and are no farther apart than letters."""
    (a, c), (b, d) = one.box, other.box
    level = min(a.stop, b.stop) - max(a.start, b.start)
    return level >= 0.5 * min(one.height, other.height) and max(d.start - c.stop, c.start - d.stop) <= max(
        one.height, other.height
    )


def _beside(one: _Piece, bar: _Piece) -> bool:
    """Whether a letter stands above, below or beside a bar, or in a box, no farther off than letters are high."""
    return all(max(s.start - t.stop, t.start - s.stop) <= APART * one.height for s, t in zip(one.box, bar.box, strict=True))
