"""Layers of the main canvas of a 4D-STEM workspace: navigation and virtual images that fill in, strain maps, status text.

Layers are looked up by their role each time, so a layer the user deleted is simply made again or left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer

from napari_emdl.base.signals import Datacube
from napari_emdl.gui.kit import styles
from napari_emdl.gui.kit.session import bare, role_of, tag, tag_of

AXES = ("scan row", "scan col")
REFRESH_MS = 150
#: Roles of layers that stay above all maps.
DRAWN = ("crosshair", "reference", "profile", "statistics", "regions")


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
        self._linking = False
        self._timer = QTimer(self)
        self._timer.setInterval(REFRESH_MS)
        self._timer.timeout.connect(self._flush)

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
        selected = self.viewer.layers.selection.active
        self.viewer.layers.insert(self._above_images(), layer)
        styles.apply_look(layer, self.looks.get(role_of(layer), {}))
        if selected is not None:
            self.viewer.layers.selection.active = selected
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

    def dress(self) -> None:
        """Give the layers that are there the looks of a project."""
        for role, look in self.looks.items():
            layer = self.layer(role)
            if layer is not None:
                styles.apply_look(layer, look)

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
        """Strain maps in % and degrees, centred at 0, with colour bars; εxx, εyy and εxy share their contrast."""
        first = self.layer("exx") is None
        self._show_errors(strain)
        shown = {}
        for name, title, factor, unit in styles.STRAIN_MAPS:
            values = (np.asarray(getattr(strain, name), float) * factor).astype(np.float32)
            shown[name] = values
            layer = self.image(
                name,
                f"{title} [{unit}]",
                values,
                colormap=styles.diverging(),
                contrast_limits=(-1.0, 1.0),
                visible=name == "exx" and first,
                blending="translucent_no_depth",
            )
            if not tag_of(layer).get("linked"):
                tag_of(layer)["linked"] = True
                styles.show_colorbar(layer)
                layer.events.contrast_limits.connect(self._link_contrast)
        if first:
            self.rescale_strain({name: values for name, values in shown.items() if name not in self.looks})
        self._show_reasons(strain)

    def _show_errors(self, strain: Any) -> None:
        """Standard errors of the strain and residual of the fit, hidden at first."""
        errors = {
            f"sigma_{name}": (f"Error of {title} [{unit}]", np.asarray(strain.sigma)[..., i] * factor)
            for i, (name, title, factor, unit) in enumerate(styles.STRAIN_MAPS)
        }
        errors["residual"] = ("Residual [px]", np.asarray(strain.residual_px))
        for role, (name, values) in errors.items():
            new = self.layer(role) is None
            layer = self.image(
                role, name, values.astype(np.float32), colormap=styles.matplotlib_colormap("viridis"), visible=False
            )
            if new:
                styles.show_colorbar(layer)
                self.fit_contrast(layer)

    def rescale_strain(self, shown: dict[str, NDArray[Any]] | None = None) -> None:
        """Contrast limits of the strain maps from their values, symmetric about 0."""
        maps = shown
        if maps is None:
            maps = {n: np.asarray(la.data) for n, *_ in styles.STRAIN_MAPS if (la := self.layer(n)) is not None}
        together = [maps[n] for n in ("exx", "eyy", "exy") if n in maps]
        for name, values in maps.items():
            layer = self.layer(name)
            if layer is not None:
                self._set_limits(layer, styles.symmetric_limits(*([values] if name == "theta_rad" else together), least=1e-3))

    def _set_limits(self, layer: Any, limits: tuple[float, float]) -> None:
        self._linking = True
        try:
            low, high = layer.contrast_limits_range
            layer.contrast_limits_range = (min(low, limits[0] * 2), max(high, limits[1] * 2))
            layer.contrast_limits = limits
        finally:
            self._linking = False

    def _link_contrast(self, event: Any) -> None:
        if self._linking or role_of(event.source) == "theta_rad":
            return
        for name in ("exx", "eyy", "exy"):
            layer = self.layer(name)
            if layer is not None and layer is not event.source:
                self._set_limits(layer, tuple(event.source.contrast_limits))

    def _show_reasons(self, strain: Any) -> None:
        from napari.layers import Labels

        reasons = np.asarray(strain.reason).astype(np.int32)
        layer = self.layer("reason")
        if layer is not None:
            layer.data = reasons
            return
        shown = ("transparent", "#9a9a9a", "#c79b3b", "#b0548f", "#4c8f6b", "#6b6bd6", "#8a5a3a")  # in the order of REASONS
        colors: dict[int | None, str] = {None: "transparent"}
        colors.update(enumerate(shown))
        layer = Labels(
            reasons,
            name="Masked: why",
            colormap=DirectLabelColormap(color_dict=colors),
            opacity=0.6,
            visible=False,
            metadata=tag("reason", self.cube),
            **self.space,
        )
        layer.editable = False
        self._insert(layer)

    def show_only(self, role: str) -> None:
        """Show one of the maps and hide the others."""
        names = [n for n, *_ in styles.STRAIN_MAPS]
        for layer in self.viewer.layers:
            if role_of(layer) in names and tag_of(layer).get("signal") is self.cube:
                layer.visible = role_of(layer) == role
                if layer.visible:
                    self.viewer.layers.selection.active = layer  # its contrast and colours are at hand

    def say(self, text: str) -> None:
        """One line in the corner of the main canvas."""
        overlay = self.viewer.text_overlay
        overlay.text = text
        overlay.position = "top_left"
        overlay.visible = bool(text)

    def close(self) -> None:
        """Stop timers and take the text away; the layers belong to the user now."""
        self._timer.stop()
        self.say("")
