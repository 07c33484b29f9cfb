"""What is open in a viewer: signals tied to layers, one workspace a viewer, clean-up when the viewer goes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, ref

import numpy as np
from qtpy.QtCore import QEvent, QObject, QTimer

from napari_emdl.base.signals import Signal
from napari_emdl.gui.kit import glyphs, pace, programs, responsive
from napari_emdl.gui.kit.sliders import Sliders
from napari_emdl.gui.kit.styles import METADATA_KEY

PLUGIN = "napari-emdl"
WORKSPACE = "4D-STEM workspace"
COLUMNS, DIFFUSION, LIVE = "HRTEM columns", "Surface diffusion", "Live"

MARGIN = 0.05  # around what is fitted into a canvas

#: Titles of the panels' tabs: with all three in a narrow window, longer ones are cut off.
TABS = {WORKSPACE: "4D-STEM", COLUMNS: "Columns", DIFFUSION: "Diffusion", LIVE: "Live"}

_widgets: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()
_sliders: WeakKeyDictionary[Any, Sliders] = WeakKeyDictionary()


def tag(role: str, signal: Signal | None = None, **more: Any) -> dict[str, Any]:
    """``metadata=`` of a layer of ours: its role ("navigation", "movie", "strain", ...) and the signal behind it."""
    return {METADATA_KEY: {"role": role, "signal": signal, **more}}


def tag_of(layer: Any) -> dict[str, Any]:
    """What :func:`tag` put on a layer, or an empty dict."""
    found = layer.metadata.get(METADATA_KEY)
    return found if isinstance(found, dict) else {}


def role_of(layer: Any) -> str:
    """Role of a layer of ours, "" for any other layer."""
    return str(tag_of(layer).get("role", ""))


def signal_of(layer: Any) -> Signal | None:
    """Opened file behind a layer, or None."""
    found = tag_of(layer).get("signal")
    return found if isinstance(found, Signal) else None


def layers_with_signal(viewer: Any, *kinds: str) -> Iterator[tuple[Any, Signal]]:
    """Layers of `viewer` that stand for an opened file of one of `kinds` (all kinds when none is given)."""
    for layer in viewer.layers:
        signal = signal_of(layer)
        if signal is not None and (not kinds or signal.kind in kinds):
            yield layer, signal


def bare(viewer: Any) -> Any:
    """Viewer itself; napari hands plugins a proxy of it in some places."""
    return getattr(viewer, "__wrapped__", viewer)


def camera_of(viewer: Any) -> Any:
    """Camera of a viewer; napari 0.9 keeps it in the scene and warns of the old place."""
    return getattr(viewer, "scene", viewer).camera


#: Centre and zoom that a view was fitted to, by viewer.
_fitted: WeakKeyDictionary[Any, tuple[float, ...]] = WeakKeyDictionary()


def fit_view(viewer: Any) -> None:
    """Show what is visible whole: what is put aside does not count, as it does for napari.

    It stays whole when the canvas gets another size, until somebody zooms or moves it.
    """
    shown = [layer for layer in viewer.layers if layer.visible]
    canvas: Any = getattr(bare(viewer), "canvas", None)
    if not shown or viewer.dims.ndisplay != 2 or not hasattr(canvas, "viewbox_size"):  # napari before 0.9
        viewer.reset_view()
        return
    extent = viewer.layers.get_extent(shown)
    (low, high), step = extent.world[:, -2:], np.asarray(extent.step, float)[-2:]
    size = np.maximum(high - low + step, 1e-9)  # to the edges of the outermost pixels
    camera = camera_of(viewer)
    camera.center = (*camera.center[:-2], *((low + high) / 2))
    camera.zoom = float((1 - MARGIN) * np.min(np.asarray(canvas.viewbox_size(viewer.layers)) / size))
    viewer = bare(viewer)
    if viewer not in _fitted:
        known = ref(viewer)
        canvas.events.size.connect(lambda *_: _keep_fitted(known()))
    _fitted[viewer] = _view_of(viewer)


def _view_of(viewer: Any) -> tuple[float, ...]:
    camera = camera_of(viewer)
    return (*(float(v) for v in camera.center[-2:]), float(camera.zoom))


def _keep_fitted(viewer: Any) -> None:
    there = viewer is not None and has_window(viewer) and viewer.window._qt_window.isVisible() and min(viewer.canvas.size) > 1
    if there and np.allclose(_view_of(viewer), _fitted[viewer], rtol=1e-6):
        fit_view(viewer)


def register(viewer: Any, name: str, widget: Any) -> None:
    """Remember the panel `name` of `viewer` so that it is opened only once."""
    _widgets.setdefault(bare(viewer), {})[name] = widget
    responsive.begin()
    programs.begin()
    glyphs.make_ready_in(bare(viewer))
    if has_window(viewer) and bare(viewer) not in _sliders:
        _sliders[bare(viewer)] = Sliders(bare(viewer))
    pace.follow(getattr(getattr(bare(viewer), "window", None), "_qt_viewer", None))


def unregister(viewer: Any, name: str) -> None:
    """Forget a panel that was closed."""
    panels = _widgets.get(bare(viewer), {})
    panels.pop(name, None)
    if not panels:
        _widgets.pop(bare(viewer), None)
        if has_window(viewer) and bare(viewer) in _sliders:
            _sliders.pop(bare(viewer)).close()
    if not _widgets:
        responsive.end()
        programs.end()


def registered(viewer: Any, name: str) -> Any:
    """Panel `name` of `viewer`, or None."""
    return _widgets.get(bare(viewer), {}).get(name)


def panels(viewer: Any) -> list[Any]:
    """Panels of ours that are open in `viewer`, the one opened last first."""
    return list(_widgets.get(bare(viewer), {}).values())[::-1]


def has_window(viewer: Any) -> bool:
    """True for a viewer with a window that is not closed (a bare ViewerModel has none)."""
    window = getattr(viewer, "window", None)
    return window is not None and getattr(window, "_qt_window", None) is not None


def setting(category: str, name: str, default: Any) -> Any:
    """Value from Preferences > Plugins, or `default` where this napari has no plugin settings (before 0.9)."""
    if _as_installed(category):
        return default
    try:
        from napari.settings import get_plugin_settings

        return getattr(getattr(get_plugin_settings(PLUGIN), category), name)
    except (ImportError, AttributeError, KeyError, ValueError):
        return default


def _as_installed(category: str) -> bool:
    """Whether nobody changed a preference of ours: napari writes a change to a file at once, or has it from the environment.

    To say so itself, napari reads the manifests of all plugins: 0.2 s of the window.
    """
    from napari.settings import get_settings

    kept = get_settings().config_path
    set_outside = any(name.upper().startswith(f"NAPARI_{category.upper()}_") for name in os.environ)
    return bool(kept) and not set_outside and not Path(kept).with_name(f"{PLUGIN}.yaml").exists()


@contextlib.contextmanager
def not_chosen(viewer: Any) -> Iterator[None]:
    """A layer that is added meanwhile does not become the one at hand: napari builds its controls anew with each that does."""
    layers, active = viewer.layers, viewer.layers.selection.active
    had = getattr(layers, "_activate_on_insert", True)
    if active is not None:  # else the first layer would leave nothing at hand
        layers._activate_on_insert = False
    try:
        yield
    finally:
        layers._activate_on_insert = had
        if active is not None and active in layers and layers.selection.active is not active:
            layers.selection.active = active


class CloseWatch(QObject):
    """Calls `function` when a window is closed for good: accepted by it (a question may come first), before Qt deletes it."""

    def __init__(self, window: QObject, function: Callable[[], Any], parent: QObject | None = None):
        super().__init__(parent)
        self._function = function
        self._asked = False
        window.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        if event is not None:
            kind, visible = event.type(), bool(getattr(watched, "isVisible", lambda: False)())
            if kind == QEvent.Type.Close:
                self._asked = True
            hidden = kind == QEvent.Type.Hide and not event.spontaneous()
            if self._asked and (hidden or (kind == QEvent.Type.Close and not visible)):
                self._function()
        return False


def when_idle(function: Callable[[], Any]) -> None:
    """Call `function` once the running event is over."""
    QTimer.singleShot(0, function)


def open_panel(viewer: Any, display_name: str) -> Any:
    """Open the panel the manifest lists as `display_name`, once a viewer, and return its widget."""
    found = registered(viewer, display_name)
    if found is None:
        _, found = viewer.window.add_plugin_dock_widget(PLUGIN, display_name)
    return found


def dock_of(widget: Any) -> Any:
    """Dock that napari put a panel into, or None."""
    while widget is not None and not hasattr(widget, "setFeatures"):
        widget = widget.parent()
    return widget


def tabify(viewer: Any, widget: Any, *names: str, behind: bool = False) -> None:
    """Put the dock of `widget` as a tab onto the first of the panels `names` that is open, in front of it or `behind`."""
    mine = dock_of(widget)
    docks = [dock for dock in (dock_of(registered(viewer, name)) for name in names) if dock is not mine]
    for other in docks:
        if mine is None or other is None or other is mine or mine.isFloating() or other.isFloating():
            continue
        for name in names:
            dock = dock_of(registered(viewer, name))
            if dock is not None:
                dock.setWindowTitle(TABS[name])
        front = next((dock for dock in docks if dock is not None and not dock.visibleRegion().isEmpty()), other)
        viewer.window._qt_window.tabifyDockWidget(other, mine)
        (front if behind else mine).raise_()
        return


def bring_forward(viewer: Any, name: str, instead_of: str = "") -> None:
    """Show the tab of the panel `name`, if it is open; where `instead_of` is named, only while that panel is in front."""
    dock, other = dock_of(registered(viewer, name)), dock_of(registered(viewer, instead_of))
    if dock is not None and (not instead_of or (other is not None and not other.visibleRegion().isEmpty())):
        dock.raise_()


def remove_dock(viewer: Any, dock: Any) -> None:
    """Take a dock widget off the window; nothing happens when the window is going down already."""
    with contextlib.suppress(LookupError, RuntimeError, AttributeError):
        viewer.window.remove_dock_widget(dock)
