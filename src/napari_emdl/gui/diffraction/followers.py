"""Workers that follow what the user does: one latest-wins worker for each thing that is shown, named and closed together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject, Signal

from napari_emdl.gui.kit.worker import Latest, error_line, report_error

#: What a worker is called in an error line, where its name says too little.
_WORDS = {"live": "live disks", "keep": "threshold", "structure": "structure factor", "map": "vector map"}


class Followers(QObject):
    """Workers by name.

    Signals
    -------
    failed
        (name, line): what went wrong, told once while it goes on.
    """

    failed = Signal(str, str)

    def __init__(self, parent: QObject | None = None):
        super().__init__(parent)
        self._all: dict[str, Latest] = {}
        self._last_line = ""
        self._closed = False

    def add(
        self,
        name: str,
        function: Callable[..., Any],
        done: Callable[[Any, Any], None],
        cancel_stale: bool = True,
        silent: bool = False,
    ) -> Latest:
        """Worker `name`; ``done(result, args)`` gets what it finds. A `silent` one fails without a word."""
        latest = self._all[name] = Latest(function, _WORDS.get(name, name), cancel_stale)
        latest.done.connect(done)
        if not silent:
            latest.failed.connect(lambda error: self._on_failed(name, error))
        return latest

    def _on_failed(self, name: str, error: BaseException) -> None:
        if self._closed:  # the window has gone meanwhile
            return
        line = f"{_WORDS.get(name, name)}: {error_line(error)}"
        if line != self._last_line:  # the same trouble at every step of the cross-hair is told once
            self._last_line = line
            report_error(error, _WORDS.get(name, name))
        self.failed.emit(name, error_line(error))

    def submit(self, name: str, *args: Any) -> None:
        """Ask for `args`; what was asked before and is not done is dropped."""
        self._all[name].submit(*args)

    def drop(self, *names: str) -> None:
        """Forget what waits and cancel what runs, of all when none is named."""
        for name in names or self._all:
            self._all[name].drop()

    @property
    def busy(self) -> bool:
        """True while any of them works."""
        return any(latest.busy for latest in self._all.values())

    def works(self, name: str) -> bool:
        """True while worker `name` works."""
        return self._all[name].busy

    def close(self, timeout_s: float) -> bool:
        """Cancel everything and wait for the threads; True when all have ended."""
        self._closed = True
        ended = [latest.close(timeout_s) for latest in self._all.values()]
        return all(ended)
