"""Reliability plots of the cards: how often a network is right against how sure it says it is, on held-out simulated data.

    python scripts/reliability_plots.py columns OUT.png
    python scripts/reliability_plots.py disk_scale OUT.png
    python scripts/reliability_plots.py contrast OUT.png --config contrast.yaml

Nothing was trained or chosen on these samples but what a calibration says of itself: `columns` and `disk_scale` simulate from
seeds of their own, `contrast` takes the held-out split of its configuration (exit waves are simulated where they are missing).
The plot of `disk_refiner` comes with its export. Needs the extra ``train``.
"""

from __future__ import annotations

import argparse
import io
import itertools
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

import napari_emdl as emdl
from napari_emdl.atoms.find.contrast import SURE_CONTRAST
from napari_emdl.diffraction.find.scaleguess import guess_scale
from napari_emdl.models.card import read_card
from napari_emdl.models.registry import find_model
from napari_emdl.models.session import Session
from napari_emdl.samples import nothing
from napari_emdl.training.atoms import ship_contrast
from napari_emdl.training.atoms.contrastnet import read_config
from napari_emdl.training.atoms.evaluate import TOLERANCE_A, Regime, TestImage, held_particles, regime_images
from napari_emdl.training.atoms.held import greedy
from napari_emdl.training.atoms.incoherent import render
from napari_emdl.training.atoms.lattices import WEAK
from napari_emdl.training.diffraction.conditions import CONDITIONS, patterns_of
from napari_emdl.training.diffraction.nothingset import LEAST_VISIBLE, held_out_runs, visible
from napari_emdl.training.diffraction.scalenet import prepared

#: Seed of all samples, not used elsewhere.
SEED = 9411
#: Fewest values of a point that is drawn.
LEAST = 8
#: HRTEM regimes: many electrons, and few.
HRTEM = {
    "HRTEM, 90 e/Å² and more": (
        Regime("bright 150", "bright", 150),
        Regime("astigmatic 150", "bright", 150, (38, 42)),
        Regime("dark 90", "dark", 90),
    ),
    "HRTEM, 20 to 70 e/Å²": (
        Regime("bright 50", "bright", 50),
        Regime("bright 20", "bright", 20),
        Regime("astigmatic 70", "bright", 70, (38, 42)),
        Regime("dark 25", "dark", 25),
    ),
}
#: Radii that count as right: a class and a half, as the program adds up chances.
SAME_RADIUS = 0.17

#: Kind -> (n, 2): how sure, and right (1) or not (0).
Said = dict[str, NDArray[np.float64]]


def points(said: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points of a curve (k, 4): mean certainty, share right, its standard error, count; bins of too few are left out."""
    rows = []
    for low, high in itertools.pairwise(edges):
        part = said[(said[:, 0] >= low) & (said[:, 0] < high)]
        if len(part) >= LEAST:
            share = (part[:, 1].sum() + 1) / (len(part) + 2)  # a bin without a mistake has an error, too
            rows.append((part[:, 0].mean(), part[:, 1].mean(), math.sqrt(share * (1 - share) / len(part)), len(part)))
    return np.array(rows).reshape(-1, 4)


def plot(panels: list[tuple[Said, NDArray[np.float64], str, str]], unit: str, path: Path) -> None:
    """Draw panels of (values, bin edges, label of x, label of y); on the diagonal a network is as often right as it says."""
    figure = Figure(figsize=(4.6 * len(panels), 5.2), layout="constrained")
    for axes, (kinds, edges, x, y) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        axes.plot(edges[[0, -1]], edges[[0, -1]], color="0.7", zorder=0)
        for (kind, said), marker in zip(kinds.items(), "osD^v", strict=False):
            p = points(said, edges)
            print(f"{kind} ({len(said)} {unit}): " + ", ".join(f"{a:.2f} -> {b:.2f} ({n:.0f})" for a, b, _, n in p))
            axes.errorbar(p[:, 0], p[:, 1], p[:, 2], fmt=f"{marker}-", ms=4, lw=1, capsize=2, label=f"{kind} ({len(said):,})")
        axes.set(xlabel=x, ylabel=y, xlim=edges[[0, -1]], ylim=(0.3 if edges[0] > 0.3 else 0, 1.03))
        axes.legend(title=unit, fontsize=8, title_fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.01))
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=80)
    Image.open(drawn).convert("RGB").quantize(64).save(path, optimize=True)


def judged_columns(test: TestImage) -> NDArray[np.float64]:
    """Candidates of the program (n, 2: score, right) on an image whose contrast and pixel size are told.

    Candidates on weak columns, and those at the border that belong to a column outside, count neither way.
    """
    table = emdl.find_columns(test.image, contrast=test.contrast, pixel_size_A=test.sampling_A)
    score = table.column("score").astype(float)
    order = np.argsort(-score)
    found, score, size = table.positions_px()[order], score[order], np.array(test.image.shape)
    strong = test.column_class != WEAK
    right = greedy(found, test.column_px[strong], test.column_px[~strong], TOLERANCE_A / test.sampling_A)[:, 0]
    inside = ((found > 1) & (found < size - 2)).all(axis=1)
    counts = (right >= 0) & inside
    return np.c_[score[counts], right[counts]]


def annular(count: int, bright_field: bool) -> Iterable[TestImage]:
    """Images of annular detectors, drawn from the seed."""
    rng = np.random.default_rng([SEED, int(bright_field)])
    for _ in range(count):
        sampling_A = float(rng.uniform(0.08, 0.16))
        made = render(rng, 320, sampling_A, annular_bright=bright_field)
        sign = "dark" if bright_field else "bright"
        yield TestImage(made.image[0].numpy(), sampling_A, sign, made.column_px, made.column_class, made.surface)


def columns(count: int) -> Said:
    """Score of candidates and whether a column is there, by kind of image."""
    waves = held_particles(count, SEED)
    images = {
        kind: [test for k, regime in enumerate(regimes) for test in regime_images(waves, regime, SEED + k)]
        for kind, regimes in HRTEM.items()
    }
    images |= {
        "annular dark field": list(annular(4 * count, bright_field=False)),
        "annular bright field": list(annular(2 * count, bright_field=True)),
    }
    said = {}
    for kind, tests in images.items():
        said[kind] = np.concatenate([judged_columns(test) for test in tests])
        print(f"{kind}: {len(tests)} images", flush=True)
    return said


def disk_scale(count: int) -> tuple[Said, Said]:
    """Chance of the radius told and whether it is right, by kind of pattern; chance of a crystal and whether there is one."""
    runs = held_out_runs(4 * count, SEED)
    radius: dict[str, list[tuple[float, float]]] = {}
    crystal: list[tuple[float, float]] = []
    for kind in CONDITIONS:
        for pattern in patterns_of(kind, runs, count, SEED):
            if (pattern.visibility.numpy()[visible(pattern, 0)] > 0.5).sum() < LEAST_VISIBLE:
                continue
            guess = guess_scale([prepared(pattern.counts.numpy()).astype(np.float64)])
            right = abs(math.log(guess.radius_px / pattern.radius_px)) < SAME_RADIUS
            radius.setdefault("spots of 1.5 to 3 px" if kind == "spots" else "disks", []).append(
                (guess.chance(guess.radius_px), float(right))
            )
            crystal.append((guess.crystal, 1.0))
    for kind in nothing.KINDS:
        for image in nothing.patterns_of(kind, count, SEED):
            crystal.append((guess_scale([prepared(image).astype(np.float64)]).crystal, 0.0))
    return {kind: np.array(values) for kind, values in radius.items()}, {"patterns": np.array(crystal)}


def contrast(config: Path, batches: int) -> tuple[Said, Said]:
    """Certainty of a contrast and whether it is right, of the contrast network and of the probe of `columns`."""
    model = find_model("contrast", "contrast")
    drawn = ship_contrast.draw(read_config(config), "test", ship_contrast.TEST_SEED, batches)
    held = ship_contrast.judge(drawn, Session(model, "cpu", 1))
    return certainties(held, model.folder)


def certainties(held: list[ship_contrast.Held], folder: Path) -> tuple[Said, Said]:
    """Certainty of either network, by kind of image, from what they say of held-out images."""
    rule = (read_card(folder).config.emdl.model_extra or {})["decision"]
    names = {"movie": "HRTEM with neighbours", "single": "single HRTEM", "stem": "annular detectors"}
    result = []
    for logit in (lambda h: rule["weight"] * h.network + rule["offset"], lambda h: h.columns):
        result.append(
            {
                name: np.array(
                    [(1 / (1 + math.exp(-abs(logit(h)))), float(logit(h) * h.contrast > 0)) for h in held if h.kind == kind]
                )
                for kind, name in names.items()
            }
        )
    return result[0], result[1]


def main() -> None:
    """Command line of this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=("columns", "disk_scale", "contrast"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=10, help="particles, or patterns of each kind; batches of contrast")
    parser.add_argument("--config", type=Path, help="of the training of the contrast network")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tenths, halves = np.r_[np.linspace(0.1, 0.9, 9), 0.95, 1.001], np.r_[np.linspace(0.5, 0.9, 5), 0.95, SURE_CONTRAST, 1.001]
    if args.network == "columns":
        plot([(columns(args.count), tenths, "score", "share that are columns")], "candidates", args.out)
    elif args.network == "disk_scale":
        sized, seen = disk_scale(args.count)
        radius = (
            sized,
            np.r_[0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 1.001],
            "chance of the radius told",
            "share within a class and a half (17 %)",
        )
        crystal = (seen, np.r_[0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.001], "chance of a crystal told", "share that are crystals")
        plot([radius, crystal], "patterns", args.out)
    else:
        if args.config is None:
            parser.error("contrast needs --config")
        own, probe = contrast(args.config, args.count)
        plot_contrast(own, probe, halves, args.out)


def plot_contrast(own: Said, probe: Said, edges: NDArray[np.float64], path: Path) -> None:
    """Both networks that say whether columns are bright or dark."""
    y = "share right"
    plot([(own, edges, "certainty of contrast", y), (probe, edges, "certainty of the probe of columns", y)], "images", path)


if __name__ == "__main__":
    main()
