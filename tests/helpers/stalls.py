"""What holds up the window: a heartbeat in the main thread, and a watcher that looks at its stack."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from qtpy.QtCore import QTimer

BEAT_MS = 10
WATCH_S = 0.02
LATE_S = 0.1


@dataclass
class Stall:
    """One time the main thread did not come back: when it began, how long it lasted, what it did meanwhile."""

    began_s: float
    length_s: float = 0.0
    seen: Counter[str] = field(default_factory=Counter)
    stage: str = ""

    def line(self) -> str:
        """Stage, length and the place that was seen most often."""
        where = self.seen.most_common(1)[0][0] if self.seen else "between two looks"
        return f"{self.stage}: {1000 * self.length_s:.0f} ms in {where}"


class StallLog:
    """Gaps of the main thread's event loop above `late_s`, while it is entered.

    Examples
    --------
    >>> with StallLog() as log:  # doctest: +SKIP
    ...     log.stage = "run"
    ...     work()
    >>> log.stalls  # doctest: +SKIP
    """

    def __init__(self, late_s: float = LATE_S) -> None:
        self.late_s = late_s
        self.stalls: list[Stall] = []
        self.stage = ""
        self.longest_s: dict[str, float] = {}
        self.most_cpu_s: dict[str, float] = {}  # of the main thread between two beats: says something on a busy machine too
        self.most_seen: dict[str, Counter[str]] = {}  # where it was then
        self._main = threading.get_ident()
        self._last_s, self._last_cpu_s = time.perf_counter(), time.thread_time()
        self._seen: Counter[str] = Counter()
        self._over = threading.Event()
        self._timer = QTimer()
        self._timer.setInterval(BEAT_MS)
        self._timer.timeout.connect(self._beat)
        self._thread = threading.Thread(target=self._watch, name="stall log", daemon=True)

    def __enter__(self) -> StallLog:
        self._last_s = time.perf_counter()
        self._timer.start()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._timer.stop()
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        now = time.perf_counter()
        gap_s = now - self._last_s - BEAT_MS / 1000
        if gap_s > self.late_s:
            self.stalls.append(Stall(self._last_s, gap_s, self._seen, self.stage))
        self.longest_s[self.stage] = max(gap_s, self.longest_s.get(self.stage, 0.0))
        cpu_s = time.thread_time() - self._last_cpu_s
        if cpu_s > self.most_cpu_s.get(self.stage, 0.0):
            self.most_cpu_s[self.stage], self.most_seen[self.stage] = cpu_s, self._seen
        self._seen = Counter()
        self._last_s, self._last_cpu_s = now, time.thread_time()

    def _watch(self) -> None:
        while not self._over.wait(WATCH_S):
            self._seen[_place(_stack_of(self._main))] += 1

    def report(self) -> str:
        """A line for each stage with its longest gap and its CPU time, then a line for each stall."""
        stages = [
            f"{stage or 'start'}: longest gap {1000 * gap_s:.0f} ms, most work in one go {1000 * self.most_cpu_s[stage]:.0f} ms"
            + "".join(f"\n    {count} x {place}" for place, count in self.most_seen.get(stage, Counter()).most_common(4))
            for stage, gap_s in self.longest_s.items()
        ]
        return "\n".join(stages + [stall.line() for stall in sorted(self.stalls, key=lambda s: -s.length_s)])


def _stack_of(thread: int) -> list[tuple[str, int, str]]:
    """File, line and function of what a thread runs, the innermost first.

    The thread must not go on meanwhile: a frame that returns while its callers are followed crashes Python. So no other
    thread gets its turn, and nothing is read from files, as ``traceback`` does, which would give it one.
    """
    found: list[tuple[str, int, str]] = []
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(10.0)
    try:
        frame: Any = sys._current_frames().get(thread)
        while frame is not None:
            found.append((frame.f_code.co_filename, frame.f_lineno or 0, frame.f_code.co_name))
            frame = frame.f_back
    finally:
        sys.setswitchinterval(usual_s)
    return found


def _place(stack: list[tuple[str, int, str]]) -> str:
    """Function of ours that is nearest to what runs, and what it called."""
    if not stack:
        return "?"
    file, line, name = stack[0]
    at = f"{file.rpartition('site-packages/')[2]}:{line} {name}"
    ours = next((place for place in stack if "napari_emdl" in place[0]), None)
    if ours is None:
        return at
    return f"{ours[0].rpartition('napari_emdl/')[2]}:{ours[1]} {ours[2]} <- {at}"
