"""The edge of a disk is found where scipy's least squares finds it, without loading scipy's optimisers."""

import numpy as np
import pytest
from scipy import optimize, special

from napari_emdl.diffraction.find.edgefit import fit_edge


def edge(x: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Ground p[2], and a plateau of height p[3] and slope p[4] that ends at p[0] with the width p[1]."""
    return p[2] + (p[3] + p[4] * (x - p[0])) * 0.5 * special.erfc((x - p[0]) / (np.sqrt(2) * abs(p[1])))


@pytest.mark.parametrize(("radius", "width", "fringes"), [(4.0, 0.6, 0.0), (12.3, 1.4, 0.3), (45.0, 6.0, 0.2)])
def test_the_minimum_is_that_of_scipy(radius: float, width: float, fringes: float) -> None:
    rng = np.random.default_rng(11)
    x = rng.uniform(0, 2 * radius, 4000)
    y = rng.poisson(edge(x, np.array([radius, width, 2.0, 50.0, -20 / radius])) * (1 + fringes * np.cos(x))).astype(float)
    guess = 1.15 * radius
    near = np.abs(x - guess) < max(3.0, 0.7 * guess)
    top, bottom = np.median(y[near & (x < guess)]), np.percentile(y[near], 10)
    start = np.array([guess, 0.7, bottom, top - bottom, 0.0])
    theirs = optimize.least_squares(
        lambda p: edge(x[near], p) - y[near], start, loss="soft_l1", f_scale=0.1 * (top - bottom), xtol=1e-12, ftol=1e-12
    ).x
    assert fit_edge(x, y, guess) == pytest.approx((theirs[0], abs(theirs[1])), abs=1e-4)
    if not fringes:
        assert fit_edge(x, y, guess) == pytest.approx((radius, width), rel=0.05)


def test_where_there_is_no_edge_the_guess_stays() -> None:
    x = np.linspace(0, 20, 500)
    assert fit_edge(x, np.full(500, 3.0), 10.0) == (10.0, 1.0)
    assert fit_edge(x, np.where(x > 10, 5.0, 1.0), 10.0)[0] == 10.0  # a hole


def test_an_edge_sharper_than_a_pixel_has_the_radius_of_its_area() -> None:
    # a vacuum probe without noise; the radius came out as the first guess, 2 % too small, and with it the strain
    row, col = np.mgrid[:40, :40]
    fine = (np.hypot(*np.mgrid[:400, :400] / 10.0 - 19.8 + 0.45) < 4.26).reshape(40, 10, 40, 10).mean((1, 3))
    centre = [float((fine * x).sum() / fine.sum()) for x in (row, col)]
    distance = np.hypot(row - centre[0], col - centre[1]).ravel()
    radius, edge = fit_edge(distance, 17000 * fine.ravel(), 4.1)
    assert radius == pytest.approx(4.26, rel=0.012) and edge < 0.5
