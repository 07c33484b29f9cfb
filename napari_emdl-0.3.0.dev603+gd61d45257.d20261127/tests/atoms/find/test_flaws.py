"""What is wrong with frames is counted and said."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emdl.atoms.find.columns import find_columns
from napari_emdl.atoms.find.flaws import FLAWS, count_flaws
from napari_emdl.base.caveats import Caveats
from napari_emdl.base.params import RunParams
from napari_emdl.base.signals import in_memory
from napari_emdl.samples.atoms import blinking_movie


def noisy(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 10, (64, 64))


def holed() -> np.ndarray:
    frame = noisy()
    frame[:20] = np.nan
    return frame


@pytest.mark.parametrize(
    ("frame", "flaw"),
    [
        (noisy(), None),
        (np.random.default_rng(0).poisson(0.3, (64, 64)).astype(np.uint8), None),
        (np.random.default_rng(0).poisson(0.3, (64, 64)) / 7, None),
        (np.full((64, 64), 7.0), "blank_frames"),
        (np.full((64, 64), 255, np.uint8), "blank_frames"),
        (np.full((64, 64), np.nan), "blank_frames"),
        (holed(), "filled_frames"),
        (np.clip(noisy() * 2.4, 0, 255).astype(np.uint8), "saturated_frames"),
        (np.clip(noisy() * 41, 0, 4095).astype(np.uint16), "saturated_frames"),
        (np.minimum(noisy(), 110), "saturated_frames"),
        ((noisy() * 1.4).astype(np.int16).astype(np.int8), "wrapped_frames"),
    ],
)
def test_flaws_are_told_apart(frame, flaw):
    assert count_flaws(frame[None]) == {name: int(name == flaw) for name in FLAWS}
    assert count_flaws(np.stack([frame, frame])[None]) == {name: int(name == flaw) for name in FLAWS}


def test_flaws_are_part_of_the_result_and_of_a_resumed_one(tmp_path):
    movie, _ = blinking_movie((3, 128, 128), seed=1)
    data = np.asarray(movie.data, np.float32).copy()
    data[1] = 7
    data[2, 4, 4] = np.nan
    bad = in_memory(data, "movie", movie.calibration)
    for _ in range(2):
        table = find_columns(bad, model="log", contrast="bright", output=str(tmp_path / "c.h5"), run=RunParams(resume=True))
        assert "1 of 3 frames constant" in table.attrs["note"] and "1 of 3 frames with bad pixels" in table.attrs["note"]
        assert table.attrs["caveats"] == table.attrs["provenance"]["caveats"]
        assert table.attrs["note"] == str(Caveats.of(table))
        assert not set(FLAWS) & set(table.attrs)


def test_a_tiny_field_of_view_is_said():
    movie, _ = blinking_movie((1, 128, 128), seed=1)
    tiny = in_memory(np.asarray(movie.data)[:, :24, :24], "movie", movie.calibration)
    assert "too little to judge" in find_columns(tiny, model="log", contrast="bright").attrs["note"]


def test_frames_with_their_neighbours_are_judged_as_what_they_were():
    from napari_emdl.atoms.find.flaws import Judged
    from napari_emdl.base.peaks import PeakTable

    rng = np.random.default_rng(0)
    frames = rng.integers(0, 200, (2, 32, 32)).astype(np.uint8)
    frames[0, :8] = 255
    stack = np.zeros((2, 3, 32, 32), np.float32)
    stack[:, 0] = frames
    table = Judged(lambda f: PeakTable.empty((len(f),), ("row",)), dtype=np.dtype(np.uint8))(stack)
    assert table.attrs["saturated_frames"] == 1 and table.attrs["blank_frames"] == 0
