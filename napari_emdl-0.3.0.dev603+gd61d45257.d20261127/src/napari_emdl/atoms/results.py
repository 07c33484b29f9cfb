"""How columns and occupancy are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py

from napari_emdl.base.kinds import ResultKind
from napari_emdl.base.peaks import PeakTable
from napari_emdl.io.results import add_provenance, read_peaks, write_peaks

if TYPE_CHECKING:
    from napari_emdl.atoms.fit.result import Occupancy


def is_columns(result: Any) -> bool:
    """Whether it is a table of atomic columns: peaks with species, or over frames."""
    if not isinstance(result, PeakTable):
        return False
    return "species" in result.fields or "species" in result.attrs or len(result.shape) != 2


def is_occupancy(result: Any) -> bool:
    """Whether it is the occupancy of sites."""
    from napari_emdl.atoms.fit.result import Occupancy  # with most of scipy, which other results are opened without

    return isinstance(result, Occupancy)


def _write_occupancy(file: h5py.File, occupancy: Occupancy) -> None:
    occupancy.to_hdf5(file)


def _read_occupancy(file: h5py.File) -> Occupancy:
    from napari_emdl.atoms.fit.result import Occupancy

    occupancy = Occupancy.from_hdf5(file)
    add_provenance(file, occupancy.attrs)
    return occupancy


KINDS = (
    ResultKind("columns", is_columns, write_peaks, read_peaks),
    ResultKind("occupancy", is_occupancy, _write_occupancy, _read_occupancy),
)
