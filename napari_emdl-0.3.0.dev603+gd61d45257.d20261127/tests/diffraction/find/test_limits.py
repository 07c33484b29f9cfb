"""Limits on disks against what they say, disk by disk."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emdl.base.params import DiskLimits
from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.find.limits import edge_distance_px, stronger_distance_px, within_limits
from napari_emdl.diffraction.fit.strain import fit_strain
from napari_emdl.diffraction.fit.vectormap import VectorMap
from napari_emdl.diffraction.lattice import bragg_vector_map

SHAPE = (64, 80)


def a_table(counts=(0, 7, 1, 30, 0, 12), seed=0) -> PeakTable:
    random = np.random.default_rng(seed)
    n = sum(counts)
    columns = {
        "row": random.uniform(0, SHAPE[0] - 1, n),
        "col": random.uniform(0, SHAPE[1] - 1, n),
        "score": np.round(random.uniform(0, 1, n), 1),  # with ties
        "intensity": random.uniform(0, 100, n),
        "sigma_px": random.uniform(0.05, 1, n),
    }
    return PeakTable((2, len(counts) // 2), np.r_[0, np.cumsum(counts)], columns, {"detector_shape": SHAPE})


def nearest_stronger(peaks) -> list[float]:
    return [
        min(
            (
                np.hypot(a["row"] - b["row"], a["col"] - b["col"])
                for j, b in enumerate(peaks)
                if b["score"] > a["score"] or (b["score"] == a["score"] and j < i)
            ),
            default=np.inf,
        )
        for i, a in enumerate(peaks)
    ]


def test_the_distance_to_the_nearest_stronger_disk():
    table = a_table()
    got = stronger_distance_px(table.column("row"), table.column("col"), table.column("score"), table.offset)
    np.testing.assert_allclose(got, np.concatenate([nearest_stronger(peaks) for peaks in table]), rtol=1e-4)


def test_every_limit_keeps_what_it_says():
    table = a_table()
    limits = DiskLimits(min_score=0.3, min_intensity=20, max_sigma_px=0.8, min_spacing_px=8, edge_px=5)
    kept = within_limits(table, limits)
    assert 0 < kept.n_peaks < table.n_peaks
    for all_peaks, some in zip(table, kept, strict=True):
        apart = np.asarray(nearest_stronger(all_peaks)) if len(all_peaks) else np.zeros(0)
        edge = edge_distance_px(all_peaks["row"], all_peaks["col"], SHAPE)
        wanted = (
            (all_peaks["score"] >= 0.3)
            & (all_peaks["intensity"] >= 20)
            & (all_peaks["sigma_px"] <= 0.8)
            & (apart >= 8)
            & (edge >= 5)
        )
        np.testing.assert_array_equal(some["row"], all_peaks["row"][wanted])
    assert within_limits(table, DiskLimits()).n_peaks == table.n_peaks


def test_the_quick_vector_map_is_the_slow_one_to_a_bin():
    table, origin, centre = a_table((40,) * 6), np.array([30.0, 41.0]), (32.0, 40.0)
    quick = VectorMap(table, origin, SHAPE, centre)
    kept = within_limits(table, DiskLimits(min_score=0.5))
    slow = bragg_vector_map(kept, origin, SHAPE, centre, 2)
    image = quick.image(kept)
    assert image.sum() == pytest.approx(slow.sum(), rel=0.1)  # disks shifted over the edge are shared or not
    rows, cols = (np.indices(image.shape) * image[None]).sum(axis=(1, 2)) / image.sum()
    expected = (np.indices(slow.shape) * slow[None]).sum(axis=(1, 2)) / slow.sum()
    np.testing.assert_allclose((rows, cols), expected, atol=1.0)
    assert quick.image(table).sum() > image.sum()


def test_strain_takes_spacing_and_edge():
    g = np.array([[12.0, 1.0], [-1.0, 11.0]])
    hk = np.stack(np.meshgrid(np.arange(-2, 3), np.arange(-3, 4), indexing="ij"), axis=-1).reshape(-1, 2)
    place = hk @ g + np.array(SHAPE) / 2 - 0.5
    ghosts = place + 3.0  # a weak disk beside each
    row, col = np.tile(np.r_[place, ghosts].T, 9)
    n = 2 * len(place)
    score = np.tile(np.r_[np.full(len(place), 0.9), np.full(len(place), 0.8)], 9)
    table = PeakTable((3, 3), np.arange(10) * n, {"row": row, "col": col, "score": score}, {"detector_shape": SHAPE})
    strain = fit_strain(table, min_spacing_px=6.0, edge_px=2.0)
    inside = edge_distance_px(place[:, 0], place[:, 1], SHAPE) >= 2
    assert strain.mask.all() and (strain.n_indexed == inside.sum()).all() and np.abs(strain.exx).max() < 1e-6
