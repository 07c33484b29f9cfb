"""Results as pandas tables and xarray datasets, with the names and units of the exported CSV files."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.kinds import kind_of
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Calibration, Signal
from napari_emdl.exporting import tables

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

#: Axes of each kind of signal, and the field of the calibration that gives the step of the last two.
_DIMS = {
    "datacube": ("scan_row", "scan_col", "row", "col"),
    "movie": ("frame", "row", "col"),
    "focal_series": ("frame", "focus", "row", "col"),
    "image": ("row", "col"),
}


def needed(module: str, what: str) -> Any:
    """A module that only this needs.

    Raises
    ------
    EmdlError
        When it is not installed.
    """
    try:
        return import_module(module)
    except ImportError:
        raise EmdlError(f"{what} needs {module}: pip install 'napari-emdl[notebook]'") from None


def columns_of(result: Any) -> tables.Columns:
    """Columns of a result's main table: peaks, positions, or sites in frames."""
    kind = kind_of(result).name
    if kind == "disks":
        return tables.disk_columns(result)
    if kind == "columns":
        return tables.column_columns(result.reshape((result.n_positions,)), tables.known_pixel_A(result.attrs))
    if kind == "strain":
        from napari_emdl.diffraction.fit.strain import REASONS

        return tables.strain_columns(result, REASONS)
    return tables.occupancy_columns(result)


def to_dataframe(result: Any) -> pd.DataFrame:
    """One row a peak, a scan position, or a site in a frame."""
    pandas = needed("pandas", "to_dataframe")
    return pandas.DataFrame({name: np.asarray(values) for name, values in columns_of(result).items()})


def to_xarray(thing: Any) -> xr.Dataset | xr.DataArray:
    """A signal as a lazy DataArray; a result as a Dataset with units in the attributes."""
    xarray = needed("xarray", "to_xarray")
    if isinstance(thing, Signal):
        return _of_signal(xarray, thing)
    kind = kind_of(thing).name
    if kind == "strain":
        return _of_strain(xarray, thing)
    if kind == "occupancy":
        return _of_occupancy(xarray, thing)
    return _of_peaks(xarray, thing, kind)


def _steps(count: int, step: float | None) -> NDArray[np.float64]:
    return np.arange(count, dtype=np.float64) * np.float64(1.0 if step is None else step)


def _axis(dim: str, count: int, step: float | None, unit: str) -> tuple[str, NDArray[np.float64], dict[str, str]]:
    return dim, _steps(count, step), {"units": "px" if step is None else unit}


def _of_signal(xarray: Any, signal: Signal) -> xr.DataArray:
    from dask.array import from_array

    dims, known = _DIMS[signal.kind], signal.calibration
    chunks = (1,) * (len(dims) - 2) + signal.shape[-2:]
    steps: dict[str, tuple[float | None, str]] = {}
    last = known.q_pixel_invA if signal.kind == "datacube" else known.pixel_nm
    for i, dim in enumerate(dims[-2:]):
        steps[dim] = (None if last is None else last[i], "1/Å" if signal.kind == "datacube" else "nm")
    if signal.kind == "datacube":
        for i, dim in enumerate(dims[:2]):
            steps[dim] = (None if known.pixel_nm is None else known.pixel_nm[i], "nm")
    coords = {dim: _axis(dim, signal.shape[dims.index(dim)], *step) for dim, step in steps.items()}
    if (times_s := getattr(signal, "frame_times_s", None)) is not None:
        coords["time"] = ("frame", times_s, {"units": "s"})
    data = from_array(signal.data, chunks=chunks, asarray=False, name=False, meta=np.empty((0,) * len(dims), signal.dtype))
    return xarray.DataArray(data, dims=dims, coords=coords, name=signal.name or signal.kind, attrs={"kind": signal.kind})


def _of_strain(xarray: Any, strain: Any) -> xr.Dataset:
    grid = ("scan_row", "scan_col")
    known = getattr(strain.calibration, "calibration", strain.calibration)
    step = tables.pixel_nm_of(known if isinstance(known, Calibration) else None)
    names = ("exx", "eyy", "exy", "theta_rad")
    fields: dict[str, Any] = {}
    for i, name in enumerate(names):
        unit = "rad" if name == "theta_rad" else "1"
        fields[name] = (grid, np.asarray(getattr(strain, name)), {"units": unit})
        fields[f"sigma_{name}"] = (grid, strain.sigma[..., i], {"units": unit, "long_name": f"standard error of {name}"})
    fields |= {
        "g1": ((*grid, "axis"), strain.g1, {"units": "px"}),
        "g2": ((*grid, "axis"), strain.g2, {"units": "px"}),
        "mask": (grid, strain.mask),
        "reason": (grid, strain.reason),
        "n_indexed": (grid, strain.n_indexed),
        "residual_px": (grid, strain.residual_px, {"units": "px"}),
    }
    coords: dict[str, Any] = {"axis": ["row", "col"]}
    for i, dim in enumerate(grid):
        coords[dim] = _axis(dim, strain.shape[i], None if step is None else step[i], "nm")
    axes = strain.attrs.get("axes") or {}
    return xarray.Dataset(fields, coords, {"axis_deg": strain.axis_deg, "axes": str(axes.get("text", ""))})


def _of_occupancy(xarray: Any, occupancy: Any) -> xr.Dataset:
    grid = ("frame", "site")
    fields: dict[str, Any] = {name: (grid, getattr(occupancy, name)) for name in ("p_occupied", "occupied", "valid")}
    fields |= {
        "row_px": ("site", occupancy.sites_px[:, 0]),
        "col_px": ("site", occupancy.sites_px[:, 1]),
        "shift_row_px": ("frame", occupancy.shift_px[:, 0]),
        "shift_col_px": ("frame", occupancy.shift_px[:, 1]),
        "mean_occupancy": ("site", occupancy.mean_occupancy()),
    }
    coords: dict[str, Any] = {"group": ("site", occupancy.group_names)}
    if (times_s := occupancy.frame_times_s()) is not None:
        coords["time"] = ("frame", times_s, {"units": "s"})
    known = {"pixel_A": tables.known_pixel_A(occupancy.attrs), "dose_e_per_A2": occupancy.attrs.get("dose_e_per_A2")}
    facts = {name: value for name, value in known.items() if value}
    return xarray.Dataset(fields, coords, facts)


def _of_peaks(xarray: Any, peaks: PeakTable, kind: str) -> xr.Dataset:
    """Peaks along one dimension with the position each belongs to, and the number of peaks at every position."""
    grid = ("scan_row", "scan_col") if kind == "disks" and len(peaks.shape) == 2 else ("frame",)
    counts = peaks.counts() if len(grid) == 2 else peaks.counts().ravel()
    fields = {name: ("peak", np.asarray(values)) for name, values in columns_of(peaks).items() if name not in grid}
    where = dict(zip(grid, np.unravel_index(peaks.flat_index(), counts.shape), strict=True))
    fields |= {f"peak_{name}": ("peak", index) for name, index in where.items()}
    return xarray.Dataset({**fields, "n_peaks": (grid, counts)}, attrs={"kind": kind})
