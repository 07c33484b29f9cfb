"""Parts of a crystal whose contrast turns over: spots between the columns are no columns, unseen places are no empty sites."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emdl.atoms.fit.drift import identity
from napari_emdl.atoms.fit.occupancy import THERE, decode
from napari_emdl.atoms.fit.siteclasses import OCCUPIED
from napari_emdl.atoms.fit.sites import find_sites
from napari_emdl.atoms.inverted import inverted_parts
from napari_emdl.atoms.lattices import find_lattices
from napari_emdl.base.peaks import PeakTable

PIXEL_A = 0.1
CELL = np.array([[28.8, 3.0], [-12.0, 24.0]])
MIDDLE = np.array([250.0, 250.0])


def crystal(radius: float, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Places of a round particle, pixels, with errors of .2 px."""
    i, j = np.meshgrid(np.arange(-9, 10), np.arange(-9, 10))
    where = (np.c_[i.ravel(), j.ravel()] + shift) @ CELL
    where = where[np.hypot(*where.T) < radius] + MIDDLE
    return where + np.random.default_rng(5).normal(0, 0.2, where.shape)


def core(points: np.ndarray, radius: float) -> np.ndarray:
    return np.hypot(*(points - MIDDLE).T) < radius


def parts(position: np.ndarray, seen: np.ndarray | None = None):
    seen = np.ones(len(position)) if seen is None else seen
    lattices, own = find_lattices(position, seen, PIXEL_A)
    return inverted_parts(position, seen, np.zeros(len(position), bool), own, lattices)


def test_a_core_with_spots_between_its_columns_is_inverted():
    columns, between = crystal(160), crystal(45, (0.5, 0.5))
    inside = core(columns, 40)
    found = parts(np.concatenate([columns[~inside], between]))
    assert not found.spots[: (~inside).sum()].any() and found.spots[(~inside).sum() :].all()
    assert len(found.missing_px) == inside.sum()
    apart = np.linalg.norm(found.missing_px[:, None] - columns[inside][None], axis=2).min(1)
    assert apart.max() < 3


def test_places_that_are_seldom_seen_there_belong_to_it():
    columns, between = crystal(160), crystal(45, (0.5, 0.5))
    seen = np.r_[np.where(core(columns, 40), 0.1, 1.0), np.ones(len(between))]
    found = parts(np.concatenate([columns, between]), seen)
    assert np.array_equal(found.places[: len(columns)], core(columns, 40))


@pytest.mark.parametrize("case", ["second sublattice", "weak sublattice in a patch", "vacancies", "fault", "step", "adatoms"])
def test_nothing_is_inverted_in(case):
    columns = crystal(160)
    if case == "second sublattice":
        position = np.concatenate([columns, crystal(160, (0.5, 0.5))])
    elif case == "weak sublattice in a patch":
        position = np.concatenate([columns, crystal(50, (0.5, 0.5))])
    elif case == "vacancies":
        position = columns[~core(columns, 40)]
    elif case == "fault":  # a ribbon of two rows shifted along them goes through the particle
        row = np.round((columns - MIDDLE) @ np.linalg.inv(CELL))[:, 1]
        position = columns + np.isin(row, [0, 1])[:, None] * CELL[0] / 3
    elif case == "step":
        position = columns[~((columns[:, 0] > 330) & (columns[:, 1] < 260))]
    else:
        far = np.hypot(*(columns - MIDDLE).T) > 125
        position = np.concatenate([columns[~far], (columns + 0.5 * CELL[0])[far][::2]])
    found = parts(position)
    assert not found.spots.any() and not found.places.any() and not len(found.missing_px)


def test_its_columns_are_taken_as_there_and_said():
    columns, between = crystal(160), crystal(45, (0.5, 0.5))
    inside = core(columns, 40)
    frames = 6
    shown = np.concatenate([columns[~inside], between])
    peaks = {"row": shown[:, 0], "col": shown[:, 1], "score": np.ones(len(shown))}
    table, alignment = PeakTable.from_lists([peaks] * frames), identity(np.zeros((frames, 2)))
    sites = find_sites(table, alignment, PIXEL_A, (500, 500))
    assert sites.inverted.sum() == inside.sum()
    evidence = np.where(sites.seen > 0.5, 6.0, -6.0)[None] + np.random.default_rng(3).normal(0, 1, (frames, len(sites)))
    result = decode(
        sites, alignment, evidence.astype(np.float32), evidence > 0, np.ones(evidence.shape, bool), {"pixel_A": PIXEL_A}
    )
    assert result.occupied[:, sites.inverted].all() and np.allclose(result.p_occupied[:, sites.inverted], THERE)
    assert (np.argmax(result.class_probability[sites.inverted], axis=1) == OCCUPIED).all()
    assert any("contrast of the crystal turns over" in note for note in result.attrs["notes"])
    assert np.array_equal(sites.kept(sites.inverted).inverted, np.ones(inside.sum(), bool))
