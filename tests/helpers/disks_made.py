"""Simple patterns with exact disk positions, shared by the tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special

from napari_emdl.base.peaks import PeakTable

G = np.array([[26.0, 3.0], [-2.0, 24.0]])


def lattice_points(g: NDArray, origin: NDArray, shape: tuple[int, int], margin: float = 8.0) -> tuple[NDArray, NDArray]:
    """Positions (n, 2) inside the detector and their indices (n, 2)."""
    hk = np.stack(np.meshgrid(np.arange(-9, 10), np.arange(-9, 10), indexing="ij"), axis=-1).reshape(-1, 2)
    place = origin + hk @ g
    inside = np.all((place >= margin) & (place <= np.array(shape) - 1 - margin), axis=1)
    return place[inside], hk[inside]


def pattern(
    place: NDArray,
    shape: tuple[int, int],
    radius: float = 5.0,
    height: float = 60.0,
    background: float = 2.0,
    edge: float = 0.6,
) -> NDArray:
    """Expected counts of uniform disks; the one nearest the middle is ten times as bright."""
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    out = np.full(shape, background)
    reach = int(radius + 10 * edge)  # beyond it a disk adds nothing that a float can hold
    central = np.linalg.norm(place - np.array(shape) / 2, axis=1).argmin() if len(place) else -1
    for i, (r, c) in enumerate(place):
        here = tuple(slice(max(0, int(n) - reach), max(0, int(n) + reach + 2)) for n in (r, c))
        distance = np.hypot(rows[here] - r, cols[here] - c)
        out[here] += (10 if i == central else 1) * height * 0.5 * special.erfc((distance - radius) / (np.sqrt(2) * edge))
    return out


def table_of(deformations: NDArray, g: NDArray = G, shape: tuple[int, int] = (256, 256), noise_px: float = 0.0) -> PeakTable:
    """Exact disks of lattices deformed by F (R, C, 2, 2), central disk brightest, with optional jitter."""
    random = np.random.default_rng(1)
    lists = []
    origin = np.array(shape) / 2
    for f in deformations.reshape(-1, 2, 2):
        place, hk = lattice_points(g @ np.linalg.inv(f), origin, shape)
        place = place + noise_px * random.standard_normal(place.shape)
        bright = 100.0 / (1 + (hk**2).sum(axis=1))
        sigma = np.full(len(place), max(noise_px, 0.02))
        lists.append({"row": place[:, 0], "col": place[:, 1], "intensity": bright, "score": bright + 5, "sigma_px": sigma})
    return PeakTable.from_lists(lists, deformations.shape[:2])


def deformation(exx: float, eyy: float, exy: float, turn: float) -> NDArray:
    """Rotation (from the row towards the col axis) after a symmetric stretch."""
    c, s = np.cos(turn), np.sin(turn)
    return np.array([[c, -s], [s, c]]) @ np.array([[1 + exx, exy], [exy, 1 + eyy]])


def lattice_scan(shape: tuple[int, int], noise_px: float = 0.05) -> PeakTable:
    """A large scan of 37 disks a position whose exx runs by 4 % from the first to the last col, of scores between 0.3 and 1."""
    random, n = np.random.default_rng(0), shape[0] * shape[1]
    hk = np.array([(h, k) for h in range(-3, 4) for k in range(-3, 4) if h * h + k * k < 12])
    central = (hk == 0).all(axis=1)
    exx = np.tile(np.linspace(-0.02, 0.02, shape[1]), shape[0])
    reciprocal = np.tile(np.eye(2), (n, 1, 1))
    reciprocal[:, 0, 0] = 1 / (1 + exx)
    place = 128 + np.einsum("kj,jl,nlm->nkm", hk.astype(float), G, reciprocal)
    place += noise_px * random.standard_normal(place.shape)
    score = np.where(central, 1.0, random.uniform(0.3, 1.0, (n, len(hk))))
    columns = {
        "row": place[..., 0].ravel(),
        "col": place[..., 1].ravel(),
        "score": score.ravel(),
        "intensity": np.tile(np.where(central, 5000.0, 500.0), n),
        "sigma_px": np.full(n * len(hk), noise_px),
    }
    attrs = {"detector_shape": (256, 256), "default_min_score": 0.4, "probe_radius_px": 5.0}
    return PeakTable(shape, np.arange(n + 1) * len(hk), columns, attrs)
