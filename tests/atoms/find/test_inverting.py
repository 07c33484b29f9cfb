"""Frames of a thick crystal: columns where its contrast turns over are placed by the lattice, other frames stay as they are."""

from __future__ import annotations

import cloudpickle
import numpy as np
import pytest

from napari_emdl.atoms.find.flaws import Judged, flaws_of
from napari_emdl.atoms.find.inverting import TOLD, Inverting
from napari_emdl.base.peaks import PeakTable

CELL = np.array([[28.8, 3.0], [-12.0, 24.0]])
PIXEL_A = 0.1


class Listed:
    """A finder that knows what it finds in each frame."""

    default_min_score = 0.5

    def __init__(self, found: list[np.ndarray]) -> None:
        self.found = found

    def find(self, frames, control=None) -> PeakTable:
        return PeakTable.from_lists(
            [
                {
                    "row": p[:, 0].astype(np.float32), "col": p[:, 1].astype(np.float32), "score": p[:, 2].astype(np.float32),
                    "sigma_px": np.full(len(p), 4, np.float32), "species": np.zeros(len(p), np.int16),
                    "intensity": np.ones(len(p), np.float32), "logit": np.ones(len(p), np.float32),
                }
                for p in self.found
            ]
        )  # fmt: skip


def particle(radius: float, shift: float = 0.0) -> np.ndarray:
    """Places (n, 2) of a round crystal in the middle of 400 pixels."""
    i, j = np.meshgrid(np.arange(-9, 10), np.arange(-9, 10))
    where = (np.c_[i.ravel(), j.ravel()] + shift) @ CELL
    return where[np.hypot(*where.T) < radius] + 200


def scored(points: np.ndarray, score: float) -> np.ndarray:
    return np.c_[points, np.full(len(points), score)]


@pytest.fixture
def thick() -> tuple[np.ndarray, np.ndarray]:
    """Columns, and what is found of them: spots between them in the middle, one of them as a candidate in doubt."""
    columns = particle(140)
    inside = np.hypot(*(columns - 200).T) < 40
    spots = scored(particle(45, 0.5), 0.95)
    return columns, np.concatenate([scored(columns[~inside], 0.9), scored(columns[inside][:1] + 1, 0.2), spots])


def test_columns_of_a_thick_part_are_placed_by_the_lattice(thick):
    columns, found = thick
    frames = np.random.default_rng(1).integers(5, 9, (2, 400, 400), dtype=np.uint8)
    find = Judged(Inverting(Listed([found, scored(columns, 0.9)]), PIXEL_A))
    table = cloudpickle.loads(cloudpickle.dumps(find))(frames)
    for frame in (0, 1):
        places = np.stack([table.at(frame)["row"], table.at(frame)["col"]], -1)
        apart = np.linalg.norm(places[:, None] - columns[None], axis=2)
        assert len(places) == len(columns) and apart.min(1).max() < 1.5 and apart.min(0).max() < 1.5
    told = table.at(0)[-1]
    assert told["score"] == np.float32(TOLD) and 5 <= told["intensity"] < 9 and told["sigma_px"] == 4
    assert table.attrs["inverted_frames"] == 1
    assert "1 of 2 frames with a part in which the contrast of the crystal turns over" in flaws_of(table.attrs, 2, 40.0)[0]


def test_a_second_sublattice_stays():
    found = [scored(np.concatenate([particle(140), particle(140, 0.5)]), 0.9), scored(particle(60), 0.9), np.zeros((0, 3))]
    table = Inverting(Listed(found), PIXEL_A)(np.zeros((3, 400, 400)))
    assert [len(table.at(k)) for k in range(3)] == [len(p) for p in found]
    assert table.attrs["inverted_frames"] == 0
