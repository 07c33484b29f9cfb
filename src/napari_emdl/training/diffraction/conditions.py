"""Kinds of patterns on which networks are judged, each rendered from held-out crystals: plain, haloed, in 8 bit, and so on.

python -m napari_emdl.training.diffraction.conditions LIBRARY.h5 FCUNET_FOLDER REFINER_FOLDER [--out conditions.json]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_emdl.training.diffraction.evaluate import Networks, evaluate, summary
from napari_emdl.training.diffraction.library import Run, read_library
from napari_emdl.training.diffraction.probes import known_probe
from napari_emdl.training.diffraction.proposer_task import detection_metrics
from napari_emdl.training.diffraction.render import Pattern, draw_patterns
from napari_emdl.training.diffraction.scene import Effects, RenderConfig

_COMMON = RenderConfig(
    radius_px=(4.0, 10.0),
    log10_dose=(4.3, 5.0, 5.7),
    sampling_invA=(0.008, 0.020),
    probability_gain=0.0,
    probability_window=0.0,
)


def _with(effects: dict[str, Any], **changes: object) -> RenderConfig:
    return _COMMON.model_copy(update={"effects": Effects(**effects), **changes})


#: What each kind does to the common patterns (disks of 4 to 10 px, 2e4 to 5e5 electrons).
CONDITIONS: dict[str, RenderConfig] = {
    "plain": _with({}),
    "haloed": _with({"tails": 1.0}),
    "bent (8 bit, gamma, log)": _with({"bent": 1.0}),
    "haloed and bent": _with({"tails": 1.0, "bent": 1.0}),
    "saturated": _with({"saturation": 1.0, "blooming": 0.3}),
    "dark left or taken too much": _with({"dark": 1.0}),
    "rings, bands, texture": _with({"rings": 0.7, "kikuchi": 0.7, "texture": 0.7}),
    "stops and gaps": _with({"stop": 1.0, "gaps": 1.0}),
    "hollow disks": _with({"hollow": 1.0}),
    "spots": _with({"flat": 0.7}, radius_px=(1.5, 3.0)),
    "large disks": _with({}, radius_px=(10.0, 16.0)),
    "faint on a halo, little noise": _with(
        {"tails": 1.0, "bent": 0.7, "tail_weight": 0.92}, log10_dose=(6.5, 7.5, 8.5), halo_fraction=0.9
    ),
    "few counts": _with({}, log10_dose=(3.3, 3.6, 4.0)),
    "sharp rings": _with({"rings": 1.0, "ring_width": (0.01, 0.06)}),
}


def patterns_of(condition: str, runs: list[Run], count: int, seed: int = 515, radius_alone: float = 1.0) -> list[Pattern]:
    """Fixed patterns of one kind whose probe is a disk of about the right radius (a share of `radius_alone`), or measured."""
    rng = np.random.default_rng([seed, list(CONDITIONS).index(condition)])
    generator = torch.Generator().manual_seed(seed)
    patterns = draw_patterns(runs, CONDITIONS[condition], count, rng, generator)
    for pattern in patterns:
        pattern.probe = known_probe(pattern, rng, radius_alone)
    return patterns


def judge(networks: Networks, runs: list[Run], count: int, only: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Precision and recall of the proposer, and figures after the refiner, for every kind of pattern."""
    out: dict[str, dict[str, float]] = {}
    for condition in only or list(CONDITIONS):
        patterns = patterns_of(condition, runs, count)
        found = [networks.candidates(p) for p in patterns]
        proposed = {f"proposer_{k}": round(v, 4) for k, v in detection_metrics(patterns, found).items()}
        measured = summary(evaluate(networks, patterns))
        out[condition] = proposed | {k: measured[k] for k in ("precision", "recall", "strain_median_abs_pct", "unfitted")}
    return out


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("fcunet")
    parser.add_argument("refiner")
    parser.add_argument("--patterns", type=int, default=60, help="patterns of each kind")
    parser.add_argument("--only", nargs="*", help="kinds to judge, all by default")
    parser.add_argument("--out")
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = read_library([args.library], validation=True)
    text = json.dumps(judge(Networks.load(args.fcunet, args.refiner), runs, args.patterns, args.only), indent=1)
    if args.out:
        Path(args.out).write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
