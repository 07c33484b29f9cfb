"""From the axes of a file to a signal: what kind it is, in which order its axes come, and its calibration."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from napari_emdl.base.errors import OpenError
from napari_emdl.base.physics import wavelength_A
from napari_emdl.base.signals import Calibration, Datacube, Kind, Movie
from napari_emdl.io.sources import MAX_FRAME_BYTES, Source
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

_LENGTH_NM = {"m": 1e9, "cm": 1e7, "mm": 1e6, "um": 1e3, "nm": 1.0, "a": 0.1, "pm": 1e-3}
_TIME_S = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "us": 1e-6, "min": 60.0}
_WORDS = {
    "ang": "a",
    "angstrom": "a",
    "angstroms": "a",
    "ångström": "a",
    "å": "a",
    "micron": "um",
    "microns": "um",
    "micrometer": "um",
    "micrometre": "um",
    "nanometer": "nm",
    "nanometre": "nm",
    "nanometers": "nm",
    "picometer": "pm",
    "second": "s",
    "seconds": "s",
    "millimeter": "mm",
    "centimeter": "cm",
    "meter": "m",
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
    """

    data: Source
    axes: tuple[Axis, ...]
    calibration: Calibration = field(default_factory=Calibration)
    name: str = ""
    kind: Kind | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    signal_type: str = ""


def parse_unit(units: str | None) -> tuple[str, float] | None:
    """Dimension of a unit and the factor to ours: length nm, reciprocal 1/Å, time s, angle mrad; None if unknown."""
    if not units:
        return None
    text = units.strip().lower().replace("µ", "u").replace("μ", "u").replace(" ", "").replace("{", "").replace("}", "")
    text = text.replace("\\u00c5", "å")
    reciprocal = text.startswith("1/") or text.endswith(("^-1", "**-1", "⁻¹")) or (text.endswith("-1") and len(text) > 2)
    text = text.removeprefix("1/")
    for ending in ("^-1", "**-1", "⁻¹", "-1"):
        text = text.removesuffix(ending)
    text = _WORDS.get(text, text)
    if reciprocal:
        return ("reciprocal", 1.0 / (10.0 * _LENGTH_NM[text])) if text in _LENGTH_NM else None
    if text in _LENGTH_NM:
        return "length", _LENGTH_NM[text]
    if text in _TIME_S:
        return "time", _TIME_S[text]
    return {"rad": ("angle", 1e3), "mrad": ("angle", 1.0)}.get(text)


def axis_value(axis: Axis, dimension: str) -> float | None:
    """Step of an axis in nm, 1/Å, s or mrad; None when the unit is another, or the step is not a positive finite number."""
    parsed = parse_unit(axis.units)
    if parsed is None or parsed[0] != dimension or axis.scale is None:
        return None
    # A scan may run backwards: the step is its size. Some cameras write -1 where they do not know the pixel size.
    scale = abs(float(axis.scale)) if axis.navigate or axis.letter in ("R", "C", "F") else float(axis.scale)
    value = scale * parsed[1]
    return value if math.isfinite(value) and value > 0 else None


def _is_reciprocal(axis: Axis) -> bool:
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
    for kind, order in ORDER.items():
        if len(letters) == len(axes) and sorted(letters) == sorted(order):
            return kind
    count = len(axes)
    diffraction = found.signal_type == "diffraction" or sum(_is_reciprocal(a) for a in axes) >= 2
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
    raise OpenError(f"{found.name} has {count} axes {found.data.shape}; images (2), movies (3) and datacubes (4) can be opened")


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
    reciprocal = [i for i, a in enumerate(axes) if _is_reciprocal(a)]
    if kind == "datacube" and len(reciprocal) == 2 < count:
        others = [i for i in range(count) if i not in reciprocal]
        letters = [""] * count
        for letter, place in zip(order, [*others, *reciprocal], strict=True):
            letters[place] = letter
        return "".join(letters)
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
    raise OpenError(f"the axis order {letters!r} is no datacube (RCQK, SQK), movie (TYX), focal series (TFYX) or image (YX)")


def _arrange_source(data: Source, letters: str, kind: Kind, scan: Sequence[int] | None, name: str) -> Source:
    """Put the axes in the order of `kind`, with a flat scan or a lone pattern given its scan axes."""
    places = sorted(range(len(letters)), key=lambda i: "SRCTFQKYX".index(letters[i]))
    if places != list(range(len(places))):
        data = TransposedSource(data, places)
    if kind == "datacube" and data.ndim == 2:
        return StackSource(data, (1, 1))
    if kind == "datacube" and data.ndim == 4 and scan is not None and scan != data.shape[:2]:
        data = FlatSource(data)
    if kind == "datacube" and data.ndim == 3:
        rows, cols = scan or (1, data.shape[0])
        if rows * cols != data.shape[0]:
            raise OpenError(f"{name} holds {data.shape[0]} patterns; a scan of {rows} x {cols} needs {rows * cols}")
        return StackSource(data, (rows, cols))
    if kind == "focal_series" and data.ndim == 3:
        return StackSource(data, (1, data.shape[0]))
    if kind == "movie" and data.ndim == 2:
        return StackSource(data, (1,))
    return data


def _without_single_axes(found: Found, most: int) -> Found:
    """Leave out axes of length 1, the first ones first, until there are at most `most`."""
    drop = [i for i, axis in enumerate(found.axes) if axis.size == 1][: max(0, len(found.axes) - most)]
    if not drop:
        return found
    keep = [i for i in range(len(found.axes)) if i not in drop]
    return replace(found, data=TransposedSource(found.data, keep), axes=tuple(found.axes[i] for i in keep))


def _pair(by_letter: Mapping[str, Axis], letters: str, dimension: str) -> tuple[float, float] | None:
    values = [axis_value(by_letter[letter], dimension) if letter in by_letter else None for letter in letters]
    if values[0] is None or values[1] is None:
        return None
    return values[0], values[1]


def _axis_calibration(base: Calibration, by_letter: Mapping[str, Axis], kind: Kind) -> Calibration:
    """Add what the axes say to the calibration; values that are already there stay."""
    found: dict[str, Any] = {}
    if kind == "datacube":
        found["pixel_nm"] = _pair(by_letter, "RC", "length")
        found["q_pixel_invA"] = _pair(by_letter, "QK", "reciprocal")
        angle = _pair(by_letter, "QK", "angle")
        if found["q_pixel_invA"] is None and angle is not None and base.energy_keV:
            found["q_pixel_invA"] = tuple(1e-3 * a / wavelength_A(base.energy_keV) for a in angle)
    else:
        found["pixel_nm"] = _pair(by_letter, "YX", "length")
        if "T" in by_letter:
            found["frame_interval_s"] = axis_value(by_letter["T"], "time")
        if "F" in by_letter and (step_nm := axis_value(by_letter["F"], "length")) is not None:
            found["defocus_step_A"] = 10 * step_nm
    missing = {name: value for name, value in found.items() if getattr(base, name) is None}
    return base.override("file", **missing)


def make_signal(
    found: Found,
    path: str,
    kind: Kind | None = None,
    axes: str | None = None,
    scan: Sequence[int] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Datacube | Movie:
    """Turn what a reader found into a signal with its axes in order.

    Parameters
    ----------
    found
        From a reader.
    path
        File, kept in the signal.
    kind
        Kind wanted; told by the axes when None.
    axes
        Axis letters in file order, see :data:`AXIS_LETTERS`; told by the file when None.
    scan
        (rows, cols) of the scan, for stacks of patterns.
    overrides
        Calibration fields given by the user.
    """
    layer, found = found.name, replace(found, name=Path(path.partition("::")[0]).name or found.name)  # errors name the file
    if axes is None:
        found = _without_single_axes(found, len(ORDER[kind]) if kind else 4)
    ndim = len(found.data.shape)
    if any(n == 0 for n in found.data.shape):
        raise OpenError(f"{found.name} holds an empty array {found.data.shape}")
    if found.data.dtype.kind not in "biuf":
        raise OpenError(f"{found.name} holds {found.data.dtype} values, not an image or datacube of real numbers")
    if axes is not None:
        letters = check_letters(axes, ndim, found.name)
        kind = kind or kind_of_letters(letters)
        wanted = kind_of_letters(letters)
        if wanted != kind and not (kind == "movie" and wanted == "image"):
            raise OpenError(f"the axis order {axes!r} is {KIND_WORDS[wanted]}, not {KIND_WORDS[kind]}")
    else:
        if scan is not None and kind is None and ndim == 3:
            kind = "datacube"
        kind = kind or guess_kind(found)
        if kind == "datacube" and ndim == 3 and scan is None and not _stack_of_patterns(found):
            raise OpenError(
                f"{found.name} has 3 axes {found.data.shape} where a datacube has 4; give the scan shape (rows, cols), "
                "or open it as a movie"
            )
        letters = letters_for(found, kind)
    by_letter = dict(zip(letters, found.axes, strict=True))
    data = _arrange_source(found.data, letters, kind, scan, found.name)
    frame_bytes = data.shape[-1] * data.shape[-2] * data.dtype.itemsize
    if frame_bytes > MAX_FRAME_BYTES:
        raise OpenError(
            f"{found.name} says that one frame has {data.shape[-2]} x {data.shape[-1]} pixels ({frame_bytes / 2**30:.0f} GB); "
            "the axis order is wrong, or the file is damaged"
        )
    calibration = _axis_calibration(found.calibration, by_letter, kind).override("user", **(overrides or {}))
    make = Datacube if kind == "datacube" else Movie
    return make(data, kind, calibration, path, layer, dict(found.metadata))


def _stack_of_patterns(found: Found) -> bool:
    """True when the file itself says that its three axes are patterns of one scan line or series."""
    return found.signal_type == "diffraction" or sum(_is_reciprocal(a) for a in found.axes) >= 2


def pick(candidates: Iterable[str], what: str, name: str) -> str:
    """The only one of `candidates`, or an error that lists them."""
    names = list(candidates)
    if len(names) == 1:
        return names[0]
    if not names:
        raise OpenError(f"{name} holds no {what}")
    listed = ", ".join(names[:12]) + (" ..." if len(names) > 12 else "")
    raise OpenError(f"{name} holds several {what}: choose one with {name}::DATASET, out of {listed}")
