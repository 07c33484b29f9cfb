"""What a file is, in plain values: for the command line, the panels and logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

from napari_emdl.base.caveats import Caveats
from napari_emdl.base.errors import OpenError
from napari_emdl.base.reading import one_line
from napari_emdl.base.signals import Calibration, Signal


def info(path: str | Path | Sequence[str | Path], **options: Any) -> dict[str, Any]:
    """Kind, shape, type, size, calibration and metadata of a file, or the summary of a result file; all JSON-able.

    Parameters
    ----------
    path
        As for :func:`napari_emdl.io.open`.
    options
        As for :func:`napari_emdl.io.open`.

    Raises
    ------
    OpenError
        When the file can be opened neither as data nor as a result.
    """
    from napari_emdl.io.opening import open as open_signal

    lists = options.get("kind") == "disks"
    if isinstance(path, (str, Path)) and (lists or not options) and (lists or is_result(path)):
        return _result_info(Path(path).expanduser())
    return signal_info(open_signal(path, **options))


def is_result(path: str | Path) -> bool:
    """True for files that hold a result and nothing else: our results, and peak lists of py4DSTEM without their datacube."""
    from napari_emdl.io.hdf5gate import Gate, is_hdf5

    file_path = Path(path).expanduser()
    if not file_path.is_file() or not is_hdf5(file_path):
        return False
    try:
        with one_line(file_path.name, "HDF5 file"), Gate(file_path) as gate:
            if "emdl_result" in gate.file.attrs or gate.get("peaks/offset") is not None:
                return True
            from napari_emdl.io.formats.hdf5 import point_list_type

            found = dict(islice(gate.datasets(), 2000))
            lists = any(item.ndim == 2 and point_list_type(item) is not None for item in found.values())
            return lists and not any(item.ndim == 4 for item in found.values())
    except (OSError, RuntimeError, OpenError):
        return False


def signal_info(signal: Signal) -> dict[str, Any]:
    """Summary of an opened signal."""
    return {
        "path": signal.path,
        "name": signal.name,
        "kind": signal.kind,
        "shape": list(signal.shape),
        "dtype": str(signal.dtype),
        "nbytes": signal.nbytes,
        "calibration": calibration_info(signal.calibration),
        "metadata": {
            key: value if isinstance(value, (int, float, bool)) else str(value)
            for key, value in signal.metadata.items()
            if key != "notes"
        },
    } | ({"notes": list(signal.notes)} if signal.notes else {})


def calibration_info(calibration: Calibration) -> dict[str, Any]:
    """Known values of a calibration and where each comes from."""
    out: dict[str, Any] = {}
    for entry in fields(calibration):
        value = getattr(calibration, entry.name)
        if entry.name == "source" or value is None:
            continue
        if entry.name in ("qr_rotation_rad", "qr_flip") and entry.name not in calibration.source:
            continue
        out[entry.name] = list(value) if isinstance(value, tuple) else value
    return out | {"source": dict(calibration.source)}


def _result_info(path: Path) -> dict[str, Any]:
    from napari_emdl.io.results import load, read_provenance, result_type

    result = load(path)
    kind = result_type(result)
    out: dict[str, Any] = {"path": str(path), "name": path.stem, "kind": kind, "nbytes": path.stat().st_size}
    if kind in ("disks", "columns"):
        calibration = result.attrs.get("calibration")
        out |= {"shape": list(result.shape), "n_peaks": result.n_peaks, "fields": list(result.fields)}
        out |= {"calibration": calibration_info(calibration)} if isinstance(calibration, Calibration) else {}
        out |= {key: result.attrs[key] for key in ("species", "pixel_A", "method", "default_min_score") if key in result.attrs}
    elif kind == "strain":
        out |= {"shape": list(result.exx.shape), "n_fitted": int(result.mask.sum()), "axis_deg": float(result.axis_deg)}
    else:
        out |= {"shape": list(result.p_occupied.shape), "n_sites": len(result.sites_px), "n_frames": len(result.shift_px)}
    return out | {"caveats": Caveats.of(result).texts, "provenance": read_provenance(path)}
