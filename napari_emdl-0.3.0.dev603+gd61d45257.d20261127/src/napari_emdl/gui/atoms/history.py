"""Undo and redo of the limits of columns."""

from __future__ import annotations

from napari_emdl.gui.atoms.session import AtomsSession
from napari_emdl.gui.kit.history import UndoSteps


class LimitsHistory(UndoSteps):
    """Watches the limits of a session."""

    def __init__(self, session: AtomsSession) -> None:
        super().__init__(lambda: session.data.settings.limits, session.set_limits, session)
        self.session = session
        session.limits_changed.connect(self._on_change)
        session.movie_changed.connect(lambda: self.switch(session.layer))

    def _on_change(self) -> None:
        if not self._stack.moving and self._stack.can_undo:
            self.note()
