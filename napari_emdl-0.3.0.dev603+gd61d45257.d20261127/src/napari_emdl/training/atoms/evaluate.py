"""Held test images with exact truth, one-to-one scores, and the classical baseline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_laplace, maximum_filter
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from napari_emdl.training.atoms.imaging import Detector, Microscope, image_contrast, image_intensity, record
from napari_emdl.training.atoms.lattices import BOX_A, WEAK, Structure
from napari_emdl.training.atoms.multislice import Multislice
from napari_emdl.training.atoms.structures import CarbonBank, metal_particle
from napari_emdl.training.atoms.waves import GRID, Waves, simulate

TOLERANCE_A = 0.5


@dataclass(frozen=True)
class Regime:
    """Imaging conditions of a kind of test image."""

    name: str
    contrast: str
    dose_e_per_A2: float
    C12_A: tuple[float, float] = (0.0, 12.0)


#: the five kinds of movies that the targets speak of
REGIMES = (
    Regime("bright 150", "bright", 150),
    Regime("bright 50", "bright", 50),
    Regime("astigmatic 150", "bright", 150, (38, 42)),
    Regime("astigmatic 70", "bright", 70, (38, 42)),
    Regime("dark 90", "dark", 90),
)


@dataclass
class TestImage:
    """An image in counts with its truth: columns (m, 2) in pixels, class, surface flag."""

    image: np.ndarray
    sampling_A: float
    contrast: str
    column_px: np.ndarray
    column_class: np.ndarray
    surface: np.ndarray
    __test__ = False


def held_particles(count: int, seed: int, elements: tuple[str, ...] = ("Pd", "Ag", "Au", "Cu", "Pt")) -> Waves:
    """Exit waves of metal particles on [110] and about 20 A of carbon, 300 kV, from seeds that training never draws."""
    rng = np.random.default_rng([seed, 9000])
    carbon = CarbonBank(np.random.default_rng([seed, 9001]), 3)
    made: list[tuple[Structure, float, float]] = []
    while len(made) < count:
        s = metal_particle(
            rng,
            carbon,
            [elements[len(made) % len(elements)]],
            "110",
            carbon_A=float(rng.uniform(15, 25)),
            thickness_A=(8, 20),
        )
        if 90 < len(s.column_A) < 280:
            made.append((s, 300.0, 0.075))
    return simulate(made, Multislice(box_A=BOX_A, grid=GRID))


def regime_images(waves: Waves, regime: Regime, seed: int, sampling_A: float = 0.095) -> list[TestImage]:
    """One image of every wave.

    Cs is -8 to -9 um and C10 50 to 80 A overfocus (bright) or underfocus (dark) at the exit face. Images whose columns
    are not of the
    regime's contrast are left out.
    """
    rng = np.random.default_rng([seed, 77])
    n = len(waves)
    sign = 1 if regime.contrast == "bright" else -1

    def t(low: float, high: float) -> torch.Tensor:
        return torch.as_tensor(rng.uniform(low, high, n), dtype=torch.float32)

    zero = torch.zeros(n)
    m = Microscope(
        torch.as_tensor(waves.energy_keV, dtype=torch.float32), sign * t(50, 80),
        t(-9e4, -8e4), t(*regime.C12_A), t(0, 6.28), zero, zero, zero, zero, t(20, 25), zero,
    )  # fmt: skip
    size = int(BOX_A / sampling_A)
    images = []
    for i in range(n):
        one = torch.tensor([i])
        intensity = image_intensity(waves.coefficients(np.array([i])), m.pick(one), BOX_A, sampling_A, (size, size))
        xy, cls, surface = waves.columns(i)
        p = xy / sampling_A
        if (
            sign * image_contrast(intensity[0].numpy(), p[cls == 0], sampling_A, rng) < 0.35
        ):  # nobody would call it that contrast
            continue
        d = Detector.ideal(torch.tensor([regime.dose_e_per_A2]))
        # cameras from nearly perfect to ones that pass a tenth at Nyquist
        d.c1, d.c2 = torch.tensor([0.005]), torch.tensor([rng.uniform(0.12, 0.5)], dtype=torch.float32)
        d.c3, d.noise_power = torch.tensor([2.5]), torch.tensor([rng.uniform(0.5, 1.0)], dtype=torch.float32)
        counts = record(intensity, sampling_A, d, torch.Generator().manual_seed(seed * 1000 + i))[0].numpy()
        inside = np.all((p > -0.5) & (p < size - 0.5), axis=1)
        images.append(TestImage(counts, sampling_A, regime.contrast, p[inside], cls[inside].astype(int), surface[inside]))
    return images


def match(a: np.ndarray, b: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of one-to-one matches closer than `tolerance` (Hungarian)."""
    if not len(a) or not len(b):
        return np.zeros(0, int), np.zeros(0, int)
    d = cdist(a, b)
    i, j = linear_sum_assignment(np.where(d < tolerance, d, 1e3))
    ok = d[i, j] < tolerance
    return i[ok], j[ok]


@dataclass
class Score:
    """Counts of a set of images; weak columns count neither way."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    surface_tp: int = 0
    surface: int = 0
    square_A2: float = 0.0

    def add(self, found_px: np.ndarray, test: TestImage) -> None:
        """Add one image's detections (n, 2)."""
        strong = test.column_class != WEAK
        truth, surface = test.column_px[strong], test.surface[strong]
        tol = TOLERANCE_A / test.sampling_A
        i, j = match(truth, found_px, tol)
        extra = np.delete(found_px, j, axis=0)
        weak = test.column_px[~strong]
        if len(weak) and len(extra):
            extra = extra[cdist(extra, weak).min(1) > tol]
        self.tp, self.fp, self.fn = self.tp + len(i), self.fp + len(extra), self.fn + len(truth) - len(i)
        self.surface_tp, self.surface = self.surface_tp + int(surface[i].sum()), self.surface + int(surface.sum())
        self.square_A2 += float(np.sum((truth[i] - found_px[j]) ** 2)) * test.sampling_A**2

    def summary(self) -> dict[str, float]:
        """Precision, recall, F1, surface recall and rms error in pm along an axis."""
        precision, recall = self.tp / max(1, self.tp + self.fp), self.tp / max(1, self.tp + self.fn)
        return {
            "precision": precision, "recall": recall, "f1": 2 * precision * recall / max(1e-9, precision + recall),
            "surface_recall": self.surface_tp / max(1, self.surface), "rms_pm": 100 * float(np.sqrt(self.square_A2 /
            max(1, 2 * self.tp))),
        }  # fmt: skip


def sweep(found: list[np.ndarray], tests: list[TestImage], thresholds: np.ndarray) -> list[dict[str, float]]:
    """Scores at each threshold of candidates (n, >= 3) with the score in column 2."""
    result = []
    for threshold in thresholds:
        score = Score()
        for f, t in zip(found, tests, strict=True):
            score.add(f[f[:, 2] >= threshold, :2], t)
        result.append({"threshold": float(threshold), **score.summary()})
    return result


def log_candidates(image: np.ndarray, sigma_px: float, contrast: str) -> np.ndarray:
    """Maxima of the Laplacian of Gaussian with a parabola through their neighbours: (n, 3) row, col, response in robust
    sigmas."""
    response = gaussian_laplace(image.astype(np.float32), sigma_px, mode="nearest") * (-1 if contrast == "bright" else 1)
    response = response / (1.4826 * np.median(np.abs(response - np.median(response))) + 1e-9)
    radius = max(1, round(1.3 * sigma_px))
    peak = (response == maximum_filter(response, 2 * radius + 1)) & (response > 0.5)
    peak[[0, -1]] = peak[:, [0, -1]] = False
    r, c = np.nonzero(peak)
    found = np.c_[r, c, response[r, c]].astype(float)
    for axis, (dr, dc) in enumerate(((1, 0), (0, 1))):
        low, mid, high = response[r - dr, c - dc], response[r, c], response[r + dr, c + dc]
        found[:, axis] += np.clip(0.5 * (high - low) / np.maximum(2 * mid - low - high, 1e-9), -0.5, 0.5)
    return found


def log_best(tests: list[TestImage]) -> dict[str, float]:
    """The best of 40 settings of the classical finder, picked on the truth: a generous baseline."""
    best: dict[str, float] = {"f1": -1.0}
    for sigma_A in (0.35, 0.45, 0.55, 0.65, 0.8):
        found = [log_candidates(t.image, sigma_A / t.sampling_A, t.contrast) for t in tests]
        for row in sweep(found, tests, np.array([1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0])):
            if row["f1"] > best["f1"]:
                best = {"sigma_A": sigma_A, **row}
    return best


def evaluate(
    predict: Callable[[np.ndarray, float, str], np.ndarray], tests: list[TestImage], thresholds: np.ndarray
) -> list[dict[str, float]]:
    """Sweep a finder: `predict(image, sampling_A, contrast)` gives candidates (n, >= 3)."""
    return sweep([predict(t.image, t.sampling_A, t.contrast) for t in tests], tests, thresholds)
