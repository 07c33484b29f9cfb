"""Patterns that are inverted, covered in part or striped by their readout are read right, and it is said."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from napari_emdl.diffraction.find.disks import find_disks
from napari_emdl.diffraction.find.linenoise import line_axis, without_line_noise
from napari_emdl.diffraction.fit.strain import fit_strain
from napari_emdl.peaks import PeakTable
from napari_emdl.samples.diffraction import strained_datacube


@pytest.fixture(scope="module")
def pattern() -> NDArray[np.float32]:
    return np.asarray(strained_datacube((1, 1), (128, 128))[0].data)[0, 0].astype(np.float32)


@pytest.fixture(scope="module")
def places(pattern) -> NDArray[np.float64]:
    return shown(find_disks(pattern[None, None], method="template"))


def shown(table: PeakTable) -> NDArray[np.float64]:
    return table.filter(min_score=table.attrs["default_min_score"]).positions_px()


def found_again(places: NDArray[np.float64], found: NDArray[np.float64]) -> tuple[float, float]:
    """Share of `places` found, and of `found` that is one of them."""
    assert len(found)
    return float(np.mean(cKDTree(found).query(places)[0] < 1)), float(np.mean(cKDTree(places).query(found)[0] < 1))


def test_an_inverted_pattern_is_read_as_its_negative_and_says_so(pattern, places):
    table = find_disks((pattern.max() - pattern)[None, None], method="template")
    assert min(found_again(places, shown(table))) > 0.95
    assert "inverted" in table.attrs["note"]
    assert "inverted" not in find_disks(pattern[None, None], method="template").attrs["note"]


@pytest.mark.parametrize("axis", [0, 1])
def test_offsets_of_lines_are_told_and_taken_off(pattern, places, axis):
    random = np.random.default_rng(2)
    offset = np.expand_dims(random.normal(0, 3, 128), 1 - axis)
    striped = (pattern + 100 + offset + random.normal(0, 0.3, pattern.shape)).astype(np.float32)
    assert line_axis(striped[None]) == axis
    left = without_line_noise(striped[None], axis)[0] - 100 - pattern
    assert left.std() < 0.5 * offset.std()
    table = find_disks(striped[None, None], method="template")
    recall, precision = found_again(places, shown(table))
    assert recall > 0.85 and precision > 0.85
    assert ("rows", "columns")[axis] in table.attrs["note"]


def test_patterns_without_offsets_have_none(pattern):
    assert line_axis(pattern[None]) is None
    assert line_axis(np.log1p(pattern)[None]) is None
    assert line_axis(np.zeros((2, 64, 64), np.float32)) is None


def test_a_round_mask_makes_no_disks_along_its_rim(pattern, places):
    rows, cols = np.ogrid[:128, :128]
    away = np.hypot(rows - 63.5, cols - 63.5)
    masked = np.where(away > 52, np.nan, pattern + np.random.default_rng(0).poisson(3, pattern.shape))
    table = find_disks(masked[None, None].astype(np.float32), method="template")
    found = shown(table)
    assert found_again(places, found)[1] > 0.85
    assert np.all(np.linalg.norm(found - 63.5, axis=1) < 52)
    assert "pixels are NaN" in table.attrs["note"] and "filled in" not in table.attrs["note"]


def test_strain_of_inverted_patterns_is_fitted_to_the_peaks_and_says_so(pattern):
    scan = np.broadcast_to(pattern.max() - pattern, (2, 2, *pattern.shape)).copy()
    strain = fit_strain(find_disks(scan, method="template"))
    assert strain.attrs["fit"]["fit"] == "peaks" and "inverted" in strain.attrs["fit"]["text"]
