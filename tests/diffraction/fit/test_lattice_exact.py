"""Lattices against numbers worked out by hand: what one wrong sign, index or limit would change."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.lattice import (
    Segments,
    _Disks,
    _invert,
    _pooled_scale,
    _solve,
    _spans,
    bragg_vector_map,
    fit_lattices,
)

G = np.array([[20.0, 3.0], [-2.0, 24.0]])  # the shorter vector is 20.22 px long
SHORT = float(np.hypot(20.0, 3.0))
ORIGIN = np.array([100.0, 90.0])


def indices(order: int) -> np.ndarray:
    return np.stack(np.meshgrid(*[np.arange(-order, order + 1)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)


def fitted(place: np.ndarray, g: np.ndarray = G, **options):
    weight = options.pop("weight", np.full(len(place), 4.0))
    return fit_lattices(place, weight, np.array([0, len(place)]), options.pop("origin", ORIGIN), g, **options)


def one_disk(row: float, col: float, **columns: float) -> PeakTable:
    return PeakTable.from_lists([{"row": [row], "col": [col], "score": [1.0], **{k: [v] for k, v in columns.items()}}])


def test_a_disk_is_shared_by_the_four_bins_around_it():
    table = one_disk(10.25, 20.5, intensity=8.0)
    image = bragg_vector_map(table, np.array([5.0, 7.0]), (16, 32))  # at 13.25, 29.5
    expected = np.zeros((16, 32))
    expected[13:15, 29:31] = [[3.0, 3.0], [1.0, 1.0]]
    np.testing.assert_array_equal(image, expected)
    image = bragg_vector_map(table, np.array([5.0, 7.0]), (16, 32), centre_px=(6.0, 10.0), upsample=2)  # at 22.5, 47
    expected = np.zeros((32, 64))
    expected[22:24, 47] = 4.0
    np.testing.assert_array_equal(image, expected)


def test_what_lies_at_the_edge_of_the_map_or_is_no_number_adds_nothing_else():
    for place, corner, share in (((-0.75, -0.5), (0, 0), 0.125), ((7.25, 7.5), (7, 7), 0.375)):
        image = bragg_vector_map(one_disk(*place), np.zeros(2), (8, 8), centre_px=(0.0, 0.0))
        assert image[corner] == share and image.sum() == share  # without an intensity each disk counts as one
    nothing = [one_disk(4.0, 4.0, intensity=-3.0), one_disk(4.0, 4.0, intensity=np.nan)]
    assert all(not bragg_vector_map(table, np.zeros(2), (8, 8), centre_px=(0.0, 0.0)).any() for table in nothing)


def test_symmetric_matrices_are_inverted():
    a = np.array([[[4.0, 1.0, -2.0], [1.0, 5.0, 0.5], [-2.0, 0.5, 3.0]], [[1.0, 2.0, 0.0], [2.0, 4.0, 0.0], [0.0, 0.0, 1.0]]])
    inverse, determinant = _invert(a[:, 0, 0], a[:, 0, 1], a[:, 0, 2], a[:, 1, 1], a[:, 1, 2], a[:, 2, 2])
    np.testing.assert_allclose(inverse[0], np.linalg.inv(a[0]), rtol=1e-12)
    np.testing.assert_allclose(determinant, [34.0, 0.0], atol=1e-12)
    assert not inverse[1].any()  # singular: nothing, and no division by zero


@pytest.mark.parametrize("directed", [False, True])
def test_least_squares_and_covariance_are_the_textbooks(directed: bool):
    random = np.random.default_rng(3)
    hk, weight = indices(1).astype(float), random.uniform(0.5, 4.0, 9)
    place = ORIGIN + hk @ G + random.normal(0, 0.2, (9, 2))
    precision = np.stack([weight, 0.5 * weight, 0.3 * weight], axis=1)
    trust = random.uniform(0.5, 1.0, 9)
    disks = _Disks.of(place, weight, precision if directed else None)
    solution, covariance, sane = _solve(Segments(np.array([0, 9])), hk[:, 0], hk[:, 1], disks, trust)
    normal, right = np.zeros((6, 6)), np.zeros(6)
    for (h, k), where, w, (rr, cc, rc), t in zip(hk, place, weight, precision, trust, strict=True):
        inner = t * (np.array([[rr, rc], [rc, cc]]) if directed else w * np.eye(2))
        design = np.kron([1.0, h, k], np.eye(2))
        normal += design.T @ inner @ design
        right += design.T @ inner @ where
    assert sane[0]
    np.testing.assert_allclose(covariance[0], np.linalg.inv(normal), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(solution[0].ravel(), np.linalg.solve(normal, right), rtol=1e-9)


def test_disks_on_a_line_do_not_span_a_lattice():
    segments = Segments(np.array([0, 4, 8, 12]))
    h = np.array([0.0, 1, 2, 3, 1, 1, 1, 1, 0, 1, 0, 5])
    k = np.array([0.0, 2, 4, 6, -1, 0, 2, 5, 0, 0, 1, 9])
    used = np.ones(12, bool)
    used[11] = False
    np.testing.assert_array_equal(_spans(segments, h, k, used), [False, False, True])
    used[10] = False
    np.testing.assert_array_equal(_spans(segments, h, k, used), [False, False, False])


def test_scale_of_the_errors_is_drawn_towards_that_of_the_scan():
    chi2, counts = np.array([2.0, 4.0, 9.0, 1.0]), np.array([8, 11, 3, 4])
    known = np.array([True, True, True, False])
    # typical is 3 (of those with freedom): (6 x 3 + 10 x 2) / 16, (6 x 3 + 16 x 4) / 22, typical, typical
    expected = 1.3 * np.array([2.375, 82 / 22, 3.0, 3.0])
    np.testing.assert_allclose(_pooled_scale(chi2, counts, known, 0.0), expected)
    np.testing.assert_allclose(_pooled_scale(chi2, counts, known, 3.5), 1.3 * np.array([3.5, 82 / 22, 3.5, 3.5]))
    np.testing.assert_allclose(_pooled_scale(chi2, counts, np.zeros(4, bool), 0.0), 1.3)


def test_errors_of_exact_disks_are_those_their_sigmas_say():
    hk = indices(2)
    place, precision = ORIGIN + hk @ G, np.tile([4.0, 4.0, 0.0], (25, 1))
    normal = 4.0 * np.diag([25.0, 25.0, 50.0, 50.0, 50.0, 50.0])
    np.testing.assert_allclose(fitted(place, calibrated=True).covariance[0], 1.3 * np.linalg.inv(normal), rtol=5e-3, atol=2e-5)
    found = fitted(place, calibrated=True, precision=precision, independent=precision is not None)
    np.testing.assert_allclose(found.covariance[0], 1.3 * 0.62 * np.linalg.inv(normal), rtol=5e-3, atol=2e-5)
    assert np.abs(fitted(place).covariance[0]).max() < 1e-12  # weights alone: the residuals say it, and there is none


def test_high_orders_are_indexed_with_the_lattice_of_the_low_ones():
    hk = indices(4)
    g = G @ np.array([[1.09, 0.0], [0.0, 1.09]])  # at order 4 off by more than a third of a vector
    found = fitted(ORIGIN + hk @ g)
    np.testing.assert_allclose(found.g[0], g, atol=1e-9)
    np.testing.assert_array_equal(found.hk, hk)
    assert found.n_indexed[0] == found.n_disks[0] == 81 and found.rank_ok[0] and found.residual_px[0] < 1e-9


def test_a_disk_counts_within_its_share_of_the_shorter_vector():
    hk = indices(2)
    for limit in (0.2, 0.3):
        for share, counts in ((limit - 0.01, True), (limit + 0.01, False)):
            place = ORIGIN + hk @ G
            place[3] += share * SHORT * np.array([0.6, -0.8])
            found = fitted(place, max_index_error=limit)
            assert found.used[3] == counts and found.n_indexed[0] == 24 + counts and found.n_disks[0] == 25
            np.testing.assert_allclose(found.g[0], G, atol=1e-6)


@pytest.mark.parametrize("factor, sane", [(1.25, True), (1.45, False)])
def test_a_lattice_far_from_the_basis_is_not_fitted(factor: float, sane: bool):
    found = fitted(ORIGIN + indices(1) @ (factor * G), max_index_error=0.7)
    assert np.isfinite(found.g).all() == sane and np.isfinite(found.covariance).all() == sane
    assert found.used.any() == sane
    if sane:
        np.testing.assert_allclose(found.g[0], factor * G, atol=1e-6)


@pytest.mark.parametrize("share, sane", [(0.45, True), (0.55, False)])
def test_an_origin_far_from_its_start_is_not_fitted(share: float, sane: bool):
    start = ORIGIN - share * SHORT * np.array([1.0, 0.0])
    found = fitted(ORIGIN + indices(2) @ G, origin=start, max_index_error=0.9)
    assert (np.isfinite(found.origin).all() and np.allclose(found.origin[0], ORIGIN, atol=1e-6)) == sane


def test_missing_values_and_weights_of_nothing_do_not_count():
    place, weight = ORIGIN + indices(2) @ G, np.full(25, 4.0)
    place[0, 0], place[1, 1], weight[2], weight[3], weight[4] = np.nan, np.inf, np.nan, 0.0, -1.0
    found = fitted(place, weight=weight)
    assert not found.used[:5].any() and found.used[5:].all() and found.n_indexed[0] == 20
    np.testing.assert_allclose(found.g[0], G, atol=1e-9)


def test_residual_is_the_distance_of_the_disks_as_far_as_each_is_trusted():
    place, weight = ORIGIN + indices(1) @ G, np.linspace(2.0, 6.0, 9)
    place += np.random.default_rng(8).normal(0, 0.4, place.shape)
    found = fitted(place, weight=weight, iterations=30)
    square = np.square(place - found.origin[0] - indices(1) @ found.g[0]).sum(axis=1)
    z = np.sqrt(weight * square)
    robust = weight / (1 + np.square(z / (2 * np.median(z))))
    assert found.residual_px[0] == pytest.approx(np.sqrt((robust * square).sum() / robust.sum()), rel=1e-6)


def test_indices_that_span_two_directions_do_so_wherever_they_lie():
    for hk, spans in (
        ([(1, 1), (2, 1), (1, 2)], True),
        ([(1, 1), (2, 2)], False),
        ([(3, 1), (3, 2), (3, 3)], False),
        ([(2, 1), (4, 1), (5, 1)], False),
        ([(-3, 0), (-1, 1), (1, 2)], False),
    ):
        h, k = np.array(hk, float).T
        assert _spans(Segments(np.array([0, len(hk)])), h, k, np.ones(len(hk), bool)).item() == spans, hk


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_the_unit_of_the_weights_does_not_matter(factor: float):
    place = ORIGIN + indices(2) @ G
    place += 0.1 * np.sin(np.arange(place.size)).reshape(place.shape)
    weight = np.linspace(1.0, 4.0, len(place))
    plain, scaled = (fitted(place, weight=weight * by) for by in (1.0, factor))
    np.testing.assert_allclose(scaled.g, plain.g, rtol=1e-9)
    np.testing.assert_allclose(scaled.origin, plain.origin, rtol=1e-9)
    np.testing.assert_allclose(scaled.covariance, plain.covariance, rtol=1e-6)
