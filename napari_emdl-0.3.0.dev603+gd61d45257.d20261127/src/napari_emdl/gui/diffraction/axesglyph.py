"""Arrows of the strain's x and y on the main canvas: shapes in a corner of the map, so that they turn with the scan's axes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

NAME = "Strain axes"
#: Length of an arrow in parts of the shorter side of the scan, and what of it is head.
LENGTH, HEAD = 0.16, 0.28
DARK, LIGHT = "#101010", "white"
NAMES = ("x", "y")


def axes_shapes(axes: Any, shape: tuple[int, int]) -> list[NDArray[np.float64]]:
    """(5, 2) paths of the two arrows, for their dark edge and again for their light middle, and (4, 2) boxes of their names.

    Parameters
    ----------
    axes
        :class:`napari_emdl.diffraction.judge.glance.Axes`.
    shape
        (rows, cols) of the scan.
    """
    length = LENGTH * min(shape)
    vectors = length * np.stack([np.asarray(axes.x, float), np.asarray(axes.y, float)])
    reach = np.concatenate([1.45 * vectors, np.zeros((1, 2))])
    # what the arrows need on each side of their tail, from the lower left corner of the map
    tail = np.array([shape[0] - 0.5 - reach[:, 0].max() - 0.35 * length, -0.5 - reach[:, 1].min() + 0.35 * length])
    arrows = [_arrow(tail, vector) for vector in vectors]
    half = 0.2 * length * np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [1.0, -1.0]])
    return [*arrows, *arrows, *(tail + 1.25 * vector + half for vector in vectors)]


def _arrow(tail: NDArray[Any], vector: NDArray[Any]) -> NDArray[np.float64]:
    """(5, 2) path: tail, tip, one end of the head, tip, the other."""
    across = np.array([-vector[1], vector[0]])
    tip = tail + vector
    ends = [tip - HEAD * vector + sign * 0.6 * HEAD * across for sign in (-1, 1)]
    return np.array([tail, tip, ends[0], tip, ends[1]])


def axes_layer(axes: Any, shape: tuple[int, int], metadata: dict[str, Any], space: dict[str, Any]) -> Any:
    """Shapes layer of the arrows, for nobody to edit."""
    from napari.layers import Shapes

    wide = LENGTH * min(shape) * 0.17
    layer = Shapes(
        axes_shapes(axes, shape),
        name=NAME,
        shape_type=["path"] * 4 + ["rectangle"] * 2,
        edge_width=[wide] * 2 + [0.4 * wide] * 2 + [0.01 * wide] * 2,
        edge_color=[DARK] * 2 + [LIGHT] * 2 + [DARK] * 2,
        face_color=["transparent"] * 4 + [DARK] * 2,
        features={"axis": ["", "", "", "", *NAMES]},
        text={"string": "{axis}", "size": 9, "color": LIGHT, "anchor": "center"},
        opacity=0.9,
        metadata=metadata,
        **space,
    )
    layer.editable = False
    return layer
