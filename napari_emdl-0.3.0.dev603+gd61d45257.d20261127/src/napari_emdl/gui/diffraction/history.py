"""One undo for what is set by hand in a 4D-STEM workspace: limits, lattice vectors, axis, reference and its region."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QObject, Signal

from napari_emdl.base.params import DiskLimits, StrainParams
from napari_emdl.gui.diffraction.state import StemState
from napari_emdl.gui.kit.history import UndoSteps


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


class History(UndoSteps):
    """Undo and redo of what is set by hand.

    Signals
    -------
    restored
        Parameters of lattice and strain were put back: forms are to show them.
    """

    restored = Signal(object)

    def __init__(self, state: StemState, parent: QObject | None = None):
        # the steps begin with the value as it is, which is read at once
        self.stem = state
        self._closed = False
        self.read_reference: Callable[[], tuple[str, tuple[Any, ...]]] = lambda: ("", ())
        self.write_reference: Callable[[str, tuple[Any, ...]], None] = lambda _reference, _region: None
        super().__init__(self._read, self._write, parent)
        state.limits_changed.connect(self._on_change)
        state.settings_changed.connect(self._on_change)
        state.overlay_changed.connect(self._follow)
        state.cube_changed.connect(lambda: self.switch(state.data))

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

    def _follow(self) -> None:
        """A method that brings its own threshold is where the steps begin, not a step."""
        if not self._timer.isActive():
            self._stack.rebase()

    def _on_change(self) -> None:
        if not (self._stack.moving or self._closed):
            self.note()
