"""Where runs are kept that the user gave no file for: to go on with after a crash, and to be pruned when they are old.

All kinds of runs share one folder in the user's cache, so a store touches only files of its own kind.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pydantic import BaseModel

from napari_emdl.base.signals import Signal
from napari_emdl.jobs.checkpoint import part_path

DAY_S = 86400.0


@dataclass(frozen=True)
class RunStore:
    """Runs of one kind.

    Attributes
    ----------
    kind
        Such as "disks" or "columns"; the end of every file's name.
    keep_days
        What nobody went on with for so long may be pruned; None keeps everything.
    folder
        Where they lie; the user's cache when None.
    earlier
        Pattern of names that earlier versions gave to runs of this kind.
    """

    kind: str
    keep_days: float | None = None
    folder: Path | None = None
    earlier: str = ""

    @property
    def place(self) -> Path:
        """Folder of the runs."""
        if self.folder is not None:
            return self.folder
        from platformdirs import user_cache_path

        return user_cache_path("napari-emdl", appauthor=False) / "runs"

    def file(self, signal: Signal, *settings: BaseModel) -> Path:
        """Result file of a run over `signal`: one a file, or one a file and set of settings where those are given."""
        about = f"{signal.path}|{signal.name}|{signal.shape}"
        if settings:
            about += f"|{signal.calibration.pixel_nm}|{_age(signal.path)}|" + "|".join(s.model_dump_json() for s in settings)
        if not signal.path:
            about += f"|{signal.metadata.get('sample') or id(signal.data)}"  # an array in memory has no other name
        name = Path(signal.path.partition("::")[0]).name or signal.name
        stem = re.sub(r"[^\w.-]", "_", name.split(".")[0])[:60] or "data"
        return self.place / f"{stem}-{sha256(about.encode()).hexdigest()[:10]}_{self.kind}.h5"

    def partial(self, file: Path) -> Path | None:
        """What a run that was stopped or killed has left for `file`; None when there is nothing."""
        part = part_path(file)
        return part if part.exists() else None

    def can_resume(self, file: Path) -> bool:
        """True when a run with this file left something to go on with."""
        return self.partial(file) is not None

    def prepare(self, file: Path) -> None:
        """Make the folder for a run and prune what is too old; the run itself counts as new from now on."""
        file.parent.mkdir(parents=True, exist_ok=True)
        part = self.partial(file)
        if part is not None:
            os.utime(part)
        self.prune()

    def prune(self) -> list[Path]:
        """Delete the partial files of this kind that nobody went on with; returns what was deleted."""
        if self.keep_days is None:
            return []
        deleted = []
        for path in self._own_parts():
            try:
                if time.time() - path.stat().st_mtime > self.keep_days * DAY_S:
                    path.unlink()
                    deleted.append(path)
            except OSError:  # somebody else was quicker, or still has it open
                continue
        return deleted

    def _own_parts(self) -> Iterator[Path]:
        name = re.compile(rf".+-[0-9a-f]{{10}}_{re.escape(self.kind)}\.h5\.part" + (f"|{self.earlier}" if self.earlier else ""))
        return (path for path in self.place.glob("*.part") if name.fullmatch(path.name))


def _age(path: str) -> float:
    try:
        return Path(path.partition("::")[0]).stat().st_mtime if path else 0.0
    except OSError:
        return 0.0


#: Disks of a datacube, kept until they are overwritten by the next run.
DISK_RUNS = RunStore("disks")
#: Columns of a movie, one file a set of parameters, so they are pruned.
COLUMN_RUNS = RunStore("columns", keep_days=14, earlier=r"[0-9a-f]{20}\.h5\.part")
