"""Columns and occupancy on movies with exact truth: the network and the classical finder on the same frames in the same run.

A case is PREFIX.tif (movie) and PREFIX_truth.h5 with ``truth/sites_px`` (n, 2), ``truth/drift_px`` (T, 2), ``truth/occupied``
(T, n), ``truth/blinking`` (n,) and the attribute ``s`` (Å per pixel); site i lies at sites_px[i] + drift_px[t] in frame t.
Without a case, sample movies of the package at three doses are used.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from napari_emdl.atoms.find.columns import find_columns
from napari_emdl.atoms.fit.events import raw_rates
from napari_emdl.atoms.fit.occupancy import fit_occupancy
from napari_emdl.atoms.fit.result import Occupancy
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import ColumnParams, RunParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Calibration, Movie, in_memory
from napari_emdl.bench.cases import known
from napari_emdl.samples.atoms import Conditions, blinking_movie

#: a column counts as found within this distance of its place, a site within the second
TOLERANCE_A, SITE_TOLERANCE_A = 0.5, 0.8


@dataclass(frozen=True)
class Case:
    """A movie and what is true of it."""

    name: str
    movie: Movie
    pixel_A: float
    sites_px: NDArray[np.float64]
    drift_px: NDArray[np.float64]
    occupied: NDArray[np.bool_]
    blinking: NDArray[np.bool_]


def load_case(prefix: str | Path) -> Case:
    """Read PREFIX.tif and PREFIX_truth.h5.

    Raises
    ------
    EmdlError
        When either is missing.
    """
    import tifffile

    movie, truth = Path(f"{prefix}.tif"), Path(f"{prefix}_truth.h5")
    for path in (movie, truth):
        if not path.is_file():
            raise EmdlError(f"there is no {path}: a case is PREFIX.tif and PREFIX_truth.h5")
    with h5py.File(truth) as file:
        if "s" not in file.attrs:
            raise EmdlError(f"{truth} has no attribute s, the pixel size in Å; it is not the truth of such a case")
        pixel_A = float(file.attrs["s"])
        values = [known(file, f"truth/{name}", truth) for name in ("sites_px", "drift_px", "occupied", "blinking")]
    calibration = Calibration(pixel_nm=(pixel_A / 10, pixel_A / 10))
    frames = in_memory(np.asarray(tifffile.imread(movie)), "movie", calibration, name=movie.stem)
    assert isinstance(frames, Movie)
    return Case(movie.stem, frames, pixel_A, values[0], values[1], values[2].astype(bool), values[3].astype(bool))


def sample_cases() -> list[Case]:
    """Sample movies at 50, 150 and 600 e/Å2 a frame."""
    cases = []
    for dose in (50.0, 150.0, 600.0):
        movie, truth = blinking_movie((24, 320, 320), 11, conditions=Conditions(pixel_A=0.1, dose_e_per_A2=dose))
        cases.append(Case(f"sample {dose:g} e/Å²", movie, 0.1, truth.sites_px, truth.drift_px, truth.occupied, truth.blinking))
    return cases


def score_columns(case: Case, columns: PeakTable) -> dict[str, float]:
    """Precision, recall, F1, recall of blinking (surface) columns, rms error an axis in pm; one-to-one matching."""
    found = missed = false = surface = surface_all = 0
    errors = []
    for t in range(len(columns)):
        there = case.occupied[t]
        true, is_surface = (case.sites_px + case.drift_px[t])[there], case.blinking[there]
        peaks = columns.at(t)
        points = np.stack([peaks["row"], peaks["col"]], -1).astype(np.float64)
        i, j = _match(true, points, TOLERANCE_A / case.pixel_A)
        found, missed, false = found + len(i), missed + len(true) - len(i), false + len(points) - len(j)
        surface, surface_all = surface + int(is_surface[i].sum()), surface_all + int(is_surface.sum())
        errors.append((true[i] - points[j]).ravel())
    error = np.concatenate(errors)
    return {
        "precision": found / max(1, found + false),
        "recall": found / max(1, found + missed),
        "F1": 2 * found / max(1, 2 * found + false + missed),
        "surface recall": surface / max(1, surface_all),
        "rms pm": float(np.std(error) * case.pixel_A * 100) if len(error) else float("nan"),
    }


def score_occupancy(case: Case, found: Occupancy) -> dict[str, float]:
    """Sites found, phantom sites, frame error of blinking sites, and the bias of both rates of the decoded paths."""
    offset = np.median(found.shift_px - case.drift_px, axis=0)
    i, j = _match(case.sites_px, found.sites_px + offset, SITE_TOLERANCE_A / case.pixel_A)
    decoded = np.zeros_like(case.occupied)
    decoded[:, i] = found.occupied[:, j]
    phantom = np.setdiff1d(np.arange(found.n_sites), j)
    blink = case.blinking
    every = np.ones_like(case.occupied[:, blink])
    (true_off, true_on), (off, on) = (raw_rates(o[:, blink], every) for o in (case.occupied, decoded))
    return {
        "sites found": len(i) / max(1, len(case.sites_px)),
        "phantoms": float((found.occupied[:, phantom].mean(0) > 0.1).sum()) if len(phantom) else 0.0,
        "frame error": float((decoded != case.occupied)[:, blink].mean()),
        "off bias": off / true_off - 1 if true_off > 0 else float("nan"),
        "on bias": on / true_on - 1 if true_on > 0 else float("nan"),
    }


def _match(a: NDArray[np.float64], b: NDArray[np.float64], reach: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """One-to-one pairs closer than `reach`, of least total distance."""
    if not len(a) or not len(b):
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    distance = cdist(a, b)
    i, j = linear_sum_assignment(np.where(distance < reach, distance, 1e3))
    near = distance[i, j] < reach
    return i[near], j[near]


def measure(case: Case, model: str | None, contrast: str, device: str, occupancy: bool = True) -> dict[str, float]:
    """Scores and seconds a frame of one finder on one case."""
    params = ColumnParams.model_validate({"model": model, "contrast": contrast, "pixel_size_A": case.pixel_A})
    start = time.perf_counter()
    columns = find_columns(case.movie, params=params, run=RunParams.model_validate({"device": device}))
    seconds = (time.perf_counter() - start) / case.movie.n_frames
    shown = columns.filter(min_score=float(columns.attrs["default_min_score"]))
    scores = score_columns(case, shown) | {"s/frame": seconds}
    if occupancy:
        scores |= score_occupancy(case, fit_occupancy(columns, case.movie))
    return scores


def run(arguments: Sequence[str] | None = None) -> int:
    """Print a table of finders by cases; the exit status."""
    parser = argparse.ArgumentParser(prog="napari-emdl bench columns", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="PREFIX", help="cases; samples of the package when none is given")
    parser.add_argument("--models", nargs="+", default=["log", "columns"], help="finders: log, or names of models")
    parser.add_argument("--contrast", default="auto", choices=["auto", "bright", "dark"])
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--columns-only", action="store_true", help="leave out sites and occupancy")
    options = parser.parse_args(None if arguments is None else list(arguments))
    cases = [load_case(prefix) for prefix in options.cases] or sample_cases()
    header: list[str] = []
    for case in cases:
        for model in options.models:
            scores = measure(case, model, options.contrast, options.device, not options.columns_only)
            if not header:
                header = list(scores)
                print(f"{'case':18s} {'finder':10s} " + " ".join(f"{name:>14s}" for name in header))
            print(f"{case.name:18s} {model:10s} " + " ".join(f"{scores[name]:14.4g}" for name in header), flush=True)
    return 0
