"""Which candidates are no disks but places on a ring about the direct beam.

An amorphous support, ice or a fine-grained film lays rings beneath the disks of a crystal, and a sharp one looks like a disk
wherever one looks. What tells them apart is their circle about the beam: on a ring every other place of it is as bright,
a disk stands alone there, or among gaps. So the height of a candidate over what lies inside and outside of its circle is held
against the heights along that circle, looked for a little inside and outside of it, as a ring is seldom quite round.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_emdl.diffraction.find.candidates import Found
from napari_emdl.diffraction.find.friedel import likely_beams

Floats = NDArray[np.float64]

#: Factor on the score of what is on a ring.
ON_RING = 0.25
#: In radii: side of the square over which counts are averaged, and how far inside and outside of a circle heights are measured
#: from.
_SIDE, _ASIDE = 1.5, 1.8
#: How far places of a ring may lie off their circle, in radii.
_OFF = 0.36
#: The height that all but this part of the places reach is the ring's.
_QUANTILE = 0.2
#: Circles about what may be the direct beam: places on each; so many of them must be on the detector; and the height of a ring
#: over the noise of a disk.
_ANGLES, _LEAST_PLACES, _LEAST_HEIGHT = 48, 8, 1.0
#: Sum of what the circles have above that: about a wrong place a lattice has a little.
_LEAST_SUM = 1.5
#: Places beside a candidate, on each side: the first in radii, the last in degrees or in radii, whichever is farther.
_PLACES, _NEXT, _ARC_DEG, _ARC = 24, 1.0, 60.0, 8.0
#: A ring has at least this part of a candidate's height; a disk on it is higher by so many sigma, where a ring is uneven by
#: a part of its height.
_LEAST_PART, _SIGMAS, _UNEVEN = 0.3, 4.0, 0.12
#: Nearer to the beam than this, in radii, nothing is said.
_NEAREST = 2.2
#: A ring is looked for where so many candidates lie as far from a likely beam as each other, to a radius.
_LEAST_ALIKE, _MANY_ALIKE = 6, 9


class Rings:
    """Rings beneath the disks of some patterns; each pattern is looked at once.

    Parameters
    ----------
    patterns
        (n, rows, cols) electrons, or what gives one of them.
    beam_px
        (2,) where the direct beam of all patterns may be; or it is one of the brightest disks of a pattern.
    radius_px
        Of the disks.
    sure
        Score of disks that may be the direct beam.
    gap
        (rows, cols) what is hidden: places there are left out.
    quick
        Try fewer places for the beam and look at rings of many candidates only: one behind a stop may be missed.
    """

    def __init__(
        self,
        patterns: NDArray[np.float32] | Callable[[int], NDArray[np.float32]],
        beam_px: Floats,
        radius_px: float,
        sure: float,
        gap: NDArray[np.bool_] | None = None,
        quick: bool = False,
    ) -> None:
        self.patterns, self.beam_px, self.radius_px, self.sure = patterns, beam_px, radius_px, sure
        self.gap, self.quick = gap, quick
        self._side = max(1, round(_SIDE * radius_px))
        self._seen: dict[int, tuple[NDArray[np.float32], Floats] | None] = {}

    def hold(self, found: Found) -> NDArray[np.bool_]:
        """(m,) True for candidates that are as the rest of a ring about the direct beam.

        Whether a pattern has a ring, and about where, is told by the first candidates in it of which many are as far from a
        likely beam as each other.
        """
        out = np.zeros(len(found.which), bool)
        for i in np.unique(found.which):
            here = np.flatnonzero(found.which == i)
            own = found.pick(here)
            if int(i) not in self._seen:
                self._look(int(i), own)
            seen = self._seen.get(int(i))
            if seen is not None:
                out[here] = _like_their_circle(seen[0], own.position, seen[1], self.radius_px, self._side)
        return out

    def _look(self, i: int, own: Found) -> None:
        """Find the ring of a pattern, if these candidates can tell."""
        likely = own.pick(own.score >= self.sure)
        centres = _simplest_beams(likely, self.beam_px) if self.quick else likely_beams(likely, self.beam_px, self.radius_px)
        centres = _amid_circles(own.position, centres, self.radius_px, _MANY_ALIKE if self.quick else _LEAST_ALIKE)
        if not len(centres):
            return
        pattern = self.patterns(i) if callable(self.patterns) else self.patterns[i]
        level = ndimage.uniform_filter(pattern, self._side, mode="nearest")
        if self.gap is not None and self.gap.any():
            level = np.where(self.gap, np.float32(np.nan), level)
        framed = np.pad(level, 1, constant_values=np.nan)
        heights = _heights_of_rings(framed, centres, self.radius_px, self._side)
        best = int(np.argmax(heights))
        self._seen[i] = (framed, centres[best]) if heights[best] > _LEAST_SUM else None


def _simplest_beams(sure: Found, beam_px: Floats) -> Floats:
    """(k, 2) the brightest sure disk, that nearest to the middle of all, and where the beam is in most patterns."""
    centres = [np.asarray(beam_px, np.float64)]
    if len(sure.which):
        middle = np.linalg.norm(sure.position - sure.position.mean(axis=0), axis=1).argmin()
        centres += [sure.position[sure.intensity.argmax()], sure.position[middle]]
    return np.unique(centres, axis=0)


def _amid_circles(position_px: Floats, centres_px: Floats, radius_px: float, alike: int) -> Floats:
    """Those of the centres (k, 2) that have many candidates as far away as each other: without these there is no ring."""
    if len(position_px) < alike:
        return np.zeros((0, 2))
    away = np.sort(np.linalg.norm(position_px[None] - centres_px[:, None], axis=2), axis=1)
    return centres_px[np.any(away[:, alike - 1 :] - away[:, : 1 - alike] <= radius_px, axis=1)]


def _lookup(framed: NDArray[np.float32], row: Floats, col: Floats) -> NDArray[np.float32]:
    """Values at the nearest pixels of an image that has a frame of NaN: off the detector nothing is known."""
    rows, cols = framed.shape
    i = np.clip(np.rint(row) + 1, 0, rows - 1).astype(np.intp)
    i *= cols
    i += np.clip(np.rint(col) + 1, 0, cols - 1).astype(np.intp)
    return framed.ravel().take(i)


def _beside(inner: NDArray[np.float32], outer: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of two sides, or the one that is known."""
    return np.where(np.isnan(inner), outer, np.where(np.isnan(outer), inner, 0.5 * (inner + outer)))


def _usual(places: NDArray[np.float32]) -> NDArray[np.float32]:
    """(..., 1) medians of the known places (..., k) of circles: disks of other circles are not what lies beside a ring."""
    ordered = np.sort(places, axis=-1)  # NaN comes last
    known = np.isfinite(ordered).sum(axis=-1, keepdims=True)
    return np.take_along_axis(ordered, np.maximum(known - 1, 0) // 2, axis=-1)


def _ring_height(heights: NDArray[np.float32]) -> tuple[Floats, NDArray[np.intp]]:
    """Height that most places (..., places) reach (...), and how many places are known."""
    others = np.sort(np.where(np.isfinite(heights), heights, np.float32(np.inf)), axis=-1)
    known = np.isfinite(others).sum(axis=-1)
    at = (_QUANTILE * np.maximum(known - 1, 0)).round().astype(int)
    return np.take_along_axis(others, at[..., None], axis=-1)[..., 0].astype(np.float64), known


def _heights_of_rings(framed: NDArray[np.float32], centres_px: Floats, radius_px: float, side: int) -> Floats:
    """(k,) how far rings about centres (k, 2) stand above the noise of a disk, all circles together; 0 where there is none."""
    step, aside = _OFF * radius_px, round(_ASIDE / _OFF)
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) * (np.array(framed.shape) - 3)
    far = np.linalg.norm(corners - centres_px[:, None], axis=2).max(axis=1)
    count = (far / step).astype(int)
    distance = np.arange(1, int(count.max()) + 1) * step
    if len(distance) < 2 * aside + 3:
        return np.zeros(len(centres_px))
    angle = 2 * np.pi * np.arange(_ANGLES) / _ANGLES
    row, col = distance[:, None] * np.sin(angle), distance[:, None] * np.cos(angle)
    # one after the other: so large an array for each step of the look-up would take longer to get than to fill
    polar = np.stack([_lookup(framed, centre[0] + row, centre[1] + col) for centre in centres_px])
    usual = _usual(polar)
    sides = _beside(usual[:, : -2 * aside], usual[:, 2 * aside :])
    height = polar[:, aside:-aside] - sides
    height = np.where(np.isnan(height), np.float32(-np.inf), height)
    height = np.maximum(np.maximum(height[:, :-2], height[:, 1:-1]), height[:, 2:])
    ring, known = _ring_height(height)
    counts = np.nan_to_num(1.5 * np.maximum(usual[:, aside:-aside], sides)[:, 1:-1, 0])
    noise = np.sqrt(np.maximum(counts, 1 / side**2)) / side
    seen = (known >= _LEAST_PLACES) & (distance[aside + 1 : -aside - 1] > _NEAREST * radius_px)
    seen &= np.arange(aside + 1, len(distance) - aside - 1) < (count - aside - 1)[:, None]
    return np.asarray(np.where(seen, np.maximum(ring / noise - _LEAST_HEIGHT, 0), 0).sum(axis=1))


def _like_their_circle(
    framed: NDArray[np.float32], position_px: Floats, beam_px: Floats, radius_px: float, side: int
) -> NDArray[np.bool_]:
    """(m,) True for places that rise no higher over what lies inside and outside of their circle than most of it does."""
    away = position_px - beam_px
    distance = np.maximum(np.linalg.norm(away, axis=1), 1e-6)
    half = np.minimum(np.maximum(np.deg2rad(_ARC_DEG), _ARC * radius_px / distance), np.pi)
    first = np.minimum(_NEXT * radius_px / distance, half)
    arc = first[:, None] + (half - first)[:, None] * np.linspace(0, 1, _PLACES)
    angle = np.arctan2(away[:, 0], away[:, 1])[:, None] + np.concatenate([np.zeros((len(arc), 1)), arc, -arc], axis=1)
    sine, cosine = np.sin(angle), np.cos(angle)

    def at(off: float) -> NDArray[np.float32]:
        from_beam = (distance + off * radius_px)[:, None]
        return _lookup(framed, beam_px[0] + from_beam * sine, beam_px[1] + from_beam * cosine)

    height, counts = np.full(angle.shape, -np.inf, np.float32), np.ones(angle.shape, np.float32)
    for off in (0.0, -_OFF, _OFF):
        middle, sides = at(off), _beside(_usual(at(off - _ASIDE)), _usual(at(off + _ASIDE)))
        higher = middle - sides > height  # not where something is unknown
        height, counts = np.where(higher, middle - sides, height), np.where(higher, middle + 0.5 * sides, counts)
    own, (ring, known) = height[:, 0].astype(np.float64), _ring_height(height[:, 1:])
    noise = np.sqrt(np.maximum(counts[:, 0], 1 / side**2)) / side
    told = (known >= _LEAST_PLACES) & (distance > _NEAREST * radius_px) & (own > 0) & (ring > _LEAST_PART * own)
    stands_out = own - ring > _SIGMAS * np.hypot(noise, _UNEVEN * np.maximum(ring, 0))
    return np.asarray(told & ~stands_out)
