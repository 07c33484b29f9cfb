"""Undo and redo in a window: changes that follow each other closely, or under one press of the mouse, are one step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from qtpy.QtCore import QObject, Qt, QTimer, Signal
from qtpy.QtWidgets import QApplication

from napari_emdl.workflow.settings import UndoStack

SETTLE_MS = 400


class UndoSteps(QObject):
    """Steps of a value that somebody else holds; whoever watches the value calls :meth:`note`.

    Parameters
    ----------
    read, write
        Give and put back the value.
    parent
        Qt parent.
    """

    #: What can be undone is another thing now.
    changed = Signal()

    def __init__(self, read: Callable[[], Any], write: Callable[[Any], None], parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._read_value, self._write_value = read, write
        self._stack: UndoStack[Any] = UndoStack(read, write)
        self._stacks: WeakKeyDictionary[Any, UndoStack[Any]] = WeakKeyDictionary()
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(SETTLE_MS)
        self._timer.timeout.connect(self._on_quiet)

    def switch(self, data: Any) -> None:
        """Go on with the steps of other data, which begin where those are when they are first shown; None has no steps.

        `data` is what the steps belong to; they go when it goes.
        """
        self._timer.stop()
        known = self._stacks.get(data) if data is not None else None
        if known is None:
            known = UndoStack(self._read_value, self._write_value)
            if data is not None:
                self._stacks[data] = known
        self._stack = known
        self.changed.emit()

    def note(self) -> None:
        """The value is another one; it becomes a step when it rests."""
        self._timer.start()
        self.changed.emit()

    def _on_quiet(self) -> None:
        if QApplication.mouseButtons() != Qt.MouseButton.NoButton:
            self._timer.start()  # a drag that rests is not over
        else:
            self.settle()

    def settle(self) -> None:
        """What was changed since the last step is a step now."""
        self._timer.stop()
        if self._stack.settle():
            self.changed.emit()

    @property
    def can_undo(self) -> bool:
        """True when there is a step to take back."""
        return self._stack.can_undo

    @property
    def can_redo(self) -> bool:
        """True when a step was taken back."""
        return self._stack.can_redo

    def undo(self) -> None:
        """Take the last step back."""
        self._timer.stop()
        self._stack.undo()
        self.changed.emit()

    def redo(self) -> None:
        """Make the step again that was taken back last."""
        self._timer.stop()
        self._stack.redo()
        self.changed.emit()
