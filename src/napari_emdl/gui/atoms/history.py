"""Undo and redo of the limits of columns; changes close together, or under one press of the mouse, are one step."""

from __future__ import annotations

from qtpy.QtCore import QObject, Qt, QTimer, Signal
from qtpy.QtWidgets import QApplication

from napari_emdl.base.params import ColumnLimits
from napari_emdl.gui.atoms.session import AtomsSession
from napari_emdl.workflow.settings import UndoStack

SETTLE_MS = 400


class LimitsHistory(QObject):
    """Watches the limits of a session; :attr:`changed` tells that something else can be undone."""

    changed = Signal()

    def __init__(self, session: AtomsSession) -> None:
        super().__init__(session)
        self.session = session
        self._stack: UndoStack[ColumnLimits] = UndoStack(lambda: session.data.settings.limits, session.set_limits)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(SETTLE_MS)
        self._timer.timeout.connect(self._on_quiet)
        session.limits_changed.connect(self._on_change)
        session.movie_changed.connect(self.clear)

    def clear(self) -> None:
        """Forget all steps: another movie."""
        self._timer.stop()
        self._stack.clear()
        self.changed.emit()

    def _on_change(self) -> None:
        if not self._stack.moving and self._stack.can_undo:
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
