"""Measure a trained column network on held-out specimens, choose its thresholds, and write the model folder.

python -m napari_emdl.training.atoms.ship CHECKPOINT WAVES_FOLDER MODEL_FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_emdl.atoms.find.normalise import local_normalise
from napari_emdl.training.atoms.conditions import encode
from napari_emdl.training.atoms.config import ColumnsConfig, Imaging
from napari_emdl.training.atoms.contrast import fit_contrast, judge_contrast, pooled_features, probe_samples
from napari_emdl.training.atoms.evaluate import (
    REGIMES,
    Score,
    TestImage,
    held_particles,
    log_best,
    regime_images,
    sweep,
)
from napari_emdl.training.atoms.export import export_model, load_checkpoint, provenance
from napari_emdl.training.atoms.network import MULTIPLE, ColumnNet
from napari_emdl.training.atoms.peaks import candidates
from napari_emdl.training.atoms.sampling import Sampler
from napari_emdl.training.atoms.waves import load

THRESHOLDS = np.arange(0.2, 0.81, 0.05)
DOSES = (20.0, 50.0, 100.0, 200.0, 500.0, 2000.0)
#: seeds of the held-out specimens: thresholds are chosen on one set, scores come from another
VALIDATION_SEED, TEST_SEED = 32, 31
#: held-out particles of each of the two sets
HELD = 30
#: batches of eight images to fit the contrast probe to, and to judge it by
PROBE_BATCHES, PROBE_HELD_BATCHES = 300, 100


def prepare(image: np.ndarray, sampling_A: float) -> np.ndarray:
    """Normalised image (1, 1, H, W) or series (1, C, H, W), filled up with zeros to a multiple of the network's."""
    x = local_normalise(image, sampling_A)
    x = x[None] if x.ndim == 2 else x
    pad = [(0, 0)] + [(0, -n % MULTIPLE) for n in x.shape[1:]]
    return np.pad(x, pad)[None]


def predictor(net: torch.nn.Module, label_sigma_A: float) -> Callable[[np.ndarray, float, str | None], np.ndarray]:
    """Function of image, pixel size and contrast that gives candidates (n, 6) within the image."""

    def predict(image: np.ndarray, sampling_A: float, contrast: str | None) -> np.ndarray:
        told = torch.as_tensor(encode(contrast, sampling_A=sampling_A))[None]
        with torch.no_grad():
            found = candidates(net(torch.as_tensor(prepare(image, sampling_A)), told), told, label_sigma_A)[0].numpy()
        size = np.array(image.shape[-2:])
        return found[(found[:, 2] > 0.05) & np.all((found[:, :2] > -0.5) & (found[:, :2] < size - 0.5), axis=1)]

    return predict


def guess_contrast(net: ColumnNet, image: torch.Tensor, sampling_A: float) -> str:
    """Contrast that the probe takes for a normalised image (1, 1, H, W)."""
    told = torch.as_tensor(encode(None, sampling_A=sampling_A))[None]
    with torch.no_grad():
        return "bright" if float(net.contrast_probe(pooled_features(*net.with_features(image, told)))[0, 0]) > 0 else "dark"


def best_threshold(tables: list[list[dict[str, float]]]) -> float:
    """Threshold with the best mean F1 over several sweeps."""
    return round(float(THRESHOLDS[int(np.argmax(np.mean([[row["f1"] for row in t] for t in tables], axis=0)))]), 3)


def rounded(table: dict[str, float]) -> dict[str, float]:
    """Three digits."""
    return {k: round(float(v), 3) for k, v in table.items()}


def regime_metrics(net: ColumnNet, label_sigma_A: float, held: int = HELD) -> tuple[dict[str, float], dict[str, Any]]:
    """Default thresholds by contrast, and scores in the five regimes beside those of the classical finder."""
    predict = predictor(net, label_sigma_A)
    validation, test = held_particles(held, VALIDATION_SEED), held_particles(held, TEST_SEED)
    tables: dict[str, list[list[dict[str, float]]]] = {"bright": [], "dark": []}
    for k, regime in enumerate(REGIMES):
        images = regime_images(validation, regime, 6 + k)
        tables[regime.contrast].append(sweep([predict(t.image, t.sampling_A, t.contrast) for t in images], images, THRESHOLDS))
    threshold = {sign: best_threshold(rows) for sign, rows in tables.items()}
    threshold["auto"] = threshold["unknown"] = round(0.5 * (threshold["bright"] + threshold["dark"]), 3)
    result: dict[str, Any] = {}
    for k, regime in enumerate(REGIMES):
        images = regime_images(test, regime, 50 + k)
        given, auto, right = Score(), Score(), 0
        for t in images:
            sign = guess_contrast(net, torch.as_tensor(prepare(t.image, t.sampling_A)), t.sampling_A)
            right += sign == t.contrast
            for score, contrast in ((given, t.contrast), (auto, sign)):
                found = predict(t.image, t.sampling_A, contrast)
                score.add(found[found[:, 2] >= threshold[contrast], :2], t)
        result[regime.name] = {
            "images": len(images), "network": rounded(given.summary()), "network, contrast auto": rounded(auto.summary()),
            "contrast chosen right": f"{right}/{len(images)}", "LoG + parabola, best of 40 settings": rounded(log_best(images)),
        }  # fmt: skip
    return threshold, result


def dose_metrics(net: ColumnNet, config: ColumnsConfig, folder: Path, threshold: dict[str, float]) -> dict[str, Any]:
    """Scores by dose on validation waves of all kinds under random conditions, contrast told, beside the classical finder's."""
    waves, result = load(folder, "val"), {}
    for dose in DOSES:
        imaging: Imaging = config.imaging.model_copy(
            update={"dose_e_per_A2": (dose, dose), "sampling_A": config.imaging.native_sampling_A, "session_share": 0.0}
        )
        sampler = Sampler(waves, imaging, config.crop_px, 1, [99, int(dose)], True)
        score, auto, images = Score(), Score(), []
        for _ in range(6):
            b = sampler.batch(8)
            signs = {1: "bright", -1: "dark"}
            clear = [k for k in range(8) if b.contrast[k]]
            told = torch.as_tensor(
                np.stack([encode(signs[int(b.contrast[k])], sampling_A=float(b.sampling_A[k])) for k in clear])
            )
            image = b.image[clear]
            guessed = [guess_contrast(net, image[n : n + 1], float(b.sampling_A[k])) for n, k in enumerate(clear)]
            by_guess = torch.as_tensor(
                np.stack([encode(g, sampling_A=float(b.sampling_A[k])) for g, k in zip(guessed, clear, strict=True)])
            )
            with torch.no_grad():
                found, found_auto = (candidates(net(image, c), c, config.label_sigma_A).numpy() for c in (told, by_guess))
            for k, f, g, guess in zip(clear, found, found_auto, guessed, strict=True):
                sign, (xy, cls) = signs[int(b.contrast[k])], b.columns[k]
                inside = np.all((xy > -0.5) & (xy < config.crop_px - 0.5), axis=1)
                t = TestImage(
                    b.image[k, 0].numpy(), float(b.sampling_A[k]), sign, xy[inside], cls[inside], b.surface[k][inside]
                )
                for total, rows, least in ((score, f, threshold[sign]), (auto, g, threshold[guess])):
                    kept = (rows[:, 2] >= least) & np.all((rows[:, :2] > -0.5) & (rows[:, :2] < config.crop_px - 0.5), axis=1)
                    total.add(rows[kept, :2], t)
                images.append(t)
        result[f"{dose:g} e/A2"] = {
            "network": rounded(score.summary()), "network, contrast auto": rounded(auto.summary()),
            "LoG": rounded(log_best(images)),
        }  # fmt: skip
    return result


def ship(checkpoint: Path, waves_folder: Path, out: Path, **training: Any) -> dict[str, Any]:
    """Fit the contrast probe, choose thresholds, measure, export; returns the card's metrics."""
    net, config, state = load_checkpoint(checkpoint)
    if not isinstance(net, ColumnNet):
        raise ValueError("only conditioned networks are shipped")
    samplers = [
        Sampler(load(waves_folder, split), config.imaging, config.crop_px, 1, [config.seed, 99], True)
        for split in ("train", "val")
    ]
    fit_contrast(net, *probe_samples(net, samplers[0], PROBE_BATCHES, True))
    contrast = judge_contrast(net, *probe_samples(net, samplers[1], PROBE_HELD_BATCHES, False))
    threshold, regimes = regime_metrics(net, config.label_sigma_A)
    metrics = {
        "held-out metal particles on [110] and carbon, 300 kV, Cs -8.5 um, only the contrast told": regimes,
        "all kinds of specimens, random conditions, by dose, contrast told": dose_metrics(net, config, waves_folder, threshold),
        "contrast probe on random held images": rounded(contrast),
    }
    example = Sampler(load(waves_folder, "val", 128), config.imaging, 128, 1, 0, True).batch(1)
    export_model(
        net, config, out, (example.image.numpy(), example.conditions.numpy()), config.description, default_min_score=threshold,
        metrics=metrics, limits=LIMITS, training={**provenance(config, state), **training},
    )  # fmt: skip
    return metrics


LIMITS = (
    "Simulated training data only. Metal particles up to 45 A thick, 80 to 300 kV. Columns of one atom and oxygen columns "
    "are left out of training and may or may not be found. Without a contrast, and for astigmatism above 30 A, expect more "
    "errors. Columns nearer than 1.2 A to each other are merged."
)

if __name__ == "__main__":
    torch.set_num_threads(1)
    source, bank, target = (Path(a) for a in sys.argv[1:4])
    if load_checkpoint(source)[1].neighbours:
        from napari_emdl.training.atoms.ship_mixed import ship_mixed

        shipped = ship_mixed(source, target)
    elif load_checkpoint(source)[1].images > 1:
        from napari_emdl.training.atoms.ship_focal import ship_focal

        shipped = ship_focal(source, bank, target)
    else:
        shipped = ship(source, bank, target)
    for key, value in shipped.items():
        print(key, value)
