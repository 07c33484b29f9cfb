"""Multislice of a crystal in zone-axis orientation for all incident directions of a disk at once.

The potential is the zero-order Laue zone of the projected cell (the average along the beam), so one oblique cell of the zone's
own 2D lattice is enough. Mistilt is a shift of all incident directions. Validated against abTEM in the tests.
Method: Cowley and Moodie (1957); Kirkland, Advanced Computing in Electron Microscopy, ch. 6.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch

from napari_emdl.base.physics import interaction_constant_per_VA, wavelength_A
from napari_emdl.training.common.scattering import projected_potential_VA3
from napari_emdl.training.diffraction.crystals import Crystal

_FFT_SIZES = (12, 16, 18, 20, 24, 27, 30, 32, 36, 40, 45, 48, 54, 60, 64, 72, 80, 90, 96, 108, 120, 128, 144)


@dataclass(frozen=True)
class ZoneCell:
    """A crystal projected along a zone axis.

    Attributes
    ----------
    cell_A
        2D projected lattice vectors as rows, (2, 2).
    repeat_A
        Length of the lattice vector along the beam.
    symbols, positions_A, u2_A2
        Atoms: element, projected position (n, 2), mean square displacement along one axis.
    """

    cell_A: np.ndarray
    repeat_A: float
    symbols: tuple[str, ...]
    positions_A: np.ndarray
    u2_A2: np.ndarray

    @property
    def reciprocal_invA(self) -> np.ndarray:
        """Reciprocal basis vectors as rows, (2, 2)."""
        return np.linalg.inv(self.cell_A).T


def project(crystal: Crystal, zone: tuple[int, int, int]) -> ZoneCell:
    """Project a crystal along zone axis [uvw] of its conventional cell.

    Raises
    ------
    ValueError
        For the zone axis [000].
    """
    if not any(zone):
        raise ValueError("zone axis [000] has no direction")
    beam = np.asarray(zone, float) @ crystal.conventional_A
    steps = beam @ np.linalg.inv(crystal.cell_A)
    integer = _smallest_integers(steps)
    beam = integer @ crystal.cell_A
    repeat = float(np.linalg.norm(beam))
    e3 = beam / repeat
    e1 = np.cross([0.0, 1.0, 0.0] if abs(e3[1]) < 0.9 else [1.0, 0.0, 0.0], e3)
    e1 /= np.linalg.norm(e1)
    frame = np.stack([e1, np.cross(e3, e1)])
    span = max(3, int(np.abs(integer).max()) + 1)
    grid = np.array(list(itertools.product(range(-span, span + 1), repeat=3)))
    flat = grid @ crystal.cell_A @ frame.T
    length = np.linalg.norm(flat, axis=1)
    order = np.argsort(length, kind="stable")
    order = order[length[order] > 1e-6]
    first = order[0]
    # The complement must span the lattice together with the beam direction: unit determinant.
    det = np.abs(
        np.linalg.det(np.stack([np.broadcast_to(integer, grid.shape), np.broadcast_to(grid[first], grid.shape), grid], 1))
    )
    second = next(i for i in order if abs(det[i] - 1) < 1e-6)
    cell = np.stack([flat[first], flat[second]])
    if np.linalg.det(cell) < 0:
        cell[1] *= -1
    # Put the first axis along x: the orientation on the detector is drawn when a pattern is rendered.
    angle = math.atan2(cell[0, 1], cell[0, 0])
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    positions = crystal.fractional @ crystal.cell_A @ frame.T @ turn
    return ZoneCell(cell @ turn, repeat, crystal.symbols, positions, crystal.u2_A2)


def _smallest_integers(steps: np.ndarray) -> np.ndarray:
    """Smallest integer vector along `steps`, whose entries are multiples of 1/6."""
    whole = np.round(steps * 6).astype(int)
    return whole // math.gcd(*(int(x) for x in whole))


@dataclass(frozen=True)
class Beams:
    """Complex amplitudes of diffracted beams for a grid of incident directions.

    Attributes
    ----------
    hk
        Indices in the projected reciprocal lattice, (n, 2).
    g_invA
        Beam vectors (n, 2) in 1/A, (x, y).
    v_V
        |V_g| of the mean potential in volt, (n,).
    k_max_invA
        Incident directions run from -k_max to k_max on both axes.
    thickness_A
        (t,)
    tilt_invA
        Mistilt as a shift of all incident directions, (2,).
    amplitude
        complex64 (t, n, nk, nk), last axes (k_y, k_x). The phase of propagation through half the thickness,
        exp(-i pi lambda t/2 |g + k + tilt|^2 ...), is taken out, which leaves a function of k smooth enough to interpolate.
    """

    hk: np.ndarray
    g_invA: np.ndarray
    v_V: np.ndarray
    energy_keV: float
    k_max_invA: float
    thickness_A: np.ndarray
    tilt_invA: np.ndarray
    amplitude: torch.Tensor


def _fft_size(length_A: float, g_max_invA: float) -> int:
    need = 3.0 * g_max_invA * length_A
    return next((n for n in _FFT_SIZES if n >= need), _FFT_SIZES[-1])


def fourier_potential_V(cell: ZoneCell, g_invA: np.ndarray) -> np.ndarray:
    """Fourier coefficients of the mean potential in volt, complex, for beam vectors (..., 2)."""
    g = np.linalg.norm(g_invA, axis=-1)
    volume = abs(np.linalg.det(cell.cell_A)) * cell.repeat_A
    total = np.zeros(g.shape, complex)
    for symbol, position, u2 in zip(cell.symbols, cell.positions_A, cell.u2_A2, strict=True):
        total += projected_potential_VA3(symbol, g, u2) * np.exp(-2j * np.pi * (g_invA @ position))
    return total / volume


def simulate(
    cell: ZoneCell,
    energy_keV: float,
    k_max_invA: float,
    thicknesses_A: np.ndarray,
    *,
    tilt_invA: tuple[float, float] = (0.0, 0.0),
    nk: int = 13,
    g_max_invA: float = 2.4,
    slice_A: float = 3.0,
    absorption: float = 0.0,
    keep_intensity: float = 1e-6,
    device: str = "cpu",
) -> Beams:
    """Beam amplitudes of a crystal slab.

    Parameters
    ----------
    cell
        Projected crystal.
    energy_keV
        Beam energy.
    k_max_invA
        Half width of the square grid of incident directions.
    thicknesses_A
        Thicknesses wanted; each is rounded to whole slices.
    tilt_invA
        Mistilt in 1/A.
    nk
        Directions along an axis.
    g_max_invA
        Band limit of potential and wave.
    slice_A
        Slice thickness.
    absorption
        Imaginary part of the potential as a fraction of it: what thermal diffuse scattering takes out of the beams.
    keep_intensity
        Beams never brighter than this are dropped.
    """
    wavelength = wavelength_A(energy_keV)
    sizes = [_fft_size(float(np.linalg.norm(row)), g_max_invA) for row in cell.cell_A]
    h, k = np.meshgrid(*(np.fft.fftfreq(n, 1 / n) for n in sizes), indexing="ij")
    g = h[..., None] * cell.reciprocal_invA[0] + k[..., None] * cell.reciprocal_invA[1]
    inside = torch.tensor(np.linalg.norm(g, axis=-1) < g_max_invA, device=device)
    v_g = fourier_potential_V(cell, g)
    potential = np.fft.ifft2(v_g).real * (sizes[0] * sizes[1])
    phase = interaction_constant_per_VA(energy_keV) * slice_A * potential * (1 + 1j * absorption)
    transmission = torch.tensor(np.exp(1j * phase), dtype=torch.complex64, device=device)
    transmission = torch.fft.ifft2(torch.fft.fft2(transmission) * inside)
    axis = torch.linspace(-k_max_invA, k_max_invA, nk, device=device, dtype=torch.float64)
    ky, kx = torch.meshgrid(axis + tilt_invA[1], axis + tilt_invA[0], indexing="ij")
    gx, gy = torch.tensor(g[..., 0], device=device), torch.tensor(g[..., 1], device=device)
    square = (gx + kx.reshape(-1, 1, 1)) ** 2 + (gy + ky.reshape(-1, 1, 1)) ** 2
    propagator = torch.polar(inside.double().expand_as(square), -math.pi * wavelength * slice_A * square).to(torch.complex64)
    del square
    steps = np.maximum(1, np.round(np.asarray(thicknesses_A) / slice_A).astype(int))
    wave = torch.ones((nk * nk, *sizes), dtype=torch.complex64, device=device)
    kept: dict[int, torch.Tensor] = {}
    for step in range(1, int(steps.max()) + 1):
        wave = torch.fft.fft2(wave * transmission) * propagator
        if step in steps:
            kept[step] = wave / (sizes[0] * sizes[1])
        wave = torch.fft.ifft2(wave)
    stack = torch.stack([kept[int(s)] for s in steps]).reshape(len(steps), nk * nk, -1)
    bright = (stack.abs().square().amax((0, 1)) > keep_intensity).nonzero()[:, 0]
    index = bright.cpu().numpy()
    g_kept = g.reshape(-1, 2)[index]
    amplitude = stack[:, :, bright].permute(0, 2, 1).reshape(len(steps), len(index), nk, nk)
    demodulate = half_propagation(g_kept, axis.cpu().numpy(), tilt_invA, wavelength, steps * slice_A)
    hk = np.stack([h.ravel()[index], k.ravel()[index]], 1).round().astype(int)
    return Beams(
        hk,
        g_kept,
        np.abs(v_g.reshape(-1)[index]),
        energy_keV,
        k_max_invA,
        steps * slice_A,
        np.asarray(tilt_invA, float),
        amplitude * torch.tensor(demodulate, dtype=torch.complex64, device=device).conj(),
    )


def half_propagation(
    g_invA: np.ndarray, axis_invA: np.ndarray, tilt_invA: tuple[float, float], wavelength: float, thickness_A: np.ndarray
) -> np.ndarray:
    """Phase of free propagation through half the slab of beams g + k, complex (t, n, nk, nk)."""
    qx = g_invA[:, 0, None, None] + axis_invA[None, None, :] + tilt_invA[0]
    qy = g_invA[:, 1, None, None] + axis_invA[None, :, None] + tilt_invA[1]
    return np.exp(-0.5j * np.pi * wavelength * np.asarray(thickness_A)[:, None, None, None] * (qx**2 + qy**2))
