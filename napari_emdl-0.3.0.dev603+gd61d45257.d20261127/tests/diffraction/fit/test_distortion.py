"""Projector distortion beyond the ellipse: known coefficients come back, strain is freed of it, and nothing is invented."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

import napari_emdl as emdl
from helpers.disks_made import G, deformation, lattice_points
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import CalibrateParams, StrainParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import in_memory
from napari_emdl.diffraction.fit.pattern import Aperture
from napari_emdl.diffraction.fit.projector import Distortion, none_at, powers_of
from napari_emdl.diffraction.judge.evidence import lattice_points as shown_points

CENTRE, SHAPE, SCALE = (128.0, 128.0), (256, 256), 110.0
#: Third order (barrel and spiral), second order (coma-like, three-fold), px at SCALE.
KNOWN = np.array([-2.0, 0.6, 0.3, -0.4, 0.5, 0.2, -0.3, 0.4])
NO_CORRECTION = StrainParams(calibrate=CalibrateParams(distortion="none"))


def field(coefficients: np.ndarray = KNOWN, groups: tuple[str, ...] = ("third", "second")) -> Distortion:
    return replace(none_at(CENTRE, SCALE, groups), coefficients_px=np.asarray(coefficients, float))


def scan(
    distortion: Distortion | None, n: int = 10, noise_px: float = 0.06, reflection_px: float = 0.0, drift_px: float = 6.0
) -> tuple[PeakTable, np.ndarray]:
    """Disks of a strained scan whose patterns drift over the detector, and the strain (n, n, 3).

    Every reflection is moved by `reflection_px` alike at all positions, as contrast inside the disks moves it.
    """
    random = np.random.default_rng(3)
    moved: dict[tuple[int, int], np.ndarray] = {}
    lists, truth = [], []
    for row, col in np.ndindex(n, n):
        exx, eyy, exy = 0.015 * row / n, -0.01 * col / n, 0.004 * (row + col) / n
        truth.append((exx, eyy, exy))
        origin = np.array(CENTRE) + drift_px * (2 * np.array([row, col]) / (n - 1) - 1)
        place, hk = lattice_points(G @ np.linalg.inv(deformation(exx, eyy, exy, 0.002 * row)), origin, SHAPE, 12.0)
        seen = (random.random(len(place)) < 0.8) | ((hk**2).sum(axis=1) < 3)
        place, hk = place[seen], hk[seen]
        if distortion is not None:
            place = distortion.distorted(place)
        for i, index in enumerate(map(tuple, hk.tolist())):
            if index not in moved:
                moved[index] = reflection_px * random.standard_normal(2)
            place[i] += moved[index] + noise_px * random.standard_normal(2)
        bright = 100.0 / (1 + (hk**2).sum(axis=1))
        sigma = np.full(len(place), noise_px)
        lists.append({"row": place[:, 0], "col": place[:, 1], "intensity": bright, "score": bright, "sigma_px": sigma})
    return PeakTable.from_lists(lists, (n, n)), np.array(truth).reshape(n, n, 3)


def error_of(strain: emdl.StrainMap, truth: np.ndarray) -> tuple[float, float]:
    """Rms error of exx, eyy, exy about the reference's, and error over sigma."""
    got = np.stack([strain.exx, strain.eyy, strain.exy], axis=-1) - truth
    got = got - np.median(got[:2, :2], axis=(0, 1))
    return float(np.sqrt(np.mean(got**2))), float(np.sqrt(np.mean(np.square(got / strain.sigma[..., :3]))))


def beside_affine(values: np.ndarray, place: np.ndarray) -> np.ndarray:
    terms = np.column_stack([np.ones(len(place)), place])
    return values - terms @ np.linalg.lstsq(terms, values, rcond=None)[0]


def test_undistorted_is_the_inverse():
    place = np.random.default_rng(0).uniform(20, 236, (200, 2))
    known = field()
    assert np.abs(known.distorted(place) - place).max() > 1
    assert np.allclose(known.undistorted(known.distorted(place)), place, atol=1e-7)
    step = 1e-5 * np.eye(2)
    slopes = np.stack([(known.undistorted(place + s) - known.undistorted(place - s)) / 2e-5 for s in step], axis=-1)
    assert np.allclose(known.stretch(known.undistorted(place)), np.sqrt(np.linalg.det(slopes)), rtol=1e-5)


def test_columns_are_the_derivatives_by_the_coefficients():
    known, place = field(), np.random.default_rng(1).uniform(40, 216, (50, 2))
    shown = known.distorted(place)
    for k in range(len(KNOWN)):
        step = 1e-4 * np.eye(len(KNOWN))[k]
        up, down = (field(KNOWN + sign * step).undistorted(shown) for sign in (1, -1))
        assert np.allclose(known.columns(place)[..., k], (up - down) / 2e-4, atol=1e-6)


def test_known_distortion_comes_back_and_strain_is_freed_of_it():
    known = field()
    disks, truth = scan(known)
    strain = emdl.fit_strain(disks, reference=(0, 2, 0, 2))
    found = strain.calibration.distortion
    place = np.stack(np.meshgrid(*[np.linspace(40, 216, 12)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    left = beside_affine(found.undistorted(known.distorted(place)), place)
    assert np.sqrt(np.mean(np.square(left))) < 0.01
    assert np.sqrt(np.mean(np.square(beside_affine(known.distorted(place), place)))) > 0.3
    assert found.before_px > 0.3 and found.after_px < 0.1
    assert strain.evidence.median_residual_px < 0.1
    with_it, over_sigma = error_of(strain, truth)
    without, _ = error_of(emdl.fit_strain(disks, reference=(0, 2, 0, 2), params=NO_CORRECTION), truth)
    assert with_it < 0.5 * without
    assert 0.7 < over_sigma < 1.3


def test_errors_of_the_coefficients_are_what_they_say():
    """Reflections that are moved alike at all positions make the coefficients uncertain, and the covariance knows."""
    known = field()
    found = emdl.fit_strain(scan(known, reflection_px=0.05)[0]).calibration.distortion
    assert set(found.groups) == {"third", "second"}
    powers = [2 * k for k, power in enumerate(powers_of(found.groups)) if power == (2, 1)]
    # the barrel does not depend on where the centre is taken
    barrel, sigma = found.coefficients_px[powers[0]], np.sqrt(found.covariance[powers[0], powers[0]])
    to_known = (SCALE / found.scale_px) ** 3
    assert abs(barrel * to_known - KNOWN[0]) < 4 * sigma * to_known
    assert 0.003 < sigma * to_known < 0.1


@pytest.mark.parametrize("reflection_px", [0.0, 0.12])
def test_nothing_is_corrected_where_there_is_nothing(reflection_px):
    """Contrast inside disks moves reflections at all positions alike: no field, as it tells nothing of other reflections."""
    strain = emdl.fit_strain(scan(None, reflection_px=reflection_px)[0])
    assert strain.calibration.distortion is None and strain.attrs["distortion"] is None


def test_the_error_of_the_distortion_is_part_of_the_error_of_the_strain():
    """Against an ideal lattice the error that all positions share counts in full, against a region of the scan it does not."""
    disks, _ = scan(field(), reflection_px=0.05)
    vectors = {"g1": tuple(G[0]), "g2": tuple(G[1])}
    ideal = emdl.fit_strain(disks, reference="lattice", **vectors)
    own = emdl.fit_strain(disks, reference=(4, 6, 4, 6), **vectors)
    scale = [strain.attrs["sigma_scale"]["factor"] for strain in (ideal, own)]
    assert np.median(ideal.sigma[..., 0]) / scale[0] > 1.1 * np.median(own.sigma[..., 0]) / scale[1]


def test_a_standard_corrects_scans_that_could_not_tell(tmp_path):
    known = field()
    standard = emdl.fit_strain(scan(known)[0])
    emdl.save(standard, tmp_path / "standard.h5")
    place, hk = lattice_points(G, np.array([131.0, 122.0]), SHAPE, 30.0)
    some = np.isin(hk, (-2, 0, 2)).all(axis=1) & (hk[:, 0] * hk[:, 1] <= 0)
    shown = known.distorted(place[some])
    columns = {"row": shown[:, 0], "col": shown[:, 1], "intensity": 100.0 / (1 + (hk[some] ** 2).sum(axis=1))}
    few = PeakTable.from_lists([{**columns, "score": np.ones(len(shown)), "sigma_px": np.full(len(shown), 0.05)}], (1, 1))
    alone = emdl.fit_strain(few)
    assert alone.calibration.distortion is None
    params = StrainParams(calibrate=CalibrateParams(standard=str(tmp_path / "standard.h5")))
    strain = emdl.fit_strain(few, params=params)
    assert strain.residual_px[0, 0] < 0.05 < alone.residual_px[0, 0]
    assert "standard.h5" in strain.attrs["distortion"]["text"]
    fitted = shown_points(strain, (0, 0), SHAPE)[1]
    nearest = np.linalg.norm(fitted[:, None] - shown, axis=2).min(axis=0)
    assert nearest.max() < 0.15  # drawn where the camera shows them
    emdl.save(few, tmp_path / "few.h5")
    with pytest.raises(EmdlError, match="no strain result"):
        emdl.fit_strain(few, params=StrainParams(calibrate=CalibrateParams(standard=str(tmp_path / "few.h5"))))
    emdl.save(alone, tmp_path / "plain.h5")
    with pytest.raises(EmdlError, match="neither a distortion nor an ellipse"):
        emdl.fit_strain(few, params=StrainParams(calibrate=CalibrateParams(standard=str(tmp_path / "plain.h5"))))


def test_file_terminal_and_panel_say_it(tmp_path):
    from napari_emdl.cli.root import app
    from napari_emdl.gui.diffraction.strain import evidence

    emdl.save(scan(field(), n=6)[0], tmp_path / "disks.h5")
    said = CliRunner().invoke(app, ["strain", str(tmp_path / "disks.h5"), "-o", str(tmp_path / "strain.h5")])
    assert said.exit_code == 0, said.output
    loaded = emdl.load(tmp_path / "strain.h5")
    text = loaded.attrs["distortion"]["text"]
    assert "projector distortion corrected" in text and "before" in text
    assert text in said.output
    assert text[1:] in evidence(loaded)
    assert np.allclose(loaded.calibration.distortion.covariance, loaded.calibration.distortion.covariance.T)
    assert set(loaded.calibration.distortion.groups) == {"third", "second"}


def test_regions_share_one_distortion():
    known = field()
    first, _ = scan(known, n=6)
    labels = np.ones((6, 6), np.uint8)
    labels[3:] = 2
    strain = emdl.fit_strain(first, regions=labels)
    assert strain.calibration.distortion is not None
    assert strain.attrs["distortion"]["after_px"] < 0.1
    assert np.nanmedian(strain.residual_px) < 0.1


def test_the_fit_to_patterns_knows_the_distortion():
    """Soft-edged disks where the camera shows them: the lattice of the undistorted pattern comes back."""
    random, known = np.random.default_rng(5), field(3 * KNOWN[:2], ("third",))
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    counts = np.empty((2, 3, *SHAPE), np.uint16)
    lists = []
    for k in range(6):
        origin = np.array([128.0, 128.0]) + random.uniform(-4, 4, 2)
        place, hk = lattice_points(G, origin, SHAPE, 12.0)
        expected = np.full(SHAPE, 0.5)
        shown = known.distorted(place)
        for (row, col), index in zip(shown, hk, strict=True):
            expected += (400 if not index.any() else 40) * Aperture(6.0, 0.7).at(rows - row, cols - col)[0]
        counts[np.unravel_index(k, (2, 3))] = random.poisson(expected)
        rough = shown + 0.1 * random.standard_normal(shown.shape)
        bright = 100.0 / (1 + (hk**2).sum(axis=1))
        lists.append(
            {"row": rough[:, 0], "col": rough[:, 1], "intensity": bright, "score": bright, "sigma_px": np.full(len(rough), 0.1)}
        )
    disks = PeakTable.from_lists(lists, (2, 3))
    disks.attrs["probe_radius_px"] = 6.0
    strain = emdl.fit_strain(disks, cube=in_memory(counts, "datacube"), fit="pattern")
    assert strain.calibration.distortion is not None
    assert strain.evidence.median_residual_px < 0.15
    got = np.stack([strain.exx, strain.eyy, strain.exy], axis=-1)
    assert np.sqrt(np.mean(got**2)) < 0.0003
    assert 0.5 < np.sqrt(np.mean(np.square(got / strain.sigma[..., :3]))) < 1.5


def test_gold_has_right_angles_once_it_is_known_to_be_square(shared_data):
    """Centres by circle fits; as recorded the inner disks are at 91.2 degrees."""
    row, col, sigma = np.loadtxt(shared_data / "measured/au100_cbed/au100_centres.txt").T
    one = {
        "row": row,
        "col": col,
        "sigma_px": sigma,
        "score": np.ones(len(row)),
        "intensity": np.r_[9.0, np.ones(len(row) - 1)],
    }
    disks = PeakTable.from_lists([one], (1, 1))
    strain = emdl.fit_strain(disks, params=StrainParams(calibrate=CalibrateParams(ellipticity=True)))
    found = strain.calibration.distortion
    assert found is not None and found.after_px < 0.1 * found.before_px
    place, g = found.undistorted(disks.positions_px()), np.stack([strain.g1[0, 0], strain.g2[0, 0]])
    hk = np.rint((place - strain.origin_px[0, 0]) @ np.linalg.inv(g))
    inner = (np.abs(hk) <= 1).all(axis=1)
    terms = np.column_stack([np.ones(inner.sum()), hk[inner]]) / sigma[inner, None]
    vectors = np.linalg.lstsq(terms, place[inner] / sigma[inner, None], rcond=None)[0][1:] @ strain.calibration.transform()
    angle = np.degrees(np.arccos(vectors[0] @ vectors[1] / np.linalg.norm(vectors, axis=1).prod()))
    assert angle == pytest.approx(90, abs=0.1)
