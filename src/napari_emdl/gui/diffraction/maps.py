"""Layers of the main canvas of a 4D-STEM workspace: navigation and virtual images that fill in, strain maps, status text.

Layers are looked up by their role each time, so a layer the user deleted is simply made again or left out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer

from napari_emdl.base.signals import Datacube
from napari_emdl.diffraction.judge.glance import most_to_see
from napari_emdl.gui.diffraction.axesglyph import axes_layer, axes_shapes
from napari_emdl.gui.diffraction.corner import Corner
from napari_emdl.gui.diffraction.ontop import OnTop
from napari_emdl.gui.diffraction.scales import StrainScales
from napari_emdl.gui.kit import pace, styles
from napari_emdl.gui.kit.session import bare, not_chosen, role_of, tag, tag_of

AXES = ("scan row", "scan col")
REFRESH_MS = 150
#: In the order of :data:`napari_emdl.diffraction.fit.strain.REASONS`, without "fitted".
REASON_COLORS = ("#9a9a9a", "#c79b3b", "#b0548f", "#4c8f6b", "#6b6bd6", "#8a5a3a")
#: Roles of layers that stay above all maps.
DRAWN = ("crosshair", "axes", "reference", "profile", "statistics", "regions")


class ScanMaps(QObject):
    """Maps over the scan on a viewer.

    Parameters
    ----------
    viewer
        napari viewer (main canvas).
    cube
        Datacube whose scan the maps cover.
    """

    def __init__(self, viewer: Any, cube: Datacube, parent: QObject | None = None):
        super().__init__(parent)
        self.viewer = bare(viewer)
        self.cube = cube
        self.space = styles.space(cube.calibration.pixel_nm, "nm", AXES)
        self.looks: dict[str, dict[str, Any]] = {}  # role -> look of a layer that is to come, from a project
        self._dirty: set[str] = set()
        self.turns = pace.Turns(self)  # layers are made one at a time
        self.strain: Any = None
        self.coarse: Any = None  # jobs.CoarseView that is shown until the whole map comes
        self.chosen = ""  # role of the map that is on top
        self.scales = StrainScales(self.layer, self)
        self.scales.moved.connect(lambda name: self._refresh_ends() if name == self.chosen else None)
        self._extra: set[str] = set()
        self._timer = QTimer(self)
        self._timer.setInterval(REFRESH_MS)
        self._timer.timeout.connect(self._flush)
        self._corner = Corner(self.viewer, self.turns.first, np.multiply(cube.scan_shape, self.space["scale"]))
        self._said: list[str] = []
        self._directions: Any = None  # of the axes that are drawn
        self._on_top = OnTop(self.viewer, cube, lambda: self.turns.first("bars", self._show_bars), self)

    def layer(self, role: str) -> Any:
        """Layer of that role for this datacube, or None."""
        for layer in self.viewer.layers:
            if role_of(layer) == role and tag_of(layer).get("signal") is self.cube:
                return layer
        return None

    def _above_images(self) -> int:
        """Index above all images of this datacube, under its drawings and the cross-hair."""
        own = [
            i
            for i, layer in enumerate(self.viewer.layers)
            if tag_of(layer).get("signal") is self.cube and role_of(layer) not in DRAWN
        ]
        return max(own) + 1 if own else len(self.viewer.layers)

    def _insert(self, layer: Any) -> Any:
        on_top = role_of(layer) == self.chosen  # the map on top is at hand
        with contextlib.nullcontext() if on_top else not_chosen(self.viewer):
            self.viewer.layers.insert(self._above_images(), layer)
        styles.apply_look(layer, self.looks.get(role_of(layer), {}))
        return layer

    def image(self, role: str, name: str, data: NDArray[Any], **look: Any) -> Any:
        """Image layer of that role, made or updated."""
        from napari.layers import Image

        layer = self.layer(role)
        if layer is not None:
            layer.data = data
            return layer
        look.setdefault("contrast_limits", (0.0, 1.0))
        return self._insert(Image(data, name=name, metadata=tag(role, self.cube), **look, **self.space))

    # images that fill in

    def begin_filling(self, role: str, name: str, **look: Any) -> Any:
        """Empty (NaN) image of that role, to be filled block by block; a map that is there keeps its look and old values."""
        layer = self.layer(role)
        if layer is None:
            layer = self.image(role, name, np.full(self.cube.scan_shape, np.nan, np.float32), **look)
        return layer

    def fill(self, role: str, start: int, stop: int, values: NDArray[Any]) -> None:
        """Set the values of scan positions `start`:`stop`; shown within a fraction of a second."""
        layer = self.layer(role)
        if layer is None:
            return
        np.asarray(layer.data).reshape(-1)[start:stop] = values
        self._dirty.add(role)
        if not self._timer.isActive():
            self._timer.start()

    def _flush(self) -> None:
        for role in self._dirty:
            layer = self.layer(role)
            if layer is not None:
                self.fit_contrast(layer)
                layer.refresh(extent=False)
        self._dirty.clear()
        self._timer.stop()

    def dress(self, role: str) -> None:
        """Give a layer that is there its look in a project."""
        layer = self.layer(role)
        if layer is not None:
            styles.apply_look(layer, self.looks[role])

    def fit_contrast(self, layer: Any) -> None:
        """Contrast from the values that are there, unless a project gave it."""
        if "contrast_limits" in self.looks.get(role_of(layer), {}):
            return
        data = np.asarray(layer.data)
        finite = data[np.isfinite(data)]
        if finite.size:
            low, high = (float(v) for v in np.quantile(finite, (0.005, 0.995)))
            high = high if high > low else low + max(abs(low), 1.0) * 1e-3
            layer.contrast_limits_range = (float(min(finite.min(), low)), float(max(finite.max(), high)))
            layer.contrast_limits = (low, high)

    # strain

    def show_strain(self, strain: Any) -> None:
        """Strain maps in % and degrees, centred at 0, with colour bars; εxx, εyy and εxy share their contrast.

        The map that is shown is drawn now, others that were shown before one by one between two events. A map that nobody
        looked at has no layer yet: napari takes a seventh of a second for each, in the thread of the window.
        """
        first = all(self.layer(name) is None for name, *_ in styles.STRAIN_MAPS)
        self.strain, self.coarse = strain, None
        self.scales.put(strain)
        if first:
            self.chosen = self.chosen or most_to_see(strain)
        for name, *_ in styles.STRAIN_MAPS:
            if name == self.chosen or self.layer(name) is not None:
                self._soon(name, partial(self._show_map, name))
        self.turns.soon("axes", self._show_axes)
        for role in self._extra:
            if self.layer(role) is not None:
                self._soon(role, partial(self.show_extra, role, None))

    def show_coarse(self, view: Any) -> None:
        """A coarse map (:class:`napari_emdl.gui.diffraction.jobs.CoarseView`) in place of those shown; None: the whole ones."""
        if view is None and self.coarse is None:
            return
        self.coarse = view
        for name, *_ in styles.STRAIN_MAPS:
            layer = self.layer(name)
            if layer is not None and layer.visible:
                layer.data = self._coarse_values(name)
        self._refresh_ends()

    def _coarse_values(self, name: str) -> NDArray[np.float32]:
        if self.coarse is None:
            return self.scales.values[name]
        factor = next(factor for role, _, factor, _ in styles.STRAIN_MAPS if role == name)
        return (self.coarse.values[name] * factor).astype(np.float32)

    def _soon(self, role: str, draw: Callable[[], Any]) -> None:
        """Draw a map now where it is shown, before all others where it is to be, else when nothing else waits."""
        layer = self.layer(role)
        if layer is not None and (role == self.chosen or layer.visible):
            self.turns.forget(role)
            draw()
        elif role == self.chosen:
            self.turns.first(role, draw)
        else:
            self.turns.soon(role, draw)

    @property
    def settled(self) -> bool:
        """True when nothing waits to be drawn."""
        return self.turns.settled

    def finish(self) -> None:
        """Draw what waits now."""
        self.turns.finish()

    def _show_map(self, name: str) -> None:
        title, unit = next((title, unit) for role, title, _, unit in styles.STRAIN_MAPS if role == name)
        new = self.layer(name) is None
        layer = self.image(
            name,
            f"{title} [{unit}]",
            self.scales.values[name],
            colormap=styles.diverging(),
            contrast_limits=self.scales.limits(name) or (-1.0, 1.0),
            visible=name == self.chosen,
            blending="translucent_no_depth",
        )
        if new:
            self.scales.follow(layer, take="contrast_limits" in self.looks.get(name, {}))

    def _show_axes(self) -> None:
        """Arrows of the strain's x and y in the corner of the map, shown with any of the strain maps."""
        from napari_emdl.diffraction.judge.glance import axes_on_scan

        axes, layer = axes_on_scan(self.strain), self.layer("axes")
        directions = np.array([axes.x, axes.y])
        if layer is None:
            layer = self._insert(axes_layer(axes, self.cube.scan_shape, tag("axes", self.cube), self.space))
        elif not np.array_equal(directions, self._directions):  # napari makes all shapes and their text anew
            layer.data = axes_shapes(axes, self.cube.scan_shape)
        self._directions = directions
        self._axes_with_maps()

    def _axes_with_maps(self) -> None:
        layer = self.layer("axes")
        names = {name for name, *_ in styles.STRAIN_MAPS}
        shown = any(role_of(one) in names for one in self._on_top.seen())
        if layer is not None and layer.visible != shown:
            layer.visible = shown

    def _show_bars(self) -> None:
        """Colour bars, arrows of x and y and shares beyond go with the maps that can be seen; one bar at a time.

        After all that changes in one event: napari draws up its scene anew for each layer that is shown or hidden.
        """
        seen = self._on_top.seen()
        for role in [*(name for name, *_ in styles.STRAIN_MAPS), *(self._extra - {"reason"})]:
            layer = self.layer(role)
            if layer is None or not layer.visible:  # a hidden layer draws no bar
                continue
            if layer not in seen:
                styles.show_colorbar(layer, False)
            elif not styles.has_colorbar(layer):
                self.turns.soon(f"bar of {role}", partial(self._show_bar, role))
        self._axes_with_maps()
        self._refresh_ends()

    def _show_bar(self, role: str) -> None:
        layer = self.layer(role)
        if layer is not None:
            styles.show_colorbar(layer)

    # errors, residual and reasons, made when they are asked for

    def show_extra(self, role: str, visible: bool | None = True) -> Any:
        """Layer of a standard error ("sigma_exx", ...), "residual" or "reason"; None leaves it shown or hidden."""
        if self.strain is None:
            return None
        look: dict[str, Any] = {"colormap": styles.matplotlib_colormap("viridis")}
        values: NDArray[Any]
        if role == "reason":
            name, values = "Masked: why", np.asarray(self.strain.reason, np.float32)
            values = np.where(values > 0, values, np.nan).astype(np.float32)
            look = {
                "colormap": styles.listed(REASON_COLORS),
                "contrast_limits": (0.5, len(REASON_COLORS) + 0.5),
                "opacity": 0.8,
            }
        elif role == "residual":
            values = np.asarray(self.strain.residual_px)
            name = "Residual [px]"
        else:
            number, (_, title, factor, unit) = next(
                (i, entry) for i, entry in enumerate(styles.STRAIN_MAPS) if role == f"sigma_{entry[0]}"
            )
            name, values = f"Error of {title} [{unit}]", np.asarray(self.strain.sigma)[..., number] * factor
        new = self.layer(role) is None
        layer = self.image(role, name, values.astype(np.float32), blending="translucent_no_depth", **look)
        self._extra.add(role)
        if new and role != "reason":
            self.fit_contrast(layer)
        if visible is not None:
            layer.visible = visible
        return layer

    def show_only(self, role: str) -> None:
        """Show one of the maps and hide the others; a map that has no layer yet is there in a moment."""
        self.chosen = role
        if role in self.scales.values and self.layer(role) is None:
            self.turns.first("reveal", self._reveal)
            self.turns.first(role, partial(self._show_map, role))
        else:
            self.turns.hurry(role)
            self._reveal()

    def _reveal(self) -> None:
        role = self.chosen
        shown = self.layer(role)
        if shown is not None:
            shown.visible = True
            if self.coarse is not None and role in self.scales.values:
                shown.data = self._coarse_values(role)
            self.viewer.layers.selection.active = shown  # its contrast and colours are at hand
        names = {name for name, *_ in styles.STRAIN_MAPS} | self._extra
        over = self._on_top.over(shown) if shown is not None else []  # a virtual image would cover it
        for layer in self.viewer.layers:
            mine = role_of(layer) in names and tag_of(layer).get("signal") is self.cube
            if (mine and layer is not shown) or layer in over:
                layer.visible = False
        self._refresh_ends()

    def say(self, lines: list[str]) -> None:
        """A few lines in the corner of the main canvas, the last of which says what lies beyond the colours of the map."""
        self._said = lines
        self._refresh_ends()
        if not lines:
            self._corner.say([])

    def ends(self) -> str:
        """Which shares of the map on top lie beyond the ends of its colour bar; empty when none does."""
        layer = self.layer(self.chosen) if self.chosen in self.scales.values else None
        if layer is None or layer not in self._on_top.seen():
            return ""
        marks = self.scales.end_marks(layer)
        return f"{layer.name.partition(' [')[0]} {marks} beyond" if marks else ""

    def _refresh_ends(self) -> None:
        if not self._said:  # the corner is another's, or empty
            return
        coarse = [] if self.coarse is None else [f"coarse map: every {self.coarse.step}th position"]
        title = next((title for name, title, *_ in styles.STRAIN_MAPS if name == self.chosen), "")
        ends = [] if coarse else list(filter(None, [self.ends()]))
        self._corner.say([*coarse, *self._said, *ends], title)

    def close(self) -> None:
        """Stop timers and take the text away; the layers belong to the user now."""
        self._timer.stop()
        self.turns.stop()
        self._said = []
        self._on_top.close()
        self._corner.close()
