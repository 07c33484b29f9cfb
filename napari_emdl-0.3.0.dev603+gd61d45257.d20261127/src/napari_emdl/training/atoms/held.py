"""How good a mixed column network is on held-out specimens: scores that mean what they say, contrast, ghosts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree

from napari_emdl.atoms.find.expected import ThresholdRule
from napari_emdl.training.atoms.conditions import MODES, SIZE, encode_full
from napari_emdl.training.atoms.contrast import SURE_LOGIT, pooled_features
from napari_emdl.training.atoms.evaluate import TOLERANCE_A
from napari_emdl.training.atoms.lattices import WEAK
from napari_emdl.training.atoms.mixture import MixedSampler
from napari_emdl.training.atoms.network import ColumnNet
from napari_emdl.training.atoms.peaks import candidates

#: candidates below are not kept
FLOOR = 0.02
FIELDS = ("score", "right", "error_A", "surface")


@dataclass
class Judged:
    """One held-out image: its candidates that count (k, 4: score, right, error in A, at the surface), and what is true."""

    kind: str
    found: np.ndarray
    columns: int
    camera_A: float
    dose_e_per_A2: float
    contrast: int
    p_bright: float
    area_A2: float


def greedy(found: np.ndarray, truth: np.ndarray, weak: np.ndarray, tolerance: float) -> np.ndarray:
    """Candidates (k, 2: row, col; best first) to (k, 2): right (1) or not (0) or on a weak column (-1), and distance."""
    result = np.c_[np.zeros(len(found)), np.full(len(found), np.nan)]
    free = np.ones(len(truth), bool)
    tree = cKDTree(truth) if len(truth) else None
    on_weak = cKDTree(weak).query(found)[0] < tolerance if len(weak) and len(found) else np.zeros(len(found), bool)
    for k, p in enumerate(found):
        near = [j for j in (tree.query_ball_point(p, tolerance) if tree else ()) if free[j]]
        if near:
            d = np.linalg.norm(truth[near] - p, axis=1)
            free[near[int(np.argmin(d))]] = False
            result[k] = 1, d.min()
        elif on_weak[k]:
            result[k, 0] = -1
    return result


def judge(
    net: ColumnNet, sampler: MixedSampler, kinds: Sequence[str], batches: int, told: bool = False, label_sigma_A: float = 0.38
) -> list[Judged]:
    """Candidates of held-out batches of one sample of each of `kinds`; the contrast is the network's own unless told."""
    results = []
    for _ in range(batches):
        b = sampler.batch(len(kinds), tuple(kinds))
        base = np.stack([encode_full(None, sampling_A=float(s)) for s in b.sampling_A])
        base[:, SIZE + len(MODES) :] = b.conditions[:, SIZE + len(MODES) :].numpy()
        with torch.no_grad():
            unknown = torch.as_tensor(base)
            logit = net.contrast_probe(pooled_features(*net.with_features(b.image, unknown)))[:, 0].numpy()
            sign = np.where(logit > 0, 1, -1)
            if told:
                sign = np.where(b.contrast != 0, b.contrast, sign)
            base[:, 0], base[:, 1] = sign > 0, sign < 0
            chosen = torch.as_tensor(base)
            found = candidates(net(b.image, chosen), chosen, label_sigma_A, 1024).numpy()
        order = [k for k in ("movie", "single", "stem", "negative") for _ in range(list(kinds).count(k))]
        size = b.image.shape[-1]
        for k, kind in enumerate(order):
            f = found[k][(found[k][:, 2] > FLOOR) & np.all((found[k][:, :2] > 0) & (found[k][:, :2] < size - 1), axis=1)]
            xy, cls = b.columns[k]
            s = float(b.sampling_A[k])
            camera_A = s if b.camera_A is None else float(b.camera_A[k])
            match = greedy(f[:, :2], xy[cls != WEAK], xy[cls == WEAK], TOLERANCE_A / s)
            counts = match[:, 0] >= 0
            inside = np.all((xy > 0) & (xy < size - 1), axis=1) & (cls != WEAK)
            results.append(
                Judged(
                    kind,
                    np.c_[f[counts, 2], match[counts, 0], match[counts, 1] * s],
                    int(inside.sum()),
                    camera_A,
                    float(b.dose_e_per_A2[k]),
                    int(b.contrast[k]),
                    float(1 / (1 + np.exp(-logit[k]))),
                    (size * s) ** 2,
                )
            )
    return results


def f1_at(images: Sequence[Judged], thresholds: Sequence[float] | float) -> float:
    """F1 over images at one threshold, or one for each image."""
    t = np.broadcast_to(np.asarray(thresholds, float), len(images))
    tp = sum(float((i.found[i.found[:, 0] >= x, 1] > 0).sum()) for i, x in zip(images, t, strict=True))
    n = sum(int((i.found[:, 0] >= x).sum()) for i, x in zip(images, t, strict=True))
    truth = sum(i.columns for i in images)
    return 2 * tp / max(1, n + truth)


def summary(images: Sequence[Judged], default: float, rule: ThresholdRule) -> dict[str, float]:
    """Scores of a group: F1 at the default, at the chosen and at the best threshold, calibration, contrast, ghosts."""
    grid = np.arange(0.05, 0.96, 0.025)
    curve = [f1_at(images, t) for t in grid]
    chosen = [rule.choose(i.found[:, 0], i.kind == "movie")[0] for i in images]
    found = np.concatenate([i.found for i in images]) if images else np.zeros((0, 3))
    clear = [i for i in images if i.contrast]
    right = np.array([(i.p_bright > 0.5) == (i.contrast > 0) for i in clear])
    sure = np.array([abs(np.log(i.p_bright / (1 - i.p_bright + 1e-9) + 1e-9)) > SURE_LOGIT for i in clear], bool)
    good = found[(found[:, 1] > 0) & (found[:, 0] >= default)]
    ghosts = sum(int((i.found[:, 0] >= t).sum()) for i, t in zip(images, chosen, strict=True) if not i.columns)
    area = sum(i.area_A2 for i in images if not i.columns)
    rms_pm = 100 * float(np.sqrt(np.mean(good[:, 2] ** 2) / 2)) if len(good) else np.nan
    return {
        "images": len(images), "f1_default": f1_at(images, default), "f1": f1_at(images, chosen), "f1_best": max(curve),
        "best_threshold": float(grid[int(np.argmax(curve))]), "rms_pm": rms_pm,
        "expected_right": float(found[:, 0].sum() / max(1, (found[:, 1] > 0).sum())),
        "contrast_right": float(right.mean()) if len(right) else np.nan,
        "contrast_sure": float(sure.mean()) if len(sure) else np.nan,
        "contrast_right_where_sure": float(right[sure].mean()) if sure.any() else np.nan,
        "ghosts_per_1000_A2": 1000 * ghosts / area if area else np.nan,
    }  # fmt: skip
