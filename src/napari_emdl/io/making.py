"""From what a reader found to a signal: axes in order, calibration with its sources, mask, and what must be said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import OpenError
from napari_emdl.base.physics import wavelength_A
from napari_emdl.base.signals import Calibration, Datacube, Kind, Movie
from napari_emdl.base.timing import Timing
from napari_emdl.io.axes import (
    KIND_WORDS,
    ORDER,
    Axis,
    Found,
    arrange_source,
    axis_value,
    check_letters,
    guess_kind,
    is_reciprocal,
    kind_of_letters,
    letters_for,
    likely_scans,
    without_single_axes,
)
from napari_emdl.io.sources import MAX_FRAME_BYTES
from napari_emdl.io.views import CroppedSource

#: Beyond these nobody works with atoms or Bragg disks: a unit went wrong on the way.
_LARGEST_IMAGE_PIXEL_NM, _LARGEST_STEP_NM, _LARGEST_Q_INVA = 100.0, 1e5, 1.0
_SMALLEST_PIXEL_NM, _SMALLEST_Q_INVA = 1e-4, 1e-6


def _pair(by_letter: Mapping[str, Axis], letters: str, dimension: str) -> tuple[float, float] | None:
    values = [axis_value(by_letter[letter], dimension) if letter in by_letter else None for letter in letters]
    if values[0] is None or values[1] is None:
        return None
    return values[0], values[1]


def _axis_calibration(
    base: Calibration, by_letter: Mapping[str, Axis], kind: Kind, energy_keV: float | None
) -> tuple[Calibration, list[str]]:
    """Calibration with what the axes say (values that are there stay), and what must be said of it."""
    found: dict[str, Any] = {}
    notes: list[str] = []
    if kind == "datacube":
        found["pixel_nm"] = _pair(by_letter, "RC", "length")
        found["q_pixel_invA"] = _pair(by_letter, "QK", "reciprocal")
        angle = _pair(by_letter, "QK", "angle")
        energy = energy_keV or base.energy_keV
        if found["q_pixel_invA"] is None and base.q_pixel_invA is None and angle is not None:
            if energy:
                found["q_pixel_invA"] = tuple(1e-3 * a / wavelength_A(energy) for a in angle)
            else:
                notes.append(f"the detector pixel is {angle[0]:.4g} mrad; give the beam energy to have it in 1/Å")
    else:
        found["pixel_nm"] = _pair(by_letter, "YX", "length")
        if "T" in by_letter:
            found["frame_interval_s"] = axis_value(by_letter["T"], "time")
        if "F" in by_letter and (step_nm := axis_value(by_letter["F"], "length")) is not None:
            found["defocus_step_A"] = 10 * step_nm
    missing = {name: value for name, value in found.items() if getattr(base, name) is None}
    return base.override("file", **missing), notes


def _without_impossible(calibration: Calibration) -> tuple[Calibration, list[str]]:
    """Calibration of the file without a detector pixel that no camera length gives, and the line that says so."""
    q = calibration.q_pixel_invA
    if q is None or max(q) >= _SMALLEST_Q_INVA:
        return calibration, []
    line = f"the detector pixel of {max(q):.3g} 1/Å in the file cannot be meant and is left out; give `q_pixel_invA`"
    source = {name: where for name, where in calibration.source.items() if name != "q_pixel_invA"}
    return replace(calibration, q_pixel_invA=None, source=source), [line]


def _implausible(calibration: Calibration, kind: Kind) -> list[str]:
    """A line for each value that can hardly be meant."""
    lines = []
    pixel, q = calibration.pixel_nm, calibration.q_pixel_invA
    what, most = ("scan step", _LARGEST_STEP_NM) if kind == "datacube" else ("pixel size", _LARGEST_IMAGE_PIXEL_NM)
    if pixel is not None and not _SMALLEST_PIXEL_NM <= max(pixel) <= most:
        lines.append(f"the {what} of {max(pixel):.4g} nm is hardly meant; check its unit, or give `pixel_nm`")
    if q is not None and max(q) > _LARGEST_Q_INVA:
        lines.append(f"the detector pixel of {max(q):.4g} 1/Å is hardly meant; check its unit, or give `q_pixel_invA`")
    for values, name in ((pixel, what), (q, "detector pixel")):
        if values is not None and max(values) > 3 * min(values):
            lines.append(f"the {name} differs along rows and cols ({values[0]:.4g} and {values[1]:.4g}); check the calibration")
    return lines


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
        found = without_single_axes(found, len(ORDER[kind]) if kind else 4)
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
    notes = list(found.notes)
    if kind == "datacube" and data_is_flat(found, letters) and scan is None:
        scan, count = found.scan, found.data.shape[letters.index("S")]
        if scan is not None and scan[0] * scan[1] < count:
            found = _first_patterns(found, letters, scan[0] * scan[1])
            notes.append(
                f"the file holds {count} patterns, its scan of {scan[0]} x {scan[1]} uses the first {scan[0] * scan[1]}; "
                "`shape=(rows, cols)` takes others"
            )
        if scan is None and count > 1:
            likely = likely_scans(count)
            notes.append(
                f"the scan shape is not known: {count} patterns were opened as one line; give `shape=(rows, cols)`"
                + (f", such as {likely}" if likely else "")
            )
    by_letter = dict(zip(letters, found.axes, strict=True))
    data = arrange_source(found.data, letters, kind, scan, found.name)
    frame_bytes = data.shape[-1] * data.shape[-2] * data.dtype.itemsize
    if frame_bytes > MAX_FRAME_BYTES:
        raise OpenError(
            f"{found.name} says that one frame has {data.shape[-2]} x {data.shape[-1]} pixels ({frame_bytes / 2**30:.0f} GB); "
            "the axis order is wrong, or the file is damaged"
        )
    user = dict(overrides or {})
    timing = found.timing() if found.timing is not None and kind == "movie" and data.shape[0] > 1 else Timing()
    known = found.calibration.override("file", frame_interval_s=timing.interval_s)
    calibration, said = _axis_calibration(known, by_letter, kind, user.get("energy_keV"))
    calibration, left_out = _without_impossible(calibration)
    calibration = calibration.override("user", **user)
    notes += [*said, *left_out, *_implausible(calibration, kind), *timing.notes]
    make = Datacube if kind == "datacube" else Movie
    metadata = dict(found.metadata) | ({"notes": tuple(notes)} if notes else {})
    mask = _frame_mask(found.mask, letters, kind)
    return make(data, kind, calibration, path, layer, metadata, mask, timing.steps)


def _first_patterns(found: Found, letters: str, count: int) -> Found:
    """The first `count` patterns of a flat scan."""
    ranges = [(0, count if letter == "S" else n) for letter, n in zip(letters, found.data.shape, strict=True)]
    return replace(found, data=CroppedSource(found.data, ranges))


def data_is_flat(found: Found, letters: str) -> bool:
    """True when all scan positions lie in one axis."""
    return "S" in letters and len(letters) == len(found.axes)


def _frame_mask(mask: NDArray[np.bool_] | None, letters: str, kind: Kind) -> NDArray[np.bool_] | None:
    """The file's mask over the frame, when its last two axes are the frame."""
    frame = ORDER[kind][-2:]
    if mask is None or letters[-2:] not in (frame, frame[::-1]):
        return None
    return np.asarray(mask if letters[-2:] == frame else mask.T)


def _stack_of_patterns(found: Found) -> bool:
    """True when the file itself says that its three axes are patterns of one scan line or series."""
    return found.signal_type == "diffraction" or sum(is_reciprocal(a) for a in found.axes) >= 2
