"""Are the spots round, or do they lie on stripes? Lattice fringes and gratings have spots at their ridges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

#: the mean neighbourhood of all spots: its radius and the step in it, A
REACH_A, STEP_A = 0.9, 0.3
#: more spots than this are judged by a part of them
MOST_SPOTS = 1000


def roundness(image: NDArray[np.floating], points_px: NDArray[np.floating], pixel_A: float) -> float:
    """Ratio of the two curvatures of the mean neighbourhood of all spots: 1 for round ones, 0 on stripes that run one way.

    The mean shows what all spots have in common, so noise does not matter much; stripes in different directions look round.

    Parameters
    ----------
    image
        (rows, cols).
    points_px
        (n, 2) spots.
    pixel_A
        Pixel size.

    Returns
    -------
    float
        Smaller curvature over the larger one; 0 or less at a saddle, NaN without spots or structure.
    """
    points = np.asarray(points_px, np.float64)[:: max(1, -(-len(points_px) // MOST_SPOTS))]
    if not len(points):
        return float("nan")
    step = np.arange(-REACH_A, REACH_A + 1e-6, STEP_A)
    row, col = (x.ravel() for x in np.meshgrid(step, step, indexing="ij"))
    disk = np.hypot(row, col) < REACH_A + 1e-6  # in a square the corners would favour its axes
    row, col = row[disk], col[disk]
    at = points[:, None] + np.c_[row, col][None] / pixel_A
    finite = np.isfinite(image)
    if not finite.all() and finite.any():
        image = np.where(finite, image, np.median(image[finite]))
    values = ndi.map_coordinates(image, at.reshape(-1, 2).T, order=1, mode="nearest", output=np.float32)
    mean = values.reshape(len(points), -1).mean(0)
    quadratic = np.c_[np.ones_like(row), row, col, 0.5 * row**2, row * col, 0.5 * col**2]
    fitted, *_ = np.linalg.lstsq(quadratic, mean, rcond=None)
    curvatures = np.linalg.eigvalsh(np.array([[fitted[3], fitted[4]], [fitted[4], fitted[5]]]))
    small, large = sorted(curvatures, key=abs)
    return float(small / large) if large else float("nan")
