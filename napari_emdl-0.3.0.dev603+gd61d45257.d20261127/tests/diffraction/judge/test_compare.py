"""Pairing of two finds of the same disks."""

from __future__ import annotations

import time

import numpy as np
import pytest

from helpers.disks_made import deformation, table_of
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.find.pairing import agreement_distance_px, pair_disks
from napari_emdl.diffraction.fit.strain import COMPONENTS, fit_strain
from napari_emdl.diffraction.judge.compare import compare_disks, strain_difference


def table(*positions, shape=None):
    lists = [np.asarray(p, float).reshape(-1, 2) for p in positions]
    return PeakTable.from_lists([{"row": p[:, 0], "col": p[:, 1], "score": np.ones(len(p))} for p in lists], shape)


def test_pairs_are_the_nearest_of_both_sides_within_their_position():
    a = table([[10, 10], [20, 20], [30, 30]], [], [[5, 5]], [[1, 1]])
    b = table([[20.5, 20], [10, 10.3], [10, 10.6], [50, 50]], [[10, 10]], [], [[9, 9]])
    pairs = pair_disks(a, b, 1.0)
    assert sorted(zip(pairs.first, pairs.second, strict=True)) == [(0, 1), (1, 0)]
    np.testing.assert_allclose(np.sort(pairs.distance_px), [0.3, 0.5])
    assert pairs.only_first.tolist() == [2, 3, 4] and pairs.only_second.tolist() == [2, 3, 4, 5]
    assert pairs.share == pytest.approx(2 / 9)
    found = compare_disks(a, b, 1.0)
    assert found.agreed.tolist() == [2, 0, 0, 0] and found.only_first.tolist() == [1, 0, 1, 1]
    assert found.only_second.tolist() == [2, 1, 0, 1]
    np.testing.assert_allclose(found.share, [2 / 5, 0, 0, 0])
    assert found.total_share == pairs.share
    assert found.distance_px[0] == pytest.approx(0.3) and np.isnan(found.distance_px[1:]).all()


def test_pairing_agrees_with_the_assignment_of_least_distance():
    """Against scipy's optimal assignment, on disks whose spacing is above twice the distance."""
    from scipy.optimize import linear_sum_assignment

    random = np.random.default_rng(3)
    full = table_of(np.tile(np.eye(2), (3, 4, 1, 1)))
    a = full.where(random.random(full.n_peaks) < 0.8)
    b = full.where(random.random(full.n_peaks) < 0.8)
    b = b.with_columns(
        row=b.column("row") + random.normal(0, 0.7, b.n_peaks), col=b.column("col") + random.normal(0, 0.7, b.n_peaks)
    )
    found = compare_disks(a, b, 2.0)
    for position in np.ndindex(3, 4):
        p, q = (np.stack([t[position]["row"], t[position]["col"]], axis=1) for t in (a, b))
        distance = np.linalg.norm(p[:, None] - q[None], axis=2)
        i, j = linear_sum_assignment(np.where(distance <= 2.0, distance, 1e3))
        assert found.agreed[position] == (distance[i, j] <= 2.0).sum() > 0
        assert found.agreed[position] + found.only_first[position] == len(p)


def test_a_disk_has_one_partner_even_at_equal_distances():
    pairs = pair_disks(table([[0, 0], [0, 2]]), table([[0, 1]]), 1.5)
    assert len(pairs.first) == 1 and len(pairs.only_first) == 1 and not len(pairs.only_second)


def test_views_are_compared_as_they_are_shown():
    a = table([[1, 1], [5, 5]], [[2, 2]])
    hidden = a.where([True, False, True])
    found = compare_disks(hidden, a, 1.0)
    assert found.agreed.tolist() == [1, 1] and found.only_second.tolist() == [1, 0]
    assert np.isnan(compare_disks(a.where([False] * 3), a.where([False] * 3), 1.0).total_share)


def test_a_large_scan_is_paired_in_seconds():
    random = np.random.default_rng(0)
    n, k = 20_000, 40
    columns = {"row": random.uniform(0, 256, n * k), "col": random.uniform(0, 256, n * k), "score": np.ones(n * k)}
    a = PeakTable((100, 200), np.arange(n + 1) * k, columns)
    b = a.with_columns(row=a.column("row") + 0.1)
    started = time.process_time()
    found = compare_disks(a, b, 0.5)
    assert time.process_time() - started < 30
    assert found.total_share > 0.98


def test_strain_from_two_tables_is_subtracted_where_both_have_it():
    f = np.stack([np.eye(2), deformation(0.01, -0.005, 0.002, 0.003), np.eye(2), np.eye(2)])[None]
    first = fit_strain(table_of(np.tile(np.eye(2), (1, 4, 1, 1))), reference=(0, 1, 0, 1))
    lists = [{k: p[k] for k in p.dtype.names} for p in table_of(f)]
    lists[3] = {k: v[:2] for k, v in lists[3].items()}
    second = fit_strain(PeakTable.from_lists(lists, (1, 4)), reference=(0, 1, 0, 1))
    difference = strain_difference(first, second)
    np.testing.assert_allclose(difference[0, 1], [0.01, -0.005, 0.002, -0.003], atol=1e-9)
    assert np.isnan(difference[0, 3]).all() and len(COMPONENTS) == difference.shape[-1]
    with pytest.raises(EmdlError, match="x axes differ"):
        strain_difference(first, fit_strain(table_of(f), axis_deg=10))


def test_what_cannot_be_compared_is_told():
    with pytest.raises(EmdlError, match="same scan"):
        pair_disks(table([[0, 0]]), table([[0, 0]], [[0, 0]]), 1.0)
    with pytest.raises(EmdlError, match="positive"):
        pair_disks(table([[0, 0]]), table([[0, 0]]), 0)
    assert agreement_distance_px(3) == 1 and agreement_distance_px(10) == 2
