"""Where the direct beam lies at every position of a scan.

It is the brightest disk of most patterns. Descan that is not quite right moves it, over a wide field by more than the disks lie
apart, from frame to frame by a few pixels, or in a step; the whole pattern moves with it. Where a reflection outshines it, only
the brightness moves. The two are told apart by the other disks, which lie in pairs about the direct beam (Friedel).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.basis import find_basis

Floats = NDArray[np.float64]

#: Orders looked at for disks in pairs, orders within which the hidden one lies, how much larger its paired share must be.
_PAIRING_ORDERS = 12
_HIDDEN_WITHIN = 6
#: Positions that are asked whether the origin is hidden.
_HIDDEN_POSITIONS = 4096
_CLEARLY_PAIRED = 0.1
#: Share of the brightest disks near one place from which on nobody asks whether the beam moves, and by how much more a plane
#: must explain of them, and of the pairs.
_STILL, _MORE_EXPLAINED, _MORE_PAIRED = 0.9, 0.05, 0.05
#: Planes tried, positions that they are tried on, and how near to one a brightest disk must lie, in distances between disks.
_PLANES, _TRIED, _NEAR_PLANE = 200, 2000, 0.3
#: In distances between disks: how near a disk must lie to the place opposite another; how far the measured centre must lie off
#: the smooth one for anybody to ask which is right; and up to where it is then the likelier one in scans in which the brightest
#: disk is not that near the model in so large a share.
_OPPOSITE, _OFF, _BESIDE, _SELDOM = 0.15, 0.12, 0.35, 0.8
#: The model is right where so many disks, moved by the vector from the brightest one to it, lie on others, to this distance.
_ON_LATTICE, _ON = 0.4, 0.2
#: Share of a position's disks that must lie in pairs about another centre, and by how much more about a second one; disks that
#: it takes; share of the positions from which on the user is told.
_PAIRED, _CLEARLY_BETTER, _FEW, _TOLD = 0.3, 0.15, 5, 0.02


def measure_origin(disks: PeakTable) -> Floats:
    """(n, 2) centre of the central disk of every position, NaN where there is none.

    The central disk is the brightest one of most positions. Where another disk outshines it (strong diffraction), the
    brightest among the disks near the typical centre is taken; that may move over the scan.
    """
    n = disks.n_positions
    place, of = disks.positions_px(), disks.flat_index()
    bright = brightness(disks)
    out = np.full((n, 2), np.nan)
    if not len(place):
        return out
    brightest = brightest_of(of, bright, np.ones(len(of), bool))
    spacing = nearest_neighbour(place, of)
    centre = _typical_centre(disks, brightest, spacing)
    # half the shortest distance between disks tells the central one from its neighbours
    near = np.hypot(*(place - centre[of]).T) < 0.5 * spacing
    chosen = brightest_of(of, bright, near)
    out[of[chosen]] = place[chosen]
    return out


def brightness(disks: PeakTable) -> Floats:
    return disks.column("intensity" if "intensity" in disks.fields else "score").astype(float)


def _typical_centre(disks: PeakTable, brightest: NDArray[np.int64], spacing_px: float) -> Floats:
    """(n, 2) where the direct beam is to be looked for: one place, or a plane over the scan where the patterns move."""
    place = disks.positions_px()
    still = np.broadcast_to(_mode(place[brightest], spacing_px), (disks.n_positions, 2))
    at, points = disks.flat_index()[brightest], place[brightest]
    explained = float(np.mean(np.linalg.norm(points - still[at], axis=1) < 0.5 * spacing_px))
    if explained >= _STILL or len(at) < 12:
        return np.asarray(still)
    plane = plane_through(at, points, disks.shape, _NEAR_PLANE * spacing_px)
    if np.mean(np.linalg.norm(points - plane[at], axis=1) < 0.5 * spacing_px) < explained + _MORE_EXPLAINED:
        return np.asarray(still)
    some = at[:: -(-len(at) // _TRIED)]
    asked = disks.select_positions(some)
    better = np.mean(in_pairs(asked, plane[some], spacing_px)) - np.mean(in_pairs(asked, still[some], spacing_px))
    return plane if better >= _MORE_PAIRED else np.asarray(still)


def plane_through(at: NDArray[np.int64], points_px: Floats, shape: tuple[int, ...], near_px: float) -> Floats:
    """(n, 2) plane over the scan that most of the points (m, 2) of the positions `at` lie near (random sample consensus)."""
    rows, cols = (1, *shape)[-2:]
    y, x = np.divmod(np.arange(rows * cols), cols)
    design = np.stack([np.ones(rows * cols), y / max(1, rows - 1), x / max(1, cols - 1)], axis=1)
    step = -(-len(at) // _TRIED)
    a, b = design[at[::step]], points_px[::step]
    rng = np.random.default_rng(0)
    best, most = np.zeros(len(a), bool), 0
    for _ in range(_PLANES):
        some = rng.choice(len(a), 3, replace=False)
        coefficients = np.linalg.lstsq(a[some], b[some], rcond=None)[0]
        inside = np.linalg.norm(a @ coefficients - b, axis=1) < near_px
        if inside.sum() > most:
            best, most = inside, int(inside.sum())
    for _ in range(3):
        coefficients = np.linalg.lstsq(a[best], b[best], rcond=None)[0]
        best = np.linalg.norm(a @ coefficients - b, axis=1) < near_px
    return np.asarray(design @ coefficients)


def in_pairs(disks: PeakTable, origin_px: Floats, spacing_px: float) -> Floats:
    """(n,) share of the disks of every position that have another one opposite the origin (n, 2); 0 where there are none."""
    of = disks.flat_index()
    return _matched(disks, 2 * origin_px[of] - disks.positions_px(), _OPPOSITE * spacing_px)


def _matched(disks: PeakTable, wanted_px: Floats, reach_px: float) -> Floats:
    """(n,) share of the places (N, 2), one for each disk, where a disk of the same position lies."""
    from scipy.spatial import cKDTree

    place, of = disks.positions_px(), disks.flat_index()
    known = np.isfinite(wanted_px).all(axis=1)
    hit = np.zeros(len(place), bool)
    if known.any():
        apart = 10 * float(np.ptp(np.concatenate([place, wanted_px[known]]))) + 1e3  # no pattern meets another
        tree = cKDTree(np.c_[place, of * apart])
        hit[known] = tree.query(np.c_[wanted_px, of * apart][known], distance_upper_bound=max(1.0, reach_px))[0] < np.inf
    return np.asarray(np.bincount(of, hit, disks.n_positions) / np.maximum(disks.counts().ravel(), 1))


def off_the_model(
    disks: PeakTable, raw_px: Floats, smooth_px: Floats, inliers: NDArray[np.bool_], model: str
) -> tuple[Floats, Floats, NDArray[np.bool_], list[str]]:
    """Origin where the direct beam does not follow the smooth model: the pattern's own, where more disks lie in pairs about it.

    Parameters
    ----------
    raw_px, smooth_px, inliers
        (R, C, 2), (R, C, 2) and (R, C) of :func:`measure_origin` and :func:`fit_origin`.
    model
        Its name.

    Returns
    -------
    raw_px, smooth_px, inliers, warnings
        The same with these positions set; a warning where there are many.
    """
    shape = inliers.shape
    raw, smooth = raw_px.reshape(-1, 2).copy(), smooth_px.reshape(-1, 2).copy()
    spacing = nearest_neighbour(disks.positions_px(), disks.flat_index())
    away = np.linalg.norm(raw - smooth, axis=1)
    asked = np.flatnonzero(~(away <= _OFF * spacing) & (disks.counts().ravel() >= _FEW))  # or not measured at all
    if not len(asked):
        return raw_px, smooth_px, inliers, []
    of, brightest = disks.flat_index(), np.full(raw.shape, np.nan)
    rows = brightest_of(of, brightness(disks), np.ones(disks.n_peaks, bool))
    brightest[of[rows]] = disks.positions_px()[rows]
    # where the beam is seldom outshone the brightest disk is believed, else at first what lies beside the model
    follows = away <= _OFF * spacing
    outshone = follows.any() and np.mean(np.linalg.norm(brightest - raw, axis=1)[follows] < 1) < _SELDOM
    some, brightest = disks.select_positions(asked), brightest[asked]
    # a lattice vector away from the brightest disk the model is right, whether the disk there is seen or not
    vector = (smooth[asked] - brightest)[some.flat_index()]
    off = _matched(some, some.positions_px() + vector, _ON * spacing) < _ON_LATTICE
    near = (outshone & (away[asked] < _BESIDE * spacing))[:, None]
    share, own = np.full(len(asked), _PAIRED - _CLEARLY_BETTER), np.full((len(asked), 2), np.nan)
    for centre in (np.where(near, raw[asked], brightest), np.where(near, brightest, raw[asked])):
        paired = in_pairs(some, centre, spacing)
        better = off & (paired > share + _CLEARLY_BETTER)
        own[better], share[better] = centre[better], paired[better]
    moved = np.isfinite(own[:, 0])
    at = asked[moved]
    far = float(np.max(np.linalg.norm(own[moved] - smooth[at], axis=1), initial=0.0))
    raw[at] = smooth[at] = own[moved]
    followed = inliers.copy()
    followed.ravel()[at] = True
    said = []
    if len(at) > max(2, _TOLD * disks.n_positions):
        smooth = np.where((away < _BESIDE * spacing)[:, None], raw, smooth)  # a beam that jumps is not smooth elsewhere
        said.append(
            f"the direct beam lies up to {far:.1f} px off a {model} over the scan at {len(at):,} positions (descan?): there "
            "the pattern's own origin was taken"
        )
    return raw.reshape(*shape, 2), smooth.reshape(*shape, 2), followed, said


def hidden_origin(disks: PeakTable, origin_px: Floats) -> Floats | None:
    """Lattice vector (2,) px from the brightest disk to the true origin, where that disk is not seen; None where it is.

    Behind a beam stop there is a hole in the lattice that disks lie around in pairs. The brightest disk of such patterns is
    another one, and the disks are not paired about it.

    Parameters
    ----------
    origin_px
        (positions, 2) origin taken so far.
    """
    if disks.n_positions > _HIDDEN_POSITIONS:  # a share of the positions is all that is asked for
        some = np.unique(np.linspace(0, disks.n_positions - 1, _HIDDEN_POSITIONS).astype(int))
        disks, origin_px = disks.select_positions(some), origin_px[some]
    place, of = disks.positions_px(), disks.flat_index()
    if len(place) < 8:
        return None
    # about any other lattice point the disks lie to one side
    aside = max(abs(float(np.median(place[:, k] - origin_px[:, k][of]))) for k in (0, 1))
    if aside < 0.3 * nearest_neighbour(place, of):
        return None
    try:
        g = find_basis(disks, origin_px).g
    except EmdlError:
        return None
    hk = (place - origin_px[of]) @ np.linalg.inv(g)
    near = np.rint(hk)
    on = (np.abs(hk - near) < 0.25).all(axis=1) & (np.abs(near) <= _PAIRING_ORDERS).all(axis=1)
    span = 2 * _PAIRING_ORDERS + 1
    seen = np.zeros((span, span))
    filled = np.unique(np.c_[of[on], near[on].astype(np.int64)], axis=0)
    np.add.at(seen, (filled[:, 1] + _PAIRING_ORDERS, filled[:, 2] + _PAIRING_ORDERS), 1.0)
    seen /= max(1, len(np.unique(of)))
    best, place_of_best = _paired(seen, 0, 0) + _CLEARLY_PAIRED, None
    for h in range(-_HIDDEN_WITHIN, _HIDDEN_WITHIN + 1):
        for k in range(-_HIDDEN_WITHIN, _HIDDEN_WITHIN + 1):
            around = seen[_PAIRING_ORDERS + h - 1 : _PAIRING_ORDERS + h + 2, _PAIRING_ORDERS + k - 1 : _PAIRING_ORDERS + k + 2]
            hole = around[1, 1] < 0.2 and np.median(np.delete(around.ravel(), 4)) > 0.5
            if hole and (value := _paired(seen, h, k)) > best:
                best, place_of_best = value, (h, k)
    return None if place_of_best is None else np.asarray(np.array(place_of_best) @ g, dtype=np.float64)


def _paired(seen: Floats, h: int, k: int) -> float:
    """Share of the disks seen at lattice points that have a partner on the other side of (h, k)."""
    reach = _PAIRING_ORDERS - max(abs(h), abs(k))
    rows = slice(_PAIRING_ORDERS + h - reach, _PAIRING_ORDERS + h + reach + 1)
    cols = slice(_PAIRING_ORDERS + k - reach, _PAIRING_ORDERS + k + reach + 1)
    both = np.minimum(seen[rows, cols], seen[rows, cols][::-1, ::-1]).sum()
    return float(both / max(seen.sum(), 1e-9))


def brightest_of(of: NDArray[np.int64], bright: Floats, allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Row of the brightest allowed peak of each position that has one, of equals the first; `of` does not decrease."""
    rows = np.flatnonzero(allowed)
    if not len(rows):
        return rows
    value, where = np.where(np.isnan(bright[rows]), -np.inf, bright[rows]), of[rows]
    first = np.flatnonzero(np.r_[True, np.diff(where) > 0])
    most = np.repeat(np.maximum.reduceat(value, first), np.diff(np.r_[first, len(rows)]))
    top = np.flatnonzero(value == most)
    return rows[top[np.r_[True, np.diff(where[top]) > 0]]]


def _mode(points: Floats, reach_px: float) -> Floats:
    """Median of the densest group of points, the groups being a fraction of `reach_px` wide."""
    cell = max(0.25 * reach_px, 1.0)
    keys, counts = np.unique(np.rint(points / cell).astype(np.int64), axis=0, return_counts=True)
    start = keys[counts.argmax()] * cell
    for _ in range(3):
        start = np.median(points[np.linalg.norm(points - start, axis=1) <= max(0.5 * reach_px, 2.0)], axis=0)
    return start


def nearest_neighbour(place: Floats, of: NDArray[np.int64]) -> float:
    """Typical distance between neighbouring disks of one pattern."""
    from scipy.spatial import cKDTree

    some = slice(0, 20000)
    apart = 10 * float(np.ptp(place)) + 1e3
    tree = cKDTree(np.c_[place[some], of[some] * apart])
    if tree.n < 2:
        return 20.0
    distance = tree.query(tree.data, k=2)[0][:, 1]
    distance = distance[distance < apart / 2]
    return float(np.median(distance)) if len(distance) else 20.0


def fit_origin(raw_px: Floats, model: str = "plane") -> tuple[Floats, NDArray[np.bool_]]:
    """Smooth the measured centres over the scan, robustly.

    Parameters
    ----------
    raw_px
        (R, C, 2), NaN where nothing was measured.
    model
        "constant", "plane", "parabola", or "measured": the measured values, gaps filled by the plane.

    Returns
    -------
    origin_px, inliers
        (R, C, 2) and (R, C) bool.
    """
    rows, cols = raw_px.shape[:2]
    known: NDArray[np.bool_] = np.asarray(np.isfinite(raw_px).all(axis=-1))
    if not known.any():
        raise EmdlError("no central disk was found at any position; lower the threshold or set the probe")
    y, x = np.meshgrid(
        np.linspace(-1, 1, rows) if rows > 1 else [0.0], np.linspace(-1, 1, cols) if cols > 1 else [0.0], indexing="ij"
    )
    degree = {"constant": 0, "plane": 1, "parabola": 2, "measured": 1}[model]
    terms = [y**a * x**b for a in range(degree + 1) for b in range(degree + 1 - a) if (rows > a) and (cols > b)]
    design = np.stack(terms, axis=-1)
    if known.sum() < 2 * len(terms):
        design = design[..., :1]
    a, b = design[known], raw_px[known]
    coef = np.zeros((design.shape[-1], 2))
    coef[0] = np.median(b, axis=0)
    scale = 0.1
    for _ in range(30):
        distance = np.hypot(*(b - a @ coef).T)
        scale = max(1.5 * float(np.median(distance)), 0.02)
        w = np.sqrt(1 / (1 + np.square(distance / (2 * scale))))
        left = (a * np.square(w)[:, None]).T  # a few well-scaled columns: their normal equations lose nothing
        before, coef = coef, np.linalg.lstsq(left @ a, left @ b, rcond=None)[0]
        if np.abs(coef - before).max() < 1e-12:
            break
    smooth = design @ coef
    away = np.linalg.norm(np.nan_to_num(raw_px) - smooth, axis=-1)
    inliers = np.asarray(known & (away < max(5 * scale, 0.5)))
    if model == "measured":
        smooth = np.where(known[..., None], raw_px, smooth)
    return smooth, inliers
