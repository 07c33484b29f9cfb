"""Bloch waves: dynamical diffraction of a perfect crystal, direction by direction; :mod:`.propagation` is tested against it.

Eigenvalue form of the dynamical equations in the zero-order Laue zone (De Graef, Introduction to Conventional TEM, 2003,
section 5.7): (2 K s_g) psi_g + sum_h U_(g-h) psi_h = 2 K gamma psi_g, solved for every direction in the convergent cone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_emdl.base.physics import ELECTRON_REST_ENERGY_KEV, wavelength_A

Floats = NDArray[np.float64]

#: Electron scattering factors sum a exp(-b g^2 / 4) in angstrom (Doyle and Turner 1968).
DOYLE_TURNER = {
    "Si": ((2.1293, 2.5333, 0.8349, 0.3216), (57.7748, 16.4756, 2.8796, 0.3860)),
    "Ge": ((2.4467, 2.7015, 1.6157, 0.6009), (55.8930, 14.3930, 2.4461, 0.3415)),
}
#: B of exp(-B s^2) at room temperature.
DEBYE_WALLER_A2 = 0.5


def scattering_factor_A(occupancy: dict[str, float], g_invA: Floats) -> Floats:
    """Mean electron scattering factor of a site at spatial frequencies of any shape, in angstrom."""
    quarter = np.square(g_invA) / 4
    total = np.zeros(quarter.shape)
    for symbol, fraction in occupancy.items():
        a, b = DOYLE_TURNER[symbol]
        total += fraction * sum(ai * np.exp(-bi * quarter) for ai, bi in zip(a, b, strict=True))
    return total


@dataclass(frozen=True)
class Zone:
    """Projected crystal: everything the zero-order Laue zone knows of it.

    Attributes
    ----------
    g_invA
        (2, 2) reciprocal basis of the projected primitive cell, rows, in 1/angstrom.
    atoms
        (n, 2) fractional coordinates in the projected cell.
    occupancy
        Element -> fraction, the same at every site.
    volume_A3
        Volume of the crystal that belongs to one projected cell.
    period_A
        Length of the crystal's period along the beam.
    """

    g_invA: Floats
    atoms: Floats
    occupancy: dict[str, float]
    volume_A3: float
    period_A: float

    def beams(self, g_max_invA: float) -> NDArray[np.int64]:
        """(G, 2) indices of the beams up to a length, the direct beam first."""
        reach = int(np.ceil(g_max_invA / np.linalg.norm(self.g_invA, axis=1).min())) + 2
        hk = np.stack(np.meshgrid(*(np.arange(-reach, reach + 1),) * 2, indexing="ij"), axis=-1).reshape(-1, 2)
        length = np.linalg.norm(hk @ self.g_invA, axis=1)
        hk, length = hk[length <= g_max_invA], length[length <= g_max_invA]
        return np.asarray(hk[np.argsort(length, kind="stable")], dtype=np.int64)

    def potential_invA2(self, hk: NDArray[np.int64], energy_keV: float) -> NDArray[np.complex128]:
        """U_g = gamma F_g / (pi V) of the reflections (n, 2)."""
        g2 = np.square(hk @ self.g_invA).sum(axis=-1)
        factor = scattering_factor_A(self.occupancy, np.sqrt(g2))
        structure = np.exp(-2j * np.pi * hk @ self.atoms.T).sum(axis=-1)
        gamma = 1 + energy_keV / ELECTRON_REST_ENERGY_KEV
        return gamma * factor * np.exp(-DEBYE_WALLER_A2 * g2 / 4) * structure / (np.pi * self.volume_A3)


def diamond_110(germanium: float = 0.0) -> Zone:
    """Silicon, or a silicon-germanium alloy, along [110]: first axis [1-10], second axis [001]; the lattice is silicon's."""
    a = 5.431
    # reciprocal basis (1-11)/(1-1-1) of the centred rectangular projection: rows along [1-10] and [001]
    g = np.array([[np.sqrt(2) / a, 1 / a], [np.sqrt(2) / a, -1 / a]])
    # the two atoms of the projected primitive cell are the dumbbell's: a / (2 sqrt 2) and a / 4 apart
    cartesian = np.array([[0.0, 0.0], [a / (2 * np.sqrt(2)), a / 4]])
    atoms = cartesian @ g.T
    occupancy = {"Si": 1 - germanium, "Ge": germanium} if germanium else {"Si": 1.0}
    return Zone(g, atoms - atoms.mean(axis=0), occupancy, a**3 / 4, a / np.sqrt(2))


@dataclass(frozen=True)
class DiskTable:
    """Intensity of every beam over incident directions and thicknesses.

    Attributes
    ----------
    hk
        (G, 2) indices of the beams.
    k_invA
        (K,) transverse wave vector of the incident directions, the same grid for row and col.
    thickness_nm
        (T,) thicknesses.
    intensity
        (T, G, K, K) float32, summing to 1 over the beams.
    """

    hk: NDArray[np.int64]
    k_invA: Floats
    thickness_nm: Floats
    intensity: NDArray[np.float32]


def solve(zone: Zone, energy_keV: float, k_invA: ArrayLike, thickness_nm: ArrayLike, g_max_invA: float = 1.3) -> DiskTable:
    """Intensities of all beams up to `g_max_invA`.

    Parameters
    ----------
    k_invA
        (K,) grid of transverse incident wave vectors, convergence and tilt together.
    """
    k, thickness = np.asarray(k_invA, float), np.asarray(thickness_nm, float)
    hk = zone.beams(g_max_invA)
    g = hk @ zone.g_invA
    wave = 1 / wavelength_A(energy_keV)
    matrix: NDArray[Any] = zone.potential_invA2(hk[:, None] - hk[None], energy_keV)
    np.fill_diagonal(matrix, 0)
    if np.abs(matrix.imag).max() < 1e-9 * np.abs(matrix).max():
        matrix = matrix.real.copy()  # a crystal with a centre of symmetry at the origin
    directions = np.stack(np.meshgrid(k, k, indexing="ij"), axis=-1).reshape(-1, 2)
    diagonal = -(2 * directions @ g.T + np.square(g).sum(axis=1))
    out = np.empty((len(thickness), len(hk), len(directions)), np.float32)
    for start in range(0, len(directions), 64):
        rows = slice(start, start + 64)
        stack = np.repeat(matrix[None], len(diagonal[rows]), axis=0)
        stack[:, np.arange(len(hk)), np.arange(len(hk))] += diagonal[rows]
        value, vector = np.linalg.eigh(stack)
        entry = vector[:, 0, :].conj()
        for t, nm in enumerate(thickness):
            phase = np.exp(1j * np.pi * value / wave * nm * 10) * entry
            out[t, :, rows] = np.square(np.abs(np.einsum("dgj,dj->gd", vector, phase)))
    return DiskTable(hk, k, thickness, out.reshape(len(thickness), len(hk), len(k), len(k)))
