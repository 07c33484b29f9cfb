"""Drift and sites together: drift from the frames, sites, drift refined on the steady ones, sites again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_emdl.atoms.find.finders import ColumnFinder
from napari_emdl.atoms.fit import drift
from napari_emdl.atoms.fit.correlation import measure_drift
from napari_emdl.atoms.fit.drift import Alignment
from napari_emdl.atoms.fit.frames import frame_reader
from napari_emdl.atoms.fit.meansites import columns_of_mean, shown_at
from napari_emdl.atoms.fit.repeats import repeated_frames
from napari_emdl.atoms.fit.sites import Sites, find_sites
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import OccupancyParams, RunParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Movie
from napari_emdl.jobs.control import Control

#: a column of the mean image this near is the site's own
REACH_A = 0.6
#: a turn is followed only where it moves the outermost sites by more than they are measured to
LEAST_TURN_A = 0.35


@dataclass(frozen=True)
class Found:
    """Sites and drift."""

    sites: Sites
    alignment: Alignment


def search(
    found: PeakTable,
    movie: Movie | None,
    shape: tuple[int, int],
    pixel_A: float,
    params: OccupancyParams,
    finder: ColumnFinder | None,
    sites: Sites | None = None,
    control: Control | None = None,
    run: RunParams | None = None,
    output: str | Path | None = None,
    fingerprint: str = "",
) -> Found:
    """Sites and drift of a movie.

    Parameters
    ----------
    found
        Detections by frame, thresholded.
    movie
        Frames; drift is that of the detections when None.
    shape, pixel_A
        Of a frame, and its pixel size.
    params
        Settings.
    finder
        Finds the columns of the mean of all frames; they are not looked at when None.
    sites
        Sites edited by hand, kept as they are.
    control
        Progress and cancel.
    run, output, fingerprint
        How drift is measured, see :func:`napari_emdl.atoms.fit.correlation.measure_drift`.

    Raises
    ------
    EmdlError
        When there are no sites, or none in the region.
    """
    if movie is not None:
        read = frame_reader(movie)
        alignment = measure_drift(
            read, movie.n_frames, pixel_A, control=control, run=run, output=output, fingerprint=fingerprint
        )
    else:  # from maps of the detections
        alignment = measure_drift(lambda t: _dots(found, t, shape), len(found), pixel_A, control=control)
    mean_px = columns_of_mean(movie, alignment, finder, control=control) if movie is not None and finder is not None else None
    if sites is None:
        sites, alignment = _sites(found, alignment, pixel_A, shape, params, mean_px)
        if params.region is not None:
            sites = _inside(sites, params.region)
    if mean_px is not None:
        sites = replace(sites, shown=shown_at(sites.position_px, mean_px, REACH_A / pixel_A))
    if movie is not None:
        flag = np.where(repeated_frames(read, movie.n_frames) & (alignment.flag == 0), drift.REPEAT, alignment.flag)
        alignment = replace(alignment, flag=flag.astype(np.uint8))
    return Found(sites, alignment)


def _inside(sites: Sites, region: tuple[int, int, int, int]) -> Sites:
    """Sites in a rectangle (row0, row1, col0, col1) of the first frame."""
    low, high = np.array([region[0], region[2]]), np.array([region[1], region[3]])
    keep = np.all((sites.position_px >= low - 0.5) & (sites.position_px < high - 0.5), axis=1)
    if not keep.any():
        rows, cols = f"{region[0]}:{region[1]}", f"{region[2]}:{region[3]}"
        raise EmdlError(f"there is no site in the region of rows {rows} and columns {cols}: choose another one")
    return sites.kept(keep)


def _sites(
    found: PeakTable,
    alignment: Alignment,
    pixel_A: float,
    shape: tuple[int, int],
    params: OccupancyParams,
    mean_px: NDArray[np.float64] | None,
) -> tuple[Sites, Alignment]:
    """Sites, drift refined on the steady ones, sites again."""

    def find(where: Alignment, extrapolate: bool) -> Sites:
        return find_sites(found, where, pixel_A, shape, params.min_site_fraction, params.max_distance_A, extrapolate, mean_px)

    first = find(alignment, False)
    steady = first.position_px[(first.seen > 0) & (first.seen >= min(0.6, float(np.quantile(first.seen, 0.5))))]
    radius_px = params.max_distance_A / pixel_A
    if len(steady) >= 4 and len(found) > 1:
        turned = drift.refine_with_sites(found, steady, alignment, radius_px, affine=True)
        reach_px = float(np.hypot(*(steady - steady.mean(0)).T).max())
        turns = drift.turns_by_px(turned, reach_px) * pixel_A > LEAST_TURN_A
        alignment = turned if turns else drift.refine_with_sites(found, steady, alignment, radius_px)
    return find(alignment, params.extrapolate), alignment


def _dots(found: PeakTable, t: int, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Frame with a dot at every detection, shared between the four pixels around it."""
    image = np.zeros((shape[0] + 1, shape[1] + 1))
    peaks = found.at(t)
    rows, cols = np.clip(peaks["row"], 0, shape[0] - 1.001), np.clip(peaks["col"], 0, shape[1] - 1.001)
    r, c = rows.astype(int), cols.astype(int)
    for dr in (0, 1):
        for dc in (0, 1):
            weight = np.abs(1 - dr - (rows - r)) * np.abs(1 - dc - (cols - c))
            np.add.at(image, (r + dr, c + dc), weight)
    return image[: shape[0], : shape[1]]
