"""What holds up the window: a heartbeat in the main thread, and a watcher that looks at its stack while the beat is late."""

from __future__ import annotations

import sys
import threading
import time
import traceback
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
        self.most_cpu_s[self.stage] = max(cpu_s, self.most_cpu_s.get(self.stage, 0.0))
        self._seen = Counter()
        self._last_s, self._last_cpu_s = now, time.thread_time()

    def _watch(self) -> None:
        while not self._over.wait(WATCH_S):
            if time.perf_counter() - self._last_s < self.late_s:
                continue
            frame: Any = sys._current_frames().get(self._main)
            self._seen[_place(frame)] += 1

    def report(self) -> str:
        """A line for each stage with its longest gap and its CPU time, then a line for each stall."""
        stages = [
            f"{stage or 'start'}: longest gap {1000 * gap_s:.0f} ms, most work in one go {1000 * self.most_cpu_s[stage]:.0f} ms"
            for stage, gap_s in self.longest_s.items()
        ]
        return "\n".join(stages + [stall.line() for stall in sorted(self.stalls, key=lambda s: -s.length_s)])


def _place(frame: Any) -> str:
    """Function of ours that is nearest to what runs, and what it called."""
    stack = traceback.extract_stack(frame)
    ours = [f for f in stack if "napari_emdl" in f.filename]
    inner = stack[-1] if stack else None
    at = f"{inner.filename.rpartition('site-packages/')[2]}:{inner.lineno} {inner.name}" if inner else "?"
    if not ours:
        return at
    first = ours[-1]
    return f"{first.filename.rpartition('napari_emdl/')[2]}:{first.lineno} {first.name} <- {at}"
