"""Heights of round spots at given places of an image, on top of the tails of the spots around them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from scipy.spatial import cKDTree

Floats = NDArray[np.float64]

#: radius of the image around a place that is looked at, in widths of a spot
_RADIUS = 1.8
#: points across a width at which the image is looked at, and nearest spots whose tails are taken off
_POINTS, _TAILS = 2, 10
#: tails reach so far, in widths
_REACH = 6.0
#: places that are looked at together
_PART = 4096
#: order of the unknowns at a place: level, scale of the tails, height, and the two slopes of a spot that is moved
_LEVEL, _TAIL, _HEIGHT = 0, 1, 2
_OWN = (_LEVEL, _HEIGHT, 3, 4)


@dataclass(frozen=True)
class _Part:
    """Some places: what their normal equations hold whatever the heights of their neighbours are.

    Attributes
    ----------
    normal, right, power
        (m, 5, 5), (m, 5) and (m,) without the tails' entries, and the sum of the squares.
    values, seen
        (m, points) the image, zero and False outside of it.
    near, along_row, along_col
        (m, k) nearest other places; (m, k, side) factors of their tails.
    """

    normal: Floats
    right: Floats
    power: Floats
    values: Floats
    seen: NDArray[np.bool_]
    near: NDArray[np.int64]
    along_row: Floats
    along_col: Floats


class SpotHeights:
    """Fits level, height and displacement of a round spot at every place, by least squares.

    What the image shows at a place is read once; the heights of the neighbours, whose tails are taken off, may be given again
    and again.

    Parameters
    ----------
    image
        (rows, cols) with bright spots.
    places_px
        (n, 2).
    covariance_px2
        (2, 2) of a spot.
    unit
        Height of a spot that counts as 1.
    threads
        Threads to use.
    """

    def __init__(
        self, image: NDArray[np.floating], places_px: Floats, covariance_px2: Floats, unit: float = 1.0, threads: int = 1
    ) -> None:
        self.threads, self.unit = threads, unit
        self.width_px = float(np.sqrt(np.trace(covariance_px2) / 2))
        self._inverse = np.linalg.inv(covariance_px2)
        self._axis = np.arange(-_RADIUS, _RADIUS + 1e-6, 1 / _POINTS) * self.width_px
        square = np.stack(np.meshgrid(self._axis, self._axis, indexing="ij"), -1).reshape(-1, 2)
        self._disk = np.flatnonzero(np.hypot(*square.T) <= _RADIUS * self.width_px + 1e-6)
        self._offset = square[self._disk]
        own = np.exp(-0.5 * np.einsum("pi,ij,pj->p", self._offset, self._inverse, self._offset))
        self._spots = np.c_[np.ones(len(own)), own, own[:, None] * (self._offset @ self._inverse)]
        self._count = len(places_px)
        away, near = cKDTree(places_px).query(places_px, k=min(_TAILS + 1, max(1, len(places_px))), workers=threads)
        away, near = (
            values.reshape(len(places_px), max(1, values.size // max(1, len(places_px))))[:, 1:] for values in (away, near)
        )
        starts = range(0, len(places_px), _PART)
        parts = [slice(start, start + _PART) for start in starts]
        self._parts = self._each(lambda part: self._read(image, places_px, part, away[part], near[part]), parts)

    def _each(self, what: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        if self.threads < 2 or len(items) < 2:
            return [what(item) for item in items]
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(what, items))

    def _read(
        self, image: NDArray[np.floating], places_px: Floats, part: slice, away: Floats, near: NDArray[np.int64]
    ) -> _Part:
        places = places_px[part]
        points = places[:, None] + self._offset
        values = ndi.map_coordinates(image, points.reshape(-1, 2).T, order=1, mode="nearest", output=np.float64)
        values = values.reshape(len(places), -1) / self.unit
        seen = np.all((points >= -0.5) & (points <= np.array(image.shape) - 0.5), axis=-1)
        values = (values - values.mean(axis=1, keepdims=True)) * seen
        pairs = self._spots[:, :, None] * self._spots[:, None]
        normal, right = np.zeros((len(places), 5, 5)), np.zeros((len(places), 5))
        whole = seen.all(axis=1)
        sums = np.broadcast_to(pairs.sum(axis=0), (len(places), 4, 4)).copy()
        sums[~whole] = np.tensordot(seen[~whole].astype(np.float64), pairs, 1)
        normal[:, np.array(_OWN)[:, None], _OWN] = sums
        right[:, _OWN] = values @ self._spots
        step = places_px[near] - places[:, None]
        pull = step @ self._inverse
        # exp(-(o - d)^2 / 2) = exp(-o^2 / 2) exp(o d) exp(-d^2 / 2), and exp(o d) is a product of rows and columns
        fall = np.where(away < _REACH * self.width_px, -0.5 * np.einsum("mki,mki->mk", pull, step), -np.inf)
        pull = np.where(np.isfinite(fall)[..., None], pull, 0)
        along_row = np.exp(pull[..., :1] * self._axis + fall[..., None])
        along_col = np.exp(pull[..., 1:] * self._axis)
        return _Part(normal, right, np.einsum("mp,mp->m", values, values), values, seen, near, along_row, along_col)

    def _equations(self, part: _Part, tall: Floats) -> tuple[Floats, Floats]:
        """Normal matrices (m, 5, 5) and right sides (m, 5) with the tails of places as high as `tall` (n,)."""
        lifted = part.along_row * tall[part.near][..., None]
        tails = np.matmul(lifted.transpose(0, 2, 1), part.along_col).reshape(len(part.near), -1)[:, self._disk]
        tails *= self._spots[:, 1]
        tails *= part.seen
        normal, right = part.normal.copy(), part.right.copy()
        cross = tails @ self._spots
        normal[:, _TAIL, _OWN] = cross
        normal[:, _OWN, _TAIL] = cross
        normal[:, _TAIL, _TAIL] = np.einsum("mp,mp->m", tails, tails)
        right[:, _TAIL] = np.einsum("mp,mp->m", tails, part.values)
        return normal, right

    def _solved(self, part: _Part, tall: Floats, full: bool) -> tuple[Any, ...]:
        normal, right = self._equations(part, tall)
        told, asked = normal.copy(), right.copy()
        # the tails' scale is all but known; where there are none it does not matter
        known = 10.0 * np.maximum(normal[:, _TAIL, _TAIL], 1e-9 * normal[:, _HEIGHT, _HEIGHT] + 1e-30)
        told[:, _TAIL, _TAIL] += known
        asked[:, _TAIL] += known
        told += 1e-9 * np.eye(5) * np.trace(told, axis1=1, axis2=2)[:, None, None]
        weights = np.linalg.solve(told, asked[..., None])[..., 0]
        if not full:
            return (weights[:, _HEIGHT],)
        residual = part.power - 2 * np.einsum("mi,mi->m", weights, right) + np.einsum("mi,mij,mj->m", weights, normal, weights)
        free = np.maximum(part.seen.sum(1) - 5, 1)
        # neighbouring points share pixels: fewer of them are independent
        shared = max(1.0, (_POINTS / self.width_px) ** 2)
        scale = np.linalg.inv(told)[:, _HEIGHT, _HEIGHT]
        error = np.sqrt(np.maximum(residual, 0.0) / free * shared * scale)
        height = weights[:, _HEIGHT]
        return height, error, weights[:, 3:] / np.where(height > 0.02, height, np.inf)[:, None]

    def heights(self, tall: Floats) -> Floats:
        """Heights (n,) where spots as high as `tall` (n,) cast tails on their neighbours."""
        if not self._count:
            return np.zeros(0)
        return np.concatenate([found[0] for found in self._each(lambda part: self._solved(part, tall, False), self._parts)])

    def fits(self, tall: Floats) -> tuple[Floats, Floats, Floats]:
        """Heights (n,), their errors (n,), and displacements (n, 2) in pixels."""
        if not self._count:
            return np.zeros(0), np.zeros(0), np.zeros((0, 2))
        found = self._each(lambda part: self._solved(part, tall, True), self._parts)
        height, error, shift = (np.concatenate(values) for values in zip(*found, strict=True))
        return height, error, shift
