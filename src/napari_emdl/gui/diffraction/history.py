"""One undo for what is set by hand in a 4D-STEM workspace: limits, lattice vectors, axis, reference and its region."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QObject, Qt, QTimer, Signal
from qtpy.QtWidgets import QApplication

from napari_emdl.base.params import DiskLimits, StrainParams
from napari_emdl.gui.diffraction.state import StemState
from napari_emdl.workflow.settings import UndoStack

SETTLE_MS = 400


@dataclass(frozen=True)
class ByHand:
    """What is set by hand, as one value.

    Attributes
    ----------
    limits
        What a disk must pass.
    strain
        Parameters of lattice and strain.
    reference, region
        Entry of the list of references, and the shapes of the region.
    """

    limits: DiskLimits
    strain: StrainParams
    reference: str = ""
    region: tuple[Any, ...] = ()


class History(QObject):
    """Undo and redo; changes that follow each other closely, or under one press of the mouse, are one step.

    Signals
    -------
    changed
        What can be undone is another thing now.
    restored
        Parameters of lattice and strain were put back: forms are to show them.
    """

    changed = Signal()
    restored = Signal(object)

    def __init__(self, state: StemState, parent: QObject | None = None):
        super().__init__(parent)
        self.stem = state
        self._closed = False
        self.read_reference: Callable[[], tuple[str, tuple[Any, ...]]] = lambda: ("", ())
        self.write_reference: Callable[[str, tuple[Any, ...]], None] = lambda _reference, _region: None
        self._stack: UndoStack[ByHand] = UndoStack(self._read, self._write)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(SETTLE_MS)
        self._timer.timeout.connect(self._on_quiet)
        state.limits_changed.connect(self._on_change)
        state.settings_changed.connect(self._on_change)
        state.overlay_changed.connect(self._follow)
        state.cube_changed.connect(self.clear)

    def close(self) -> None:
        """Take no more steps: the window goes."""
        self._closed = True
        self._timer.stop()

    def _read(self) -> ByHand:
        reference, region = self.read_reference()
        return ByHand(self.stem.limits, self.stem.settings.strain_params, reference, region)

    def _write(self, value: ByHand) -> None:
        now = self._read()
        self.stem.set_strain_params(value.strain)
        self.stem.set_limits(value.limits)
        if (value.reference, value.region) != (now.reference, now.region):
            self.write_reference(value.reference, value.region)
        if value.strain != now.strain:
            self.restored.emit(value.strain)

    def clear(self) -> None:
        """Forget all steps: another datacube."""
        self._timer.stop()
        self._stack.clear()
        self.changed.emit()

    def _follow(self) -> None:
        """A method that brings its own threshold is where the steps begin, not a step."""
        if not self._timer.isActive():
            self._stack.rebase()

    def _on_change(self) -> None:
        if not (self._stack.moving or self._closed):
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
