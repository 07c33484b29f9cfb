"""Disks and strain on cases with exact truth: accuracy, and speed against py4DSTEM on the same patterns in the same run.

See :mod:`napari_emdl.bench.cases` for the files. Without a case, the crystal positions of the package's sample are used.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.bench.cases import Case, load_case, sample_case
from napari_emdl.bench.diskfinders import FOREIGN, Finder, installed, our_finder
from napari_emdl.diffraction.find.probe import probe_from_image
from napari_emdl.diffraction.fit.strain import disk_weights, fit_strain
from napari_emdl.diffraction.fit.tensor import strain_components

METHODS = ("template", "light", "fcunet", "fcunet-plain", "py4dstem", "blobfinder")
#: A disk counts as found within this distance of its place.
TOLERANCE_PX = 2.0
#: Places whose counts stand this many sigma above the local background ought to be found.
VISIBLE_SIGMA = 5.0


@dataclass(frozen=True)
class Row:
    """One line of the table; strain in per cent, distances in px; see :func:`error_over_sigma` and :func:`bound_pct`."""

    case: str
    method: str
    strain_rmse_pct: float
    strain_median_pct: float
    gain: float
    disk_rmse_px: float
    precision: float
    recall: float
    failed: int
    error_over_sigma: float
    bound_pct: float
    patterns_per_s: float
    ratio: float


def visible(pattern: NDArray[Any], places: NDArray[np.float64], radius_px: float) -> NDArray[np.bool_]:
    """(n,) places whose counts within 0.8 r stand above the background around them."""
    out = np.zeros(len(places), bool)
    reach = int(np.ceil(1.6 * radius_px)) + 1
    for i, (r, c) in enumerate(places):
        top, left = max(0, int(r) - reach), max(0, int(c) - reach)
        near = pattern[top : int(r) + reach + 2, left : int(c) + reach + 2]
        rows, cols = np.ogrid[top : top + near.shape[0], left : left + near.shape[1]]
        distance = np.hypot(rows - r, cols - c)
        disk = near[distance <= 0.8 * radius_px]
        ring = near[(distance > 1.15 * radius_px) & (distance <= 1.6 * radius_px)]
        background = max(np.percentile(ring, 40), 0.5 * ring.mean())
        out[i] = disk.sum() - background * disk.size > VISIBLE_SIGMA * np.sqrt(max(background, 0.05) * disk.size)
    return out


def _lattice_of(position: NDArray[np.float64], hk: NDArray[np.int64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Basis by weighted, Cauchy-reweighted least squares of (origin, g1, g2)."""
    design, root = np.c_[np.ones(len(hk)), hk], np.sqrt(weight)
    w = root
    solution = np.zeros((3, 2))
    for _ in range(6):
        solution = np.linalg.lstsq(design * w[:, None], position * w[:, None], rcond=None)[0]
        z = np.linalg.norm(position - design @ solution, axis=1) * root
        w = root / np.sqrt(1 + np.square(z / (2 * np.median(z) + 1e-12)))
    return solution[1:]


def score(case: Case, disks: PeakTable) -> dict[str, float]:
    """Accuracy of disks, and of the strain fitted to them with the truth's indices, so that the peaks alone are scored.

    Returns
    -------
    dict
        strain_rmse_pct, strain_median_pct (over exx, eyy, exy), gain (slope against the truth, NaN without strain),
        disk_rmse_px, precision, recall (of visible disks), failed (patterns without a lattice), error_over_sigma.
    """
    bright = case.probe > 0.3 * case.probe.max()
    radius = float(np.sqrt(bright.sum() / np.pi))
    hk_all = np.stack(np.meshgrid(np.arange(-8, 9), np.arange(-8, 9), indexing="ij"), axis=-1).reshape(-1, 2)
    size = np.array(case.patterns.shape[1:])
    hits = misses = false = failed = 0
    distances: list[float] = []
    true_strain: list[list[float]] = []
    got_strain: list[list[float]] = []
    for i, (pattern, f) in enumerate(zip(case.patterns, case.deformation, strict=True)):
        g = case.g_px @ np.linalg.inv(f)
        places = hk_all @ g + case.origin_px[i]
        inside = np.all((places > radius) & (places < size - 1 - radius), axis=1)
        places, hk = places[inside], hk_all[inside]
        seen = visible(pattern.astype(float), places, radius)
        one = disks.select_positions([i])
        position = one.positions_px()
        if not len(position):
            misses, failed = misses + int(seen.sum()), failed + 1
            continue
        apart = np.linalg.norm(position[:, None] - places[None], axis=2)
        nearest = apart.argmin(axis=1)
        distance = apart[np.arange(len(position)), nearest]
        # of several disks on a place only the nearest counts
        order = np.lexsort((distance, nearest))
        first = np.zeros(len(position), bool)
        first[order[np.unique(nearest[order], return_index=True)[1]]] = True
        right = first & (distance < TOLERANCE_PX)
        hits, false = hits + int(right.sum()), false + int((~right).sum())
        misses += int((seen & ~np.isin(np.arange(len(places)), nearest[right])).sum())
        distances += distance[right].tolist()
        use = first & (distance < 0.3 * np.linalg.norm(g, axis=1).min())
        index = hk[nearest[use]]
        if use.sum() < 5 or np.linalg.matrix_rank(index - index.mean(axis=0)) < 2:
            failed += 1
            continue
        fitted = _lattice_of(position[use], index, disk_weights(one)[use])
        for into, matrix in ((true_strain, f), (got_strain, np.linalg.inv(np.linalg.inv(case.g_px) @ fitted))):
            e = 0.5 * (matrix + matrix.T) - np.eye(2)
            into.append([e[0, 0], e[1, 1], e[0, 1]])
    t, e = np.array(true_strain).reshape(-1, 3), np.array(got_strain).reshape(-1, 3)
    return {
        "strain_rmse_pct": 100 * float(np.sqrt(np.mean((e - t) ** 2))) if len(t) else float("nan"),
        "strain_median_pct": 100 * float(np.median(np.abs(e - t))) if len(t) else float("nan"),
        "gain": float((t * e).sum() / np.square(t).sum()) if t.any() else float("nan"),
        "disk_rmse_px": float(np.sqrt(np.mean(np.square(distances)))) if distances else float("nan"),
        "precision": hits / max(1, hits + false),
        "recall": hits / max(1, hits + misses),
        "failed": failed,
        "error_over_sigma": error_over_sigma(case, disks),
    }


def error_over_sigma(case: Case, disks: PeakTable) -> float:
    """Root mean square of error / sigma of exx, eyy and exy as :func:`fit_strain` gives them: 1 where sigma is right.

    Single values count as 5 at most. NaN where the disks have no sigma or no lattice is found.
    """
    if "sigma_px" not in disks.fields or not disks.n_peaks:
        return float("nan")
    g1, g2 = case.g_px
    try:
        found = fit_strain(disks, g1=(g1[0], g1[1]), g2=(g2[0], g2[1]), reference="lattice")
    except EmdlError:
        return float("nan")
    true = strain_components(case.g_px @ np.linalg.inv(case.deformation), case.g_px)[:, :3]
    error = np.stack([found.exx, found.eyy, found.exy], axis=-1).reshape(-1, 3) - true
    ratio = (error / found.sigma.reshape(-1, 4)[:, :3])[found.mask.ravel()]
    return float(np.sqrt(np.mean(np.square(np.clip(ratio, -5, 5)))))


def bound_pct(case: Case) -> float:
    """Cramer-Rao bound of the strain in per cent (rms over exx, eyy, exy), nothing known of the disks' inside.

    From the Fisher information of every pattern at its true lattice, with the inner intensity of each disk and its background
    free; radius and edge of the aperture are taken as known. An estimator that knows what is inside may be below it.
    """
    from napari_emdl.diffraction.fit.pattern import fisher_information
    from napari_emdl.diffraction.fit.patternmodel import Aperture, PatternModel
    from napari_emdl.diffraction.fit.tensor import strain_sigma

    probe = probe_from_image(case.probe, (case.patterns.shape[1], case.patterns.shape[2]))
    if probe.radius_px < 2.5:
        return float("nan")
    model = PatternModel(Aperture(probe.radius_px, max(probe.edge_width_px, 0.45)))
    hk_all = np.stack(np.meshgrid(np.arange(-8, 9), np.arange(-8, 9), indexing="ij"), axis=-1).reshape(-1, 2)
    lattices, covariances = [], []
    for pattern, f, origin in zip(case.patterns, case.deformation, case.origin_px, strict=True):
        g = case.g_px @ np.linalg.inv(f)
        hk = hk_all[model.fits(origin + hk_all @ g, (pattern.shape[0], pattern.shape[1]))]
        lattices.append(g)
        covariances.append(
            np.linalg.inv(fisher_information(model, np.maximum(pattern.astype(float), 0), hk, origin, g))[2:, 2:]
        )
    sigma = strain_sigma(np.array(lattices), np.array(covariances), case.g_px)[:, :3]
    return 100 * float(np.sqrt(np.mean(np.square(sigma))))


def tune_threshold(case: Case, disks: PeakTable) -> tuple[PeakTable, dict[str, float]]:
    """Disks above the intensity that gives the lowest strain error against the truth: generous to what is compared with."""
    levels = np.quantile(disks.column("score"), np.linspace(0, 0.9, 10)) if disks.n_peaks else [0.0]
    tried = [(table, score(case, table)) for table in (disks.filter(min_score=float(level)) for level in levels)]
    fine = [t for t in tried if t[1]["failed"] <= 0.05 * len(case.patterns)] or tried
    return min(fine, key=lambda t: t[1]["strain_rmse_pct"])


def _available(method: str, case: Case, device: str) -> Finder | str:
    """Finder of a method, or why there is none."""
    try:
        find = FOREIGN[method](case) if method in FOREIGN else our_finder(case, method, device)
        find(case.patterns[:2])
    except ImportError as error:
        return f"not installed ({error.name})"
    except EmdlError as error:
        return str(error)
    return find


def measure(case: Case, methods: Sequence[str], device: str = "auto", rounds: int = 3) -> tuple[list[Row], list[str]]:
    """Table of one case, and notes on methods left out. Rates are the best of `rounds`, taken in turns so that all methods
    see the same load."""
    finders: dict[str, Finder] = {}
    notes = []
    for method in methods:
        made = _available(method, case, device)
        if isinstance(made, str):
            notes.append(f"{case.name}: {method} left out: {made}")
        else:
            finders[method] = made
    tables: dict[str, PeakTable] = {}
    seconds: dict[str, list[float]] = {method: [] for method in finders}
    for turn in range(rounds):
        for method, find in finders.items():
            # the first round covers all patterns for the scores; the slow ones are timed on fewer afterwards
            n = len(case.patterns) if turn == 0 or seconds[method][0] * len(case.patterns) < 5 else min(25, len(case.patterns))
            start = time.perf_counter()
            table = find(case.patterns[:n])
            seconds[method].append((time.perf_counter() - start) / n)
            if turn == 0:
                tables[method] = table
    rows = []
    bound = bound_pct(case)
    base = min(seconds["py4dstem"]) if "py4dstem" in seconds else float("nan")
    for method, table in tables.items():
        values = tune_threshold(case, table)[1] if method in FOREIGN else score(case, table)
        rate = 1 / min(seconds[method])
        row = Row(case.name, method, **values, bound_pct=bound, patterns_per_s=rate, ratio=rate * base)  # type: ignore[arg-type]
        rows.append(row)
    return rows, notes


def markdown(rows: Sequence[Row]) -> str:
    """Table as it stands in docs/benchmarks.md."""
    lines = [
        "| case | method | strain RMSE % | median % | gain | disk px | precision | recall | failed "
        "| error / sigma | bound % | patterns/s | x py4DSTEM |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        ratio = f"{r.ratio:.1f}" if np.isfinite(r.ratio) else "-"
        accuracy = f"{r.strain_rmse_pct:.3f} | {r.strain_median_pct:.3f} | {r.gain:.3f} | {r.disk_rmse_px:.2f}"
        found = f"{r.precision:.2f} | {r.recall:.2f} | {r.failed} | {r.error_over_sigma:.2f} | {r.bound_pct:.3f}"
        lines.append(f"| {r.case} | {r.method} | {accuracy} | {found} | {r.patterns_per_s:.0f} | {ratio} |")
    return "\n".join(lines)


def run(args: Sequence[str | Path] = ()) -> int:
    """Command ``napari-emdl bench disks [CASE ...]``: prints the table."""
    parser = argparse.ArgumentParser(prog="napari-emdl bench disks", description="Disks, strain and speed on cases with truth.")
    parser.add_argument("cases", nargs="*", help="prefixes of validation cases; the built-in sample when left out")
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated, of " + ", ".join(METHODS))
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=3, help="rounds of timing, best taken")
    options = parser.parse_args([str(a) for a in args])
    methods = [m.strip() for m in options.methods.split(",") if m.strip()]
    unknown = set(methods) - set(METHODS)
    if unknown:
        raise EmdlError(f"there is no method {sorted(unknown)[0]!r}; choose from {', '.join(METHODS)}")
    cases = [load_case(prefix) for prefix in options.cases] or [sample_case()]
    methods, notes = installed(methods)
    rows: list[Row] = []
    for case in cases:
        found, left_out = measure(case, methods, options.device, max(1, options.rounds))
        rows, notes = rows + found, notes + left_out
    for note in notes:
        print(note)
    print(markdown(rows))
    return 0
