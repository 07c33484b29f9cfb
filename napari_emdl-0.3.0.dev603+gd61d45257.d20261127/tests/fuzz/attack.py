"""What is done with one damaged file, in a process of its own: ``python -m tests.fuzz.attack FOLDER START``."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import sys
import warnings
from pathlib import Path
from typing import Any

#: A file that takes longer hangs; memory that the whole process may have.
SECONDS, ADDRESS_BYTES = 30, 8 << 30


def attempt(path: Path) -> str:
    """Everything that a user can do with a file; returns what came: the kind of what opened, or "refused".

    Whatever else is raised passes through: it is an error of ours.
    """
    from napari_emdl import io
    from napari_emdl.base.errors import EmdlError

    came = []
    for step in (_opened, _summary, _loaded):
        try:
            came.append(step(path, io))
        except EmdlError as error:
            text = str(error)
            if "\n" in text or len(text) > 1500:
                raise AssertionError(f"not one line: {text[:200]!r}") from error
            came.append("refused")
    return next((c for c in came if c not in ("refused", "")), "refused")


def _opened(path: Path, io: Any) -> str:
    import numpy as np

    if path.suffix in (".yaml", ".emdl-project"):
        return _settings(path)
    signal = io.open(path)
    assert all("\n" not in note for note in signal.notes)
    for frame in (0, -1):
        index = (frame,) * (len(signal.shape) - 2)
        np.asarray(signal.data[(*index, slice(None), slice(None))])
    _ = signal.mask
    return str(signal.kind)


def _settings(path: Path) -> str:
    if path.suffix == ".yaml":
        try:
            from napari_emdl.workflow.jobfile import read_job
        except ImportError:
            from napari_emdl.cli.commands import read_job  # type: ignore[no-redef]
        read_job(path)
        return "job"
    from napari_emdl.io import load
    from napari_emdl.workflow.project import read_project

    read_project(path, {"disks.h5": load})
    return "project"


def _summary(path: Path, io: Any) -> str:
    if path.suffix in (".yaml", ".emdl-project"):
        return ""
    json.dumps(io.info(path), default=str)
    return ""


def _loaded(path: Path, io: Any) -> str:
    if path.suffix != ".h5":
        return ""
    return type(io.load(path)).__name__


def main(folder: str, start: str) -> None:
    """Attempt all files of a folder from number `start` on; prints a line of JSON each: [outcome, peak memory in MB]."""
    faulthandler.enable()
    with contextlib.suppress(ImportError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    warnings.simplefilter("ignore")
    import napari_emdl.diffraction.results  # noqa: F401 (imports are not timed)

    with contextlib.suppress(Exception):
        import scipy.stats  # noqa: F401
    for path in sorted(p for p in Path(folder).iterdir() if p.name.startswith("fuzz"))[int(start) :]:
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        try:
            outcome = attempt(path)
        except Exception as error:
            import traceback

            frames = [f for f in traceback.extract_tb(error.__traceback__) if "napari_emdl" in f.filename]
            where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
            outcome = f"UNCAUGHT {type(error).__name__}: {str(error)[:120]}{where}"
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps([outcome, peak_mb()]), flush=True)


def peak_mb() -> int:
    """Largest memory this process had so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss counts what the process that started this one had
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM:")) // 1024
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
