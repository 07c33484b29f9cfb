"""Units as programs write them: pyxem, HyperSpy, Fiji, Gatan, OME, py4DSTEM and vendors."""

from __future__ import annotations

import re
import unicodedata

_LENGTH_NM = {"m": 1e9, "cm": 1e7, "mm": 1e6, "um": 1e3, "nm": 1.0, "a": 0.1, "pm": 1e-3, "inch": 2.54e7}
_TIME_S = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0}
_ANGLE_MRAD = {"rad": 1e3, "mrad": 1.0, "urad": 1e-3, "deg": 17.453292519943295}
_WORDS = {
    "ang": "a",
    "angstrom": "a",
    "angstroms": "a",
    "\u00e5ngstr\u00f6m": "a",
    "\u00e5ngstrom": "a",
    "\u00e5": "a",
    "aa": "a",
    "micron": "um",
    "microns": "um",
    "micrometer": "um",
    "micrometers": "um",
    "micrometre": "um",
    "micrometres": "um",
    "nanometer": "nm",
    "nanometers": "nm",
    "nanometre": "nm",
    "nanometres": "nm",
    "picometer": "pm",
    "picometers": "pm",
    "picometre": "pm",
    "millimeter": "mm",
    "millimeters": "mm",
    "millimetre": "mm",
    "centimeter": "cm",
    "centimeters": "cm",
    "centimetre": "cm",
    "meter": "m",
    "meters": "m",
    "metre": "m",
    "metres": "m",
    "inches": "inch",
    "in": "inch",
    "sec": "s",
    "second": "s",
    "seconds": "s",
    "msec": "ms",
    "millisecond": "ms",
    "milliseconds": "ms",
    "minutes": "min",
    "mrads": "mrad",
    "milliradian": "mrad",
    "milliradians": "mrad",
    "radian": "rad",
    "radians": "rad",
    "degree": "deg",
    "degrees": "deg",
    "\u00b0": "deg",
}
_INVERSE = ("^-1", "**-1", "\u207b\u00b9", "-1")


def parse_unit(units: str | None) -> tuple[str, float] | None:
    """Dimension of a unit and the factor to ours: length nm, reciprocal 1/angstrom, time s, angle mrad; None if unknown.

    Read are plain words ("nm", "1/\u00c5", "A^-1", "nm-1"), TeX ("$\\\\AA^{-1}$", "$nm^{-1}$"), pyxem's axis labels ("k_A^-1",
    "k_nm^{-1}"), escaped letters as Fiji writes them ("\\\\u00B5m") and the two Unicode letters each of \u00c5 and \u00b5.
    """
    if not units:
        return None
    text = _plain(units)
    text, reciprocal = _without_inverse(text)
    text = _WORDS.get(text, text)
    if reciprocal:
        return ("reciprocal", 1.0 / (10.0 * _LENGTH_NM[text])) if text in _LENGTH_NM else None
    for dimension, known in (("length", _LENGTH_NM), ("time", _TIME_S), ("angle", _ANGLE_MRAD)):
        if text in known:
            return dimension, known[text]
    return None


def _plain(units: str) -> str:
    """Lower case, without TeX, brackets, spaces and escapes."""
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match.group(1), 16)), units.strip())
    text = re.sub(r"\\(?:mathrm|text|rm|mu)\b", lambda match: "u" if match.group(0) == "\\mu" else "", text)
    text = re.sub(r"\\AA\b|\\angstrom\b", "\u00e5", text)
    text = unicodedata.normalize("NFC", text).lower().replace("\u00b5", "u").replace("\u03bc", "u")
    text = re.sub(r"[\s$\\{}\[\]()]", "", text)
    return re.sub(r"^[kq]_", "", text)


def _without_inverse(text: str) -> tuple[str, bool]:
    """The unit that `text` is the inverse of and True, or `text` and False."""
    for start in ("1/", "/", "per", "inverse", "inv"):
        if text.startswith(start) and len(text) > len(start):
            return text.removeprefix(start).lstrip("_"), True
    for ending in _INVERSE:
        if text.endswith(ending) and len(text) > len(ending):
            return text.removesuffix(ending), True
    return text, False
