"""Progress on the terminal, and Ctrl-C that stops a job without losing what it did."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from napari_emdl.cli.interrupt import cancelled_by_signals
from napari_emdl.jobs.control import Control, Progress


@contextlib.contextmanager
def terminal_control(title: str, unit: str = "patterns") -> Iterator[Control]:
    """Control that draws a bar on stderr (if it is a terminal) and is cancelled by Ctrl-C or SIGTERM.

    A second Ctrl-C ends the program at once.
    """
    with _bar(title, unit) as show:
        control = Control(show)
        with cancelled_by_signals(control):
            yield control


@contextlib.contextmanager
def _bar(title: str, unit: str) -> Iterator[Any]:
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None, rate="")

        def show(progress: Progress) -> None:
            bar.update(
                task,
                completed=progress.done,
                total=progress.total,
                rate=rate_text(progress, unit),
                description=progress.message or title,
            )

        yield show


def rate_text(progress: Progress, unit: str) -> str:
    """Rate and time left, such as "45 patterns/s, 1:20 left"."""
    if progress.rate_per_s <= 0:
        return ""
    rate = f"{progress.rate_per_s:,.3g} {unit}/s"
    if progress.remaining_s == float("inf") or progress.done >= progress.total:
        return rate
    minutes, seconds = divmod(round(progress.remaining_s), 60)
    hours, minutes = divmod(minutes, 60)
    left = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
    return f"{rate}, {left} left"
