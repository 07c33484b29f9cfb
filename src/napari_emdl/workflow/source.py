"""The file a result was made from: where it lies now, opened as it was then. One way for API, command line and window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from napari_emdl.base.caveats import INPUT, Caveats
from napari_emdl.base.errors import EmdlError, OpenError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Datacube, Movie


def input_of(result: Any) -> dict[str, Any]:
    """What a result's provenance says of its input: path, kind, shape, calibration, ...; empty when it says nothing."""
    attrs = getattr(result, "attrs", None) or {}
    for record in (attrs.get("provenance"), attrs.get("disks_provenance")):
        found = record.get("input") if isinstance(record, Mapping) else None
        if isinstance(found, Mapping):
            return dict(found)
        if isinstance(found, str):  # the path alone
            return {"path": found}
    return {}


def locate(recorded: str, near: str | Path | None = None) -> str | None:
    """Where a recorded ``FILE`` or ``FILE::DATASET`` lies now.

    Parameters
    ----------
    recorded
        As written in a result, job or project.
    near
        File that names it; the folder it lies in is looked through too, so that both may have moved together.

    Returns
    -------
    str or None
        The name to open, None when it is in neither place.
    """
    file, mark, dataset = recorded.partition("::")
    if not file:
        return None
    places = [Path(file).expanduser()]
    if near is not None:
        places.append(Path(near).expanduser().absolute().parent / Path(file.replace("\\", "/")).name)
    found = next((place for place in places if place.exists()), None)
    return None if found is None else f"{found}{mark}{dataset}"


def source_of(result: Any, near: str | Path | None = None) -> Datacube | Movie:
    """Datacube or movie a result was made from, with the calibration it was made with.

    Parameters
    ----------
    result
        Disks, strain, columns or occupancy.
    near
        File the result was read from; the source is looked for beside it as well.

    Raises
    ------
    OpenError
        In one line: the result names no file, the file is gone, cannot be opened, or is another one.
    """
    known = input_of(result)
    recorded = str(known.get("path") or "")
    if not recorded:
        raise OpenError("the result does not say which file it was made from")
    place = locate(recorded, near)
    if place is None:
        raise OpenError(f"{recorded} is gone, from which this result was made: put it back, or beside the result")
    signal = _opened(place, known)
    expected = _shape_of(result, known, signal)
    if expected is not None and signal.shape[: len(expected)] != expected:
        raise OpenError(f"{place} is another file than this result was made from: its shape is {signal.shape}")
    return _calibrated(signal, result, known)


def with_options(signal: Any, options: Mapping[str, Any]) -> Any:
    """`signal` with the options it was opened with, so that provenance and projects know how to open it again."""
    return replace(signal, metadata={**signal.metadata, "open_options": dict(options)}) if options else signal


def caveats_of(signal: Any) -> Caveats:
    """What opening a file, and the search for missing pixels, have to say of it."""
    missing = signal.missing_facts.found
    return Caveats([*signal.notes, f"missing pixels: {', '.join(missing)}" if missing else ""], INPUT)


def _opened(place: str, known: Mapping[str, Any]) -> Datacube | Movie:
    from napari_emdl.io import open as open_signal

    options = dict(known.get("open_options") or {})
    kind = known.get("kind")
    try:
        signal = open_signal(place, **options)
        if kind and signal.kind != kind:
            options = {**options, "kind": kind}
            signal = open_signal(place, **options)
    except (EmdlError, OSError) as error:
        raise OpenError(f"{place}, from which this result was made, cannot be opened: {error}") from error
    made: Datacube | Movie = with_options(signal, options)
    return made


def _shape_of(result: Any, known: Mapping[str, Any], signal: Datacube | Movie) -> tuple[int, ...] | None:
    """Leading shape the source must have."""
    if known.get("shape"):
        return tuple(int(n) for n in known["shape"])
    if isinstance(result, PeakTable):
        return None if isinstance(signal, Movie) and signal.kind == "image" else tuple(result.shape)
    return None


def _calibrated(signal: Any, result: Any, known: Mapping[str, Any]) -> Any:
    """`signal` with what the user had said of its calibration."""
    recorded = known.get("calibration")
    recorded = recorded if isinstance(recorded, Mapping) else {}
    sources = recorded.get("source")
    calibration = signal.calibration
    for name, source in (sources if isinstance(sources, Mapping) else {}).items():
        value = recorded.get(name)
        if source in ("user", "measured", "guess") and value is not None:
            calibration = calibration.override(source, **{name: tuple(value) if isinstance(value, list) else value})
    pixel_A = (getattr(result, "attrs", None) or {}).get("pixel_A")
    if isinstance(signal, Movie) and pixel_A:
        known_A = None if calibration.pixel_nm is None else 5 * sum(calibration.pixel_nm)
        if known_A is None or abs(known_A - pixel_A) > 1e-6 * pixel_A:
            calibration = calibration.override("user", pixel_nm=(pixel_A / 10, pixel_A / 10))
    return signal if calibration is signal.calibration else replace(signal, calibration=calibration)
