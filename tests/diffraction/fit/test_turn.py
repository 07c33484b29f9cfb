"""A turned map is what a fit with that axis gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import napari_emdl as emdl
from helpers.disks_made import deformation, table_of
from napari_emdl.base.errors import EmdlError
from napari_emdl.diffraction.fit.strain import COMPONENTS, fit_strain
from napari_emdl.diffraction.fit.tensor import strain_sigma


def scan(noise_px=0.05):
    random = np.random.default_rng(4)
    truth = random.uniform(-0.02, 0.02, (6, 6, 4))
    truth[:4, :4] *= [0.2, 1, 0.2, 0.2]
    f = np.stack([deformation(*t) for t in truth.reshape(-1, 4)]).reshape(6, 6, 2, 2)
    return table_of(f, noise_px=noise_px)


def same(first, second):
    for name in (*COMPONENTS, "sigma", "covariance"):
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), rtol=1e-9, atol=1e-12, err_msg=name)
    assert first.evidence == second.evidence and first.axis_deg == second.axis_deg
    assert first.attrs["axes"] == second.attrs["axes"] and first.attrs["params"] == second.attrs["params"]
    assert str(first.attrs["reference_source"]) == str(second.attrs["reference_source"])


@pytest.mark.parametrize("axis_deg", [33.0, -90.0])
def test_turning_equals_fitting_with_that_axis(axis_deg):
    table = scan()
    plain, fitted = (fit_strain(table, reference=(0, 4, 0, 4), axis_deg=axis) for axis in (0.0, axis_deg))
    turned = emdl.turn_strain(plain, axis_deg)
    same(turned, fitted)
    back = emdl.turn_strain(turned, 0.0)
    np.testing.assert_allclose(back.sigma, plain.sigma, rtol=1e-9)
    assert turned.attrs["provenance"]["axes"]["axis_deg"] == axis_deg
    assert plain.axis_deg == 0.0 and plain.attrs["params"]["axis_deg"] == 0.0  # the map itself stays as it is
    # the component that varies most has another name on other axes
    assert [text for text in plain.evidence.warnings if "(eyy by" in text]
    warned = [text for text in turned.evidence.warnings if "in the reference region" in text]
    assert len(warned) == 1 and (axis_deg != -90 or "(exx by" in warned[0])


def test_turned_errors_are_those_of_the_lattices():
    """From the lattices of the map by the formula for turned axes, and not by turning."""
    plain = fit_strain(scan())
    turned = emdl.turn_strain(plain, 25.0)
    g = np.stack([plain.g1, plain.g2], axis=-2).reshape(-1, 2, 2)
    covariance = np.tile(np.diag([1.0, 4.0, 2.0, 1.0]) * 1e-4, (len(g), 1, 1))
    known = replace(plain, covariance=_propagated(g, covariance, plain).reshape(6, 6, 3, 3))
    wanted = strain_sigma(g, covariance, plain.reference_g, 25.0)[:, :3].reshape(6, 6, 3)
    np.testing.assert_allclose(emdl.turn_strain(known, 25.0).sigma[..., :3], wanted, rtol=1e-9)
    assert not np.allclose(turned.sigma, plain.sigma, rtol=1e-3)
    np.testing.assert_array_equal(turned.theta_rad, plain.theta_rad)


def _propagated(g, covariance, strain):
    from napari_emdl.diffraction.fit.tensor import strain_covariance

    return strain_covariance(g, covariance, strain.reference_g)[:, :3, :3]


def test_regions_turn_with_what_is_said_of_each(tmp_path):
    table = scan()
    labels = np.ones((6, 6), np.uint8)
    labels[:, 4:] = 2
    plain, fitted = (
        fit_strain(table, regions=labels, reference=(0, 4, 0, 4), axis_deg=axis, fit="peaks") for axis in (0.0, 33.0)
    )
    emdl.save(plain, tmp_path / "strain.h5")
    turned = emdl.turn_strain(emdl.load(tmp_path / "strain.h5"), 33.0)
    np.testing.assert_allclose(turned.sigma, fitted.sigma, rtol=1e-9)
    assert sorted(turned.evidence.warnings) == sorted(fitted.evidence.warnings)
    assert any(text.startswith("region 1: in the reference region") for text in turned.evidence.warnings)
    spread, wanted = (fit.attrs["regions"]["1"]["reference_source"]["spread"]["exx"] for fit in (turned, fitted))
    assert spread == pytest.approx(wanted)


def test_a_map_without_its_covariance_says_so():
    plain = replace(fit_strain(scan()), covariance=None)
    assert emdl.turn_strain(plain, 0.0) is plain
    with pytest.raises(EmdlError, match=r"cannot be turned.*axis_deg=20"):
        emdl.turn_strain(plain, 20.0)
