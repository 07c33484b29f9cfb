"""What a file is, in plain values: for the command line, the panels and logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from napari_emdl.base.caveats import Caveats
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

    if isinstance(path, (str, Path)) and not options and is_result(path):
        return _result_info(Path(path).expanduser())
    return signal_info(open_signal(path, **options))


def is_result(path: str | Path) -> bool:
    """True for files that hold a result and nothing else: our results, and peak lists of py4DSTEM without their datacube."""
    import h5py

    file_path = Path(path).expanduser()
    if not file_path.is_file():
        return False
    with file_path.open("rb") as head:
        if head.read(8) != b"\x89HDF\r\n\x1a\n":
            return False
    try:
        with h5py.File(file_path, "r") as file:
            if "emdl_result" in file.attrs or "peaks/offset" in file:
                return True
            from napari_emdl.io.formats.emd import point_list_grids

            return bool(point_list_grids(file)) and not _holds_datacube(file)
    except OSError:
        return False


def _holds_datacube(file: Any) -> bool:
    import h5py

    found = file.visititems(lambda _name, item: True if isinstance(item, h5py.Dataset) and item.ndim == 4 else None)
    return bool(found)


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
            key: value if isinstance(value, (int, float, bool)) else str(value) for key, value in signal.metadata.items()
        },
    }


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
