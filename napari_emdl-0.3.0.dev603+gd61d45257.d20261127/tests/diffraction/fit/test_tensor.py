"""The strain tensor, its errors and the calibration of patterns against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Calibration
from napari_emdl.diffraction.fit.calibrate import DiffractionCalibration, Ellipse
from napari_emdl.diffraction.fit.tensor import deformation, strain_components, strain_sigma

REFERENCE = np.array([[20.0, 3.0], [-4.0, 25.0]])
#: stretched by 2 % along rows and 1 % shorter along cols, with a shear
STRETCH = np.array([[1.02, 0.004], [0.004, 0.99]])


def turned(angle: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def lattice_of(f: np.ndarray) -> np.ndarray:
    return (REFERENCE @ np.linalg.inv(f))[None]


def test_a_stretch_is_the_strain_and_a_turn_the_angle():
    got = strain_components(lattice_of(turned(0.03) @ STRETCH), REFERENCE)[0]
    # theta is counted from the col axis to the row axis
    np.testing.assert_allclose(got, [0.02, -0.01, 0.004, -0.03], atol=1e-12)
    np.testing.assert_allclose(deformation(lattice_of(STRETCH), REFERENCE)[0], STRETCH, atol=1e-12)


def test_large_strain_is_exact():
    big = np.array([[1.5, 0.2], [0.2, 0.7]])
    got = strain_components(lattice_of(turned(-0.6) @ big), REFERENCE)[0]
    np.testing.assert_allclose(got, [0.5, -0.3, 0.2, 0.6], atol=1e-12)


def test_axes_at_ninety_degrees_change_places_and_the_shear_its_sign():
    got = strain_components(lattice_of(turned(0.03) @ STRETCH), REFERENCE, axis_deg=90.0)[0]
    np.testing.assert_allclose(got, [-0.01, 0.02, -0.004, -0.03], atol=1e-12)


def test_a_mirror_turns_the_other_way():
    mirror = np.array([[0.0, 1.0], [1.0, 0.0]])
    got = strain_components(lattice_of(turned(0.03) @ STRETCH), REFERENCE, scan_axes=mirror)[0]
    np.testing.assert_allclose(got, [-0.01, 0.02, 0.004, 0.03], atol=1e-12)
    # first the scan's axes, then the turn from them
    got = strain_components(lattice_of(STRETCH), REFERENCE, 30.0, scan_axes=mirror)[0]
    turn = turned(np.deg2rad(-30.0)) @ mirror
    expected = turn @ (STRETCH - np.eye(2)) @ turn.T
    np.testing.assert_allclose(got[:3], [expected[0, 0], expected[1, 1], expected[0, 1]], atol=1e-12)


def test_strain_on_pixels_that_are_not_square_needs_their_shape():
    pixels = np.diag([1.25, 0.75])
    true = lattice_of(turned(0.02) @ STRETCH)
    got = strain_components(true @ np.linalg.inv(pixels), REFERENCE @ np.linalg.inv(pixels), transform=pixels)[0]
    np.testing.assert_allclose(got, [0.02, -0.01, 0.004, -0.02], atol=1e-12)


@pytest.mark.parametrize("axis_deg", [0.0, 37.0])
@pytest.mark.parametrize("mirror", [None, np.array([[0.0, 1.0], [1.0, 0.0]])])
@pytest.mark.parametrize("transform", [None, np.array([[1.2, 0.1], [0.0, 0.9]])])
def test_sigma_is_that_of_small_changes(axis_deg, mirror, transform):
    base = lattice_of(turned(0.002) @ (np.eye(2) + (STRETCH - np.eye(2)) / 50))
    random = np.random.default_rng(3)
    root = random.normal(size=(4, 4)) * [0.1, 0.2, 0.15, 0.05]
    covariance = (root @ root.T)[None]
    step, slopes = 1e-5, []
    for k in range(4):
        change = np.zeros(4)
        change[k] = step
        up = strain_components(base + change.reshape(2, 2), REFERENCE, axis_deg, transform, mirror)
        down = strain_components(base - change.reshape(2, 2), REFERENCE, axis_deg, transform, mirror)
        slopes.append((up - down)[0] / (2 * step))
    jacobian = np.stack(slopes, axis=1)
    expected = np.sqrt(np.einsum("ki,ij,kj->k", jacobian, covariance[0], jacobian))
    got = strain_sigma(base, covariance, REFERENCE, axis_deg, transform, mirror)[0]
    np.testing.assert_allclose(got, expected, rtol=0.01)


def calibration(ellipse: Ellipse | None = None, **known: object) -> DiffractionCalibration:
    origin = np.array([[[10.0, 20.0], [11.0, 22.0]]])
    return DiffractionCalibration(
        origin, origin + np.array([0.5, -0.25]), np.ones((1, 2), bool), ellipse, Calibration().override(**known)
    )


def test_an_ellipse_stretches_along_its_direction():
    matrix = Ellipse(1.1, 1 / 1.1, np.deg2rad(30.0)).matrix()
    along, across = np.array([np.cos(np.pi / 6), 0.5]), np.array([-0.5, np.cos(np.pi / 6)])
    np.testing.assert_allclose(matrix @ along, 1.1 * along)
    np.testing.assert_allclose(matrix @ across, across / 1.1)


def test_disks_become_scattering_vectors():
    ellipse = Ellipse(1.1, 1 / 1.1, 0.4)
    made = calibration(ellipse, q_pixel_invA=(0.02, 0.03))
    true = np.array([[0.3, -0.6], [0.0, 0.9], [0.7, 0.1]])  # in 1/angstrom
    place = (true / [0.02, 0.03]) @ ellipse.matrix().T + np.repeat(made.origin_px[0], [2, 1], axis=0)
    disks = PeakTable((1, 2), [0, 2, 3], {"row": place[:, 0], "col": place[:, 1]})
    np.testing.assert_allclose(made.to_reciprocal(disks), true, atol=1e-12)
    np.testing.assert_allclose(made.residual_px, [[[0.5, -0.25], [0.5, -0.25]]])
    with pytest.raises(EmdlError, match="detector pixel size is unknown"):
        calibration(ellipse).to_reciprocal(disks)
    np.testing.assert_allclose(calibration().transform(), np.eye(2))


def test_scan_axes_are_those_of_py4dstem():
    """Row and col interchanged where the detector is flipped, then turned from the row axis to the col axis."""
    assert calibration().scan_axes() is None
    quarter = calibration(qr_rotation_rad=np.pi / 2).scan_axes()
    np.testing.assert_allclose(quarter @ [1.0, 0.0], [0.0, 1.0], atol=1e-12)
    flipped = calibration(qr_rotation_rad=np.pi / 2, qr_flip=True).scan_axes()
    np.testing.assert_allclose(flipped @ [1.0, 0.0], [-1.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(calibration(qr_rotation_rad=0.0).scan_axes(), np.eye(2))
