"""Sample movies and what was found in them, made once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from napari_emdl.atoms.find.columns import find_columns
from napari_emdl.atoms.fit.occupancy import fit_occupancy
from napari_emdl.atoms.fit.result import Occupancy
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Movie
from napari_emdl.samples.atoms import MovieTruth, blinking_movie


def match(a: np.ndarray, b: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """One-to-one pairs closer than `reach`."""
    distance = cdist(a, b)
    i, j = linear_sum_assignment(np.where(distance < reach, distance, 1e3))
    near = distance[i, j] < reach
    return i[near], j[near]


def matched_sites(truth: MovieTruth, found: Occupancy) -> tuple[np.ndarray, np.ndarray]:
    """Indices of true sites and of the sites found for them."""
    offset = np.median(found.shift_px - truth.drift_px, axis=0)
    return match(truth.sites_px, found.sites_px + offset, 0.8 / truth.conditions.pixel_A)


@dataclass
class Case:
    movie: Movie
    truth: MovieTruth
    columns: PeakTable
    occupancy: Occupancy


@pytest.fixture(scope="session")
def case() -> Case:
    """Small sample movie, columns by LoG, occupancy."""
    movie, truth = blinking_movie((30, 192, 192), seed=4)
    columns = find_columns(movie, model="log", contrast="bright")
    return Case(movie, truth, columns, fit_occupancy(columns, movie))
