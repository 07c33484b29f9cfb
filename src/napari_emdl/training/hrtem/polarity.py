"""Training of the classifier that tells which sublattice of a monolayer is the metal's, see `atoms.sublattices`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from napari_emdl.atoms.sublattices import PolarityClassifier, features, site_profiles, two_colour
from napari_emdl.training.hrtem.sampling import Sampler
from napari_emdl.training.hrtem.structures import CHALCOGEN_SINGLE, COLUMN

#: what detection does to the truth: scatter of positions (A), share of columns missed, single chalcogens that are seen to
#: be such, and full columns that are taken for such
SCATTER_A, MISSED, SEEN_SINGLE, FALSE_SINGLE = 0.07, 0.03, 0.8, 0.02
HIDDEN = (64, 32)
EPOCHS = 120


def gather(sampler: Sampler, count: int, batch: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pieces of monolayer as the classifier will see them.

    Returns
    -------
    profiles (n, 3, foci, radii), whether sublattice 0 is the metal's (n,), dose in e/A2 (n,); at least `count` pieces.
    """
    rng = np.random.default_rng(sampler.rng.integers(2**62))
    profiles: list[np.ndarray] = []
    metal_first: list[bool] = []
    dose: list[float] = []
    while len(profiles) < count:
        b = sampler.batch(batch)
        for k, (xy, cls) in enumerate(b.columns):
            seen = rng.random(len(xy)) >= MISSED
            points, cls = xy[seen] + rng.normal(0, SCATTER_A / b.sampling_A[k], (seen.sum(), 2)), cls[seen]
            single = rng.random(len(cls)) < np.where(cls == CHALCOGEN_SINGLE, SEEN_SINGLE, FALSE_SINGLE)
            lattice = two_colour(points)
            for number in range(int(lattice.piece.max(initial=-1)) + 1):
                p = site_profiles(b.image[k].cpu().numpy(), points, lattice, number, ~single, float(b.sampling_A[k]))
                if p is not None:
                    members = lattice.piece == number
                    profiles.append(p)
                    agree = (cls[members] == COLUMN) == (lattice.colour[members] == 0)
                    metal_first.append(bool(agree.mean() > 0.5))
                    dose.append(float(b.dose_e_per_A2[k]))
    return np.array(profiles, np.float32), np.array(metal_first), np.array(dose)


def fit_polarity(profiles: np.ndarray, metal_first: np.ndarray, seed: int = 0) -> PolarityClassifier:
    """Fit the perceptron; either order of the foci and of the sublattices is used, so twice as much is learnt of each."""
    torch.manual_seed(seed)
    ordered = np.where(metal_first[:, None, None, None], profiles, profiles[:, [1, 0, 2]])
    ordered = np.concatenate([ordered, ordered[:, :, ::-1]])
    right, wrong = features(ordered), features(ordered[:, [1, 0, 2]])
    scale = right.std(0) + 1e-4
    x = torch.as_tensor(np.stack([right, wrong], 1) / scale, dtype=torch.float32)
    net = nn.Sequential(
        nn.Linear(x.shape[-1], HIDDEN[0]), nn.ReLU(), nn.Dropout(0.2), nn.Linear(*HIDDEN), nn.ReLU(), nn.Linear(HIDDEN[1], 1)
    )  # fmt: skip
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = EPOCHS * -(-len(x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(64):
            value = net(x[rows])[..., 0]
            loss = nn.functional.softplus(value[:, 1] - value[:, 0]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    layers = [m for m in net if isinstance(m, nn.Linear)]
    arrays = tuple((m.weight.detach().numpy().copy(), m.bias.detach().numpy().copy()) for m in layers)
    return PolarityClassifier(scale.astype(np.float32), arrays)


def calibrate(classifier: PolarityClassifier, profiles: np.ndarray, metal_first: np.ndarray) -> PolarityClassifier:
    """Divide the log-odds by the temperature that makes held pieces likeliest."""
    signed = np.where(metal_first, 1, -1) * classifier.log_odds(profiles)
    temperatures = np.geomspace(0.5, 20, 60)
    best = temperatures[np.argmin([np.logaddexp(0, -signed / t).mean() for t in temperatures])]
    weight, bias = classifier.layers[-1]
    return PolarityClassifier(classifier.scale, (*classifier.layers[:-1], (weight / np.float32(best), bias / np.float32(best))))


def save(classifier: PolarityClassifier, path: Path) -> None:
    """Write what `PolarityClassifier.load` reads."""
    arrays = {f"{name}{k}": a for k, pair in enumerate(classifier.layers) for name, a in zip("wb", pair, strict=True)}
    np.savez(path, scale=classifier.scale, **arrays)
