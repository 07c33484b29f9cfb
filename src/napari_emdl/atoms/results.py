"""How columns and occupancy are kept."""

from __future__ import annotations

from typing import Any

import h5py

from napari_emdl.atoms.fit.result import Occupancy
from napari_emdl.base.kinds import ResultKind
from napari_emdl.base.peaks import PeakTable
from napari_emdl.io.results import add_provenance, read_peaks, write_peaks


def is_columns(result: Any) -> bool:
    """Whether it is a table of atomic columns: peaks with species, or over frames."""
    if not isinstance(result, PeakTable):
        return False
    return "species" in result.fields or "species" in result.attrs or len(result.shape) != 2


def _write_occupancy(file: h5py.File, occupancy: Occupancy) -> None:
    occupancy.to_hdf5(file)


def _read_occupancy(file: h5py.File) -> Occupancy:
    occupancy = Occupancy.from_hdf5(file)
    add_provenance(file, occupancy.attrs)
    return occupancy


KINDS = (
    ResultKind("columns", is_columns, write_peaks, read_peaks),
    ResultKind("occupancy", lambda result: isinstance(result, Occupancy), _write_occupancy, _read_occupancy),
)
