"""Results as CSV tables: one header line with units in the names, one row a peak, position, site or event."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Calibration
from napari_emdl.io.outputs import atomic_path

Columns = Mapping[str, Any]
#: What makes spreadsheets compute a cell.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_UNITS = {"row": "row_px", "col": "col_px"}


def write_csv(path: Path, columns: Columns) -> Path:
    """Write equally long columns; the file appears whole or not at all. NaN is an empty cell."""
    names = list(columns)
    values = [_printable(np.asarray(columns[name])) for name in names]
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([harmless(name) for name in names])
        writer.writerows(zip(*values, strict=True))
    return path


def _printable(values: NDArray[Any]) -> list[Any]:
    if values.dtype.kind == "f":
        digits = 7 if values.dtype.itemsize <= 4 else 10
        return ["" if v != v else f"{v:.{digits}g}" for v in values.tolist()]
    if values.dtype.kind == "b":
        return values.astype(int).tolist()
    if values.dtype.kind in "iu":
        return values.tolist()
    return [harmless(str(value)) for value in values.tolist()]


def harmless(text: str) -> str:
    """Text of a cell that no spreadsheet takes for a formula: names come from files, and a file may come from anybody."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def disk_columns(disks: PeakTable) -> dict[str, Any]:
    """One row a disk: scan position, place in pixels, in 1/Å from the origin where that is known, and the other fields."""
    rows, cols = np.divmod(disks.flat_index(), max(1, disks.shape[-1]))
    out: dict[str, Any] = {"scan_row": rows, "scan_col": cols, "row_px": disks.column("row"), "col_px": disks.column("col")}
    calibration, origin = disks.attrs.get("calibration"), disks.attrs.get("origin_px")
    if origin is not None and calibration is not None and calibration.q_pixel_invA is not None:
        vectors = disks.positions_px() - np.asarray(origin, float).reshape(-1, 2)[disks.flat_index()]
        out |= {
            "q_row_invA": vectors[:, 0] * calibration.q_pixel_invA[0],
            "q_col_invA": vectors[:, 1] * calibration.q_pixel_invA[1],
        }
    return out | {name: disks.column(name) for name in disks.fields if name not in ("row", "col")}


def known_pixel_A(attrs: Mapping[str, Any]) -> float | None:
    """Pixel size that lengths may be written in; None where it is not known or was guessed to find columns at all."""
    return None if attrs.get("pixel_guessed") else attrs.get("pixel_A") or None


def column_columns(peaks: PeakTable, pixel_A: float | None) -> dict[str, Any]:
    """One row an atomic column: frame, place in pixels and angstrom, species by name, and the other fields."""
    out: dict[str, Any] = {"frame": peaks.flat_index(), "row_px": peaks.column("row"), "col_px": peaks.column("col")}
    if pixel_A is not None:
        out |= {"row_A": peaks.column("row") * pixel_A, "col_A": peaks.column("col") * pixel_A}
    for name in peaks.fields:
        if name == "species":
            names = np.asarray(peaks.attrs.get("species") or ["column"], dtype=str)
            index = peaks.column("species").astype(int)
            out["species"] = np.where(index < len(names), names[np.clip(index, 0, len(names) - 1)], index.astype(str))
        elif name not in ("row", "col"):
            out[name] = peaks.column(name)
    return out


def strain_columns(strain: Any, reasons: tuple[str, ...]) -> dict[str, Any]:
    """One row a scan position: strain, errors, lattice vectors and why there is none."""
    shape = strain.exx.shape
    rows, cols = (index.ravel() for index in np.indices(shape))
    out: dict[str, Any] = {"scan_row": rows, "scan_col": cols}
    names = ("exx", "eyy", "exy", "theta_rad")
    out |= {name: np.asarray(getattr(strain, name)).ravel() for name in names}
    out |= {f"sigma_{name}": strain.sigma[..., i].ravel() for i, name in enumerate(names)}
    for name in ("g1", "g2"):
        vectors = getattr(strain, name)
        out |= {f"{name}_row_px": vectors[..., 0].ravel(), f"{name}_col_px": vectors[..., 1].ravel()}
    out |= {"fitted": strain.mask.ravel(), "n_indexed": strain.n_indexed.ravel(), "residual_px": strain.residual_px.ravel()}
    if strain.region is not None:
        out["region"] = strain.region.ravel()
    return out | {"reason": [reasons[code] if code < len(reasons) else str(code) for code in strain.reason.ravel()]}


def site_columns(occupancy: Any, groups: tuple[str, ...]) -> dict[str, Any]:
    """One row a site: place, group, coordination, mean occupancy and class probabilities."""
    pixel_A = known_pixel_A(occupancy.attrs)
    place = occupancy.sites_px
    out: dict[str, Any] = {"site": np.arange(len(place)), "row_px": place[:, 0], "col_px": place[:, 1]}
    if pixel_A:
        out |= {"row_A": place[:, 0] * pixel_A, "col_A": place[:, 1] * pixel_A}
    out |= {
        "group": [groups[g] if g < len(groups) else str(g) for g in occupancy.groups],
        "coordination": occupancy.sites.coordination,
        "mean_occupancy": occupancy.mean_occupancy(),
        "frames_in_view": occupancy.valid.sum(axis=0),
    }
    for i, name in enumerate(("p_always_empty", "p_blinking", "p_always_occupied")):
        out[name] = occupancy.class_probability[:, i]
    return out


def occupancy_columns(occupancy: Any) -> dict[str, Any]:
    """One row a site and frame: chance of being occupied, most probable state, whether in view."""
    frames, sites = (index.ravel() for index in np.indices(occupancy.p_occupied.shape))
    return {
        "frame": frames,
        "site": sites,
        "p_occupied": occupancy.p_occupied.ravel(),
        "occupied": occupancy.occupied.ravel(),
        "in_view": occupancy.valid.ravel(),
    }


def structured_columns(table: NDArray[np.void]) -> dict[str, Any]:
    """Fields of a structured array."""
    return {name: table[name] for name in table.dtype.names or ()}


def rate_columns(occupancy: Any) -> dict[str, Any]:
    """One row a group: the rates with their intervals, and all of them per frame and per second."""
    from napari_emdl.atoms.fit.rateunits import rates_in_units

    interval_s = occupancy.attrs.get("frame_interval_s")
    units = rates_in_units(occupancy.rates, float(interval_s) if interval_s else None)
    return {**structured_columns(occupancy.rates), **units}


def frame_columns(occupancy: Any, flags: tuple[str, ...]) -> dict[str, Any]:
    """One row a frame: shift, quality and flag."""
    alignment = occupancy.alignment
    return {
        "frame": np.arange(len(occupancy.shift_px)),
        **({} if (times_s := occupancy.frame_times_s()) is None else {"time_s": times_s}),
        "shift_row_px": occupancy.shift_px[:, 0],
        "shift_col_px": occupancy.shift_px[:, 1],
        "quality": alignment.quality,
        "flag": [flags[f] if f < len(flags) else str(f) for f in alignment.flag],
    }


def pixel_nm_of(calibration: Calibration | None) -> tuple[float, float] | None:
    """(row, col) real-space pixel size, None when unknown."""
    return None if calibration is None else calibration.pixel_nm
