"""Units as programs write them, and the physics of the beam, against published numbers."""

from __future__ import annotations

import pytest

from napari_emdl.base.physics import interaction_constant_per_VA, semiangle_invA, wavelength_A
from napari_emdl.base.units import parse_unit

LENGTHS = {
    "m": 1e9, "cm": 1e7, "mm": 1e6, "um": 1e3, "µm": 1e3, "μm": 1e3, "\\u00B5m": 1e3, "$\\mu$m": 1e3, "micron": 1e3, "nm": 1.0,
    "nanometers": 1.0, "Å": 0.1, "\u212b": 0.1, "A": 0.1, "ang": 0.1, "Angstrom": 0.1, "\\AA": 0.1, "pm": 1e-3,
    "picometer": 1e-3, "inch": 2.54e7, "in": 2.54e7, "metres": 1e9, "[nm]": 1.0, "$\\mathrm{nm}$": 1.0,
}  # fmt: skip
RECIPROCAL_PER_A = {
    "1/Å": 1.0, "A^-1": 1.0, "k_A^-1": 1.0, "$\\AA^{-1}$": 1.0, "Å⁻¹": 1.0, "1/nm": 0.1, "nm-1": 0.1, "$nm^{-1}$": 0.1,
    "k_nm^{-1}": 0.1, "nm**-1": 0.1, "1/pm": 100.0, "1/m": 1e-10, "per_nm": 0.1, "inverse_angstrom": 1.0, "q_A^-1": 1.0,
}  # fmt: skip
TIMES = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "min": 60.0}
ANGLES = {"rad": 1000.0, "mrad": 1.0, "µrad": 1e-3, "deg": 17.4532925, "°": 17.4532925, "degrees": 17.4532925}


@pytest.mark.parametrize(
    ("dimension", "known"),
    [("length", LENGTHS), ("reciprocal", RECIPROCAL_PER_A), ("time", TIMES), ("angle", ANGLES)],
)
def test_units_of_many_programs(dimension, known):
    for text, factor in known.items():
        assert parse_unit(text) == (dimension, pytest.approx(factor, rel=1e-8)), text


@pytest.mark.parametrize("text", [None, "", "px", "pixel", "counts", "1/px", "1/s", "per", "/", "-1", "1/", "furlong"])
def test_what_is_no_unit_of_ours_is_unknown(text):
    assert parse_unit(text) is None


@pytest.mark.parametrize(
    ("energy_keV", "wavelength", "sigma"),
    [(60, 0.0486606, 1.1357e-3), (80, 0.0417572, 1.0088e-3), (100, 0.0370144, 9.2440e-4), (200, 0.0250793, 7.2884e-4),
     (300, 0.0196875, 6.5262e-4)],
)  # fmt: skip
def test_electrons_have_the_wavelength_of_the_tables(energy_keV, wavelength, sigma):
    """Kirkland, Advanced Computing in Electron Microscopy, tables 2.2 and 5.1."""
    assert wavelength_A(energy_keV) == pytest.approx(wavelength, rel=1e-5)
    assert interaction_constant_per_VA(energy_keV) == pytest.approx(sigma, rel=1e-4)
    assert semiangle_invA(21.4, energy_keV) == pytest.approx(0.0214 / wavelength, rel=1e-5)


@pytest.mark.parametrize("energy_keV", [0, -80, float("nan")])
def test_an_energy_that_cannot_be_is_refused(energy_keV):
    with pytest.raises(ValueError, match="must be positive"):
        wavelength_A(energy_keV)
