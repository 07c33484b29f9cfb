"""Columns of the drift-corrected mean of all frames: at low dose it shows what no single frame does.

A column that is there in half of the frames stands in the mean with half of its height, and the noise is that of all frames
together, so that sites need not be seen by the finder in any frame.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from napari_emdl.atoms.find.finders import ColumnFinder
from napari_emdl.atoms.fit import drift
from napari_emdl.atoms.fit.drift import Alignment
from napari_emdl.base.signals import Movie
from napari_emdl.jobs.control import Control


def columns_of_mean(
    movie: Movie, alignment: Alignment, finder: ColumnFinder, min_score: float | None = None, control: Control | None = None
) -> NDArray[np.float64]:
    """(k, 2) columns of the mean of all frames, in the coordinates of the sites.

    Parameters
    ----------
    movie
        Frames; a focal series has no mean that a column could be found in.
    alignment
        Drift.
    finder
        What finds columns in a frame.
    min_score
        Least score; the finder's default when None.
    control
        Cancel.
    """
    if movie.n_foci > 1 or int(alignment.usable.sum()) < 2:
        return np.zeros((0, 2))
    mean = drift.mean_image(lambda t: np.asarray(movie.frame(t)), alignment, control)
    known = np.isfinite(mean)
    if not known.any():
        return np.zeros((0, 2))
    found = finder.find(np.where(known, mean, np.median(mean[known])).astype(np.float32)[None], control)
    found = found.filter(min_score=finder.default_min_score if min_score is None else min_score)
    points = found.positions_px()
    if not len(points):
        return points
    # nothing is known beyond the rim of the mean, and next to it the fill makes edges
    rows, cols = np.round(points).astype(int).T
    return points[known[np.clip(rows, 0, mean.shape[0] - 1), np.clip(cols, 0, mean.shape[1] - 1)]]


def shown_at(sites_px: NDArray[np.float64], columns_px: NDArray[np.float64], reach_px: float) -> NDArray[np.bool_]:
    """(n,) bool, sites with a column within reach."""
    if not len(columns_px) or not len(sites_px):
        return np.zeros(len(sites_px), bool)
    return np.asarray(np.isfinite(cKDTree(columns_px).query(sites_px, distance_upper_bound=reach_px)[0]))


def far_from(points_px: NDArray[np.float64], others_px: NDArray[np.float64], reach_px: float) -> NDArray[np.float64]:
    """Those of the points that have none of the others within reach."""
    if not len(points_px) or not len(others_px):
        return points_px
    return points_px[~np.isfinite(cKDTree(others_px).query(points_px, distance_upper_bound=reach_px)[0])]
