"""Calibration of the refiner's sigma on held-out crystals: one temperature, and the numbers of a reliability plot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from napari_emdl.training.diffraction.config import TrainConfig
from napari_emdl.training.diffraction.library import read_library
from napari_emdl.training.diffraction.networks import DiskRefiner
from napari_emdl.training.diffraction.render import Pattern
from napari_emdl.training.diffraction.tasks import refine
from napari_emdl.training.diffraction.validation import validation_patterns


def errors_and_sigmas(model: DiskRefiner, patterns: list[Pattern], passes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Error along each axis (n, 2) and sigma (n,) of disks that are visible and accepted (score > 0.5)."""
    rng = np.random.default_rng(11)
    errors, sigmas = [], []
    for pattern in patterns:
        r, size = pattern.radius_px, pattern.counts.shape[-1]
        keep = (pattern.visibility > 0.3) & ((pattern.centre_px > r) & (pattern.centre_px < size - 1 - r)).all(1)
        centre = pattern.centre_px[keep]
        if not len(centre):
            continue
        start = centre + torch.tensor(rng.normal(0, 0.1 * r, centre.shape), dtype=torch.float32)
        out, _ = refine(model, pattern, start, passes)
        good = out[:, 3] > 0.5
        errors.append((out[good, :2] - centre[good]).numpy())
        sigmas.append(out[good, 2].numpy())
    return np.concatenate(errors), np.concatenate(sigmas)


def temperature_of(errors: np.ndarray, sigmas: np.ndarray) -> float:
    """Factor that makes 68.3 % of |error| / sigma along an axis fall below 1: robust against the few outliers."""
    return float(np.quantile(np.abs(errors) / sigmas[:, None], 0.683))


def reliability(errors: np.ndarray, sigmas: np.ndarray, bins: int = 8) -> list[dict[str, float]]:
    """Mean sigma against the error's 68 % half width and rms, in bins of equal counts."""
    order = np.argsort(sigmas)
    rows = []
    for part in np.array_split(order, bins):
        e = np.abs(errors[part])
        rows.append(
            {
                "sigma_px": round(float(sigmas[part].mean()), 4),
                "error_68_px": round(float(np.quantile(e, 0.683)), 4),
                "error_rms_px": round(float(np.sqrt(np.square(e).mean())), 4),
            }
        )
    return rows


def plot_reliability(rows: list[dict[str, float]], path: Path) -> None:
    """Draw the result of `reliability` into a PNG: on the diagonal the network's sigma is the error it makes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    sigma = [row["sigma_px"] for row in rows]
    ends = [0.8 * min(sigma), 1.25 * max(sigma)]
    axes.plot(ends, ends, color="0.6", label="sigma")
    axes.plot(sigma, [row["error_68_px"] for row in rows], "o-", label="68 % of the errors lie within")
    axes.plot(sigma, [row["error_rms_px"] for row in rows], "s:", label="rms error")
    axes.set(xscale="log", yscale="log", xlabel="sigma told by the network (px)", ylabel="error along an axis (px)")
    axes.legend()
    figure.savefig(path, dpi=110)


def calibrate_sigma(model: DiskRefiner, config: TrainConfig, patterns: int = 150) -> list[dict[str, float]]:
    """Set the model's temperature from held-out crystals; returns the reliability after it."""
    runs = read_library(list(config.library), validation=True)
    model.temperature.fill_(1.0)
    errors, sigmas = errors_and_sigmas(model, validation_patterns(runs, config.render, patterns, seed=123))
    model.temperature.fill_(temperature_of(errors, sigmas))
    return reliability(errors, sigmas * float(model.temperature))
