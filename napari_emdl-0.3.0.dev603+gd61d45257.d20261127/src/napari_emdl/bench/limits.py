"""How fast a threshold acts: pattern, whole scan, Bragg vector map and strain after one move of a slider.

The workspace does the same calls in the same order; what waits for the mouse is measured, drawing is not.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_emdl.base.params import DiskLimits, StrainParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.find.limits import prepare, within_limits
from napari_emdl.diffraction.fit.strain import fit_strain
from napari_emdl.diffraction.fit.vectormap import VectorMap

SIZE = (256, 256)
#: By the clock, and of the processor: they differ on a computer that is busy with something else.
Seconds = tuple[float, float]


def made_disks(positions: int, per_pattern: int, seed: int = 0) -> PeakTable:
    """Table of disks on a lattice with false ones between, as many a pattern as asked for."""
    random = np.random.default_rng(seed)
    rows = int(np.sqrt(positions))
    shape = (rows, positions // rows)
    n = shape[0] * shape[1]
    g = np.array([[30.0, 4.0], [-4.0, 30.0]])
    hk = np.stack(np.meshgrid(np.arange(-4, 5), np.arange(-4, 5), indexing="ij"), axis=-1).reshape(-1, 2)
    place = hk @ g + np.array(SIZE) / 2
    place = place[np.all((place > 8) & (place < np.array(SIZE) - 9), axis=1)]
    real = min(len(place), (3 * per_pattern) // 4)
    place = place[np.argsort(np.linalg.norm(place - np.array(SIZE) / 2, axis=1))[:real]]
    false = random.uniform(4, SIZE[0] - 5, (n, per_pattern - real, 2))
    both = np.concatenate([np.broadcast_to(place, (n, real, 2)) + random.normal(0, 0.1, (n, real, 2)), false], axis=1)
    score = np.concatenate([random.uniform(0.4, 1, (n, real)), random.uniform(0, 0.6, (n, per_pattern - real))], axis=1)
    columns = {
        "row": both[..., 0].ravel().astype(np.float32),
        "col": both[..., 1].ravel().astype(np.float32),
        "score": score.ravel().astype(np.float32),
        "intensity": random.uniform(1, 1000, n * per_pattern).astype(np.float32),
        "sigma_px": random.uniform(0.05, 0.5, n * per_pattern).astype(np.float32),
    }
    attrs = {"detector_shape": SIZE, "default_min_score": 0.5}
    return PeakTable(shape, np.arange(n + 1) * per_pattern, columns, attrs)


def measure(disks: PeakTable, rounds: int) -> list[tuple[str, Seconds]]:
    """(what, seconds), the best of `rounds`; what is done once a table comes first."""
    limits = DiskLimits(min_score=0.45, min_intensity=50, max_sigma_px=0.45, min_spacing_px=6, edge_px=6)
    centre = (SIZE[0] // 2, SIZE[1] // 2)
    vector_map = VectorMap(disks, np.array(SIZE) / 2, SIZE, centre)
    kept = within_limits(disks, limits.model_copy(update={"min_spacing_px": None, "edge_px": None}))
    params = StrainParams(**limits.model_dump())
    return [
        ("once a table: distances", _best(lambda: prepare(disks), 1)),
        ("once a table: places in the vector map", _best(lambda: VectorMap(disks, np.array(SIZE) / 2, SIZE, centre), 1)),
        ("least score, whole scan", _best(lambda: within_limits(disks, DiskLimits(min_score=0.45)).n_peaks, rounds)),
        ("all five limits, whole scan", _best(lambda: within_limits(disks, limits).n_peaks, rounds)),
        ("Bragg vector map", _best(lambda: vector_map.image(kept), rounds)),
        ("strain of the scan", _best(lambda: fit_strain(disks, params=params), 1)),
    ]


def _best(work: Callable[[], Any], rounds: int) -> Seconds:
    times = []
    for _ in range(rounds):
        started_s, started_cpu_s = time.perf_counter(), time.process_time()
        work()
        times.append((time.perf_counter() - started_s, time.process_time() - started_cpu_s))
    return min(times)


def run(args: Sequence[str | Path] = ()) -> int:
    """Command ``napari-emdl bench limits``: prints the table."""
    parser = argparse.ArgumentParser(prog="napari-emdl bench limits", description="How fast a threshold acts on a whole scan.")
    parser.add_argument("--patterns", type=int, default=65_536)
    parser.add_argument("--disks", type=int, default=40, help="disks a pattern")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of timing, best taken")
    options = parser.parse_args([str(a) for a in args])
    disks = made_disks(max(1, options.patterns), max(4, options.disks))
    print(f"{disks.n_positions:,} patterns, {disks.n_peaks:,} disks\n\n| step | ms | ms of a core |\n|---|---|---|")
    for what, (clock_s, cpu_s) in measure(disks, max(1, options.rounds)):
        print(f"| {what} | {1000 * clock_s:,.0f} | {1000 * cpu_s:,.0f} |")
    return 0
