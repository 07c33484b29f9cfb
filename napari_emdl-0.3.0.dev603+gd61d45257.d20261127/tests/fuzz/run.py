"""Damage seeds and attempt the copies, in processes of their own: a crash or an endless loop costs one file only."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.mutate import mutate
from tests.fuzz.seeds import make_seeds

#: Memory of a process that opens and loads small files: 2 GB of a job's limit are not used, 0.5 GB above what imports take.
MEMORY_MB = 1000
_BATCH = 150


@dataclass
class Report:
    """What came of all files."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    in_library: list[str] = field(default_factory=list)
    peak_mb: int = 0

    @property
    def tried(self) -> int:
        """Number of files."""
        return sum(self.outcomes.values())


def run(
    folder: Path, count: int, seed: int = 1, only: str = "", first: int = 0, on_batch: Callable[[Report], None] | None = None
) -> Report:
    """Attempt `count` damaged files from number `first` on, evenly of all seeds (or of those whose name contains `only`)."""
    seeds = [path for path in make_seeds(folder / "seeds") if only in path.name]
    report, number = Report(), first
    while number < first + count:
        batch = folder / "batch"
        shutil.rmtree(batch, ignore_errors=True)
        shutil.copytree(folder / "seeds", batch)
        ways = []
        for i in range(min(_BATCH, first + count - number)):
            source = seeds[(number + i) % len(seeds)]
            target = batch / f"fuzz{i:06d}_{source.name}"
            ways.append(f"{source.name} #{number + i}: {mutate(source, target, random.Random(f'{seed} {number + i}'))}")
        _attempt(batch, ways, report)
        number += len(ways)
        if on_batch is not None:
            on_batch(report)
    return report


def _attempt(batch: Path, ways: list[str], report: Report) -> None:
    at = 0
    while at < len(ways):
        words = [sys.executable, "-m", "tests.fuzz.attack", str(batch), str(at)]
        root = Path(__file__).resolve().parents[2]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", cwd=root, env=environment)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["')]
        for outcome, peak_mb in lines:
            word = outcome if not outcome.startswith("UNCAUGHT") else "UNCAUGHT"
            report.outcomes[word] += 1
            if word == "UNCAUGHT":
                report.faults.append(f"{ways[at]}: {outcome}")
            if peak_mb > max(MEMORY_MB, report.peak_mb):
                report.faults.append(f"{ways[at]}: {peak_mb} MB")
            report.peak_mb = max(report.peak_mb, peak_mb)
            at += 1
        if at < len(ways):
            frames = [line.strip() for line in done.stderr.splitlines() if line.strip().startswith("File ")]
            end = (
                f"crash or endless loop in {frames[0]}"
                if frames
                else f"ended with status {done.returncode}: {done.stderr[-200:]}"
            )
            # loops and crashes inside the HDF5 library itself are not ours
            inside = bool(frames) and "h5py" in frames[0]
            (report.in_library if inside else report.faults).append(f"{ways[at]}: {end}")
            report.outcomes["in the HDF5 library" if inside else "CRASH OR HANG"] += 1
            at += 1
