"""Undo, redo and the menu of presets of limits, for the row below a threshold."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from pydantic import BaseModel
from qtpy.QtCore import Qt
from qtpy.QtGui import QAction, QKeySequence, QShortcut
from qtpy.QtWidgets import QHBoxLayout, QInputDialog, QMenu, QToolButton, QWidget

from napari_emdl.gui.kit import styles
from napari_emdl.workflow.settings import Presets, describe_limits


class History(Protocol):
    """Undo and redo of limits."""

    changed: Any

    @property
    def can_undo(self) -> bool: ...
    @property
    def can_redo(self) -> bool: ...
    def settle(self) -> None: ...
    def undo(self) -> None: ...
    def redo(self) -> None: ...


class PresetTools(QWidget):
    """Two buttons and a menu.

    Parameters
    ----------
    presets
        Built in and the user's own.
    history
        What undo and redo go through.
    read, write
        Limits as they are, and where those of a preset go.
    default_min_score
        Threshold of the method.
    what
        What undo and redo are of.
    """

    def __init__(
        self,
        presets: Presets[Any],
        history: History,
        read: Callable[[], BaseModel],
        write: Callable[[Any], None],
        default_min_score: Callable[[], float | None],
        parent: QWidget | None = None,
        what: str = "the limits",
    ) -> None:
        super().__init__(parent)
        self.presets, self.history = presets, history
        self._read, self._write, self._default = read, write, default_min_score
        self.undo_button = self._button("↶", "limits_undo", f"Take the last change of {what} back (Ctrl+Z)", history.undo)
        self.redo_button = self._button("↷", "limits_redo", "Make it again (Ctrl+Shift+Z)", history.redo)
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
        history.changed.connect(self.refresh)
        self.fill_menu()
        self.refresh()

    @staticmethod
    def _button(text: str, name: str, tip: str, action: Callable[[], None]) -> QToolButton:
        button = QToolButton()
        button.setText(text)
        button.setObjectName(name)
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
        for name, tip in self.presets.built_in.items():
            self._entry(self.menu, name.capitalize(), tip, partial(self.use, name))
        own = self.presets.own()
        self.menu.addSeparator()
        for name, limits in own.items():
            self._entry(self.menu, name, describe_limits(limits), partial(self.use, name))
        self._entry(self.menu, "Save as preset…", "Give the limits as they are a name", self.ask_name)
        if own:
            remove = QMenu("Delete", self.menu)
            self.menu.addMenu(remove)
            for name in own:
                self._entry(remove, name, "", partial(self.delete, name))

    @staticmethod
    def _entry(menu: QMenu, text: str, tip: str, action: Callable[[], Any]) -> None:
        entry = QAction(text, menu)
        entry.setToolTip(tip)
        entry.triggered.connect(lambda *_: action())
        menu.addAction(entry)

    def use(self, name: str) -> None:
        """Take the limits of a preset; the user's own win over the built-in ones."""
        self.history.settle()
        self._write(self.presets.limits(name, self._default()))
        self.history.settle()

    def ask_name(self) -> None:
        """Ask for a name and save the limits under it."""
        name, wanted = QInputDialog.getText(self, "Save as preset", "Name")
        if wanted and name.strip():
            self.save(name.strip())

    def save(self, name: str) -> None:
        """Keep the limits as they are under `name`."""
        self.presets.save(name, self._read())

    def delete(self, name: str) -> None:
        """Forget a preset of the user's own."""
        self.presets.delete(name)
