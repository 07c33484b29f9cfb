"""Dynamical diffraction period by period: beams over a fine grid of directions, with absorption, and patterns of them.

The dynamical equations of :mod:`.bloch` stepped along the beam, scattering and propagation in turn (split operators, second
order in the step). Every period of the crystal gives the beams at that thickness, and a step is one matrix product for all
directions, so directions may be a fraction of a pixel apart: in a thick crystal the fringes inside a disk are finer than a
pixel, and too coarse a grid turns them into broad contrast that no detector would see.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.physics import ELECTRON_REST_ENERGY_KEV, wavelength_A
from napari_emdl.jobs.control import Control
from napari_emdl.samples.bloch import DEBYE_WALLER_A2, Zone, scattering_factor_A

Floats = NDArray[np.float64]

#: Samples a pixel and axis when a pattern is rendered.
_SUBPIXELS = 2
#: Distance of incident directions at most, in 1/angstrom. A third of it changes the beams of 60 nm by 2e-4.
_FINE_INVA = 0.0042
_DIRECTIONS_PER_BLOCK = 1024
#: h / (m0 c) in angstrom.
_COMPTON_A = 0.024263102


@dataclass(frozen=True)
class Beams:
    """Intensity of every beam over incident directions, averaged over the cells of a grid.

    Attributes
    ----------
    hk
        (G, 2) indices of the beams.
    step_invA
        Distance of grid points; they lie at (i + 1/2) * step, the same for row and col, as many below zero as above.
    intensity
        Whole periods -> (G, K, K) float32.
    lost
        Whole periods -> share of the electrons that thermal diffuse scattering took out of all beams.
    """

    hk: NDArray[np.int64]
    step_invA: float
    intensity: dict[int, NDArray[np.float32]]
    lost: dict[int, float]


def absorption_invA2(zone: Zone, hk: NDArray[np.int64], energy_keV: float) -> Floats:
    """(n,) U'_g of thermal diffuse scattering by independent atoms, real for a crystal with a centre of symmetry at the origin.

    Hall and Hirsch, Proc. R. Soc. A 286 (1965) 158; in the form of Bird and King, Acta Cryst. A 46 (1990) 202.
    """
    length = np.linalg.norm(hk @ zone.g_invA, axis=1)
    unique, back = np.unique(length.round(6), return_inverse=True)
    axis = np.linspace(-2.5, 2.5, 101)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    gamma = 1 + energy_keV / ELECTRON_REST_ENERGY_KEV
    beta = np.sqrt(1 - 1 / gamma**2)
    form = np.empty(len(unique))
    for i, g in enumerate(unique):
        # s = sin(theta) / wavelength, half of g; the two scattering events share it
        first, second = (np.asarray(np.hypot(x + side * g / 4, y), np.float64) for side in (1, -1))
        thermal = 1 - np.exp(-2 * DEBYE_WALLER_A2 * (x**2 + y**2 - g**2 / 16))
        product = scattering_factor_A(zone.occupancy, 2 * first) * scattering_factor_A(zone.occupancy, 2 * second)
        form[i] = 2 * _COMPTON_A / beta * float((product * thermal).sum()) * (axis[1] - axis[0]) ** 2
    damped = form * np.exp(-DEBYE_WALLER_A2 * np.square(unique) / 4)
    structure = np.exp(-2j * np.pi * hk @ zone.atoms.T).sum(axis=1).real
    return np.asarray(gamma * damped[back] * structure / (np.pi * zone.volume_A3), dtype=np.float64)


def propagate(
    zone: Zone,
    energy_keV: float,
    reach_invA: float,
    pixel_invA: float,
    periods: Iterable[int],
    g_max_invA: float = 1.3,
    control: Control | None = None,
) -> Beams:
    """Beams of a crystal that is so many periods thick.

    Parameters
    ----------
    zone
        Crystal with mirrors across both axes, such as :func:`napari_emdl.samples.bloch.diamond_110`: a quarter of the
        directions is computed.
    reach_invA
        Directions go up to this along both axes, convergence and tilt together.
    pixel_invA
        Detector pixel; the grid of the result is half of it.
    periods
        Thicknesses wanted, in whole periods of the crystal along the beam.
    """
    wanted = sorted({int(n) for n in periods if n > 0})
    hk = zone.beams(g_max_invA)
    g = hk @ zone.g_invA
    mirrors = [_mirrored(g, axis) for axis in (0, 1)]
    difference = (hk[:, None] - hk[None]).reshape(-1, 2)
    potential = zone.potential_invA2(difference, energy_keV).real + 1j * absorption_invA2(zone, difference, energy_keV)
    step_A = zone.period_A
    phase = np.pi * wavelength_A(energy_keV) * step_A
    value, vector = np.linalg.eig(potential.reshape(len(hk), len(hk)))
    scatter = ((vector * np.exp(1j * phase * value)) @ np.linalg.inv(vector)).astype(np.complex64)
    cell = pixel_invA / _SUBPIXELS
    fine = max(1, int(np.ceil(cell / _FINE_INVA)))
    cells = int(np.ceil(reach_invA / cell)) + 1
    axis = (np.arange(cells * fine) + 0.5) * cell / fine
    out = {n: np.empty((len(hk), 2 * cells, 2 * cells), np.float32) for n in wanted}
    rows_per_block = max(1, _DIRECTIONS_PER_BLOCK // (fine * len(axis))) * fine
    for start in range(0, len(axis), rows_per_block):
        if control is not None:
            control.check()
        some = axis[start : start + rows_per_block]
        k = np.stack(np.meshgrid(some, axis, indexing="ij"), axis=-1).reshape(-1, 2)
        drift = np.exp(-0.5j * phase * (2 * g @ k.T + np.square(g).sum(axis=1)[:, None])).astype(np.complex64)
        whole = drift * drift
        psi = np.zeros((len(hk), len(k)), np.complex64)
        psi[0] = 1
        psi *= drift
        done = 0
        for n in wanted:
            while done < n:
                psi = scatter @ psi
                done += 1
                psi *= whole
            bright = np.square(psi.real) + np.square(psi.imag)
            mean = bright.reshape(len(hk), len(some) // fine, fine, cells, fine).mean(axis=(2, 4))
            at = start // fine
            out[n][:, cells + at : cells + at + mean.shape[1], cells:] = mean
    for table in out.values():
        table[:, cells:, :cells] = table[mirrors[1], cells:, : cells - 1 : -1]
        table[:, :cells] = table[mirrors[0], : cells - 1 : -1]
    middle = slice(cells // 2, 2 * cells - cells // 2)
    lost = {n: float(1 - table[:, middle, middle].sum(axis=0).mean()) for n, table in out.items()}
    return Beams(hk, cell, out, lost)


def _mirrored(g: Floats, axis: int) -> NDArray[np.intp]:
    """(G,) index of the beam at each beam's mirror image across a row or col through the origin."""
    sign = np.where(np.arange(2) == axis, -1.0, 1.0)
    apart = np.linalg.norm((g * sign)[:, None] - g[None], axis=2)
    assert apart.min(axis=1).max() < 1e-6, "the crystal has no mirror across this axis"
    return apart.argmin(axis=1)


def render(
    beams: Beams,
    periods: int,
    g_px: Floats,
    origin_px: Floats,
    radius_px: float,
    tilt_invA: Floats,
    shape: tuple[int, int],
    edge_px: float = 0.5,
) -> Floats:
    """(rows, cols) diffraction pattern of unit incident intensity, without what was lost to diffuse scattering.

    Parameters
    ----------
    g_px
        (2, 2) lattice vectors on the detector, strain included.
    tilt_invA
        (2,) transverse wave vector of the beam's axis: mistilt of the crystal.
    edge_px
        Softness of the aperture's edge.
    """
    reach = radius_px + 3 * edge_px
    half = int(np.ceil(reach + 1))
    centre = origin_px + beams.hk @ g_px
    table = beams.intensity[periods]
    seen = np.all((centre > -reach) & (centre < np.array(shape) + reach), axis=1) & (table.max(axis=(1, 2)) > 1e-6)
    centre, beam = centre[seen], np.flatnonzero(seen)
    low = np.rint(centre).astype(np.intp)
    n = _SUBPIXELS
    # positions of the samples from the whole pixel next to the centre; they are as far apart as the grid's points
    sample = (np.arange(n * (2 * half + 1)) + 0.5) / n - half - 0.5
    size = table.shape[1]
    parts, index = [], []
    for axis in (0, 1):
        start = (sample[0] + low[:, axis] - centre[:, axis]) * n + tilt_invA[axis] / beams.step_invA + size / 2 - 0.5
        whole = np.floor(start).astype(np.intp)
        parts.append((start - whole).astype(np.float32)[:, None, None])
        index.append(np.clip(whole[:, None] + np.arange(len(sample) + 1), 0, size - 1))
    value = table[beam[:, None, None], index[0][:, :, None], index[1][:, None, :]]
    value = value[:, :-1] * (1 - parts[0]) + value[:, 1:] * parts[0]
    value = value[:, :, :-1] * (1 - parts[1]) + value[:, :, 1:] * parts[1]
    away = [(sample + low[:, i, None] - centre[:, i, None]).astype(np.float32) for i in (0, 1)]
    value *= _soft_step((radius_px - np.hypot(away[0][:, :, None], away[1][:, None, :])) / edge_px)
    pixel = value.reshape(len(beam), 2 * half + 1, n, 2 * half + 1, n).mean(axis=(2, 4))
    rows, cols = (low[:, i, None] + np.arange(-half, half + 1) for i in (0, 1))
    ok = ((rows >= 0) & (rows < shape[0]))[:, :, None] & ((cols >= 0) & (cols < shape[1]))[:, None, :]
    place = (rows[:, :, None] * shape[1] + cols[:, None, :])[ok]
    flat = np.bincount(place, weights=pixel[ok].astype(np.float64), minlength=shape[0] * shape[1])
    return np.asarray(flat / (np.pi * radius_px**2), dtype=np.float64).reshape(shape)


def _soft_step(x: NDArray[Any]) -> NDArray[Any]:
    """Smooth step, 1 / (1 + exp(-1.7 x)): within a hundredth of the error function's."""
    return 1 / (1 + np.exp(np.clip(-1.702 * x, -40, 40)))
