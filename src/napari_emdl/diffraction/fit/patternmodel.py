"""Disks of a pattern as a model sees them: a soft-edged aperture, and anything smooth inside; see :mod:`.pattern`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from napari_emdl.diffraction.find.kernels import Crop
from napari_emdl.diffraction.fit.projector import Distortion

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Rounds of reweighted least squares that the places are taken from.
REWEIGHTED = 3
#: Lengths over which the inner intensity changes, in radii, and standard deviation of each in units of the disk's mean.
INNER_SCALES = ((0.8, 2.0),)
#: Components of the inner intensity with less than this share of its variance are left out.
_LEAST_SHARE = 3e-4
#: Width of the zone in which a real edge strays, in units of the edge.
_ZONE = 2.0
#: Expected counts a pixel at least, for its variance.
_LEAST_COUNTS = 0.05


@dataclass(frozen=True)
class Aperture:
    """Soft-edged disk: half height at `radius_px`, blurred with a standard deviation of `edge_px`.

    `ripple` is how far the height near a real edge strays from that, pixel by pixel (a hard edge on whole pixels, a ragged
    aperture). More electrons do not make it less, so that it bounds what the edges of bright disks count.
    """

    radius_px: float
    edge_px: float
    ripple: float = 0.0

    def at(self, row: Floats, col: Floats, parameters: int = 4) -> tuple[Floats, list[Floats]]:
        """Height, and its derivatives by the first of row, col, radius and edge, at offsets from the centre."""
        away = np.hypot(row, col)
        beyond = away - self.radius_px
        slope = np.exp(-0.5 * np.square(beyond / self.edge_px)) / (np.sqrt(2 * np.pi) * self.edge_px)
        outwards = slope / np.maximum(away, 1e-9)
        height = 0.5 * special.erfc(beyond / (np.sqrt(2) * self.edge_px))
        by_shape = [slope, slope * beyond / self.edge_px] if parameters > 2 else []
        return height, [outwards * row, outwards * col, *by_shape]

    def zone(self, row: Floats, col: Floats) -> Floats:
        """How near to the edge, from 1 on it to 0; as wide as a pixel at least."""
        width = _ZONE * max(self.edge_px, 0.5)
        return np.asarray(np.exp(-0.5 * np.square((np.hypot(row, col) - self.radius_px) / width)), dtype=np.float64)


@dataclass
class Look:
    """Disks as seen around one lattice.

    Attributes
    ----------
    corner
        (n, 2) pixel that the crops lie around.
    counts, used, lit, edge
        (n, P) electrons; 1 where a pixel counts; what a disk of even intensity gives there; nearness of the edge.
    slope
        Derivatives (n, P) of the height by row, col, radius and edge, as many as are asked for.
    mean, background, least
        (n, 1), (n,), (n, 1) mean counts of a disk, counts around it, least variance of a pixel.
    variance
        (n, P) of the counts; gets better with every round of least squares.
    """

    corner: NDArray[np.intp]
    counts: Floats
    used: Floats
    lit: Floats
    edge: Floats
    slope: list[Floats]
    mean: Floats
    background: Floats
    least: Floats
    variance: Floats


class PatternModel:
    """Scores and information of disks for one aperture; see the module.

    What is inside a disk is described on its crop's pixels, the same for all disks: products of the functions it is made of are
    computed once, and a disk's normal equations are one row of a matrix product with them.

    Parameters
    ----------
    aperture
        Of the disks.
    distortion
        Of the projector: lattices are those of the undistorted pattern.
    least_share
        Components of the inner intensity with less than this share of its variance are left out.
    """

    def __init__(self, aperture: Aperture, distortion: Distortion | None = None, least_share: float = _LEAST_SHARE) -> None:
        self.aperture, self.distortion = aperture, distortion
        radius = aperture.radius_px
        self._crop = Crop.within(max(1.45 * radius, radius + 3))
        place = np.stack([self._crop.rows, self._crop.cols], axis=1).astype(float)
        square = np.square(place[:, None] - place[None]).sum(axis=2)
        kernel = sum(deviation**2 * np.exp(-square / (2 * (length * radius) ** 2)) for length, deviation in INNER_SCALES)
        value, vector = np.linalg.eigh(kernel)
        keep = value > least_share * value.sum()
        ones = np.ones((len(place), 1))
        self._inner = np.concatenate([ones, vector[:, keep] * np.sqrt(value[keep])], axis=1)
        self._plane = np.concatenate([ones, place / radius], axis=1)
        self._pairs = np.triu_indices(self._inner.shape[1])
        self._inner_inner = self._inner[:, self._pairs[0]] * self._inner[:, self._pairs[1]]
        self._inner_plane = _products(self._inner, self._plane)
        self._plane_plane = _products(self._plane, self._plane)
        blur = np.exp(-square / 2)
        self._blur = blur / blur.sum(axis=1, keepdims=True)
        self.ripple_sums = np.zeros(2)

    def shown(self, place: Floats) -> Floats:
        """(n, 2) where the camera shows what lies at `place`."""
        return place if self.distortion is None else self.distortion.distorted(place)

    def fits(self, centre: Floats, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """(n,) disks that lie wholly on the detector."""
        edge = self.aperture.radius_px
        return np.asarray(np.all((centre >= edge) & (centre <= np.array(shape) - 1 - edge), axis=1))

    def measure(
        self, counts: Floats, hk: NDArray[np.int64], origin: Floats, g: Floats, known: Mask | None = None
    ) -> tuple[Floats, Floats]:
        """Score (n, 4) and information (n, 4, 4) of disks (h, k) for their row and col and for radius and edge.

        Parameters
        ----------
        counts
            (rows, cols) electrons.
        hk
            (n, 2) indices.
        origin, g
            (2,) and (2, 2) in px.
        known
            (rows, cols) False where the detector saw nothing and `counts` are filled from around; None where it saw all.
        """
        return self.told(self.look(counts, hk, origin, g, parameters=4, known=known), REWEIGHTED)

    def look(
        self,
        counts: Floats,
        hk: NDArray[np.int64],
        origin: Floats,
        g: Floats,
        parameters: int = 2,
        known: Mask | None = None,
        of: NDArray[np.intp] | None = None,
    ) -> Look:
        """Disks around lattices.

        Parameters
        ----------
        counts, hk, origin, g, known
            As for :meth:`measure`; or, with `of`, (patterns, rows, cols) electrons and pixels that count, and an origin (n, 2)
            and a lattice (n, 2, 2) for every disk.
        parameters
            2 to ask for their place, 4 for radius and edge as well.
        of
            (n,) which pattern a disk is in.
        """
        if of is None:
            counts, of = counts[None], np.zeros(len(hk), np.intp)
            known = None if known is None else known[None]
            origin, g = np.broadcast_to(origin, (len(hk), 2)), np.broadcast_to(g, (len(hk), 2, 2))
        shape = counts.shape[1:]
        place = origin + np.einsum("na,nab->nb", hk, g)
        centre = self.shown(place)
        moved = centre - place
        corner = np.rint(centre).astype(np.intp)
        rows, cols = corner[:, :1] + self._crop.rows, corner[:, 1:] + self._crop.cols
        inside = (rows >= 0) & (rows < shape[0]) & (cols >= 0) & (cols < shape[1])
        at = of[:, None], np.clip(rows, 0, shape[0] - 1), np.clip(cols, 0, shape[1] - 1)
        y = counts[at]
        if known is not None:
            inside &= known[at]
        dr, dc = rows - centre[:, :1], cols - centre[:, 1:]
        used = (inside & self._own(rows - moved[:, :1], cols - moved[:, 1:], hk, origin, g)).astype(float)
        height, slope = self.aperture.at(dr, dc, parameters)
        core = (height > 0.5) if known is None else (height > 0.5) & known[at]
        outside = used * (height < 0.02)
        background = (y * outside).sum(axis=1) / np.maximum(outside.sum(axis=1), 1)
        mean = ((y - background[:, None]) * core).sum(axis=1) / np.maximum(core.sum(axis=1), 1)
        mean = np.maximum(mean, 0.02 + 0.02 * background)[:, None]
        least = np.maximum(0.5 * background, _LEAST_COUNTS)[:, None]
        variance = np.maximum(y @ self._blur.T, least)
        return Look(corner, y, used, height * mean, self.aperture.zone(dr, dc), slope, mean, background, least, variance)

    def told(self, seen: Look, rounds: int) -> tuple[Floats, Floats]:
        """Score (n, p) and information (n, p, p) of the disks after some rounds of reweighted least squares."""
        k, y = self._inner.shape[1], seen.counts
        prior = np.ones((len(y), k + 3))
        prior[:, 0], prior[:, k] = 0.01, 0.0
        prior[:, k + 1 :] = (2 / np.maximum(seen.background, 0.05))[:, None] ** 2
        for _ in range(rounds):
            weight = seen.used / seen.variance
            normal = self._normal(weight, seen.lit)
            normal[:, np.arange(k + 3), np.arange(k + 3)] += prior
            right = self._onto(weight * y, seen.lit)
            right[:, 0] += prior[:, 0]
            solution = np.linalg.solve(normal, right[:, :, None])[:, :, 0]
            inner = solution[:, :k] @ self._inner.T
            fit = seen.lit * inner + solution[:, k:] @ self._plane.T
            inner = np.maximum(inner, 0) * seen.mean
            counted = np.maximum(fit, seen.least)
            strayed = np.square(inner * seen.edge)
            seen.variance = counted + self.aperture.ripple**2 * strayed
        self._note_ripple(seen.used * strayed, np.square(y - fit), counted)
        change = np.stack([one * inner for one in seen.slope], axis=1)
        weighted = change * (seen.used / seen.variance)[:, None]
        shared = self._onto(weighted, seen.lit[:, None])
        information = weighted @ change.transpose(0, 2, 1)
        information -= shared @ np.linalg.solve(normal, shared.transpose(0, 2, 1))
        return (weighted @ (y - fit)[:, :, None])[:, :, 0], information

    def _normal(self, weight: Floats, lit: Floats) -> Floats:
        """(n, k + 3, k + 3) sums of products of the inner functions, lit as each disk is, and of the plane."""
        k, n = self._inner.shape[1], len(weight)
        out = np.empty((n, k + 3, k + 3))
        once = weight * lit
        first, second = self._pairs
        out[:, first, second] = out[:, second, first] = (once * lit) @ self._inner_inner
        out[:, :k, k:] = (once @ self._inner_plane).reshape(n, k, 3)
        out[:, k:, :k] = out[:, :k, k:].transpose(0, 2, 1)
        out[:, k:, k:] = (weight @ self._plane_plane).reshape(n, 3, 3)
        return out

    def _onto(self, values: Floats, lit: Floats) -> Floats:
        """(..., k + 3) sums of values (..., P) with the inner functions and with the plane."""
        return np.concatenate([(values * lit) @ self._inner, values @ self._plane], axis=-1)

    def _note_ripple(self, edge: Floats, square: Floats, counted: Floats) -> None:
        """Remember how much larger residuals at the edges are than counting makes them."""
        self.ripple_sums += [float((edge * (square - counted) / counted).sum()), float((np.square(edge) / counted).sum())]

    def _own(self, rows: Floats, cols: Floats, hk: NDArray[np.int64], origin: Floats, g: Floats) -> NDArray[np.bool_]:
        """Pixels that no disk of a neighbouring lattice point reaches."""
        reach = self.aperture.radius_px + 3 * self.aperture.edge_px
        if _shortest(g) > reach + float(self._crop.distance.max()) + 1:
            return np.ones(rows.shape, bool)
        place = np.stack([rows - origin[:, :1], cols - origin[:, 1:]], axis=2)
        near = np.rint(place @ np.linalg.inv(g))
        away = np.linalg.norm(place - near @ g, axis=2)
        other = (near != hk[:, None]).any(axis=2)
        return np.asarray(~(other & (away < reach)))


def _products(first: Floats, second: Floats) -> Floats:
    """(P, a b) products of every column of (P, a) with every one of (P, b)."""
    return (first[:, :, None] * second[:, None]).reshape(len(first), -1)


def _shortest(g: Floats) -> float:
    """Length of the shortest vector of lattices (n, 2, 2) with nearly reduced bases."""
    first, second = g[:, 0], g[:, 1]
    return float(np.linalg.norm([first, second, first + second, first - second], axis=2).min(initial=np.inf))
