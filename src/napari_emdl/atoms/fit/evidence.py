"""Evidence for a column at every site in every frame, empty ones too; what is out of view is missing, not empty."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from napari_emdl.atoms.find.columns import ColumnFinder
from napari_emdl.atoms.fit.drift import Alignment
from napari_emdl.atoms.fit.sites import MARGIN_A, in_view
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Movie
from napari_emdl.jobs.control import Control

#: how far below the floor the evidence of a site without a candidate is spread
TAIL = 1.0


def visible(sites_px: NDArray[np.float64], alignment: Alignment, shape: tuple[int, int], pixel_A: float) -> NDArray[np.bool_]:
    """(T, n) whether a site is in view in a usable frame."""
    return in_view(alignment.to_frame(sites_px), shape, MARGIN_A / pixel_A) & alignment.usable[:, None]


def evidence_at(
    movie: Movie,
    sites_px: NDArray[np.float64],
    alignment: Alignment,
    finder: ColumnFinder,
    pixel_A: float,
    batch: int = 4,
    control: Control | None = None,
) -> NDArray[np.float32]:
    """Logit at every site in every frame.

    Parameters
    ----------
    movie
        Frames.
    sites_px
        (n, 2) drift-corrected sites.
    alignment
        Where they are in each frame.
    finder
        Network or LoG that gives the logit.
    pixel_A
        Pixel size.
    batch
        Frames at a time.
    control
        Progress and cancel.

    Returns
    -------
    ndarray
        (T, n) float32, NaN out of view.
    """
    points = alignment.to_frame(sites_px)
    valid = visible(sites_px, alignment, movie.frame_shape, pixel_A)
    out = np.full(valid.shape, np.nan, np.float32)
    frames = np.flatnonzero(valid.any(1))
    for start in range(0, len(frames), batch):
        if control is not None:
            control.check()
            control.report(int(frames[start]), movie.n_frames, "evidence at the sites")
        chosen = frames[start : start + batch]
        images = np.stack([np.asarray(movie.frame(int(t))) for t in chosen])
        out[chosen] = finder.sample(images, points[chosen], control)
    out[~valid] = np.nan
    return out


def evidence_from_detections(
    columns: PeakTable, sites_px: NDArray[np.float64], alignment: Alignment, radius_px: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """What detections alone tell, when the movie is not at hand.

    Returns
    -------
    logit
        (T, n) logit of the best candidate within `radius_px`; where there is none, just below the least candidate.
    found
        (T, n) whether there is one.
    """
    points = alignment.to_frame(sites_px)
    logits = columns.column("logit") if "logit" in columns.fields else _logit(columns.column("score"))
    floor = float(np.min(logits)) if len(logits) else -6.0
    # no candidate means anything below the floor: spread like the tail of a noise, because one sharp value would look
    # infinitely sure
    tail = np.abs(np.random.default_rng(0).normal(0, TAIL, points.shape[:2]))
    out = (floor - tail).astype(np.float32)
    found = np.zeros(points.shape[:2], bool)
    offset, position = columns.offset, columns.positions_px()
    for t in range(len(columns)):
        rows = slice(int(offset[t]), int(offset[t + 1]))
        if rows.stop == rows.start or not len(sites_px):
            continue
        distance, index = cKDTree(points[t]).query(position[rows], distance_upper_bound=radius_px)
        own = np.isfinite(distance)
        np.maximum.at(out[t], index[own], logits[rows][own].astype(np.float32))
        found[t, index[own]] = True
    return out, found


def _logit(score: NDArray[np.floating]) -> NDArray[np.float64]:
    p = np.clip(np.asarray(score, np.float64), 1e-6, 1 - 1e-6)
    return np.log(p) - np.log1p(-p)
