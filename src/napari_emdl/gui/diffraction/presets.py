"""Thresholds of the disks: undo and redo, and presets that are kept between starts."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QObject, Qt, QTimer, Signal
from qtpy.QtGui import QAction, QKeySequence, QShortcut
from qtpy.QtWidgets import QApplication, QHBoxLayout, QInputDialog, QMenu, QToolButton, QWidget

from napari_emdl.base.params import DiskLimits
from napari_emdl.gui.diffraction.state import StemState
from napari_emdl.gui.kit import styles
from napari_emdl.gui.kit.remembered import recall, remember

NAME = "thresholds"
SETTLE_MS = 400
STEPS_KEPT = 200


class LimitsHistory(QObject):
    """Undo and redo of what a disk must pass.

    Changes that follow each other closely, or under one press of the mouse, are one step.
    """

    changed = Signal()

    def __init__(self, state: StemState, parent: QObject | None = None):
        super().__init__(parent)
        self.stem = state
        self._before: list[DiskLimits] = []
        self._after: list[DiskLimits] = []
        self._settled = state.limits
        self._moving = False
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(SETTLE_MS)
        self._timer.timeout.connect(self._on_quiet)
        state.limits_changed.connect(self._on_change)
        state.overlay_changed.connect(self._follow)
        state.cube_changed.connect(self.clear)

    def clear(self) -> None:
        """Forget all steps: another datacube."""
        self._timer.stop()
        self._before, self._after = [], []
        self._settled = self.stem.limits
        self.changed.emit()

    def _follow(self) -> None:
        """A method that brings its own threshold is where the steps begin, not a step."""
        if not self._timer.isActive() and not self._before and not self._after:
            self._settled = self.stem.limits

    def _on_change(self) -> None:
        if not self._moving:
            self._timer.start()

    def _on_quiet(self) -> None:
        if QApplication.mouseButtons() != Qt.MouseButton.NoButton:
            self._timer.start()  # a drag that rests is not over
        else:
            self.settle()

    def settle(self) -> None:
        """What was changed since the last step is a step now."""
        self._timer.stop()
        now = self.stem.limits
        if now != self._settled:
            self._before = [*self._before, self._settled][-STEPS_KEPT:]
            self._after = []
            self._settled = now
            self.changed.emit()

    @property
    def can_undo(self) -> bool:
        """True when there is a step to take back."""
        return bool(self._before) or self.stem.limits != self._settled

    @property
    def can_redo(self) -> bool:
        """True when a step was taken back."""
        return bool(self._after)

    def undo(self) -> None:
        """Take the last step back."""
        self.settle()
        if self._before:
            self._after.append(self._settled)
            self._go(self._before.pop())

    def redo(self) -> None:
        """Take the last step that was taken back again."""
        self.settle()
        if self._after:
            self._before.append(self._settled)
            self._go(self._after.pop())

    def _go(self, limits: DiskLimits) -> None:
        self._settled = limits
        self._moving = True
        try:
            self.stem.set_limits(limits)
        finally:
            self._moving = False
        self.changed.emit()


def built_in(name: str, default_min_score: float | None) -> DiskLimits:
    """Preset "strict", "default" or "everything", for a method whose own threshold is `default_min_score`."""
    if name == "everything":
        return DiskLimits(min_score=0.0)
    if name == "strict" and default_min_score is not None:
        half_way_up = (1 + default_min_score) / 2  # for scores that are probabilities
        return DiskLimits(min_score=half_way_up if default_min_score < 1 else 2 * default_min_score)
    return DiskLimits()


BUILT_IN = {
    "strict": "Score half-way up to 1 (twice the method's threshold for correlations), no other limit",
    "default": "The method's own threshold, no other limit",
    "everything": "All candidates, no limit",
}


def presets() -> dict[str, DiskLimits]:
    """The user's presets by name; those that cannot be read are left out."""
    found = {}
    for name, values in recall(NAME).items():
        try:
            found[str(name)] = DiskLimits.model_validate(values)
        except ValueError:
            continue
    return found


class ThresholdTools(QWidget):
    """Undo, redo and the menu of presets, for the row below the histogram."""

    def __init__(self, state: StemState, parent: QWidget | None = None):
        super().__init__(parent)
        self.stem = state
        self.history = LimitsHistory(state, self)
        self.undo_button = self._button("↶", "Take the last change of the limits back (Ctrl+Z)", self.history.undo)
        self.redo_button = self._button("↷", "Make it again (Ctrl+Shift+Z)", self.history.redo)
        self.menu_button = QToolButton()
        self.menu_button.setText("Presets ▾")
        self.menu_button.setStyleSheet(styles.MENU_BUTTON)
        self.menu_button.setObjectName("threshold_presets")
        self.menu_button.setToolTip("Sets of limits: strict, default, everything, and your own, which are kept between starts")
        self.menu_button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.menu = QMenu(self.menu_button)
        self.menu.setToolTipsVisible(True)
        self.menu_button.setMenu(self.menu)
        self.menu.aboutToShow.connect(self.fill_menu)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        for widget in (self.undo_button, self.redo_button, self.menu_button):
            row.addWidget(widget)
        self.history.changed.connect(self.refresh)
        state.limits_changed.connect(self.refresh)
        self.fill_menu()
        self.refresh()

    @staticmethod
    def _button(text: str, tip: str, action: Any) -> QToolButton:
        button = QToolButton()
        button.setText(text)
        button.setToolTip(tip)
        button.clicked.connect(lambda *_: action())
        return button

    def add_keys(self, widget: QWidget) -> None:
        """Ctrl+Z and Ctrl+Shift+Z while `widget` or what is in it has the focus; on a canvas they are napari's own."""
        for keys, action in (("Ctrl+Z", self.history.undo), ("Ctrl+Shift+Z", self.history.redo)):
            shortcut = QShortcut(QKeySequence(keys), widget)
            shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            shortcut.activated.connect(action)

    def refresh(self) -> None:
        """Enable what can be done."""
        self.undo_button.setEnabled(self.history.can_undo)
        self.redo_button.setEnabled(self.history.can_redo)

    def fill_menu(self) -> None:
        """List the presets as they are now."""
        self.menu.clear()
        for name, tip in BUILT_IN.items():
            self._entry(self.menu, name.capitalize(), tip, lambda name=name: self.use(name))
        own = presets()
        self.menu.addSeparator()
        for name, limits in own.items():
            self._entry(self.menu, name, describe_limits(limits), lambda name=name: self.use(name))
        self._entry(self.menu, "Save as preset …", "Give the limits as they are a name", self.ask_name)
        if own:
            remove = QMenu("Delete", self.menu)
            self.menu.addMenu(remove)
            for name in own:
                self._entry(remove, name, "", lambda name=name: self.delete(name))

    @staticmethod
    def _entry(menu: QMenu, text: str, tip: str, action: Any) -> None:
        entry = QAction(text, menu)
        entry.setToolTip(tip)
        entry.triggered.connect(lambda *_: action())
        menu.addAction(entry)

    def use(self, name: str) -> None:
        """Take the limits of a preset; the user's own go before the built-in ones."""
        own = presets()
        self.history.settle()
        self.stem.set_limits(own[name] if name in own else built_in(name, self.stem.settings.default_min_score))
        self.history.settle()

    def ask_name(self) -> None:
        """Ask for a name and save the limits under it."""
        name, wanted = QInputDialog.getText(self, "Save as preset", "Name")
        if wanted and name.strip():
            self.save(name.strip())

    def save(self, name: str) -> None:
        """Keep the limits as they are under `name`."""
        own = {**presets(), name: self.stem.limits}
        remember(NAME, {key: limits.model_dump(exclude_none=True) for key, limits in own.items()})

    def delete(self, name: str) -> None:
        """Forget a preset of the user's own."""
        own = {key: limits.model_dump(exclude_none=True) for key, limits in presets().items() if key != name}
        remember(NAME, own)


def describe_limits(limits: DiskLimits) -> str:
    """Limits in words."""
    words = {
        "min_score": "score ≥ {:g}",
        "min_intensity": "intensity ≥ {:g}",
        "max_sigma_px": "sigma ≤ {:g} px",
        "min_spacing_px": "spacing ≥ {:g} px",
        "edge_px": "edge ≥ {:g} px",
    }
    return ", ".join(words[name].format(value) for name, value in limits if value is not None) or "no limit"
