"""Saving and loading results: disks, strain, columns and occupancy in one HDF5 file each.

Layout (see docs/files.md): root attributes ``emdl_result`` (what it is), ``emdl_format`` and ``provenance`` (JSON); disks and
columns in ``peaks/``, strain in ``strain/``, occupancy in ``sites/ frames/ occupancy/ rates/``. Beside that, disks and strain
hold an EMD 1.0 tree that py4DSTEM reads. Files appear whole or not at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from napari_emdl.base.errors import EmdlError, OpenError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Calibration
from napari_emdl.io.formats import emd
from napari_emdl.io.formats.hdf5 import open_h5
from napari_emdl.io.sources import first_line

FORMAT_VERSION = 1
STRAIN_LABELS = ("e_xx", "e_yy", "e_xy", "theta", "mask", "error")
#: Dataclasses that may lie inside a result, by name.
_CLASSES = {
    "StrainMap": "napari_emdl.diffraction.fit.strain",
    "Evidence": "napari_emdl.diffraction.fit.strain",
    "DiffractionCalibration": "napari_emdl.diffraction.fit.calibrate",
    "Ellipse": "napari_emdl.diffraction.fit.calibrate",
    "Occupancy": "napari_emdl.atoms.fit.occupancy",
    "Calibration": "napari_emdl.base.signals",
}


def result_type(result: Any) -> str:
    """ "disks", "columns", "strain" or "occupancy".

    Raises
    ------
    EmdlError
        When it is none of them.
    """
    if isinstance(result, PeakTable):
        columns = "species" in result.fields or "species" in result.attrs or len(result.shape) != 2
        return "columns" if columns else "disks"
    names = ("exx", "eyy", "exy", "theta_rad")
    if all(hasattr(result, name) for name in names):
        return "strain"
    if hasattr(result, "to_hdf5") and hasattr(result, "p_occupied"):
        return "occupancy"
    raise EmdlError(f"a {type(result).__name__} is no result that can be saved: disks, strain, columns and occupancy are")


def save(result: Any, path: str | Path, *, provenance: Mapping[str, Any] | None = None) -> Path:
    """Save disks, strain, columns or occupancy; the file appears whole or not at all.

    A disks table is saved with all peaks it shows. py4DSTEM's BraggVectors in the same file hold those with a score of at
    least ``attrs["default_min_score"]``, because py4DSTEM knows no score to filter by.

    Parameters
    ----------
    result
        PeakTable, StrainMap or Occupancy.
    path
        File to write; replaced when it exists.
    provenance
        How it was made; taken from ``result.attrs["provenance"]`` when None.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    EmdlError
        When it cannot be written; a file that was there before stays.
    """
    kind = result_type(result)
    target = Path(path).expanduser()
    attrs = getattr(result, "attrs", {})
    record = provenance if provenance is not None else attrs.get("provenance")
    with atomic_path(target) as temporary, h5py.File(temporary, "w") as file:
        {"disks": _write_disks, "columns": _write_columns, "strain": _write_strain, "occupancy": _write_occupancy}[kind](
            file, result
        )
        file.attrs["emdl_result"] = kind
        file.attrs["emdl_format"] = FORMAT_VERSION
        file.attrs["provenance"] = json.dumps(record if record is not None else {}, default=jsonable)
    return target


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Path of a temporary file beside `target` that takes its place when the block ends well, and is removed when not.

    Raises
    ------
    EmdlError
        In one line, when it cannot be written.
    """
    folder = target.parent
    if target.is_dir():
        raise EmdlError(f"{target} is a folder; give a file name")
    temporary: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=folder)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except (OSError, RuntimeError) as error:
        # h5py reports a full disk as RuntimeError or OSError, depending on where it notices.
        kept = "; the file that was there is unchanged" if target.exists() else ""
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise EmdlError(f"cannot write {target}: {reason}{kept}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def load(path: str | Path) -> Any:
    """Load a result: PeakTable (disks, columns), StrainMap or Occupancy; py4DSTEM's peak lists become a PeakTable.

    Raises
    ------
    OpenError
        When the file is no result.
    """
    file_path = Path(path).expanduser()
    if not file_path.is_file():
        raise OpenError(f"{file_path} does not exist" if not file_path.exists() else f"{file_path} is a folder, no result file")
    with open_h5(file_path) as file:
        kind = str(file.attrs.get("emdl_result", ""))
        if kind and int(file.attrs.get("emdl_format", 0)) > FORMAT_VERSION:
            raise OpenError(f"{file_path.name} was written by a newer napari-emdl; update to read it")
        readers = {"disks": _read_peaks, "columns": _read_peaks, "strain": _read_strain, "occupancy": _read_occupancy}
        if kind and kind not in readers:
            raise OpenError(f"{file_path.name} holds a result of unknown type {kind!r}")
        try:
            return readers[kind](file) if kind else _read_foreign(file, file_path.name)
        except (KeyError, OSError, RuntimeError) as error:
            raise OpenError(f"{file_path.name} is incomplete or damaged ({first_line(error)})") from error


def _read_foreign(file: h5py.File, name: str) -> PeakTable:
    """Peaks without our mark: flat ``peaks/`` arrays, or py4DSTEM's lists."""
    return _read_peaks(file) if "peaks/offset" in file else emd.read_bragg_vectors(file, name)


def read_provenance(path: str | Path) -> dict[str, Any]:
    """Provenance of a result file."""
    with open_h5(Path(path)) as file:
        return json.loads(file.attrs.get("provenance", "{}"))


# Peaks: disks and columns


def _write_disks(file: h5py.File, disks: PeakTable) -> None:
    calibration = disks.attrs.get("calibration") or Calibration()
    detector = disks.attrs.get("detector_shape") or _reach(disks)
    root = emd.start_file(file, "braggvectors_root")
    floor = disks.attrs.get("default_min_score")
    strong = disks if floor is None else disks.filter(min_score=float(floor))
    vectors = emd.write_bragg_vectors(root, strong, detector)
    probe = disks.attrs.get("probe")
    if probe is not None:
        image = np.asarray(probe, float)
        stack = np.stack([image, np.zeros_like(image)])
        group = emd.write_stack(vectors, "probe", stack, ("probe", "kernel"), "Probe", (1.0, "pixels"))
        emd.write_metadata(group, "params", {"radius_px": disks.attrs.get("probe_radius_px")})
    origin = disks.attrs.get("origin_px")
    if origin is not None and np.shape(origin) != (*disks.shape, 2):  # of another scan, such as before a crop
        origin = None
    emd.write_calibration(root, calibration, ["/braggvectors"], origin, disks.attrs.get("ellipse"))
    _write_columns(file, disks)


def _reach(disks: PeakTable) -> tuple[int, int]:
    if not disks.n_peaks:
        return 1, 1
    rows, cols = np.ceil(disks.positions_px().max(axis=0)).astype(int) + 1
    return max(1, int(rows)), max(1, int(cols))


def _write_columns(file: h5py.File, peaks: PeakTable) -> None:
    peaks.to_hdf5(file.create_group("peaks"))
    file["peaks"].attrs["fields"] = list(peaks.fields)
    _write_attrs(file.create_group("attrs"), {k: v for k, v in peaks.attrs.items() if k != "provenance"})
    if "species" in peaks.attrs:
        file.attrs["species"] = [str(name) for name in peaks.attrs["species"]]


def _read_peaks(file: h5py.File) -> PeakTable:
    table = PeakTable.from_hdf5(file["peaks"])
    order = [str(name) for name in file["peaks"].attrs.get("fields", ())]
    if sorted(order) == sorted(table.fields):  # HDF5 lists names by the alphabet
        table = PeakTable(table.shape, table.offset, {name: table.column(name) for name in order})
    if "attrs" in file:
        table.attrs.update(_read_attrs(file["attrs"]))
    elif "species" in file.attrs:
        table.attrs["species"] = [str(name) for name in file.attrs["species"]]
    _read_provenance(file, table.attrs)
    return table


def _read_provenance(file: h5py.File, attrs: dict[str, Any]) -> None:
    record = json.loads(file.attrs.get("provenance", "{}"))
    if record:
        attrs["provenance"] = record


# Strain and occupancy


def _write_strain(file: h5py.File, strain: Any) -> None:
    calibration = getattr(strain.calibration, "calibration", strain.calibration) or Calibration()
    root = emd.start_file(file, "strainmap_root")
    error = np.sqrt(np.mean(np.square(strain.sigma[..., :3]), axis=-1))
    maps = [strain.exx, strain.eyy, strain.exy, strain.theta_rad, strain.mask, error]
    # py4DSTEM keeps zeros where its mask is False; numbers of masked positions stay NaN in strain/.
    stack = np.stack([np.where(strain.mask, np.nan_to_num(np.asarray(m, float)), 0.0) for m in maps])
    step = calibration.pixel_nm
    labels: tuple[str, ...] = STRAIN_LABELS
    if strain.region is not None:
        stack, labels = np.concatenate([stack, strain.region[None].astype(float)]), (*labels, "region")
    emd.write_stack(
        root, "strainmap", stack, labels, "RealSlice", (1.0, "pixels") if step is None else (float(np.mean(step)), "nm")
    )
    origin = getattr(strain.calibration, "origin_px", strain.origin_px)
    ellipse = getattr(strain.calibration, "ellipse", None)
    emd.write_calibration(
        root,
        calibration,
        [],
        origin if np.isfinite(origin).all() else None,
        None if ellipse is None else (ellipse.a, ellipse.b, ellipse.theta_rad),
    )
    _write_dataclass(file.create_group("strain"), strain)


def _read_strain(file: h5py.File) -> Any:
    strain = _read_dataclass(file["strain"])
    _read_provenance(file, strain.attrs)
    return strain


def _write_occupancy(file: h5py.File, occupancy: Any) -> None:
    occupancy.to_hdf5(file)


def _read_occupancy(file: h5py.File) -> Any:
    from napari_emdl.atoms.fit.result import Occupancy

    occupancy = Occupancy.from_hdf5(file)
    _read_provenance(file, occupancy.attrs)
    return occupancy


# Dataclasses and attributes


def _write_dataclass(group: h5py.Group, value: Any) -> None:
    """Write a dataclass: arrays as datasets, dataclasses as groups, the rest as JSON in the attribute ``values``."""
    group.attrs["class"] = type(value).__name__
    plain = {}
    for entry in dataclasses.fields(value):
        item = getattr(value, entry.name)
        if isinstance(item, np.ndarray):
            packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if item.size > 1000 else {}
            group.create_dataset(entry.name, data=item, **packed)
        elif dataclasses.is_dataclass(item) and not isinstance(item, type):
            _write_dataclass(group.create_group(entry.name), item)
        elif isinstance(item, dict) and entry.name == "attrs":
            _write_attrs(group.create_group("attrs"), item)
        else:
            plain[entry.name] = item
    group.attrs["values"] = json.dumps(plain, default=jsonable)


def _read_dataclass(group: h5py.Group) -> Any:
    name = str(group.attrs["class"])
    if name not in _CLASSES:
        raise OpenError(f"{group.name} holds a {name}, which is not known here; update napari-emdl")
    cls = getattr(import_module(_CLASSES[name]), name)
    known = {entry.name for entry in dataclasses.fields(cls)}
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in json.loads(group.attrs["values"]).items()}
    for key, item in group.items():
        if key == "attrs":
            values[key] = _read_attrs(item)
        else:
            values[key] = item[()] if isinstance(item, h5py.Dataset) else _read_dataclass(item)
    return cls(**{key: value for key, value in values.items() if key in known})


def _write_attrs(group: h5py.Group, attrs: Mapping[str, Any]) -> None:
    """Arrays as datasets, dataclasses (calibration) as groups, all else as one JSON attribute."""
    plain = {}
    for key, value in attrs.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            group.create_dataset(key, data=value)
        elif dataclasses.is_dataclass(value) and type(value).__name__ in _CLASSES:
            _write_dataclass(group.create_group(key), value)
        else:
            plain[key] = value
    group.attrs["values"] = json.dumps(plain, default=jsonable)


def _read_attrs(group: h5py.Group) -> dict[str, Any]:
    out = json.loads(group.attrs.get("values", "{}"))
    for key, item in group.items():
        out[key] = item[()] if isinstance(item, h5py.Dataset) else _read_dataclass(item)
    if isinstance(out.get("detector_shape"), list):
        out["detector_shape"] = tuple(out["detector_shape"])
    return out


def jsonable(value: Any) -> Any:
    """What JSON does not know: numpy values, paths, mappings and dataclasses."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, tuple)):
        return list(value)
    return str(value)
