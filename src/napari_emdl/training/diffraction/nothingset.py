"""The whole program on patterns of held-out crystals with nothing set, a table of the kinds in ``conditions``.

    napari-emdl bench conditions [LIBRARY.h5 ...] [--seed 515] [--count 14] [--kind plain] [--method fcunet]

Without a library the crystals are simulated first, from the seed; what no training sees (:func:`crystals.is_validation`).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree

from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.find.disks import find_disks
from napari_emdl.training.diffraction.conditions import CONDITIONS, patterns_of
from napari_emdl.training.diffraction.crystals import is_validation
from napari_emdl.training.diffraction.library import Run, as_run, catalogue_of_all, draw_run, read_library
from napari_emdl.training.diffraction.mapped import draw_mapped
from napari_emdl.training.diffraction.render import Pattern

#: Disks that one sees, the direct beam counted, that a pattern must have to be judged.
LEAST_VISIBLE = 6
#: Signal to noise ratio of disks that must be found, and of those that may be.
CLEAR_SNR, FAINT_SNR = 6.0, 1.0
#: A found disk lies within this part of the radius of a true one, or within this many px.
HIT_RADII, HIT_PX = 0.4, 1.5
#: A radius is right within this part.
RIGHT_RADIUS = 0.10


@dataclass(frozen=True)
class Verdict:
    """One pattern: radius found over the true one, counts of disks, and what the program said.

    `found` disks of which `true` lie on one, `clear` disks that must be found of which `seen` are.
    """

    kind: str
    index: int
    radius_px: float
    ratio: float
    found: int
    true: int
    clear: int
    seen: int
    note: str

    @property
    def right_radius(self) -> bool:
        """Whether the radius is right to a tenth."""
        return 1 - RIGHT_RADIUS <= self.ratio <= 1 + RIGHT_RADIUS


def held_out_runs(count: int, seed: int) -> list[Run]:
    """Beams of crystals that no training sees, every other one of a structure type and zone that strain is mapped in."""
    pool = [crystal for crystal in catalogue_of_all() if is_validation(crystal)]
    runs = []
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        crystal, zone = pool[int(rng.integers(len(pool)))], None
        if index % 2:
            crystal, zone = draw_mapped(rng)
            while not is_validation(crystal):
                crystal, zone = draw_mapped(rng)
        runs.append(as_run(*draw_run(crystal, rng, zone=zone)))
    return runs


def visible(pattern: Pattern, least_snr: float) -> np.ndarray:
    """(n,) disks of a signal to noise ratio from here on that lie on the detector as a whole."""
    centre, radius = pattern.centre_px.numpy(), pattern.radius_px
    inside = ((centre > radius) & (centre < pattern.counts.shape[-1] - 1 - radius)).all(axis=1)
    return (pattern.snr.numpy() > least_snr) & inside


def judge_table(table: PeakTable, pattern: Pattern, kind: str = "", index: int = 0) -> Verdict:
    """Hold the disks above the table's default threshold against the truth.

    Parameters
    ----------
    table
        Over one position, of this pattern.
    """
    shown = table.filter(min_score=table.attrs["default_min_score"])
    places, reach = shown.positions_px(), max(HIT_PX, HIT_RADII * pattern.radius_px)
    centre = pattern.centre_px.numpy().astype(float)
    clear = centre[visible(pattern, CLEAR_SNR)]
    return Verdict(
        kind,
        index,
        pattern.radius_px,
        float(table.attrs["probe_radius_px"]) / pattern.radius_px,
        len(places),
        _near(places, centre[pattern.snr.numpy() > FAINT_SNR], reach),
        len(clear),
        _near(clear, places, reach),
        str(table.attrs["note"]),
    )


def _near(points: np.ndarray, others: np.ndarray, reach: float) -> int:
    """How many points have another one within reach."""
    if not len(points) or not len(others):
        return 0
    return int((cKDTree(others).query(points)[0] <= reach).sum())


def judge_kind(kind: str, runs: list[Run], count: int, seed: int, method: str | None = None) -> list[Verdict]:
    """Verdicts of the patterns of one kind, of which those with too few visible disks are left out."""
    verdicts = []
    for index, pattern in enumerate(patterns_of(kind, runs, count, seed)):
        if (pattern.visibility.numpy()[visible(pattern, 0)] > 0.5).sum() >= LEAST_VISIBLE:
            table = find_disks(pattern.counts.numpy()[None, None], method=method)
            verdicts.append(judge_table(table, pattern, kind, index))
    return verdicts


def row_of(name: str, verdicts: list[Verdict]) -> str:
    """One line of the table."""
    total = {field: sum(getattr(v, field) for v in verdicts) for field in ("found", "true", "clear", "seen")}
    right = np.mean([v.right_radius for v in verdicts]) if verdicts else np.nan
    precision, recall = total["true"] / max(1, total["found"]), total["seen"] / max(1, total["clear"])
    empty = sum(v.found == 0 for v in verdicts)
    small, large = (sum(not v.right_radius and sign * (v.ratio - 1) > 0 for v in verdicts) for sign in (-1, 1))
    return f"| {name} | {len(verdicts)} | {right:.2f} | {small} / {large} | {precision:.3f} / {recall:.3f} | {empty} |"


def run(args: Sequence[str | Path] = ()) -> int:
    """Command ``napari-emdl bench conditions``."""
    parser = argparse.ArgumentParser(
        prog="napari-emdl bench conditions",
        description="Radius, precision and recall on simulated patterns of held-out crystals, nothing set.",
    )
    parser.add_argument("library", nargs="*", help="beam libraries; simulated from the seed without")
    parser.add_argument("--seed", type=int, default=515)
    parser.add_argument("--count", type=int, default=14, help="patterns drawn of each kind")
    parser.add_argument("--runs", type=int, default=60, help="crystals simulated where no library is given")
    parser.add_argument("--kind", action="append", choices=list(CONDITIONS), help="one of the kinds; all without")
    parser.add_argument("--method", help="the default one without")
    parser.add_argument("--out", help="every pattern's verdict as JSON")
    options = parser.parse_args([str(a) for a in args])
    torch.set_num_threads(1)
    library = list(options.library)
    runs = read_library(library, validation=True) if library else held_out_runs(options.runs, options.seed)
    verdicts: list[Verdict] = []
    start = time.process_time()
    names = ("kind", "patterns", "radius within a tenth", "too small / large", "precision / recall", "empty")
    print(f"| {' | '.join(names)} |\n{'|---' * len(names)}|")
    for kind in options.kind or list(CONDITIONS):
        found = judge_kind(kind, runs, options.count, options.seed, options.method)
        verdicts += found
        print(row_of(kind, found), flush=True)
        if options.out:
            Path(options.out).write_text(json.dumps([asdict(v) for v in verdicts], indent=1), "utf-8")
    print(row_of("all", verdicts))
    print("\n".join(f"left empty: {v.kind} {v.index}: {v.note}" for v in verdicts if not v.found))
    print(f"{time.process_time() - start:.0f} s of CPU")
    return 0
