"""Relativistic electron optics: the few constants every part of the package shares."""

from __future__ import annotations

import math

ELECTRON_REST_ENERGY_KEV = 510.99895
HC_KEV_A = 12.398419843
#: h^2 / (2 pi m0 e) in V A^2: turns an electron scattering factor (A) per area (A^2) into a projected potential (V A).
POTENTIAL_V_A2 = 47.878009


def wavelength_A(energy_keV: float) -> float:
    """Relativistic de Broglie wavelength of an electron in angstrom.

    Parameters
    ----------
    energy_keV
        Kinetic energy in keV.
    """
    if not energy_keV > 0:
        raise ValueError(f"beam energy must be positive, got {energy_keV} keV")
    return HC_KEV_A / math.sqrt(energy_keV * (2 * ELECTRON_REST_ENERGY_KEV + energy_keV))


def interaction_constant_per_VA(energy_keV: float) -> float:
    """Interaction parameter sigma in rad / (V A), so that phase = sigma * projected potential.

    Kirkland, Advanced Computing in Electron Microscopy, eq. 5.6.
    """
    wavelength = wavelength_A(energy_keV)
    voltage = energy_keV * 1e3
    ratio = (ELECTRON_REST_ENERGY_KEV + energy_keV) / (2 * ELECTRON_REST_ENERGY_KEV + energy_keV)
    return 2 * math.pi / (wavelength * voltage) * ratio


def semiangle_invA(semiangle_mrad: float, energy_keV: float) -> float:
    """Radius of a disk of the given convergence semiangle in 1/angstrom."""
    return semiangle_mrad * 1e-3 / wavelength_A(energy_keV)
