"""Occupancy on movies with exact truth: sites, drift, and which sites blink are all estimated from the movie.

A case is PREFIX.tif and PREFIX_truth.h5 as for ``bench columns``, or a folder of them, such as
``python -m napari_emdl.training.atoms.cases FOLDER`` writes. The contrast is given where the truth file tells it. Movies with
the same true occupancy at different doses are compared: the interval of the ratio of their rates should hold 1.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from napari_emdl.atoms.find.columns import find_columns
from napari_emdl.atoms.fit.occupancy import fit_occupancy
from napari_emdl.atoms.fit.result import Occupancy
from napari_emdl.atoms.judge.compare import compare
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import ColumnParams, OccupancyParams, RunParams
from napari_emdl.bench.columns import Case, load_case, score_occupancy

#: what is averaged over a regime as its absolute value as well
SIGNED = ("off bias", "on bias")


@dataclass(frozen=True)
class Measured:
    """Scores and result of one case."""

    name: str
    regime: str
    case: Case
    found: Occupancy
    scores: dict[str, float]


def prefixes(paths: Sequence[str]) -> list[str]:
    """Prefixes of all cases, those in folders as well.

    Raises
    ------
    EmdlError
        When a folder holds no case.
    """
    found: list[str] = []
    for path in paths:
        if not Path(path).is_dir():
            found.append(path)
            continue
        inside = sorted(str(p).removesuffix("_truth.h5") for p in Path(path).glob("*_truth.h5"))
        inside = [prefix for prefix in inside if Path(f"{prefix}.tif").is_file()]
        if not inside:
            raise EmdlError(f"folder {path} holds no case (PREFIX.tif and PREFIX_truth.h5)")
        found += inside
    return found


def measure(prefix: str, model: str, evidence: str, contrast: str, device: str) -> Measured:
    """Follow one movie and score it.

    Parameters
    ----------
    prefix
        Case.
    model, evidence, contrast, device
        Finder, kind of evidence, "auto" for what the truth file tells (else by the image), where to run.
    """
    case = load_case(prefix)
    with h5py.File(f"{prefix}_truth.h5") as file:
        facts = dict(file.attrs)
    if contrast == "auto":
        contrast = str(facts.get("contrast", "auto"))
    start = time.perf_counter()
    run = RunParams.model_validate({"device": device})
    options = {"model": model, "contrast": contrast, "pixel_size_A": case.pixel_A}
    columns = find_columns(case.movie, params=ColumnParams.model_validate(options), run=run)
    params = OccupancyParams.model_validate({"evidence": evidence, "dose_e_per_A2": facts.get("dose")})
    found = fit_occupancy(columns, case.movie, params=params, run=run)
    scores = score_occupancy(case, found) | {
        "sigmas apart": float(found.attrs.get("separation", np.nan)), "seconds": time.perf_counter() - start,
    }  # fmt: skip
    return Measured(case.name, str(facts.get("regime", case.name)), case, found, scores)


def ratios(measured: Sequence[Measured]) -> list[str]:
    """One line for each pair of movies with the same true occupancy and contrast."""
    lines = []
    for i, first in enumerate(measured):
        for second in measured[i + 1 :]:
            same = first.case.occupied.shape == second.case.occupied.shape
            if not same or not np.array_equal(first.case.occupied, second.case.occupied):
                continue
            rows = [row for row in compare(first.found, second.found).rows if row.group == "all"]
            told = ", ".join(f"{row.rate} {row.ratio:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in rows)
            lines.append(f"{second.name} / {first.name}: {told}{'' if not any(r.different for r in rows) else '  DIFFERENT'}")
    return lines


def _row(name: str, scores: dict[str, float]) -> str:
    return f"{name:30s} " + " ".join(f"{value:12.4g}" for value in scores.values())


def run(arguments: Sequence[str] | None = None) -> int:
    """Print a row a case, means by regime, and ratios of rates that are truly equal; the exit status."""
    parser = argparse.ArgumentParser(prog="napari-emdl bench occupancy", description=__doc__)
    parser.add_argument("cases", nargs="+", metavar="PREFIX|FOLDER")
    parser.add_argument("--model", default="columns", help="finder: log, or the name of a model")
    parser.add_argument("--evidence", default="image", choices=["image", "finder"])
    parser.add_argument("--contrast", default="auto", choices=["auto", "bright", "dark"])
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    options = parser.parse_args(None if arguments is None else list(arguments))
    every: list[Measured] = []
    for prefix in prefixes(options.cases):
        every.append(measure(prefix, options.model, options.evidence, options.contrast, options.device))
        if len(every) == 1:
            print(f"{'case':30s} " + " ".join(f"{name:>12s}" for name in every[0].scores))
        print(_row(every[-1].name, every[-1].scores), flush=True)
    print()
    for regime in dict.fromkeys(m.regime for m in every):
        members = [m.scores for m in every if m.regime == regime]
        mean = {name: float(np.nanmean([s[name] for s in members])) for name in members[0]}
        size = ", ".join(f"|{name}| {np.nanmean([abs(s[name]) for s in members]):.3f}" for name in SIGNED)
        print(_row(f"mean of {len(members)}: {regime}", mean) + f"  {size}")
    print("\n".join(["", *ratios(every)]))
    return 0
