"""What the finders see in patterns without a crystal (:mod:`napari_emdl.samples.nothing`)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.params import DiskParams, ProbeParams
from napari_emdl.diffraction.find.disks import find_disks
from napari_emdl.diffraction.find.ownprobe import MEASURED
from napari_emdl.diffraction.find.probe import synthetic_probe
from napari_emdl.samples.nothing import KINDS, patterns_of


def count_disks(pattern: NDArray[Any], method: str, radius_px: float | None = None) -> tuple[int, str]:
    """Disks above the default threshold in one pattern with nothing set but the method, and what is said about them.

    The method "spots" fits spots of 1.5 px whatever the data say of their size; the others choose that by themselves.
    """
    if method == "spots":
        shape = (pattern.shape[0], pattern.shape[1])
        probe = synthetic_probe(radius_px or 1.5, shape, source=MEASURED)
        found = find_disks(pattern[None, None], probe=probe, method="template")  # which fits what the data show as spots
        return found.filter(min_score=found.attrs["default_min_score"]).n_peaks, str(found.attrs["note"])
    params = DiskParams(method=method, probe=ProbeParams(radius_px=radius_px))  # type: ignore[arg-type]
    table = find_disks(pattern[None, None], params=params)
    return table.filter(min_score=table.attrs["default_min_score"]).n_peaks, str(table.attrs["note"])


def run(args: Sequence[str | Path] = ()) -> int:
    """Command ``napari-emdl bench nothing``: disks found a pattern, and how many patterns with none or one say why."""
    parser = argparse.ArgumentParser(prog="napari-emdl bench nothing", description="Disks found where there are none.")
    parser.add_argument("--methods", default="fcunet,light,template,spots")
    parser.add_argument("--count", type=int, default=10, help="patterns a kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--radius", type=float, help="probe radius in px, as a user may give it; measured from the data without"
    )
    parser.add_argument("--kinds", default=",".join(KINDS))
    options = parser.parse_args([str(a) for a in args])
    methods = options.methods.split(",")
    print(f"| kind | {' | '.join(methods)} |\n|---|{'---|' * len(methods)}")
    total = dict.fromkeys(methods, 0)
    kinds = options.kinds.split(",")
    for kind in kinds:
        cells = []
        for method in methods:
            found = [count_disks(pattern, method, options.radius) for pattern in patterns_of(kind, options.count, options.seed)]
            counts = [n for n, _ in found]
            total[method] += sum(counts)
            silent = sum(not note for n, note in found)
            cells.append(f"{np.mean(counts):.1f} (most {max(counts)}, {silent} without a word)")
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)
    print(f"| all | {' | '.join(f'{total[m] / (options.count * len(kinds)):.2f}' for m in methods)} |")
    return 0
