"""Saving and loading results: one HDF5 file each, whose kind the sciences have registered (:mod:`napari_emdl.base.kinds`).

Layout (see docs/files.md): root attributes ``emdl_result`` (the kind), ``emdl_format`` and ``provenance`` (JSON); peak tables
lie in ``peaks/``. Files appear whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py

from napari_emdl.base.caveats import Caveats
from napari_emdl.base.errors import OpenError
from napari_emdl.base.kinds import kind_of, kinds
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.reading import first_line, one_line
from napari_emdl.base.signals import Calibration
from napari_emdl.io.formats import emd
from napari_emdl.io.hdf5gate import open_h5, refuse_foreign_storage
from napari_emdl.io.outputs import check_output, write_hdf5
from napari_emdl.io.packing import Classes, jsonable, read_array, read_attrs, write_attrs

FORMAT_VERSION = 1
_CLASSES: Classes = {"Calibration": Calibration}


def result_type(result: Any) -> str:
    """Kind of a result: "disks", "columns", "strain" or "occupancy".

    Raises
    ------
    EmdlError
        When it is none of them.
    """
    return kind_of(result).name


def save(result: Any, path: str | Path, *, provenance: Mapping[str, Any] | None = None) -> Path:
    """Save disks, strain, columns or occupancy; the file appears whole or not at all.

    A disks table is saved with all peaks it shows. py4DSTEM's BraggVectors in the same file hold those with a score of at
    least ``attrs["default_min_score"]``, because py4DSTEM knows no score to filter by.

    Parameters
    ----------
    result
        PeakTable, StrainMap or Occupancy.
    path
        File to write: a new one, or a result of napari-emdl that is replaced.
    provenance
        How it was made; taken from ``result.attrs["provenance"]`` when None.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    EmdlError
        When it cannot be written or is a file of somebody else's; a file that was there before stays.
    """
    kind = kind_of(result)
    target = Path(path).expanduser()
    if target.parent.is_dir():
        check_output(target)
    attrs = getattr(result, "attrs", {})
    record = provenance if provenance is not None else attrs.get("provenance")

    def fill(file: h5py.File) -> None:
        kind.write(file, result)
        file.attrs["emdl_result"] = kind.name
        file.attrs["emdl_format"] = FORMAT_VERSION
        file.attrs["provenance"] = json.dumps(record if record is not None else {}, default=jsonable)
        file.attrs["caveats"] = json.dumps(Caveats.of(result).to_json(), ensure_ascii=False)

    write_hdf5(target, fill)
    return target


def load(path: str | Path) -> Any:
    """Load a result: PeakTable (disks, columns), StrainMap or Occupancy; py4DSTEM's peak lists become a PeakTable.

    Raises
    ------
    OpenError
        When the file is not a result, or a damaged one.
    """
    file_path = Path(path).expanduser()
    if not file_path.is_file():
        raise OpenError(f"{file_path} does not exist" if not file_path.exists() else f"{file_path} is not a result file")
    with one_line(file_path.name, "result"), open_h5(file_path) as file:
        refuse_foreign_storage(file, file_path.name)
        return _read(file, file_path.name)


def _read(file: h5py.File, name: str) -> Any:
    kind = str(file.attrs.get("emdl_result", ""))
    if not kind:
        return read_peaks(file) if "peaks/offset" in file else emd.read_bragg_vectors(file, name)
    if int(file.attrs.get("emdl_format", 0)) > FORMAT_VERSION:
        raise OpenError(f"{name} was written by a newer napari-emdl; update to read it")
    known = kinds()
    if kind not in known:
        raise OpenError(f"{name} holds a result of unknown type {kind[:40]!r}; update napari-emdl to read it")
    return known[kind].read(file)


def read_provenance(path: str | Path) -> dict[str, Any]:
    """Provenance of a result file; empty where it has none.

    Raises
    ------
    OpenError
        When the record is damaged.
    """
    with one_line(Path(path).name, "result"), open_h5(Path(path)) as file:
        found: dict[str, Any] = {}
        add_provenance(file, found)
        return found.get("provenance", {})


def write_peaks(file: h5py.File, peaks: PeakTable, classes: Classes = _CLASSES) -> None:
    """Write a table with its attributes: flat arrays in ``peaks/``, the rest in ``attrs/``."""
    peaks.to_hdf5(file.create_group("peaks"))
    file["peaks"].attrs["fields"] = list(peaks.fields)
    write_attrs(file.create_group("attrs"), {k: v for k, v in peaks.attrs.items() if k != "provenance"}, classes)
    if "species" in peaks.attrs:
        file.attrs["species"] = [str(name) for name in peaks.attrs["species"]]


def read_peaks(file: h5py.File, classes: Classes = _CLASSES) -> PeakTable:
    """Read what :func:`write_peaks` wrote."""
    group = file["peaks"]
    for item in group.values():
        if isinstance(item, h5py.Dataset):
            read_array(item)
    table = PeakTable.from_hdf5(group)
    order = [str(name) for name in group.attrs.get("fields", ())]
    if sorted(order) == sorted(table.fields):  # HDF5 lists names by the alphabet
        table = PeakTable(table.shape, table.offset, {name: table.column(name) for name in order})
    if "attrs" in file:
        table.attrs.update(read_attrs(file["attrs"], classes))
    elif "species" in file.attrs:
        table.attrs["species"] = [str(name) for name in file.attrs["species"]]
    add_provenance(file, table.attrs)
    return table


def add_provenance(file: h5py.File, attrs: dict[str, Any]) -> None:
    """Put the provenance of an open result file into the attributes of what was read from it.

    Raises
    ------
    OpenError
        When the record is damaged.
    """
    try:
        record = json.loads(file.attrs.get("provenance", "{}"))
    except (TypeError, ValueError) as error:
        raise OpenError(f"the provenance in {Path(str(file.filename)).name} is damaged ({first_line(error)})") from error
    if not isinstance(record, dict):
        raise OpenError(f"the provenance in {Path(str(file.filename)).name} is damaged (no record)")
    if record:
        attrs["provenance"] = record
