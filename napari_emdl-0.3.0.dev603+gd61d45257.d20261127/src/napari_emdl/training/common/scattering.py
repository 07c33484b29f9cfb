"""Electron scattering factors (Lobato and Van Dyck 2014)."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

import numpy as np

from napari_emdl.base.physics import POTENTIAL_V_A2


@cache
def _lobato() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    text = files("napari_emdl.training").joinpath("data/lobato_2014.json").read_text("utf-8")
    table = json.loads(text)["elements"]
    return {symbol: (np.array(row["a"]), np.array(row["b"])) for symbol, row in table.items()}


def scattering_factor_A(symbol: str, g_invA: np.ndarray) -> np.ndarray:
    """Electron scattering factor f_e(g) of a neutral atom.

    Parameters
    ----------
    symbol
        Chemical symbol, H to Lr.
    g_invA
        Spatial frequency g = 2 sin(theta) / wavelength in 1/angstrom, any shape.

    Returns
    -------
    ndarray
        f_e in angstrom (first Born approximation, non-relativistic), same shape as `g_invA`.
    """
    try:
        a, b = _lobato()[symbol]
    except KeyError:
        raise ValueError(f"no scattering factor for element {symbol!r}; use a chemical symbol from H to Lr") from None
    x = np.square(np.asarray(g_invA, dtype=float))[..., None] * b
    return np.sum(a * (2 + x) / np.square(1 + x), axis=-1)


def projected_potential_VA3(symbol: str, g_invA: np.ndarray, u2_A2: float = 0.0) -> np.ndarray:
    """Fourier transform of an atom's projected potential in V A^3, damped by a Debye-Waller factor.

    Divided by a cell's projected area (A^2) it gives that cell's Fourier coefficient in V A. `u2_A2` is the mean square
    displacement along one axis, so the damping is exp(-2 pi^2 u2 g^2).
    """
    g2 = np.square(np.asarray(g_invA, dtype=float))
    return POTENTIAL_V_A2 * scattering_factor_A(symbol, g_invA) * np.exp(-2 * np.pi**2 * u2_A2 * g2)
