"""Multislice of the disk simulator: conservation, geometry, and agreement with abTEM."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from napari_emdl.base.physics import interaction_constant_per_VA, wavelength_A  # noqa: E402
from napari_emdl.training.diffraction.crystals import build_crystal, catalogue  # noqa: E402
from napari_emdl.training.diffraction.multislice import half_propagation, project, simulate  # noqa: E402

A_NACL = 5.64
NACL = build_crystal("NaCl", "F", (A_NACL,) * 3, 90, {"Na": [(0, 0, 0)], "Cl": [(0.5, 0.5, 0.5)]}, 0.0)


def _one_direction(cell, thickness_A, energy_keV=200.0, **options):
    """Beams of a single incident direction along the zone axis."""
    k = 1e-3
    options.setdefault("keep_intensity", 0.0)
    return simulate(cell, energy_keV, k, np.atleast_1d(thickness_A), tilt_invA=(k, k), nk=1, **options)


def _intensity(beams):
    return beams.amplitude.abs().square().numpy()[:, :, 0, 0]


@pytest.mark.parametrize("zone", [(0, 0, 1), (1, 1, 0), (1, 1, 1), (2, 1, 0), (3, 1, 2)])
def test_projection_keeps_the_volume(zone):
    for crystal in catalogue(47)[::5]:
        cell = project(crystal, zone)
        area = np.linalg.det(cell.cell_A)
        assert area * cell.repeat_A == pytest.approx(crystal.volume_A3, rel=1e-9)
        assert abs(cell.cell_A[0, 1]) < 1e-9


def test_projected_reciprocal_vectors_are_those_of_the_crystal():
    cell = project(NACL, (1, 1, 0))
    mine = sorted(
        {round(float(np.linalg.norm(np.array(hk) @ cell.reciprocal_invA)), 6) for hk in itertools.product((-1, 0, 1), repeat=2)}
    )
    # Zone [110] of fcc: 111 at sqrt(3)/a, 002 at 2/a.
    assert mine[1] == pytest.approx(np.sqrt(3) / A_NACL, abs=1e-6)
    assert any(abs(v - 2 / A_NACL) < 1e-6 for v in mine)


def test_electrons_are_conserved_without_absorption_and_lost_with_it():
    cell = project(NACL, (0, 0, 1))
    free = _intensity(_one_direction(cell, 200.0, g_max_invA=5.0)).sum()
    damped = _intensity(_one_direction(cell, 200.0, g_max_invA=5.0, absorption=0.05)).sum()
    assert free == pytest.approx(1.0, abs=0.03)
    assert damped < 0.95 * free


def test_thin_crystal_is_kinematical():
    cell = project(NACL, (0, 0, 1))
    beams = _one_direction(cell, 3.0, slice_A=3.0, g_max_invA=4.0)
    weak = (beams.v_V > 0) & np.any(beams.hk != 0, axis=1) & (np.linalg.norm(beams.g_invA, axis=1) < 1.5)
    expected = (interaction_constant_per_VA(200.0) * 3.0 * beams.v_V[weak]) ** 2
    # Deviations are of second order in the phase.
    np.testing.assert_allclose(_intensity(beams)[0, weak], expected, rtol=0.15)


def test_tilt_is_a_shift_of_the_incident_direction():
    cell = project(NACL, (0, 0, 1))
    k = 0.02
    grid = simulate(cell, 200.0, k, np.array([150.0]), nk=3, keep_intensity=0.0)
    tilted = simulate(cell, 200.0, 1e-6, np.array([150.0]), tilt_invA=(k, 0.0), nk=1, keep_intensity=0.0)
    a = grid.amplitude[0, :, 1, 2].abs().numpy()
    b = tilted.amplitude[0, :, 0, 0].abs().numpy()
    np.testing.assert_allclose(a, b, atol=2e-4)


def test_taken_out_phase_is_free_propagation():
    g = np.array([[0.3, -0.2]])
    axis = np.array([-0.05, 0.0, 0.05])
    phase = half_propagation(g, axis, (0.01, 0.02), wavelength_A(200.0), np.array([100.0]))
    q2 = (0.3 + 0.05 + 0.01) ** 2 + (-0.2 - 0.05 + 0.02) ** 2
    assert np.angle(phase[0, 0, 0, 2]) == pytest.approx(-0.5 * np.pi * wavelength_A(200.0) * 100 * q2)


@pytest.mark.referee
@pytest.mark.parametrize("thickness_cells", [10, 30])
def test_beams_agree_with_abtem(thickness_cells):
    abtem = pytest.importorskip("abtem")
    ase = pytest.importorskip("ase")
    a = A_NACL
    positions = [(0, 0, 0), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5), (0.5, 0.5, 0.5), (0, 0, 0.5), (0, 0.5, 0), (0.5, 0, 0)]
    atoms = ase.Atoms("Na4Cl4", scaled_positions=positions, cell=[a] * 3, pbc=True) * (1, 1, thickness_cells)
    potential = abtem.Potential(atoms, sampling=a / 90, slice_thickness=a / 2, parametrization="lobato", projection="infinite")
    wave = abtem.PlaneWave(energy=200e3).multislice(potential).compute(progress_bar=False).array
    theirs = np.abs(np.fft.fft2(wave) / wave.size) ** 2
    # The same slicing (two a cell) and about the same band limit; these two explain earlier differences.
    beams = _one_direction(project(NACL, (0, 0, 1)), a * thickness_cells, slice_A=a / 2, g_max_invA=5.0)
    order = np.linalg.norm(beams.g_invA, axis=1) * a
    for h, k in ((0, 0), (2, 0), (2, 2), (4, 0), (4, 2), (4, 4)):
        same = np.isclose(order, np.hypot(h, k), atol=0.01)
        assert abs(_intensity(beams)[0, same].mean() - theirs[h, k]) < 0.02 * theirs.max()
