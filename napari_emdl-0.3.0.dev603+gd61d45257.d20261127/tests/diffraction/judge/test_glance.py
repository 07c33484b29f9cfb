"""What a strain map shows at first sight, and what some patterns say of a run."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from helpers.disks_made import table_of
from napari_emdl.base.params import DiskParams
from napari_emdl.base.signals import Calibration
from napari_emdl.diffraction.fit.strain import fit_strain
from napari_emdl.diffraction.judge.glance import axes_on_scan, beyond, most_to_see
from napari_emdl.diffraction.judge.outlook import Outlook, spread_positions


def strain(axis_deg=0.0, **known):
    rng = np.random.default_rng(0)
    maps = {name: rng.normal(0, 1e-3, (6, 8)) for name in ("exx", "eyy", "exy", "theta_rad")}
    maps["eyy"][:, 4:] += 0.02
    calibration = SimpleNamespace(calibration=Calibration(**known, source=dict.fromkeys(known, "user")))
    sigma = np.full((6, 8, 4), 1e-3)
    mask = np.ones((6, 8), bool)
    return SimpleNamespace(**maps, mask=mask, sigma=sigma, axis_deg=axis_deg, calibration=calibration, attrs={})


def test_the_map_that_varies_most_beyond_its_error_is_shown_first():
    found = strain()
    assert most_to_see(found) == "eyy"
    found.sigma[..., 1] = 1.0  # it is noise then
    assert most_to_see(found) != "eyy"
    found.mask[:] = False
    assert most_to_see(found) == "exx"


@pytest.mark.parametrize(
    ("rotation_deg", "flip", "axis_deg"), [(0, False, 0), (35, False, 0), (35, False, 20), (-50, True, 20)]
)
def test_the_axes_that_are_drawn_are_those_of_the_fit(rotation_deg, flip, axis_deg):
    """A lattice stretched along the x that is drawn on the scan has that strain as exx, and none as eyy."""
    turn = np.deg2rad(rotation_deg)
    known = Calibration(qr_rotation_rad=turn, qr_flip=flip, source={"qr_rotation_rad": "user"})
    to_scan = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    to_scan = to_scan[:, ::-1] if flip else to_scan
    drawn = np.array([np.cos(np.deg2rad(axis_deg)), np.sin(np.deg2rad(axis_deg))])
    along = to_scan.T @ drawn  # the same direction on the detector
    stretched = np.eye(2) + 0.02 * np.outer(along, along)
    scan = table_of(np.array([[np.eye(2), np.eye(2), stretched]]))
    scan.attrs |= {"calibration": known, "detector_shape": (256, 256)}
    found = fit_strain(scan, reference=(0, 1, 0, 2), axis_deg=axis_deg, min_score=0)
    axes = axes_on_scan(found)
    np.testing.assert_allclose(axes.x, drawn, atol=1e-9)
    assert axes.known
    np.testing.assert_allclose([found.exx[0, 2], found.eyy[0, 2], found.exy[0, 2]], [0.02, 0, 0], atol=1e-6)


def test_axes_of_maps_of_earlier_versions_are_turned_by_the_calibration():
    axes = axes_on_scan(strain(axis_deg=30.0))
    np.testing.assert_allclose(axes.x, [np.cos(np.pi / 6), np.sin(np.pi / 6)])
    assert not axes.known and axes.x @ axes.y == pytest.approx(0)
    turned = axes_on_scan(strain(qr_rotation_rad=np.pi / 2))
    np.testing.assert_allclose(np.abs(turned.x), [0, 1], atol=1e-12)
    assert turned.known
    # a vector along x on the scan, turned by the rotation, lies along x on the detector
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    np.testing.assert_allclose(turn @ turned.x, [1, 0], atol=1e-12)


def test_shares_beyond_a_colour_scale():
    assert beyond(np.array([-3.0, -0.5, 0.5, 0.9, np.nan]), (-1.0, 0.8)) == (0.25, 0.25)
    assert beyond(np.full(3, np.nan), (-1, 1)) == (0.0, 0.0)


@pytest.mark.parametrize("shape", [(24, 32), (1, 400), (300, 2), (2, 3)])
def test_patterns_are_spread_over_the_scan(shape):
    positions = spread_positions(shape, 20)
    assert len(np.unique(positions, axis=0)) == len(positions) == min(20, shape[0] * shape[1])
    assert (positions >= 0).all() and (positions < shape).all()
    if min(shape) > 4:  # every quarter of the scan is looked at
        quarters = {(int(2 * row / shape[0]), int(2 * col / shape[1])) for row, col in positions}
        assert len(quarters) == 4


def test_a_scan_without_a_lattice_is_told():
    lattice = np.zeros(20, bool)
    lattice[:2] = True
    outlook = Outlook(DiskParams(), np.zeros((20, 2), int), lattice, 0.1, 1000)
    assert outlook.problem == "no lattice in 18 of 20 patterns: nothing to strain here" and outlook.run_s == 100
    assert Outlook(DiskParams(), np.zeros((20, 2), int), np.ones(20, bool), 0.1, 1000).problem == ""
