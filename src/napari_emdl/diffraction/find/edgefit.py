"""Radius and edge width of a disk: an error function fitted to values at some distances from its centre.

The fit is Levenberg and Marquardt's with exact derivatives, as in Press et al., Numerical Recipes, on the soft L1 loss
2 C^2 (sqrt(1 + (f / C)^2) - 1), which lets dark fringes and neighbours count less. `scipy.optimize.least_squares` finds the
same minimum (a test holds them together), but importing it takes longer than all fits of a run.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special

#: Values that are enough for the fit.
_MOST_VALUES = 20_000
#: Steps of the fit, and the relative change of the loss after which there is nothing to gain.
_MOST_STEPS, _SETTLED = 200, 1e-10
#: An edge is no sharper than this.
_LEAST_EDGE_PX = 0.3

Floats = NDArray[np.float64]


def edge_reach(guess_px: float) -> float:
    """How far from a first guess of the radius values are used, in px."""
    return max(3.0, 0.7 * guess_px)


def fit_edge(distance: Floats, value: Floats, guess_px: float) -> tuple[float, float]:
    """Radius and edge width of a disk by an error function fitted to values at some distances from its centre.

    Parameters
    ----------
    distance, value
        (n,) pixels and any unit; those near `guess_px` are used.

    Returns
    -------
    radius_px, edge_width_px
        `guess_px` and 1 where nothing near it looks like an edge.
    """
    near = np.abs(distance - guess_px) < edge_reach(guess_px)
    x, y = distance[near], value[near]
    if len(x) > _MOST_VALUES:
        x, y = x[:: len(x) // _MOST_VALUES + 1], y[:: len(y) // _MOST_VALUES + 1]
    top = float(np.median(y[x < guess_px])) if np.any(x < guess_px) else float(y.max())
    bottom = float(np.percentile(y, 10))
    if top <= bottom:
        return guess_px, 1.0
    start = np.array([guess_px, np.log(0.7), bottom, top - bottom, 0.0])
    fitted, settled = _minimise(x, y, start, scale=0.1 * (top - bottom))
    radius, edge = float(fitted[0]), float(np.exp(fitted[1]))
    if edge < _LEAST_EDGE_PX:
        radius, edge, settled = _by_scipy(x, y, start, scale=0.1 * (top - bottom))
    if not (settled and 0.5 * guess_px < radius < 1.6 * guess_px):
        return guess_px, 1.0
    return radius, float(np.clip(edge, _LEAST_EDGE_PX, max(0.5, 0.5 * radius)))


def _by_scipy(x: Floats, y: Floats, start: Floats, scale: float) -> tuple[float, float, bool]:
    """Radius, edge width and whether the fit came to rest, of an edge between two pixels: there our fit halts where it is."""
    from scipy import optimize

    def model(p: Floats) -> Floats:
        inside = 0.5 * special.erfc((x - p[0]) / (np.sqrt(2) * abs(p[1])))
        return np.asarray(p[2] + (p[3] + p[4] * (x - p[0])) * inside - y)

    first = [start[0], np.exp(start[1]), *start[2:]]
    fit = optimize.least_squares(model, first, loss="soft_l1", f_scale=scale, max_nfev=200)
    return float(fit.x[0]), float(abs(fit.x[1])), bool(fit.success)


def _minimise(x: Floats, y: Floats, p: Floats, scale: float) -> tuple[Floats, bool]:
    """Parameters (radius, log of the edge width, ground, height, slope) of least loss, and whether the fit came to rest."""
    residual, jacobian = _edge(x, y, p)
    # careful at first: an edge that a step made too sharp lies between the values and is not seen again
    loss, damping = _loss(residual, scale), 1.0
    for _ in range(_MOST_STEPS):
        spread = 1 + np.square(residual / scale)
        gradient = jacobian @ (residual / np.sqrt(spread))
        normal = (jacobian / spread**1.5) @ jacobian.T
        size = np.diag(normal)
        size = np.maximum(size, 1e-12 * size.max())
        while damping < 1e12:
            step = np.linalg.solve(normal + damping * np.diag(size), -gradient)
            step /= max(1.0, abs(step[1]))
            new_residual, new_jacobian = _edge(x, y, p + step)
            new_loss = _loss(new_residual, scale)
            if new_loss <= loss:
                break
            damping *= 10
        else:
            return p, True  # no step is downhill: this is the minimum
        gain, p, residual, jacobian = loss - new_loss, p + step, new_residual, new_jacobian
        loss, damping = new_loss, damping / 10
        if gain <= _SETTLED * loss:
            return p, True
    return p, False


def _edge(x: Floats, y: Floats, p: Floats) -> tuple[Floats, Floats]:
    """Model less values (n,), and its derivatives (5, n) by radius, log of the edge width, ground, height and slope."""
    radius, width, ground, height, slope = p[0], np.exp(p[1]), p[2], p[3], p[4]
    past = x - radius
    inside = 0.5 * special.erfc(past / (np.sqrt(2) * width))
    bell = np.exp(-0.5 * np.square(past / width)) / (np.sqrt(2 * np.pi) * width)
    plateau = height + slope * past
    derivatives = np.empty((5, len(x)))
    derivatives[0] = plateau * bell - slope * inside
    derivatives[1] = plateau * bell * past
    derivatives[2] = 1
    derivatives[3] = inside
    derivatives[4] = past * inside
    return ground + plateau * inside - y, derivatives


def _loss(residual: Floats, scale: float) -> float:
    return float(2 * scale**2 * np.sum(np.sqrt(1 + np.square(residual / scale)) - 1))
