"""What counts as a fit, as a reference and as evidence, against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.disks_made import table_of
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import StrainParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Calibration, Datacube
from napari_emdl.diffraction.basis import Basis
from napari_emdl.diffraction.fit import pattern, single
from napari_emdl.diffraction.fit.calibrate import DiffractionCalibration
from napari_emdl.diffraction.fit.patternmodel import Aperture
from napari_emdl.diffraction.fit.single import (
    _evidence,
    _reference_lattice,
    _strain_map,
    find_or_given,
    fit_one_lattice,
    prepared,
    reasons_of,
    reference_of,
)
from napari_emdl.diffraction.fit.through import Through, cube_of
from napari_emdl.diffraction.fit.weights import misfit
from napari_emdl.diffraction.lattice import LatticeFit
from napari_emdl.jobs.control import Control

G = np.array([[20.0, 0.0], [0.0, 30.0]])
PARAMS = StrainParams(min_disks=5)


def fit_of(n: int) -> LatticeFit:
    """`n` positions with the lattice G, ten disks each."""
    many = np.tile
    return LatticeFit(
        many([64.0, 60.0], (n, 1)),
        many(G, (n, 1, 1)),
        many(np.diag([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) * 1e-4, (n, 1, 1)),
        np.full(n, 0.1),
        np.full(n, 10),
        np.full(n, 10),
        np.ones(n, bool),
        np.zeros((10 * n, 2), np.int64),
        np.ones(10 * n, bool),
    )


def measured(shape: tuple[int, int], **known: object) -> DiffractionCalibration:
    origin = np.full((*shape, 2), 64.0)
    return DiffractionCalibration(origin, origin, np.ones(shape, bool), None, Calibration().override(**known))


def test_each_reason_begins_at_its_limit():
    """Limits are shares of the shorter vector, 20 px: a quarter for the lattice, a tenth for the residual."""
    fit = fit_of(11)
    fit.n_disks[0] = 4
    fit.n_disks[1], fit.n_indexed[1] = 5, 5  # enough
    fit.rank_ok[2] = False
    fit.n_indexed[3] = 4
    fit.n_disks[4], fit.n_indexed[4] = 13, 6  # below half of the disks
    fit.n_disks[5], fit.n_indexed[5] = 12, 6  # half
    fit.g[6, 0] += [0.0, 5.1]
    fit.g[7, 1] += [0.0, 4.9]
    fit.residual_px[8], fit.residual_px[9] = 2.1, 1.9
    fit.residual_px[10] = np.nan
    np.testing.assert_array_equal(reasons_of(fit, G, PARAMS), [1, 0, 2, 3, 3, 0, 4, 0, 5, 0, 4])


def test_of_several_reasons_the_first_cause_is_told():
    fit = fit_of(3)
    fit.n_disks[:] = [4, 10, 10]
    fit.rank_ok[:] = [False, False, True]
    fit.n_indexed[:] = 3
    fit.g[:] += 10.0
    fit.residual_px[:] = 9.0
    np.testing.assert_array_equal(reasons_of(fit, G, PARAMS), [1, 2, 3])


def test_reference_is_the_median_of_the_fitted_positions_inside():
    g = np.arange(6.0)[:, None, None] + G
    good = np.array([True, False, True, True, True, True])
    lattice, inliers = _reference_lattice(g, good, (2, 3), None, PARAMS)
    np.testing.assert_allclose(lattice, G + 3.0)  # of 0, 2, 3, 4, 5
    assert inliers == 5
    lattice, inliers = _reference_lattice(g, good, (2, 3), (0, 1, 0, 3), PARAMS)
    np.testing.assert_allclose(lattice, G + 1.0)  # of 0 and 2
    assert inliers == 2
    own = PARAMS.model_copy(update={"reference": (1, 2, 1, 3)})
    np.testing.assert_array_equal(reference_of(good, (2, 3), None, own), [False] * 4 + [True] * 2)
    np.testing.assert_array_equal(reference_of(good, (2, 3), (0, 1, 0, 2), own), [True] + [False] * 5)  # the argument first
    ideal = PARAMS.model_copy(update={"g1": (20.0, 1.0), "g2": (2.0, 30.0), "reference_lattice": True})
    for reference, params in ((None, ideal), ("lattice", ideal.model_copy(update={"reference_lattice": False}))):
        lattice, inliers = _reference_lattice(g, good, (2, 3), reference, params)
        np.testing.assert_array_equal(lattice, [[20.0, 1.0], [2.0, 30.0]])
        assert inliers == 0
    with pytest.raises(EmdlError, match="no position in the scan has"):
        _reference_lattice(g, np.zeros(6, bool), (2, 3), None, PARAMS)
    for reference, params in (((0, 1, 1, 2), PARAMS), (None, PARAMS.model_copy(update={"reference": (0, 1, 1, 2)}))):
        with pytest.raises(EmdlError, match="no position in the reference region has"):
            _reference_lattice(g, good, (2, 3), reference, params)


def test_maps_hold_the_fit_where_it_counts_and_nothing_elsewhere():
    fit = fit_of(6)
    fit.g[:, 0, 0] = 20.0 / (1.01 + 0.01 * np.arange(6))
    fit.origin[:, 1] = np.arange(6)
    fit.residual_px[:], fit.n_indexed[:] = 0.1 * np.arange(6), np.arange(6) + 10
    reason = np.array([0, 0, 3, 0, 0, 0], np.uint8)
    fields = _strain_map(fit, reason, G, (2, 3), measured((2, 3)))
    np.testing.assert_allclose(fields["exx"], [[0.01, 0.02, np.nan], [0.04, 0.05, 0.06]])
    np.testing.assert_allclose(fields["eyy"], [[0, 0, np.nan], [0, 0, 0]], atol=1e-12)
    # e = g_ref / g - 1: its error is (1 + e) sigma(g) / g; g1_row has a variance of 3e-4 px^2, g2_col of 6e-4
    np.testing.assert_allclose(fields["sigma"][0, 0, :2], [1.01**2 * np.sqrt(3e-4) / 20, np.sqrt(6e-4) / 30], rtol=0.02)
    assert np.isnan(fields["sigma"][0, 2]).all() and np.isnan(fields["g1"][0, 2]).all() and np.isnan(fields["g2"][0, 2]).all()
    np.testing.assert_allclose(fields["g1"][1, 0], [20.0 / 1.04, 0.0])
    np.testing.assert_allclose(fields["g2"][1, 0], [0.0, 30.0])
    np.testing.assert_allclose(fields["origin_px"][..., 1], [[0, 1, np.nan], [3, 4, 5]])
    np.testing.assert_allclose(fields["residual_px"], [[0, 0.1, np.nan], [0.3, 0.4, 0.5]], atol=1e-12)
    np.testing.assert_array_equal(fields["n_indexed"], [[10, 11, 12], [13, 14, 15]])
    np.testing.assert_array_equal(fields["mask"], [[True, True, False], [True, True, True]])
    in_scan = _strain_map(fit, reason, G, (2, 3), measured((2, 3), qr_flip=True))
    np.testing.assert_allclose(in_scan["eyy"], fields["exx"], atol=1e-12)
    pixels = _strain_map(fit, reason, G @ np.diag([1.0, 1.0]), (2, 3), measured((2, 3), q_pixel_invA=(0.02, 0.03)))
    np.testing.assert_allclose(pixels["exx"], fields["exx"], atol=1e-12)


def evidence(fit: LatticeFit, reason: list[int], sigma: float = 0.001, inliers: int = 4, warnings: tuple[str, ...] = ()):
    fields = {"sigma": np.full((1, len(reason), 4), sigma), "mask": (np.array(reason) == 0)[None]}
    fields["sigma"][..., 3] = 9.0  # the rotation is told apart
    known = replace(measured((1, len(reason))), warnings=warnings)
    return _evidence(fit, np.array(reason, np.uint8), inliers, Basis(G, 1.0, "found"), known, fields)


def test_evidence_counts_what_it_says():
    fit = fit_of(6)
    fit.n_indexed[:] = [8, 9, 10, 9, 1, 0]
    fit.residual_px[:] = [0.1, 0.2, 0.4, 0.3, 9.0, np.nan]
    found = evidence(fit, [0, 0, 0, 0, 3, 1])
    assert found.indexed_fraction == pytest.approx(36 / 40)  # of the positions that count
    assert found.basis_consensus == pytest.approx(4 / 5)  # of those with enough disks
    assert found.median_residual_px == pytest.approx(0.25)
    assert found.reference_inliers == 4 and found.warnings == ()
    nothing = evidence(fit, [1, 1, 1, 1, 1, 1])
    assert nothing.indexed_fraction == 0 and nothing.basis_consensus == 0 and np.isnan(nothing.median_residual_px)


def test_warnings_begin_at_their_limits():
    fit = fit_of(10)
    fit.n_indexed[:] = 8
    assert evidence(fit, [0] * 10).warnings == ()
    fit.n_indexed[0] = 7
    assert evidence(fit, [0] * 10).warnings[0].startswith("only 79 % of the disks lie on the lattice")
    fit = fit_of(10)
    assert evidence(fit, [0] * 7 + [4] * 3).warnings == ()
    assert evidence(fit, [0] * 6 + [4] * 4).warnings[0].startswith("only 60 % of the positions with enough disks")
    assert evidence(fit, [0] * 10, sigma=0.0099).warnings == ()
    assert evidence(fit, [0] * 10, sigma=0.0101).warnings[0].startswith("the strain is uncertain by 1.0 % at a typical")
    assert evidence(fit, [0] * 10, inliers=3).warnings == ("the reference rests on 3 positions only",)
    assert evidence(fit, [0] * 10, inliers=1).warnings == ("the reference rests on 1 position only",)
    assert evidence(fit, [0] * 10, inliers=0).warnings == ()  # an ideal lattice
    assert evidence(fit, [0] * 10, warnings=("the origin moves",)).warnings == ("the origin moves",)


def test_the_basis_is_the_users_where_both_vectors_are_given():
    table = table_of(np.tile(np.eye(2), (2, 2, 1, 1)), G)
    origin = np.full((4, 2), 128.0)
    assert find_or_given(table, PARAMS, origin).source == "found"
    both = PARAMS.model_copy(update={"g1": (20.3, 0.1), "g2": (0.2, 29.8)})
    given = find_or_given(table, both, origin)
    assert given.source == "given"
    np.testing.assert_allclose(given.g, G, atol=1e-6)
    for one in ("g1", "g2"):
        with pytest.raises(EmdlError, match="both g1 and g2"):
            find_or_given(table, PARAMS.model_copy(update={one: (20.0, 0.0)}), origin)
    for one in ("g1", "g2"):
        half = PARAMS.model_copy(update={one: (20.0, 0.0), "reference_lattice": True})
        with pytest.raises(EmdlError, match="ideal reference lattice needs g1 and g2"):
            prepared(table, half)
    with pytest.raises(EmdlError, match="ideal reference lattice needs g1 and g2"):
        prepared(table, PARAMS, measured((2, 2)), "lattice")


def test_disks_and_calibration_stay_as_they_are_without_distortion():
    table = table_of(np.tile(np.eye(2), (2, 2, 1, 1)), G)
    known = replace(measured((2, 2)), origin_px=np.full((2, 2, 2), 128.0))
    disks, calibration, basis = prepared(table, PARAMS, known)
    assert disks is table and calibration is known
    np.testing.assert_allclose(np.abs(np.linalg.det(basis.g)), 600.0, rtol=1e-6)


def test_the_datacube_of_the_disks_is_opened_again(tmp_path):
    table = table_of(np.tile(np.eye(2), (2, 3, 1, 1)), G)
    with pytest.raises(EmdlError, match="does not say which file"):
        cube_of(table)
    path = tmp_path / "cube.npy"
    np.save(path, np.ones((2, 3, 16, 16), np.float32))
    table.attrs["provenance"] = {"input": {"path": str(path)}}
    cube = cube_of(table)
    assert isinstance(cube, Datacube) and cube.scan_shape == (2, 3)
    np.save(path, np.ones((3, 2, 16, 16), np.float32))
    with pytest.raises(EmdlError, match=r"another file .* its shape is \(3, 2, 16, 16\)"):
        cube_of(table)


@pytest.mark.parametrize("ripple, measured_on_patterns", [(0.049, True), (0.051, False)])
def test_patterns_are_not_fitted_where_the_edges_are_ragged(monkeypatch, ripple: float, measured_on_patterns: bool):
    table = table_of(np.tile(np.eye(2), (1, 1, 1, 1)), G)
    better = table.with_columns(row=table.column("row") + 1)
    monkeypatch.setattr(pattern, "measure_aperture", lambda *given, **seen: Aperture(5.0, 0.6, ripple))
    monkeypatch.setattr(pattern, "measure_on_patterns", lambda *given, **job: better)
    cube = Datacube(np.ones((1, 1, 8, 8), np.float32), "datacube")
    asked = PARAMS.model_copy(update={"fit": "pattern"})
    through = Through(table, asked, table, fit_of(1), np.ones(1, bool), lambda disks, at: fit_of(1), lambda fit: fit.rank_ok)
    made = through.make(cube)
    assert made.disks is (better if measured_on_patterns else table)
    assert made.kind == ("pattern" if measured_on_patterns else "peaks") and bool(made.warning) != measured_on_patterns
    assert made.aperture == {"radius_px": 5.0, "edge_px": 0.6, "ripple": ripple}


def test_the_error_of_the_distortion_counts_against_the_references(monkeypatch):
    fit = fit_of(3)
    before = fit.covariance.copy()
    table = table_of(np.tile(np.eye(2), (1, 3, 1, 1)))
    shared = np.array([[[1.0, 0], [0, 2], [0, 0], [0, 0]], [[1, 0], [0, 5], [0, 1], [0, 0]], [[3, 0], [0, 2], [0, 0], [1, 1]]])
    covariance = np.array([[1e-4, 2e-5], [2e-5, 4e-4]])
    monkeypatch.setattr(single, "shared_changes", lambda *given: shared)
    distortion = SimpleNamespace(covariance=covariance)
    for reference, common in ((None, 0.0), (np.array([True, False, True]), 0.5 * (shared[0] + shared[2]))):
        fit.covariance[:] = before
        single._add_shared(fit, table, distortion, reference)
        for position in range(3):
            change = shared[position] - common
            np.testing.assert_allclose(
                fit.covariance[position, 2:, 2:] - before[position, 2:, 2:], change @ covariance @ change.T
            )
        np.testing.assert_array_equal(fit.covariance[:, :2], before[:, :2])


def test_a_map_is_checked_by_the_other_fits_and_says_which_could_not_be_had(monkeypatch):
    table = table_of(np.tile(np.eye(2), (2, 3, 1, 1)), G)
    asked = []

    def another(disks, params, **given):
        asked.append((params.fit, params.check))
        if params.fit == "pattern":
            raise EmdlError("no datacube")
        return given["calibration"]

    plain = fit_one_lattice(table, StrainParams(fit="peaks"))
    monkeypatch.setattr(single, "widened", lambda strain, others: replace(strain, attrs={**strain.attrs, "by": sorted(others)}))
    monkeypatch.setattr(single, "fit_one_lattice", another)
    for check, fit, names in (("both", "peaks", ["cepstrum", "pattern"]), ("cepstrum", "peaks", ["cepstrum"])):
        asked.clear()
        found = single._checked(plain, table, StrainParams(fit=fit, check=check), None, None, None, None)
        assert asked == [(name, "none") for name in names] and found.attrs["by"] == ["cepstrum"]
        said = ("not checked by pattern: no datacube",) if "pattern" in names else ()
        assert found.evidence.warnings == (*plain.evidence.warnings, *said)
    asked.clear()
    single._checked(plain, table, StrainParams(fit="cepstrum", check="both"), None, None, None, None)
    assert asked == [("pattern", "none")]  # no fit checks itself


def test_a_fit_reports_three_steps_and_says_when_no_disk_is_left():
    table = table_of(np.tile(np.eye(2), (2, 4, 1, 1)), G)
    seen = []
    found = fit_one_lattice(table, StrainParams(fit="peaks"), control=Control(lambda now: seen.append((now.done, now.total))))
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert found.mask.all() and found.evidence.reference_inliers == 8 and found.peaks_alone is None
    with pytest.raises(EmdlError, match="no disk above the threshold"):
        fit_one_lattice(table, StrainParams(fit="peaks", min_score=1e6))


def test_the_typical_error_is_that_of_the_strains_not_of_the_rotation():
    fields = {"sigma": np.tile([0.010, 0.0124, 0.0144, 0.5], (2, 3, 1)), "mask": np.ones((2, 3), bool)}
    found = _evidence(fit_of(6), np.zeros(6, np.uint8), 6, Basis(G, 1.0, "given"), measured((2, 3)), fields)
    assert found.warnings == ("the strain is uncertain by 1.2 % at a typical position: not quantitative",)


def test_disks_farther_from_the_lattice_than_their_errors_say_are_told():
    places = ([[10.0, 10.0], [30.0, 10.0]], [[10.0, 40.0]], np.zeros((0, 2)))
    errors = ([0.1, 0.2], [0.05], [])
    columns = zip(places, errors, strict=True)
    lists = [{"row": np.array(p)[:, 0], "col": np.array(p)[:, 1], "sigma_px": np.array(e)} for p, e in columns]
    disks = PeakTable.from_lists(lists)
    used = np.array([True, True, False])
    got = misfit(disks, used, np.array([0.4, 0.1, np.nan]))
    np.testing.assert_allclose(got[0], 0.4 * np.sqrt((1 / 0.1**2 + 1 / 0.2**2) / 2), rtol=1e-5)
    assert np.isnan(got[1:]).all()
    fields = {"sigma": np.full((1, 1, 4), 0.001), "mask": np.ones((1, 1), bool)}
    basis = Basis(G, 1.0, "found")
    known = (fit_of(1), np.zeros(1, np.uint8), 10, basis, measured((1, 1)), fields)
    assert not any("as their errors say" in text for text in _evidence(*known, 1.9).warnings)
    assert any("2.5 times as far from the lattice" in text for text in _evidence(*known, 2.5).warnings)
