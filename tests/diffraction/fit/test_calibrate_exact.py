"""Origin and ellipse against numbers worked out by hand: what one wrong sign, index or limit would change."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.disks_made import G, table_of
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import CalibrateParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Calibration
from napari_emdl.diffraction.fit import origin as module
from napari_emdl.diffraction.fit.calibrate import (
    Ellipse,
    calibrate,
    ellipse_of_lattice,
    measure_ellipse,
    with_calibration,
)
from napari_emdl.diffraction.fit.origin import fit_origin, hidden_origin, measure_origin, nearest_neighbour

PLAIN = np.tile(np.eye(2), (2, 3, 1, 1))


def moved(table: PeakTable, origin_px: np.ndarray) -> PeakTable:
    """The disks of each position about an origin of its own in place of (128, 128)."""
    shift = origin_px.reshape(-1, 2)[table.flat_index()] - 128.0
    return table.with_columns(row=table.column("row") + shift[:, 0], col=table.column("col") + shift[:, 1])


def test_distance_of_neighbours_is_taken_within_each_pattern():
    place = np.array([[10.0, 10.0], [10.0, 17.0], [13.0, 14.0], [10.5, 10.0], [10.5, 19.0]])
    # nearest in the first pattern 5, 5, 5 (the third is 3, 4 from the first), in the second 9, 9
    assert nearest_neighbour(place, np.array([0, 0, 0, 1, 1])) == 5.0
    assert nearest_neighbour(place[[0, 1, 3, 4]], np.array([0, 0, 1, 1])) == 8.0  # median of 7, 7, 9, 9
    assert nearest_neighbour(place[:2], np.array([0, 0])) == 7.0
    assert nearest_neighbour(place[:1], np.array([0])) == 20.0
    assert nearest_neighbour(place[:2], np.array([0, 1])) == 20.0  # none has a neighbour


def test_central_disk_is_the_brightest_near_where_most_lie():
    origin = np.stack(np.meshgrid([120.0, 121.0], [130.0, 131.0, 132.0], indexing="ij"), axis=-1)
    table = moved(table_of(PLAIN), origin)
    np.testing.assert_allclose(measure_origin(table).reshape(2, 3, 2), origin)
    # one that has lost its central disk has no origin, whatever else is bright
    central = np.linalg.norm(table.positions_px() - origin.reshape(-1, 2)[table.flat_index()], axis=1) < 1
    lost = table.where(~(central & (table.flat_index() == 4)))
    found = measure_origin(lost)
    assert np.isnan(found[4]).all()
    np.testing.assert_allclose(np.delete(found, 4, axis=0), np.delete(origin.reshape(-1, 2), 4, axis=0))
    assert np.isnan(measure_origin(table.where(np.zeros(table.n_peaks, bool)))).all()


def test_a_disk_counts_as_central_within_half_the_distance_of_neighbours():
    spacing = float(np.linalg.norm(G[1]))  # the shorter one, 24.08 px
    for share, seen in ((0.45, True), (0.55, False)):
        origin = np.full((6, 2), 128.0)
        origin[5] += share * spacing * np.array([0.8, 0.6])
        table = moved(table_of(PLAIN), origin)
        found = measure_origin(table)
        np.testing.assert_allclose(found[:5], 128.0)
        near = np.linalg.norm(found[5] - origin[5]) < 1e-6
        assert near == seen


@pytest.mark.parametrize("model", ["constant", "plane", "parabola"])
def test_models_of_the_origin_take_their_terms_alone(model: str):
    y, x = np.meshgrid(np.linspace(-1, 1, 6), np.linspace(-1, 1, 7), indexing="ij")
    shapes = {
        "constant": 0 * x,
        "plane": 2 * y - 3 * x,
        "parabola": y**2 + 2 * x * y - 0.5 * x**2,
        "twist": x * y,
        "cubic": x * y**2,
    }
    within = {"constant": ["constant"], "plane": ["constant", "plane"], "parabola": list(shapes)[:4]}[model]
    for name, shape in shapes.items():
        raw = np.stack([60 + shape, 70 - 2 * shape], axis=-1)
        smooth, inliers = fit_origin(raw, model)
        assert (np.abs(smooth - raw).max() < 1e-6) == (name in within), name
        if name in within:
            assert inliers.all()


def test_a_gap_is_filled_and_a_stray_centre_told_from_the_rest():
    y, x = np.mgrid[:5, :5].astype(float)
    raw = np.stack([60 + 0.5 * y, 64 - 0.25 * x], axis=-1)
    true = raw.copy()
    raw[1, 2], raw[3, 3, 0], raw[0, 4, 1] = np.nan, raw[3, 3, 0] + 0.6, raw[0, 4, 1] - 0.4
    smooth, inliers = fit_origin(raw, "plane")
    np.testing.assert_allclose(smooth, true, atol=0.01)
    assert not inliers[3, 3] and inliers[0, 4] and not inliers[1, 2] and inliers.sum() == 23  # half a pixel is the limit
    kept, same = fit_origin(raw, "measured")
    np.testing.assert_array_equal(same, inliers)
    np.testing.assert_allclose(kept[1, 2], true[1, 2], atol=0.01)
    np.testing.assert_allclose(kept[3, 3], raw[3, 3])


def test_few_measured_centres_give_their_median():
    raw = np.full((4, 4, 2), np.nan)
    raw[0, 0], raw[1, 2], raw[3, 3] = (60.0, 70.0), (60.0, 70.0), (60.0, 70.0)
    raw[2, 1], raw[2, 2] = (60.1, 70.0), (60.0, 70.0)  # five, a plane wants six
    smooth, inliers = fit_origin(raw, "plane")
    assert np.ptp(smooth.reshape(-1, 2), axis=0).max() < 1e-12 and inliers.sum() == 5
    np.testing.assert_allclose(smooth[0, 0], [60.0, 70.0], atol=0.05)
    np.testing.assert_allclose(fit_origin(raw[:, :1], "plane")[0][:, 0], np.tile([60.0, 70.0], (4, 1)))


@pytest.mark.parametrize("theta_rad", [-1.2, 0.1, 0.7, 1.5])
def test_the_ellipse_of_square_and_hexagonal_lattices_of_either_hand(theta_rad: float):
    ellipse = Ellipse(1.04, 1 / 1.04, theta_rad)
    half, tall = 15.0, 15.0 * np.sqrt(3)
    lattices = {
        "square": [[30.0, 0.0], [0.0, 30.0]],
        "left-handed": [[0.0, 30.0], [30.0, 0.0]],
        "60": [[30.0, 0.0], [half, tall]],
        "120": [[30.0, 0.0], [-half, tall]],
        "60 left-handed": [[half, tall], [30.0, 0.0]],
    }
    for name, g in lattices.items():
        found = ellipse_of_lattice(np.array(g) @ ellipse.matrix().T)
        np.testing.assert_allclose(found.matrix(), ellipse.matrix(), atol=1e-9, err_msg=name)
        assert found.a > found.b and found.a * found.b == pytest.approx(1)
    np.testing.assert_allclose(ellipse_of_lattice(np.array(lattices["60"])).matrix(), np.eye(2), atol=1e-9)


def test_a_lattice_that_is_neither_tells_no_ellipse():
    ellipse_of_lattice([[1.09, 0.0], [0.0, 1 / 1.09]])  # 1.19 to 1
    with pytest.raises(EmdlError, match="neither square nor hexagonal"):
        ellipse_of_lattice([[1.1, 0.0], [0.0, 1 / 1.1]])  # 1.21 to 1


def test_the_ellipse_is_measured_about_one_origin_or_one_for_each_position():
    ellipse = Ellipse(1.03, 1 / 1.03, 0.4)
    g = np.array([[30.0, 0.0], [0.0, 30.0]]) @ ellipse.matrix().T
    table = table_of(PLAIN, g)
    origins = np.stack(np.meshgrid([120.0, 124.0], [130.0, 133.0, 136.0], indexing="ij"), axis=-1)
    for disks, origin in ((table, np.array([128.0, 128.0])), (moved(table, origins), origins)):
        for basis in (None, g):
            np.testing.assert_allclose(measure_ellipse(disks, origin, basis).matrix(), ellipse.matrix(), atol=1e-6)


def beam_stop(behind: tuple[int, int] = (0, 0)) -> tuple[PeakTable, np.ndarray]:
    """Disks with one lattice point hidden and another one the brightest, and the indices of each disk."""
    table = table_of(np.tile(np.eye(2), (3, 4, 1, 1)))
    hk = np.rint((table.positions_px() - 128) @ np.linalg.inv(G)).astype(int)
    bright = np.where((hk == (1, 0)).all(axis=1), 50.0, 1.0).astype(np.float32)
    return table.with_columns(intensity=bright).where((hk != behind).any(axis=1)), G[0] + 128.0


def test_the_hidden_origin_is_the_lattice_vector_from_the_brightest_disk():
    disks, brightest = beam_stop()
    origin = np.tile(brightest, (12, 1))
    np.testing.assert_allclose(hidden_origin(disks, origin), -G[0], atol=1e-6)
    assert hidden_origin(disks, np.full((12, 2), 128.0)) is None  # already about the middle
    seen = table_of(np.tile(np.eye(2), (3, 4, 1, 1)))
    assert hidden_origin(seen, origin) is None  # no hole that the others lie around
    assert hidden_origin(seen.where(np.arange(seen.n_peaks) < 7), origin) is None


def test_a_large_scan_is_asked_in_part(monkeypatch: pytest.MonkeyPatch):
    disks, brightest = beam_stop()
    asked = []
    basis = module.find_basis
    monkeypatch.setattr(module, "_HIDDEN_POSITIONS", 4)
    monkeypatch.setattr(module, "find_basis", lambda part, *rest: asked.append(part.n_positions) or basis(part, *rest))
    np.testing.assert_allclose(hidden_origin(disks, np.tile(brightest, (12, 1))), -G[0], atol=1e-6)
    assert asked == [4]


def test_disks_seen_at_less_than_half_of_the_positions_are_no_rim_of_a_hole():
    disks, brightest = beam_stop()
    hk = np.rint((disks.positions_px() - 128) @ np.linalg.inv(G))
    rim = (np.abs(hk) <= 1).all(axis=1) & ~(hk == (1, 0)).all(axis=1)
    origin = np.tile(brightest, (12, 1))
    for at, hidden in ((5, False), (7, True)):  # of 12 positions
        some = disks.where(~rim | (disks.flat_index() < at))
        assert (hidden_origin(some, origin) is not None) == hidden


def test_pairs_are_counted_about_the_point_itself():
    seen = np.zeros((25, 25))
    for h, k in ((3, 1), (-1, 1), (1, 4), (1, -2)):  # two pairs about (1, 1)
        seen[12 + h, 12 + k] = 1.0
    assert module._paired(seen, 1, 1) == 1.0
    assert module._paired(seen, 0, 0) == module._paired(seen, 1, 0) == module._paired(seen, 0, 1) == 0.0
    seen[12 + 5, 12] = 1.0
    assert module._paired(seen, 1, 1) == 0.8


def test_an_origin_behind_a_stop_is_shifted_and_told():
    disks, _ = beam_stop()
    true = np.stack(np.meshgrid([120.0, 121.0, 122.0], [131.0, 132.0, 133.0, 134.0], indexing="ij"), axis=-1)
    found = calibrate(moved(disks, true))
    np.testing.assert_allclose(found.origin_px, true, atol=1e-6)
    np.testing.assert_allclose(found.origin_raw_px, found.origin_px, atol=1e-6)
    assert "near (121.0, 132.5)" in found.warnings[0]


def test_centres_that_do_not_follow_the_model_are_told():
    origin = np.full((4, 5, 2), 128.0)
    for strays, told in ((5, False), (7, True)):  # of 20; the limit is three in ten
        origin[:] = 128.0
        origin.reshape(-1, 2)[:strays, 1] += np.resize([4.0, -5.0, 6.0], strays)
        found = calibrate(moved(table_of(np.tile(np.eye(2), (4, 5, 1, 1))), origin), CalibrateParams(origin_model="constant"))
        assert found.inliers.sum() == 20 - strays
        assert bool(found.warnings) == told
    assert found.warnings[0] == "origin: only 65 % of the central disks follow the constant"


def test_an_origin_that_is_given_is_taken_and_units_of_the_user_come_first():
    table = table_of(PLAIN)
    known = Calibration(q_pixel_invA=(0.01, 0.01), pixel_nm=(2.0, 2.0), qr_flip=True)
    params = CalibrateParams(origin=(127.0, 129.0), q_pixel_invA=0.02, scan_step_nm=0.5, rotation_deg=90.0, flip=False)
    found = calibrate(table, params, known)
    assert found.origin_px.shape == (2, 3, 2) and found.inliers.all() and found.ellipse is None
    assert (found.origin_px == [127.0, 129.0]).all() and (found.origin_raw_px == found.origin_px).all()
    units = found.calibration
    assert units.q_pixel_invA == (0.02, 0.02) and units.pixel_nm == (0.5, 0.5) and not units.qr_flip
    assert units.qr_rotation_rad == pytest.approx(np.pi / 2)
    assert calibrate(table, None, known).calibration.q_pixel_invA == (0.01, 0.01)
    table.attrs["calibration"] = known
    assert calibrate(table).calibration.pixel_nm == (2.0, 2.0)
    assert calibrate(table.reshape((6,))).origin_px.shape == (1, 6, 2)  # a list of patterns is a row
    square = table_of(PLAIN, np.diag([30.0, 30.0]) @ Ellipse(1.03, 1 / 1.03, 0.4).matrix())
    for origin in (None, (128.0, 128.0)):
        ellipse = calibrate(square, CalibrateParams(origin=origin, ellipticity=True)).ellipse
        assert ellipse is not None and ellipse.a == pytest.approx(1.03, abs=1e-6)


@pytest.mark.parametrize(("flip", "expected"), [(False, [[0.8, -0.6], [0.6, 0.8]]), (True, [[-0.6, 0.8], [0.8, 0.6]])])
def test_the_detector_is_turned_into_the_scan(flip: bool, expected: list[list[float]]):
    known = Calibration().override(qr_rotation_rad=float(np.arctan2(0.6, 0.8)), qr_flip=flip)
    found = calibrate(table_of(PLAIN), None, known)
    np.testing.assert_allclose(found.scan_axes(), expected, atol=1e-12)
    assert calibrate(table_of(PLAIN)).scan_axes() is None  # nobody said


def test_scattering_vectors_are_those_of_the_round_lattice():
    g = np.array([[30.0, 0.0], [0.0, 30.0]])
    ellipse = Ellipse(1.03, 1 / 1.03, 0.4)
    origins = np.stack(np.meshgrid([120.0, 124.0], [130.0, 133.0, 136.0], indexing="ij"), axis=-1)
    table = moved(table_of(PLAIN, g @ ellipse.matrix().T), origins)
    found = calibrate(table, CalibrateParams(ellipticity=True, q_pixel_invA=0.02))
    q = found.to_reciprocal(table)
    np.testing.assert_allclose(q, 0.6 * np.rint(q / 0.6), atol=1e-6)
    assert (np.unique(np.rint(q / 0.6), axis=0, return_counts=True)[1] <= 6).all()  # once in each of six patterns
    np.testing.assert_allclose(found.residual_px, found.origin_raw_px - found.origin_px)
    plain = calibrate(table)
    np.testing.assert_array_equal(plain.transform(), np.eye(2))
    with pytest.raises(EmdlError, match="pixel size is unknown"):
        plain.to_reciprocal(table)


def test_disks_take_their_origin_along():
    table = table_of(PLAIN, np.diag([30.0, 30.0]) @ Ellipse(1.03, 1 / 1.03, 0.4).matrix())
    table.attrs["default_min_score"] = 6.0
    made = with_calibration(table, CalibrateParams(ellipticity=True, q_pixel_invA=0.02))
    assert made.n_peaks == table.n_peaks  # what is below the threshold stays in the table
    np.testing.assert_allclose(made.attrs["origin_px"], 128.0, atol=1e-6)
    a, b, theta_rad = made.attrs["ellipse"]
    assert (a, b, theta_rad % np.pi) == pytest.approx((1.03, 1 / 1.03, 0.4), abs=1e-6)  # an axis has no sense
    assert made.attrs["calibration"].q_pixel_invA == (0.02, 0.02)
    assert "ellipse" not in with_calibration(table).attrs
