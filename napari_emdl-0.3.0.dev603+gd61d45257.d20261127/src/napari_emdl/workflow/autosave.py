"""Sessions kept against crashes: one project file a window in the user's state folder, which a clean end removes. No Qt."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from napari_emdl.workflow.project import ENDING, Project, write_project

_numbers = count(1)


def sessions_folder() -> Path:
    """Where sessions are kept while they last."""
    from platformdirs import user_state_path

    return user_state_path("napari-emdl", appauthor=False) / "sessions"


def crashed_sessions(science: str | None = None, folder: Path | None = None) -> list[Path]:
    """Sessions of this computer whose program ended without closing its window, newest first.

    Parameters
    ----------
    science
        "diffraction" or "atoms": only sessions that hold it; files that cannot be read are left to both.
    """
    place = folder or sessions_folder()
    found = [path for path in place.glob(f"{_host()}-*{ENDING}") if not alive(path) and _holds(path, science)]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def _holds(path: Path, science: str | None) -> bool:
    if science is None:
        return True
    from napari_emdl.base.errors import EmdlError
    from napari_emdl.workflow.project import read_project

    try:
        project, _ = read_project(path, {})
    except EmdlError:
        return True
    return getattr(project, science) is not None


def _host() -> str:
    return "".join(c if c.isalnum() else "_" for c in socket.gethostname())


def alive(path: Path) -> bool:
    """True while the program that wrote this session runs; a later program may have been given its process number."""
    import psutil

    number = re.match(rf"\.?{_host()}-(\d+)-", path.name)
    try:
        return number is not None and psutil.Process(int(number[1])).create_time() <= path.stat().st_mtime + 1
    except (psutil.Error, OSError):
        return False


def sweep() -> None:
    """Remove what programs that were killed had only begun to write."""
    for path in sessions_folder().glob(f".{_host()}-*.tmp"):
        if not alive(path):
            path.unlink(missing_ok=True)


class SessionFile:
    """File of the session of one window of this program.

    Attributes
    ----------
    path
        Where it lies once something was written.
    """

    def __init__(self) -> None:
        sweep()
        self.path = sessions_folder() / f"{_host()}-{os.getpid()}-{next(_numbers)}{ENDING}"
        self._ended = False

    def write(self, project: Project, parts: Mapping[str, Callable[[Path], Any]]) -> None:
        """Write the session as it is; may run in a thread. A window that ended meanwhile leaves nothing behind."""
        if not self._ended:
            write_project(self.path, project, parts)
        if self._ended:
            self.path.unlink(missing_ok=True)

    def end(self) -> None:
        """The window was closed: there is nothing to restore."""
        self._ended = True
        self.path.unlink(missing_ok=True)
