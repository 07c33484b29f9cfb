"""Marks on the pattern beside the disks: dashed rings of a second method, arrows from place to place."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.gui.diffraction.canvas import FLAT, VIEWS, DiffractionCanvas
from napari_emdl.gui.kit.session import not_chosen, tag

AGREED_COLOR, ONLY_FIRST_COLOR, ONLY_SECOND_COLOR = "#3ddc84", "#ffb000", "#ff5ad1"
ARROW_COLOR = "#ffe45c"
DASHES = 10
#: Dashed rings are this much wider than the probe, so that both methods' rings are seen.
WIDER = 1.3


class Marks:
    """One Vectors layer of the diffraction canvas, made when there is something to show, and hidden with the pattern.

    Parameters
    ----------
    canvas
        Diffraction canvas.
    role, name
        Of the layer.
    look
        Further keywords of the layer.
    """

    def __init__(self, canvas: DiffractionCanvas, role: str, name: str, **look: Any) -> None:
        self.canvas, self.role, self.name, self.look = canvas, role, name, look
        canvas.view_changed.connect(lambda *_: self._set_visible())

    @property
    def layer(self) -> Any:
        """The layer, or None."""
        return self.canvas.layer(self.role)

    def show(self, vectors: NDArray[Any], colors: NDArray[Any] | None = None) -> None:
        """Draw vectors (n, 2, 2), start and direction, with colours (n, 4) if they differ; none hides the layer."""
        layer = self.layer
        if not len(vectors):
            if layer is not None:
                layer.data = np.zeros((0, 2, 2))
            return
        if self.canvas.shape is None:
            return
        if layer is not None and layer.data.shape == vectors.shape:
            layer.data = vectors
            if colors is not None:
                layer.edge_color = colors
            return
        if layer is not None:  # napari keeps as many colours as there were vectors
            self.canvas.model.layers.remove(layer)
        look = {"edge_width": max(self.canvas.shape) / 75, "opacity": 1.0, **self.look}
        if colors is not None:
            look["edge_color"] = colors
        with not_chosen(self.canvas.model):
            layer = self.canvas.model.add_vectors(
                vectors, name=self.name, blending=FLAT, metadata=tag(self.role), **look, **self.canvas.space
            )
        layer.editable = False
        self._set_visible()

    def _set_visible(self) -> None:
        if self.layer is not None:
            self.layer.visible = self.canvas.view.currentText() == VIEWS[0]


def dashed_rings(positions_px: NDArray[Any], radius_px: float) -> NDArray[np.float64]:
    """(n * DASHES, 2, 2) vectors that make dashed rings around (n, 2) places."""
    turn = 2 * np.pi / DASHES
    angle = np.arange(DASHES) * turn
    start = radius_px * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    stop = radius_px * np.stack([np.sin(angle + 0.6 * turn), np.cos(angle + 0.6 * turn)], axis=1)
    places = np.asarray(positions_px, float).reshape(-1, 1, 2)
    rings = np.stack([places + start, np.broadcast_to(stop - start, (len(places), DASHES, 2))], axis=2)
    return rings.reshape(-1, 2, 2)


def arrows(start_px: NDArray[Any], stop_px: NDArray[Any], factor: float) -> NDArray[np.float64]:
    """(n, 2, 2) vectors from `start_px` towards `stop_px`, `factor` times as long."""
    start = np.asarray(start_px, float).reshape(-1, 2)
    return np.stack([start, factor * (np.asarray(stop_px, float).reshape(-1, 2) - start)], axis=1)
