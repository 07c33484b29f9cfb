"""Scans of held-out crystals under random microscopes, as files that ``napari-emdl bench disks`` reads.

    python -m napari_emdl.training.diffraction.scans OUT_FOLDER LIBRARY.h5 [--scans 30] [--wedges 20] [--seed 7]

Networks are judged on these through the whole program, before weights are replaced: single crops say little about strain.
In a `scan` every position has its own strain, thickness and intensity; in a `wedge` nothing but the thickness changes, so
that all strain found is false. Half of the wedges are tilted by 3 mrad at most, where disks have the strongest contrast inside.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from napari_emdl.training.diffraction.cases import write_case
from napari_emdl.training.diffraction.library import Run, read_library
from napari_emdl.training.diffraction.render import Pattern, render
from napari_emdl.training.diffraction.scene import RenderConfig, draw_scene

#: Common microscopes without damage: what is judged is the networks, not masks and scales.
CONFIG = RenderConfig(
    radius_px=(3.5, 10.0),
    sampling_invA=(0.008, 0.020),
    log10_dose=(4.3, 5.0, 5.7),
    probability_gain=0.0,
    probability_window=0.0,
    probability_soft=0.0,
)
_STRAIN = 0.03
_NEAR_ZONE_MRAD = 3.0
#: Disks that a pattern must show for a lattice to be known.
_LEAST_VISIBLE = 12


def draw_scan(
    run: Run, positions: int, wedge: bool, rng: np.random.Generator, generator: torch.Generator
) -> list[Pattern] | None:
    """Patterns of one crystal under one microscope, or None where no detector in range shows enough of them.

    Parameters
    ----------
    positions
        Patterns; the run's thicknesses are taken in turn.
    wedge
        True: no strain, only the thickness changes.
    """
    scene = draw_scene(run, CONFIG, rng)
    if scene is None:
        return None
    patterns = []
    for index in range(positions):
        e = np.zeros(3) if wedge else rng.uniform(-_STRAIN, _STRAIN, 3)
        deformation = np.array([[1 + e[0], e[2]], [e[2], 1 + e[1]]])
        thickness = index % run.amplitude.shape[0]
        patterns.append(render(run, replace(scene, thickness_index=thickness, deformation=deformation), CONFIG, generator))
    visible = [int((p.visibility > 0.5).sum()) for p in patterns]
    return patterns if np.median(visible) >= _LEAST_VISIBLE else None


def make_scans(folder: Path, runs: list[Run], scans: int, wedges: int, positions: int, seed: int) -> list[Path]:
    """Write scans and wedges of runs in random order, each run at most once; returns their prefixes."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    order = [runs[i] for i in rng.permutation(len(runs))]
    near = [r for r in order if r.meta["tilt_mrad"] <= _NEAR_ZONE_MRAD]
    wanted = {"scan": (order, scans), "wedge_zone": (near, wedges // 2), "wedge_tilted": (order[::-1], wedges - wedges // 2)}
    made: list[Path] = []
    for kind, (source, count) in wanted.items():
        number = 0
        for run in source:
            if number == count:
                break
            patterns = draw_scan(run, positions, kind != "scan", rng, generator)
            if patterns is not None:
                made.append(folder / f"{kind}_{number:02d}")
                write_case(made[-1], patterns)
                number += 1
    return made


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("library", nargs="+")
    parser.add_argument("--scans", type=int, default=30)
    parser.add_argument("--wedges", type=int, default=20)
    parser.add_argument("--positions", type=int, default=8, help="patterns a scan")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = read_library(args.library, validation=True)
    for prefix in make_scans(args.folder, runs, args.scans, args.wedges, args.positions, args.seed):
        print(prefix)


if __name__ == "__main__":
    main()
