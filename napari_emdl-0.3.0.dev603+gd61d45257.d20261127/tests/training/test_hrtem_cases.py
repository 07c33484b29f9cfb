"""Movies for the occupancy benchmark: their truth lies where the columns are."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: train)")

from scipy.ndimage import gaussian_filter, map_coordinates  # noqa: E402

from napari_emdl.base.errors import EmdlError  # noqa: E402
from napari_emdl.bench.columns import load_case  # noqa: E402
from napari_emdl.bench.occupancy import prefixes  # noqa: E402
from napari_emdl.training.atoms.cases import blinking_particle, chains, write_case  # noqa: E402
from napari_emdl.training.atoms.evaluate import Regime  # noqa: E402


def test_a_case_is_read_back_and_its_columns_are_where_the_truth_says(tmp_path):
    particle = blinking_particle("Ag", 4, seed=3)
    write_case(tmp_path / "bright_ag", particle, Regime("bright 2000", "bright", 2000), seed=4)
    assert prefixes([str(tmp_path)]) == [str(tmp_path / "bright_ag")]
    case = load_case(tmp_path / "bright_ag")
    assert case.pixel_A == pytest.approx(0.095)
    assert np.hypot(*np.diff(case.drift_px, axis=0).T).max() > 0.5
    assert case.blinking.any() and case.occupied[:, ~case.blinking].all()
    there, gone, elsewhere = [], [], []
    for t in range(4):
        image = gaussian_filter(np.asarray(case.movie.frame(t), float), 2)
        at = map_coordinates(image, (case.sites_px + case.drift_px[t]).T, order=1)
        there.append(at[case.occupied[t]].mean())
        gone.append(at[~case.occupied[t]].mean() if not case.occupied[t].all() else np.nan)
        moved = (case.sites_px + case.drift_px[t] + [0, 1.4 / 0.095]).T
        elsewhere.append(map_coordinates(image, moved, order=1)[case.occupied[t]].mean())
    assert np.mean(there) > 1.1 * np.mean(elsewhere)
    assert np.nanmean(gone) < np.mean(there)


def test_chains_keep_their_rates():
    occupied = chains(np.random.default_rng(0), 2000, 50, 0.1, 0.2)
    leaves = (occupied[:-1] & ~occupied[1:]).sum() / occupied[:-1].sum()
    assert leaves == pytest.approx(0.1, rel=0.05)
    assert occupied.mean() == pytest.approx(2 / 3, abs=0.02)


def test_a_folder_without_cases_is_a_clear_line(tmp_path):
    with pytest.raises(EmdlError, match="holds no case"):
        prefixes([str(tmp_path)])
