"""Thresholds of the disks: undo and redo, and presets that are kept between starts."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QAction, QKeySequence, QShortcut
from qtpy.QtWidgets import QHBoxLayout, QInputDialog, QMenu, QToolButton, QWidget

from napari_emdl.base.params import DiskLimits
from napari_emdl.gui.diffraction.history import History
from napari_emdl.gui.diffraction.state import StemState
from napari_emdl.gui.kit import styles
from napari_emdl.workflow.settings import Presets, describe_limits

LIMITS: Presets[DiskLimits] = Presets("thresholds", DiskLimits)


class ThresholdTools(QWidget):
    """Undo, redo and the menu of presets, for the row below the histogram."""

    def __init__(self, state: StemState, parent: QWidget | None = None):
        super().__init__(parent)
        self.stem = state
        self.history = History(state, self)
        self.undo_button = self._button(
            "↶", "Take the last change of limits, g1 and g2, axis or reference back (Ctrl+Z)", self.history.undo
        )
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
        for name, tip in LIMITS.built_in.items():
            self._entry(self.menu, name.capitalize(), tip, lambda name=name: self.use(name))
        own = LIMITS.own()
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
        self.history.settle()
        self.stem.set_limits(LIMITS.limits(name, self.stem.settings.default_min_score))
        self.history.settle()

    def ask_name(self) -> None:
        """Ask for a name and save the limits under it."""
        name, wanted = QInputDialog.getText(self, "Save as preset", "Name")
        if wanted and name.strip():
            self.save(name.strip())

    def save(self, name: str) -> None:
        """Keep the limits as they are under `name`."""
        LIMITS.save(name, self.stem.limits)

    def delete(self, name: str) -> None:
        """Forget a preset of the user's own."""
        LIMITS.delete(name)
