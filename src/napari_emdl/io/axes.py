"""The axes of a file: what kind of signal they make, and in which order they come."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import OpenError
from napari_emdl.base.signals import Calibration, Kind
from napari_emdl.base.timing import Timing
from napari_emdl.base.units import parse_unit
from napari_emdl.io.sources import Source
from napari_emdl.io.views import FlatSource, StackSource, TransposedSource

#: Letters for axis orders given by the user (``axes="RCQK"``), in the order of each kind.
AXIS_LETTERS: Mapping[str, str] = {
    "R": "scan row",
    "C": "scan col",
    "Q": "detector row",
    "K": "detector col",
    "T": "time (frame or field of view)",
    "F": "focus",
    "Y": "image row",
    "X": "image col",
    "S": "scan position (rows and cols in one axis; give the scan shape)",
}
ORDER: Mapping[Kind, str] = {"datacube": "RCQK", "movie": "TYX", "focal_series": "TFYX", "image": "YX"}
KIND_WORDS: Mapping[Kind, str] = {
    "datacube": "a 4D-STEM datacube",
    "movie": "a movie",
    "focal_series": "a focal series",
    "image": "an image",
}


@dataclass(frozen=True)
class Axis:
    """One axis of a file as its reader found it.

    Attributes
    ----------
    size
        Length.
    name
        Name in the file.
    scale, units
        Step and its unit as written; None where the file has none.
    letter
        One of :data:`AXIS_LETTERS` when the file says what the axis is, else "".
    navigate
        True for a navigation axis, False for a signal axis, None when not told.
    """

    size: int
    name: str = ""
    scale: float | None = None
    units: str | None = None
    letter: str = ""
    navigate: bool | None = None


@dataclass(frozen=True)
class Found:
    """What a reader found: lazy data with its axes in file order, and calibration that is not on the axes.

    Attributes
    ----------
    data
        Source, axes in the order of the file.
    axes
        One :class:`Axis` for each axis of `data`.
    calibration
        Values that are not on axes (energy, semiangle, rotation, ...).
    name
        Layer name.
    kind
        Kind, when the file says it.
    metadata
        Small facts worth showing.
    signal_type
        "diffraction" when the file says that the signal axes are of reciprocal space.
    mask
        (rows, cols) bool over the last two axes of `data`, True where the file says that the detector has no value.
    notes
        Lines that the user must see.
    scan
        (rows, cols) of a flat scan, when the file says or suggests it.
    timing
        Reads when the frames were taken; called for movies only, since it may have to read every frame's header.
    """

    data: Source
    axes: tuple[Axis, ...]
    calibration: Calibration = field(default_factory=Calibration)
    name: str = ""
    kind: Kind | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    signal_type: str = ""
    mask: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()
    scan: tuple[int, int] | None = None
    timing: Callable[[], Timing] | None = None


def axis_value(axis: Axis, dimension: str) -> float | None:
    """Step of an axis in nm, 1/Å, s or mrad; None when the unit is another, or the step is not a positive finite number."""
    parsed = parse_unit(axis.units)
    if parsed is None or parsed[0] != dimension or axis.scale is None:
        return None
    # A scan may run backwards: the step is its size. Some cameras write -1 where they do not know the pixel size.
    scale = abs(float(axis.scale)) if axis.navigate or axis.letter in ("R", "C", "F") else float(axis.scale)
    value = scale * parsed[1]
    return value if math.isfinite(value) and value > 0 else None


def is_reciprocal(axis: Axis) -> bool:
    parsed = parse_unit(axis.units)
    return axis.letter in ("Q", "K") or (parsed is not None and parsed[0] in ("reciprocal", "angle"))


def guess_kind(found: Found) -> Kind:
    """Tell the kind by the axes.

    Reciprocal units or diffraction signals are datacubes; of the rest, two signal axes under one navigation axis are a movie,
    four axes with two navigation axes a datacube.

    Raises
    ------
    OpenError
        When the axes can be more than one kind, or none.
    """
    if found.kind is not None:
        return found.kind
    axes = found.axes
    letters = "".join(a.letter for a in axes)
    if len(axes) in (2, 3) and sum(is_reciprocal(a) for a in axes) == 2:  # programs of images call every axis y and x
        return "datacube"
    for kind, order in ORDER.items():
        if len(letters) == len(axes) and sorted(letters) == sorted(order):
            return kind
    count = len(axes)
    diffraction = found.signal_type == "diffraction" or sum(is_reciprocal(a) for a in axes) >= 2
    if diffraction and 2 <= count <= 4:
        return "datacube"
    if count == 2:
        return "image"
    if count == 3:
        return "movie"
    if count == 4:
        if "F" in letters or "T" in letters:
            return "focal_series"
        return "datacube"
    more = "; save the datacubes or movies of it one by one" if count > 4 else ""
    word = "axis" if count == 1 else "axes"
    raise OpenError(
        f"{found.name} has {count} {word} {found.data.shape}; images (2), movies (3) and datacubes (4) can be opened{more}"
    )


def letters_for(found: Found, kind: Kind) -> str:
    """One letter for each axis of the file, read as `kind`.

    Letters that the file gives stay; axes without a letter get those that are missing, navigation axes first, in order.
    """
    order, axes = ORDER[kind], found.axes
    count = len(axes)
    if count < len(order) and kind == "datacube":
        order = {3: "SQK", 2: "QK"}.get(count, order)
    if count == 2 and kind == "movie":
        order = "YX"
    if count == 3 and kind == "focal_series":
        order = "FYX"
    if count != len(order):
        raise OpenError(
            f"{found.name} has {count} axes {found.data.shape} and cannot be {KIND_WORDS[kind]}, which has {len(ORDER[kind])}; "
            "give another kind"
        )
    given = [a.letter for a in axes]
    if sorted(given) == sorted(order):
        return "".join(given)
    reciprocal = [i for i, a in enumerate(axes) if is_reciprocal(a)]
    if kind == "datacube" and len(reciprocal) == 2 < count:
        others = [i for i in range(count) if i not in reciprocal]
        letters = [""] * count
        for letter, place in zip(order, [*others, *reciprocal], strict=True):
            letters[place] = letter
        return "".join(letters)
    times = [i for i, a in enumerate(axes) if (parsed := parse_unit(a.units)) is not None and parsed[0] == "time"]
    if order == "TYX" and len(times) == 1:
        rest = iter("YX")
        return "".join("T" if i in times else next(rest) for i in range(count))
    # Letters of another kind say nothing here; navigation axes come before signal axes, else the file's order stands.
    navigation = [i for i, a in enumerate(axes) if a.navigate]
    leading = count - 2
    if len(navigation) == leading and all(a.navigate is not None for a in axes):
        rank = [*navigation, *(i for i in range(count) if i not in navigation)]
    else:
        rank = list(range(count))
    letters = [""] * count
    for letter, place in zip(order, rank, strict=True):
        letters[place] = letter
    return "".join(letters)


def check_letters(axes: str, ndim: int, name: str) -> str:
    """Axis letters given by the user, checked against the number of axes; returns them in upper case."""
    letters = axes.upper().replace(",", "").replace(" ", "")
    wrong = sorted(set(letters) - set(AXIS_LETTERS))
    if wrong or len(set(letters)) != len(letters):
        known = ", ".join(f"{k} {v}" for k, v in AXIS_LETTERS.items())
        raise OpenError(f"cannot read the axis order {axes!r}: give each axis one letter of {known}")
    if len(letters) != ndim:
        raise OpenError(f"{name} has {ndim} axes, but the axis order {axes!r} names {len(letters)}")
    return letters


def kind_of_letters(letters: str) -> Kind:
    """Kind that axis letters stand for."""
    for kind, order in ORDER.items():
        if sorted(letters) == sorted(order):
            return kind
    if sorted(letters) in (sorted("SQK"), sorted("QK")):
        return "datacube"
    if sorted(letters) == sorted("FYX"):
        return "focal_series"
    raise OpenError(f"the axis order {letters!r} is not a datacube (RCQK, SQK), movie (TYX), focal series (TFYX) or image (YX)")


def arrange_source(data: Source, letters: str, kind: Kind, scan: Sequence[int] | None, name: str) -> Source:
    """Put the axes in the order of `kind`, with a flat scan or a lone pattern given its scan axes."""
    places = sorted(range(len(letters)), key=lambda i: "SRCTFQKYX".index(letters[i]))
    if places != list(range(len(places))):
        data = TransposedSource(data, places)
    if kind == "datacube" and data.ndim == 2:
        return StackSource(data, (1, 1))
    if kind == "datacube" and data.ndim == 4 and scan is not None and scan != data.shape[:2]:
        data = FlatSource(data)
    if kind == "datacube" and data.ndim == 3:
        rows, cols = scan_of(scan, data.shape[0], name)
        return StackSource(data, (rows, cols))
    if kind == "focal_series" and data.ndim == 3:
        return StackSource(data, (1, data.shape[0]))
    if kind == "movie" and data.ndim == 2:
        return StackSource(data, (1,))
    return data


def scan_of(scan: Sequence[int] | None, count: int, name: str) -> tuple[int, int]:
    """(rows, cols) of a scan of `count` patterns; one of them may be -1, none is a single line.

    Raises
    ------
    OpenError
        When the patterns do not fill the scan: none is left out unsaid.
    """
    rows, cols = scan or (1, count)
    if -1 in (rows, cols) and count % abs(rows * cols) == 0:
        rows, cols = (count // cols, cols) if rows == -1 else (rows, count // rows)
    if rows * cols == count:
        return rows, cols
    if 0 < rows * cols < count:
        rest = count - rows * cols
        more = f"`frames=({rest}, {count})` or `frames=(0, {rows * cols})` leaves out the first or the last {rest}"
        more += f", `shape=({rows}, {count // rows})` takes all" if count % rows == 0 else ""
        raise OpenError(f"{name} holds {count} patterns; a scan of {rows} x {cols} needs {rows * cols}: {more}")
    raise OpenError(f"{name} holds {count} patterns; a scan of {rows} x {cols} needs {abs(rows * cols)}: give another shape")


def likely_scans(count: int) -> str:
    """Scan shapes that `count` patterns fill, the squarest first, for messages."""
    root = math.isqrt(count)
    sides = [n for n in range(root, max(1, root // 8) - 1, -1) if n > 1 and count % n == 0][:3]
    return " or ".join(f"{n} x {count // n}" for n in sides)


def without_single_axes(found: Found, most: int) -> Found:
    """Leave out axes of length 1, the first ones first, until there are at most `most`."""
    drop = [i for i, axis in enumerate(found.axes) if axis.size == 1][: max(0, len(found.axes) - most)]
    if not drop:
        return found
    keep = [i for i in range(len(found.axes)) if i not in drop]
    return replace(found, data=TransposedSource(found.data, keep), axes=tuple(found.axes[i] for i in keep))


def pick(candidates: Iterable[str], what: str, name: str) -> str:
    """The only one of `candidates`, or an error that lists them."""
    names = list(candidates)
    if len(names) == 1:
        return names[0]
    if not names:
        raise OpenError(f"{name} holds no {what}")
    listed = ", ".join(names[:12]) + (" ..." if len(names) > 12 else "")
    raise OpenError(f"{name} holds several {what}: choose one with {name}::DATASET, out of {listed}", tuple(names))
