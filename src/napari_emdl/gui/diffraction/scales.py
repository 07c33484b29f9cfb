"""Colour scales of the strain maps: εxx, εyy and εxy have one, θ has its own, and they are the same wherever a map is drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Signal

from napari_emdl.diffraction.judge.glance import beyond
from napari_emdl.gui.kit import styles
from napari_emdl.gui.kit.session import role_of


def sharing(name: str) -> tuple[str, ...]:
    """Strain maps that have one colour scale with this one."""
    return ("theta_rad",) if name == "theta_rad" else ("exx", "eyy", "exy")


class StrainScales(QObject):
    """Values of the strain maps in their shown units, and the ends of their colours.

    Parameters
    ----------
    layer
        Layer of a map by its name, or None where it has none yet.

    Signals
    -------
    changed
        The colour scale of a map is another.
    moved
        Somebody, or this, changed the contrast of a layer: its name.
    """

    changed = Signal()
    moved = Signal(str)

    def __init__(self, layer: Callable[[str], Any], parent: QObject | None = None):
        super().__init__(parent)
        self._layer = layer
        self.values: dict[str, NDArray[np.float32]] = {}
        self._limits: dict[str, tuple[float, float]] = {}
        self._linking = False
        self._marked: tuple[int, tuple[float, ...], str] = (0, (), "")

    def put(self, strain: Any) -> None:
        """Take the values of a strain map; scales that are there stay."""
        for name, _, factor, _ in styles.STRAIN_MAPS:
            self.values[name] = (np.asarray(getattr(strain, name), float) * factor).astype(np.float32)
        for name in self.values:
            if self.limits(name) is None:
                self._limits[name] = self.fresh(name)

    def limits(self, name: str) -> tuple[float, float] | None:
        """Colour scale of a map in its shown unit; None before there is one."""
        for layer in filter(None, map(self._layer, sharing(name))):
            low, high = layer.contrast_limits
            return float(low), float(high)
        return self._limits.get(name)

    def fresh(self, name: str) -> tuple[float, float]:
        """Colour scale of a map by its values, symmetric about 0, with a round number at its ends."""
        return styles.rounded_limits(styles.symmetric_limits(*(self.values[one] for one in sharing(name)), least=1e-3))

    def rescale(self) -> None:
        """Scales from the values."""
        for name in self.values:
            layer, limits = self._layer(name), self.fresh(name)
            self._limits[name] = limits
            if layer is not None:
                self._set(layer, limits)
        self.changed.emit()

    def follow(self, layer: Any, take: bool) -> None:
        """Link the contrast of a new layer; its own counts for all that share it where it is to be taken."""
        low, high = layer.contrast_limits
        layer.contrast_limits_range = (min(2 * low, layer.contrast_limits_range[0]), 2 * high)
        if take:
            self._take(layer)
        layer.events.contrast_limits.connect(self._link)

    def _set(self, layer: Any, limits: tuple[float, float]) -> None:
        self._linking = True
        try:
            low, high = layer.contrast_limits_range
            layer.contrast_limits_range = (min(low, limits[0] * 2), max(high, limits[1] * 2))
            layer.contrast_limits = limits
        finally:
            self._linking = False

    def _link(self, event: Any) -> None:
        self.moved.emit(role_of(event.source))
        if not self._linking:
            self._take(event.source)

    def _take(self, source: Any) -> None:
        """Colour scale of one map for those that share it."""
        limits = tuple(source.contrast_limits)
        for name in sharing(role_of(source)):
            self._limits[name] = limits
            layer = self._layer(name)
            if layer is not None and layer is not source:
                self._set(layer, limits)
        self.changed.emit()

    def end_marks(self, layer: Any) -> str:
        """Which shares of the values of a map lie beyond the ends of its layer's colours; empty when none does."""
        values, limits = self.values[role_of(layer)], tuple(layer.contrast_limits)
        if self._marked[:2] != (id(values), limits):  # the cross-hair moves more often than the colours
            self._marked = (id(values), limits, styles.end_marks(beyond(values, limits)))
        return self._marked[2]
