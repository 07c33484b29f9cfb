"""Speed and accuracy in one table: our finders, those of other programs, the floor under all of them, and how cost grows.

The floor is what no finder that transforms and reads every pattern can go below: two real Fourier transforms of its size, and
one pass over its bytes. All rates come from one run, in turns, so that everybody sees the same load.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from napari_emdl.base.peaks import PeakTable
from napari_emdl.bench.cases import Case, load_case, sample_case
from napari_emdl.bench.diskfinders import FOREIGN, installed, our_finder
from napari_emdl.bench.disks import markdown, measure
from napari_emdl.diffraction.find.probe import synthetic_probe

METHODS = ("template", "light", "fcunet", "py4dstem", "blobfinder")
_GROWTH_SIZES, _GROWTH_DISKS, _GROWTH_SCANS = (128, 256, 512), (13, 29, 49), (16, 64, 256)


def cpu_and_wall(call: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Least CPU seconds of this process and least seconds on the clock of a call."""
    cpu, wall = [], []
    for _ in range(max(1, rounds)):
        start = time.process_time(), time.perf_counter()
        call()
        cpu.append(time.process_time() - start[0])
        wall.append(time.perf_counter() - start[1])
    return min(cpu), min(wall)


def floor(patterns: NDArray[Any], rounds: int = 3) -> dict[str, float]:
    """Patterns per second of bare work on all cores: ``fft`` (there and back) and ``memory`` (one sum over the bytes)."""
    part = patterns[:64].astype(np.float32)
    transform = cpu_and_wall(lambda: fft.irfft2(fft.rfft2(part, workers=-1), workers=-1), rounds)[1]
    memory = cpu_and_wall(lambda: patterns.sum(dtype=np.uint64 if patterns.dtype.kind == "u" else None), rounds)[1]
    return {"fft": len(part) / transform, "memory": len(patterns) / memory}


def lattice_case(size_px: int, disks: int, count: int, radius_px: float = 5.0) -> Case:
    """`count` equal lattices of at least `disks` disks on a detector of `size_px`, with shot noise."""
    reach = 1
    while (2 * reach + 1) ** 2 < disks:
        reach += 1
    spacing = (size_px / 2 - 2 * radius_px) / reach
    g = np.array([[spacing, 0.0], [0.0, spacing]])
    index = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    order = np.argsort(np.square(index).sum(axis=1), kind="stable")[:disks]
    origin = np.full(2, size_px / 2)
    y, x = np.mgrid[:size_px, :size_px]
    image = np.full((size_px, size_px), 0.5)
    for row, col in origin + index[order] @ g:
        image += 20 * np.clip(radius_px + 0.5 - np.hypot(y - row, x - col), 0, 1)
    counts = np.random.default_rng(0).poisson(image, (count, size_px, size_px)).astype(np.uint16)
    probe = synthetic_probe(radius_px, (size_px, size_px)).image
    still = np.tile(np.eye(2), (count, 1, 1))
    return Case(f"{size_px} px, {disks} disks", counts, probe, still, g, np.tile(origin, (count, 1)))


def growth(methods: Sequence[str], device: str, rounds: int) -> Iterator[tuple[str, str, float, float, float]]:
    """(what, method, disks found, patterns per second, CPU milliseconds a pattern) as one of size, disks and scan grows."""
    cases = [(f"detector {n} px, 29 disks, 64 patterns", lattice_case(n, 29, 64)) for n in _GROWTH_SIZES]
    cases += [(f"{n} disks, 256 px, 64 patterns", lattice_case(256, n, 64)) for n in _GROWTH_DISKS]
    cases += [(f"scan of {n}, 256 px, 29 disks", lattice_case(256, 29, n)) for n in _GROWTH_SCANS]
    for what, case in cases:
        for method in methods:
            found: list[PeakTable] = []
            find = our_finder(case, method, device)
            cpu, wall = cpu_and_wall(lambda f=find, c=case, into=found: into.append(f(c.patterns)), rounds)  # type: ignore[misc]
            n = len(case.patterns)
            yield what, method, found[-1].n_peaks / n, n / wall, 1e3 * cpu / n


def run(args: Sequence[str] = ()) -> int:
    """Command ``napari-emdl bench speed [CASE ...]``: prints the tables."""
    parser = argparse.ArgumentParser(prog="napari-emdl bench speed", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", help="prefixes of validation cases; the built-in sample when left out")
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated, of " + ", ".join(METHODS))
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=3, help="rounds of timing, best taken")
    parser.add_argument("--no-growth", action="store_true", help="leave out how cost grows")
    options = parser.parse_args(list(args))
    methods, left_out = installed([name.strip() for name in options.methods.split(",") if name.strip()])
    for line in left_out:
        print(line)
    for case in [load_case(prefix) for prefix in options.cases] or [sample_case()]:
        rows, notes = measure(case, methods, options.device, max(1, options.rounds))
        print("\n".join([*notes, markdown(rows), ""]))
        bare = floor(case.patterns, options.rounds)
        print(f"floor of {case.name}: {bare['fft']:.0f} patterns/s of Fourier transforms, {bare['memory']:.0f} of memory")
        shares = (f"{row.method} {100 * row.patterns_per_s / bare['fft']:.1f} %" for row in rows)
        print(f"share of the transforms' rate reached: {', '.join(shares)}\n")
    if not options.no_growth:
        ours = [name for name in methods if name not in FOREIGN]
        print("| cost grows with | method | disks | patterns/s | CPU ms a pattern |\n|---|---|---|---|---|")
        for what, method, disks, rate, cpu_ms in growth(ours, options.device, options.rounds):
            print(f"| {what} | {method} | {disks:.0f} | {rate:.0f} | {cpu_ms:.1f} |", flush=True)
    return 0
