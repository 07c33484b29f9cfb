"""Points layer with the columns of the current frame; edits made in it with napari's own tools come back as changes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from napari.layers import Points
from napari.utils.color import transform_color
from numpy.typing import NDArray
from qtpy.QtCore import QObject
from qtpy.QtCore import Signal as QtSignal

from napari_emdl.base.showing import species_colour
from napari_emdl.gui.kit.session import not_chosen, role_of, tag, when_idle

#: Diameter of the ring drawn around a column.
RING_A = 1.5
SHOWN_FIELDS = ("score", "sigma_px", "intensity")
_NEW = -(2**31)


def image_space(layer: Any) -> dict[str, Any]:
    """Scale, units, labels and translation of the (row, col) axes of an image layer, for layers that lie over it."""
    return {
        "scale": tuple(layer.scale[-2:]),
        "units": tuple(layer.units[-2:]),
        "axis_labels": tuple(layer.axis_labels[-2:]),
        "translate": tuple(layer.translate[-2:]),
    }


class ColumnsLayer(QObject):
    """One Points layer, refilled for every frame.

    ``edited(removed keys, added (row, col, species index))`` follows adding, moving or deleting points by hand.
    """

    edited = QtSignal(object, object)

    def __init__(self, viewer: Any, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self.layer: Any = None
        self._species: list[str] = ["column"]
        self._shown: dict[int, tuple[float, float, int]] = {}
        self._new_species = 0
        self._last: tuple[Any, ...] | None = None
        self._filling = False

    def remove(self) -> None:
        """Take the layer out of the viewer."""
        if self._alive():
            self._viewer.layers.remove(self.layer)
        self.layer = None
        self._shown = {}

    def _alive(self) -> bool:
        return self.layer is not None and self.layer in self._viewer.layers

    def make(self, image: Any) -> Any:
        """The layer, made over `image` when it is not there."""
        if self._alive():
            return self.layer
        self.layer = Points(
            np.zeros((0, 2)),
            name="columns",
            ndim=2,
            features={name: np.zeros(0) for name in (*SHOWN_FIELDS, "id")} | {"species": np.zeros(0, dtype=object)},
            face_color="transparent",
            border_width=0.14,
            symbol="disc",
            antialiasing=1,
            metadata=tag("columns"),
            **image_space(image),
        )
        with not_chosen(self._viewer):
            self._viewer.add_layer(self.layer)
        self.layer.events.data.connect(self._on_data)
        self.layer.events.visible.connect(self._on_visible)
        return self.layer

    def clear(self) -> None:
        """Show no columns."""
        self._last = None
        if self._alive() and len(self.layer.data) and self.layer.visible:
            with self._own_change():
                self.layer.selected_data = set()
                self.layer.data = np.zeros((0, 2))
        self._shown = {}

    def show(
        self, image: Any, rows: NDArray[np.void], keys: NDArray[np.int64], species: Sequence[str], pixel_A: float | None
    ) -> None:
        """Show columns of a frame.

        Parameters
        ----------
        rows
            (n,) structured array with row, col, score and what else the finder gives.
        keys
            (n,) keys of the rows, see :meth:`napari_emdl.gui.atoms.edits.ColumnEdits.merge`.
        species
            Names the field species points into.
        pixel_A
            Pixel size, for the size of the rings; None takes 10 px.
        """
        layer = self.make(image)
        self._last = (image, rows, keys, species, pixel_A)
        if not layer.visible:  # napari slices no hidden layer, so its colours must not change with its length
            return
        names = rows.dtype.names or ()
        self._species = list(species)
        kind = rows["species"].astype(int) if "species" in names else np.zeros(len(rows), int)
        positions = np.stack([rows["row"], rows["col"]], axis=-1).astype(float).reshape(-1, 2)
        features: dict[str, Any] = {name: rows[name] if name in names else np.full(len(rows), np.nan) for name in SHOWN_FIELDS}
        features["species"] = np.array([self._species[k] if k < len(self._species) else str(k) for k in kind], dtype=object)
        features["id"] = keys
        size = 10.0 if not pixel_A else max(RING_A / pixel_A, 3.0)
        with self._own_change():
            layer.selected_data = set()
            layer.data = positions
            layer.features = features
            layer.size = size
            layer.current_size = size
            if len(rows):
                layer.border_color = np.array([transform_color(species_colour(k))[0] for k in range(kind.max() + 1)])[kind]
                layer.face_color = np.zeros((len(rows), 4))
            layer.feature_defaults = self._defaults(self._new_species)
        self._shown = {int(k): (float(r), float(c), int(s)) for k, (r, c), s in zip(keys, positions, kind, strict=True)}

    def _on_visible(self) -> None:
        if self.layer.visible and self._last is not None:
            self.show(*self._last)
        elif self.layer.visible:
            self.clear()

    def set_new_species(self, index: int) -> None:
        """Species that columns added from now on get."""
        if self._alive():
            self._new_species = index
            with self._own_change():
                self.layer.selected_data = set()
                self.layer.feature_defaults = self._defaults(index)
                self.layer.current_border_color = species_colour(index)
                self.layer.current_face_color = "transparent"

    def _defaults(self, species: int) -> dict[str, Any]:
        name = self._species[species] if species < len(self._species) else self._species[0]
        return {"score": 1.0, "sigma_px": np.nan, "intensity": np.nan, "species": name, "id": _NEW}

    @contextmanager
    def _own_change(self) -> Any:
        self._filling = True
        try:
            yield
        finally:
            self._filling = False

    def _on_data(self, event: Any) -> None:
        if not self._filling and str(getattr(event, "action", "")).rsplit(".")[-1] in ("added", "removed", "changed"):
            when_idle(self._collect)

    def _collect(self) -> None:
        """Compare the layer with what was shown: what is gone, what is new, what was moved."""
        if not self._alive():
            return
        features = self.layer.features
        removed, added, seen = set(self._shown), [], set()
        for key, (row, col), name in zip(features["id"], self.layer.data, features["species"], strict=True):
            key = int(key)
            kind = self._species.index(name) if name in self._species else 0
            known = None if key in seen else self._shown.get(key)
            if known is None:
                added.append((float(row), float(col), kind))
                continue
            seen.add(key)
            if abs(known[0] - row) + abs(known[1] - col) < 1e-3 and known[2] == kind:
                removed.discard(key)
            else:
                added.append((float(row), float(col), kind))
        if removed or added:
            self.edited.emit(removed, added)


def find_layer(viewer: Any, role: str) -> Any:
    """First layer of the given role, or None."""
    return next((layer for layer in viewer.layers if role_of(layer) == role), None)
