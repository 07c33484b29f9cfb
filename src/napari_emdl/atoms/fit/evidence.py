"""Evidence for a column at every site in every frame, empty ones too; what is out of view is missing, not empty."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from napari_emdl.atoms.find.finders import ColumnFinder
from napari_emdl.atoms.find.frames import Frames
from napari_emdl.atoms.fit.drift import Alignment
from napari_emdl.atoms.fit.sites import MARGIN_A, in_view
from napari_emdl.base.params import RunParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Movie
from napari_emdl.jobs.blockjob import arrays, run_block_job
from napari_emdl.jobs.blocks import Block
from napari_emdl.jobs.control import Control

#: how far below the floor the evidence of a site without a candidate is spread
TAIL = 1.0
#: frames handed to the finder together
_AT_ONCE = 4


def visible(sites_px: NDArray[np.float64], alignment: Alignment, shape: tuple[int, int], pixel_A: float) -> NDArray[np.bool_]:
    """(T, n) whether a site is in view in a usable frame."""
    return in_view(alignment.to_frame(sites_px), shape, MARGIN_A / pixel_A) & alignment.usable[:, None]


def evidence_at(
    movie: Movie,
    sites_px: NDArray[np.float64],
    alignment: Alignment,
    finder: ColumnFinder,
    pixel_A: float,
    control: Control | None = None,
    run: RunParams | None = None,
    output: str | Path | None = None,
    fingerprint: str = "",
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
    control
        Progress and cancel.
    run, output, fingerprint
        See :func:`napari_emdl.jobs.blockjob.run_block_job`.

    Returns
    -------
    ndarray
        (T, n) float32, NaN out of view.
    """
    run = run or RunParams()
    valid = visible(sites_px, alignment, movie.frame_shape, pixel_A)
    made = run_block_job(
        total=movie.n_frames,
        read=Frames(movie).read,
        work=_Sample(finder, alignment.to_frame(sites_px), valid, None if run.scheduler else control),
        merge=arrays(movie.n_frames),
        bytes_per_item=float(np.prod(movie.frame_shape)) * movie.n_foci * (np.dtype(movie.dtype).itemsize + 48),
        run=run,
        output=output,
        fingerprint=fingerprint,
        control=control,
        parallel=finder.parallel,
        message="evidence at the sites",
    )
    out: NDArray[np.float32] = made["logit"]
    out[~valid] = np.nan
    return out


class _Sample:
    """Logit at the sites of a block of frames; picklable when the finder is."""

    def __init__(
        self, finder: ColumnFinder, points_px: NDArray[np.float64], valid: NDArray[np.bool_], control: Control | None
    ) -> None:
        self.finder, self.points_px, self.valid, self.control = finder, points_px, valid, control

    def __call__(self, frames: NDArray[Any], block: Block) -> dict[str, NDArray[np.float32]]:
        points = self.points_px[block.start : block.stop]
        out = np.full(points.shape[:2], np.nan, np.float32)
        shown = np.flatnonzero(self.valid[block.start : block.stop].any(1))
        for at in range(0, len(shown), _AT_ONCE):
            if self.control is not None:
                self.control.check()
            chosen = shown[at : at + _AT_ONCE]
            out[chosen] = self.finder.sample(frames[chosen], points[chosen], self.control)
        return {"logit": out}


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
