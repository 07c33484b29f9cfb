"""Structure prototypes: centring, cell shape and basis of common crystal structure types.

Positions are textbook fractional coordinates (Strukturbericht prototypes) of one primitive basis in the conventional cell;
the centring adds the rest. Species are letters that `crystals.py` replaces by elements.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

_H = (1 / 3, 2 / 3)
_T = (2 / 3, 1 / 3)

#: Primitive basis (rows, in conventional axes) of each lattice centring.
CENTRING: dict[str, np.ndarray] = {
    "P": np.eye(3),
    "I": np.array([[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]]),
    "F": np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]),
    "C": np.array([[0.5, -0.5, 0], [0.5, 0.5, 0], [0, 0, 1]]),
    "R": np.array([[2 / 3, 1 / 3, 1 / 3], [-1 / 3, 1 / 3, 1 / 3], [-1 / 3, -2 / 3, 1 / 3]]),
}


@dataclass(frozen=True)
class Prototype:
    """One structure type.

    Attributes
    ----------
    name
        Common name, such as ``"rutile"``.
    centring
        Key of `CENTRING`.
    axes
        b/a and c/a.
    gamma_deg
        Angle between a and b; alpha and beta are 90 degrees in all prototypes.
    sites
        Species letter and the fractional coordinates of its primitive basis.
    pools
        For each species letter the name of the element pool that `crystals.py` draws from.
    """

    name: str
    centring: str
    axes: tuple[float, float]
    gamma_deg: float
    sites: dict[str, list[tuple[float, float, float]]]
    pools: dict[str, str] = field(default_factory=dict)

    @property
    def system(self) -> str:
        """Crystal system: cubic, tetragonal, hexagonal or orthorhombic."""
        if self.gamma_deg == 120:
            return "hexagonal"
        if self.axes == (1.0, 1.0):
            return "cubic"
        return "tetragonal" if self.axes[0] == 1.0 else "orthorhombic"


def _pm(points: list[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    """Add the inverse of every point."""
    return points + [(-x, -y, -z) for x, y, z in points]


def _sixfold_h(x: float, z: float = 0.25) -> list[tuple[float, float, float]]:
    """Wyckoff position 6h of P6_3/mmc."""
    return _pm([(x, 2 * x, z), (-2 * x, -x, z), (x, -x, z)])


def _pnma_4c(x: float, z: float) -> list[tuple[float, float, float]]:
    return [(x, 0.25, z), (0.5 - x, 0.75, 0.5 + z), (-x, 0.75, -z), (0.5 + x, 0.25, 0.5 - z)]


def _pnma_8d(x: float, y: float, z: float) -> list[tuple[float, float, float]]:
    half = [(x, y, z), (0.5 - x, -y, 0.5 + z), (-x, 0.5 + y, -z), (0.5 + x, 0.5 - y, 0.5 - z)]
    return _pm(half)


def _pyrite_8c(u: float) -> list[tuple[float, float, float]]:
    return _pm([(u, u, u), (0.5 + u, 0.5 - u, -u), (-u, 0.5 + u, 0.5 - u), (0.5 - u, -u, 0.5 + u)])


def _p213_4a(u: float) -> list[tuple[float, float, float]]:
    return [(u, u, u), (0.5 + u, 0.5 - u, -u), (-u, 0.5 + u, 0.5 - u), (0.5 - u, -u, 0.5 + u)]


def _spinel_anions(u: float) -> list[tuple[float, float, float]]:
    a = [(u, u, u), (u, -u, -u), (-u, u, -u), (-u, -u, u)]
    return a + [(0.25 - x, 0.25 - y, 0.25 - z) for x, y, z in a]


_FACES = [(0.5, 0.5, 0.0), (0.5, 0.0, 0.5), (0.0, 0.5, 0.5)]
_BCC = [(0.0, 0.0, 0.0), (0.5, 0.5, 0.5)]
_DIAMOND = [(0.0, 0.0, 0.0), (0.25, 0.25, 0.25)]
_PYROCHLORE = [(0.625, 0.625, 0.625), (0.625, 0.875, 0.875), (0.875, 0.625, 0.875), (0.875, 0.875, 0.625)]
_O = (0.0, 0.0, 0.0)


def _cubic(name: str, centring: str, sites: dict, pools: dict) -> Prototype:
    return Prototype(name, centring, (1.0, 1.0), 90, sites, pools)


def _tetra(name: str, centring: str, c: float, sites: dict, pools: dict) -> Prototype:
    return Prototype(name, centring, (1.0, c), 90, sites, pools)


def _hexa(name: str, centring: str, c: float, sites: dict, pools: dict) -> Prototype:
    return Prototype(name, centring, (1.0, c), 120, sites, pools)


_M = {"A": "metal"}
_MX = {"A": "cation", "B": "anion"}
_MM = {"A": "metal", "B": "metal"}
_MMX = {"A": "big", "B": "cation", "C": "oxide"}

PROTOTYPES: tuple[Prototype, ...] = (
    _cubic("fcc", "F", {"A": [_O]}, _M),
    _cubic("bcc", "I", {"A": [_O]}, _M),
    _cubic("simple cubic", "P", {"A": [_O]}, _M),
    _cubic("diamond", "F", {"A": _DIAMOND}, {"A": "semi"}),
    _hexa("hcp", "P", 1.60, {"A": [(*_H, 0.25), (*_T, 0.75)]}, _M),
    _hexa("dhcp", "P", 3.22, {"A": [_O, (0, 0, 0.5), (*_H, 0.25), (*_T, 0.75)]}, _M),
    _tetra("beta-tin", "I", 0.546, {"A": [_O, (0, 0.5, 0.25)]}, _M),
    _hexa("graphite", "P", 2.72, {"A": [(0, 0, 0.25), (0, 0, 0.75), (*_H, 0.25), (*_T, 0.75)]}, {"A": "semi"}),
    _cubic("rock salt", "F", {"A": [_O], "B": [(0.5, 0.5, 0.5)]}, _MX),
    _cubic("CsCl", "P", {"A": [_O], "B": [(0.5, 0.5, 0.5)]}, _MM),
    _cubic("zinc blende", "F", {"A": [_O], "B": [(0.25, 0.25, 0.25)]}, _MX),
    _hexa("wurtzite", "P", 1.63, {"A": [(*_H, 0), (*_T, 0.5)], "B": [(*_H, 0.375), (*_T, 0.875)]}, _MX),
    _hexa("NiAs", "P", 1.39, {"A": [_O, (0, 0, 0.5)], "B": [(*_H, 0.25), (*_T, 0.75)]}, _MX),
    _tetra("litharge", "P", 1.265, {"B": [_O, (0.5, 0.5, 0)], "A": [(0, 0.5, 0.237), (0.5, 0, -0.237)]}, _MX),
    _cubic("FeSi", "P", {"A": _p213_4a(0.137), "B": _p213_4a(0.842)}, {"A": "metal", "B": "semi"}),
    _tetra("L1_0", "P", 1.33, {"A": [_O], "B": [(0.5, 0.5, 0.5)]}, _MM),
    _cubic("L1_2", "P", {"A": [_O], "B": _FACES}, _MM),
    _cubic("fluorite", "F", {"A": [_O], "B": _pm([(0.25, 0.25, 0.25)])}, _MX),
    _cubic("pyrite", "P", {"A": [_O, *_FACES], "B": _pyrite_8c(0.385)}, _MX),
    _cubic("cuprite", "P", {"B": _BCC, "A": [(0.25,) * 3, (0.75, 0.75, 0.25), (0.75, 0.25, 0.75), (0.25, 0.75, 0.75)]}, _MX),
    _tetra(
        "rutile",
        "P",
        0.644,
        {"A": _BCC, "B": [(0.305, 0.305, 0), (-0.305, -0.305, 0), (0.805, 0.195, 0.5), (0.195, 0.805, 0.5)]},
        _MX,
    ),
    _tetra(
        "anatase",
        "I",
        2.51,
        {"A": [_O, (0, 0.5, 0.25)], "B": [(0, 0, 0.208), (0, 0, -0.208), (0, 0.5, 0.458), (0, 0.5, 0.042)]},
        _MX,
    ),
    _hexa("CdI2", "P", 1.60, {"A": [_O], "B": _pm([(*_H, 0.25)])}, _MX),
    _hexa(
        "MoS2-2H",
        "P",
        3.89,
        {"A": [(*_H, 0.25), (*_T, 0.75)], "B": [(*_H, 0.621), (*_T, 0.121), (*_T, 0.379), (*_H, 0.879)]},
        {"A": "metal", "B": "chalcogen"},
    ),
    _hexa("AlB2", "P", 1.08, {"A": [_O], "B": [(*_H, 0.5), (*_T, 0.5)]}, {"A": "metal", "B": "semi"}),
    _hexa("C14 Laves", "P", 1.64, {"A": _pm([(*_H, 0.062), (*_T, 0.562)]), "B": [_O, (0, 0, 0.5), *_sixfold_h(0.83)]}, _MM),
    _cubic("C15 Laves", "F", {"A": _DIAMOND, "B": _PYROCHLORE}, _MM),
    _tetra("MoSi2", "I", 2.45, {"A": [_O], "B": _pm([(0, 0, 1 / 3)])}, {"A": "metal", "B": "semi"}),
    _cubic(
        "half-Heusler",
        "F",
        {"A": [_O], "B": [(0.25,) * 3], "C": [(0.5,) * 3]},
        {"A": "metal", "B": "metal", "C": "semi"},
    ),
    _cubic(
        "Heusler",
        "F",
        {"A": [_O], "B": _pm([(0.25,) * 3]), "C": [(0.5,) * 3]},
        {"A": "metal", "B": "metal", "C": "semi"},
    ),
    _cubic("perovskite", "P", {"A": [_O], "B": [(0.5,) * 3], "C": _FACES}, _MMX),
    _tetra(
        "tetragonal perovskite",
        "P",
        1.06,
        {"A": [_O], "B": [(0.5, 0.5, 0.54)], "C": [(0.5, 0.5, 0.11), (0.5, 0, 0.62), (0, 0.5, 0.62)]},
        _MMX,
    ),
    Prototype(
        "orthorhombic perovskite",
        "P",
        (1.37, 0.95),
        90,
        {
            "A": _pnma_4c(0.05, 0.99),
            "B": [(0, 0, 0.5), (0.5, 0, 0), (0, 0.5, 0.5), (0.5, 0.5, 0)],
            "C": [*_pnma_4c(0.48, 0.09), *_pnma_8d(0.29, 0.05, 0.70)],
        },
        _MMX,
    ),
    _cubic("ReO3", "P", {"A": [_O], "B": [(0.5, 0, 0), (0, 0.5, 0), (0, 0, 0.5)]}, _MX),
    _cubic("D0_3", "F", {"A": [_O], "B": [(0.5,) * 3, (0.25,) * 3, (0.75,) * 3]}, _MM),
    _tetra("D0_22", "I", 2.2, {"A": [_O], "B": [(0.5, 0.5, 0), (0.5, 0, 0.25), (0, 0.5, 0.25)]}, _MM),
    _hexa("D0_19", "P", 0.80, {"A": [(*_H, 0.25), (*_T, 0.75)], "B": _sixfold_h(0.833)}, _MM),
    _hexa(
        "corundum",
        "R",
        2.73,
        {
            "A": [(0, 0, 0.352), (0, 0, 0.148), (0, 0, -0.352), (0, 0, -0.148)],
            "B": _pm([(0.306, 0, 0.25), (0, 0.306, 0.25), (-0.306, -0.306, 0.25)]),
        },
        {"A": "cation", "B": "oxide"},
    ),
    _cubic(
        "spinel",
        "F",
        {"A": _DIAMOND, "B": _PYROCHLORE, "C": _spinel_anions(0.3875)},
        {"A": "cation", "B": "cation", "C": "oxide"},
    ),
    _cubic(
        "A15",
        "P",
        {"A": _BCC, "B": [(0.25, 0, 0.5), (0.75, 0, 0.5), (0.5, 0.25, 0), (0.5, 0.75, 0), (0, 0.5, 0.25), (0, 0.5, 0.75)]},
        _MM,
    ),
    _cubic("CaB6", "P", {"A": [_O], "B": _pm([(0.5, 0.5, 0.2), (0.5, 0.2, 0.5), (0.2, 0.5, 0.5)])}, {"A": "big", "B": "semi"}),
    _tetra(
        "K2NiF4",
        "I",
        3.3,
        {"A": _pm([(0, 0, 0.355)]), "B": [_O], "C": [(0.5, 0, 0), (0, 0.5, 0), (0, 0, 0.155), (0, 0, -0.155)]},
        _MMX,
    ),
    _tetra(
        "ThCr2Si2",
        "I",
        2.6,
        {"A": [_O], "B": [(0, 0.5, 0.25), (0.5, 0, 0.25)], "C": _pm([(0, 0, 0.38)])},
        {"A": "big", "B": "metal", "C": "semi"},
    ),
    Prototype(
        "CrB", "C", (2.65, 0.99), 90, {"A": _pm([(0, 0.146, 0.25)]), "B": _pm([(0, 0.44, 0.25)])}, {"A": "metal", "B": "semi"}
    ),
    Prototype(
        "FeB", "P", (0.54, 0.74), 90, {"A": _pnma_4c(0.18, 0.125), "B": _pnma_4c(0.036, 0.61)}, {"A": "metal", "B": "semi"}
    ),
    _tetra(
        "chalcopyrite",
        "I",
        1.97,
        {
            "A": [_O, (0, 0.5, 0.25)],
            "B": [(0, 0, 0.5), (0, 0.5, 0.75)],
            "C": [(0.25, 0.25, 0.125), (0.75, 0.75, 0.125), (0.75, 0.25, 0.875), (0.25, 0.75, 0.875)],
        },
        {"A": "cation", "B": "cation", "C": "chalcogen"},
    ),
    _hexa(
        "Bi2Te3", "R", 6.95, {"A": _pm([(0, 0, 0.4)]), "B": [_O, (0, 0, 0.21), (0, 0, -0.21)]}, {"A": "big", "B": "chalcogen"}
    ),
)
