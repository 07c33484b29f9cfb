"""Judge the contrast network on held-out images through the program's own way, calibrate it, and write the model.

    python -m napari_emdl.training.atoms.ship_contrast CONFIG.yaml MODEL_FOLDER

Calibration sees the split "val", the scores come from the split "test": own seeds of specimens, among them palladium on [110],
which is never trained on. What is right is what the noise-free image shows at the projected columns.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit
from scipy.special import logit as logit_of

from napari_emdl.atoms.find.contrast import SURE_CONTRAST
from napari_emdl.atoms.find.contrastguess import Part, guess_contrast
from napari_emdl.atoms.find.contrastview import RINGS, VIEW_A
from napari_emdl.atoms.find.network import NetworkColumnFinder
from napari_emdl.models.card import make_card
from napari_emdl.models.registry import find_model, load_model
from napari_emdl.models.session import Session
from napari_emdl.training.atoms.contrastnet import (
    ContrastConfig,
    ContrastNet,
    ContrastSampler,
    frame_counts,
    load_trained,
    read_config,
)
from napari_emdl.training.atoms.evaluate import TOLERANCE_A
from napari_emdl.training.atoms.held import greedy
from napari_emdl.training.atoms.lattices import WEAK

OPSET = 17
#: seeds of the held-out samples for calibration and for the scores, and batches of each
CHOICE_SEED, TEST_SEED, BATCHES = 78, 77, 60
#: what is in a batch; a batch of three kinds of HRTEM on one bank of specimens, and one with annular detectors
DRAWN = (("movie", "single", "single"), ("movie", "single", "single", "stem", "stem"))
#: sides of fields in turn, pixels of about 0.125 A
SIDES_PX = (192, 320, 320)
#: share that must be right where the contrast counts as sure
SURE_RIGHT = 0.995
#: F1 at the told contrast from which columns count as visible
VISIBLE = 0.7
#: what the card tells of the configuration
RECIPE = {"channels", "attention", "hidden", "shares", "sides_px", "batch", "learning_rate", "weight_decay", "soft", "seed"}
#: decision of a network before calibration
UNFITTED = {"weight": 1.0, "offset": 0.0, "sure": 1.0}
DOSES = (10.0, 30.0, 100.0, 300.0, 1e5)


@dataclass
class Held:
    """A held-out image: what it is, and what the networks say of it (logits, positive for bright and annular detectors)."""

    kind: str
    contrast: int
    dose_e_per_A2: float
    field_A: float
    network: float
    columns: float
    stem: float
    #: F1 of the columns found when the contrast is told
    f1: float


def export_contrast(net: ContrastNet, config: ContrastConfig, folder: Path, **card: Any) -> None:
    """Write ONNX graph, card and test tensors of a network in evaluation mode."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    inputs = {"view": rng.normal(0, 1, (1, 2, 48, 64)).astype(np.float32)}
    inputs["spectrum"] = rng.normal(0, 1, (1, RINGS)).astype(np.float32)
    tensors = tuple(torch.as_tensor(value) for value in inputs.values())
    torch.onnx.export(
        net, tensors, str(folder / "model.onnx"), input_names=list(inputs), output_names=["logits"], opset_version=OPSET,
        dynamic_axes={"view": {0: "batch", 2: "rows", 3: "cols"}, "spectrum": {0: "batch"}, "logits": {0: "batch"}},
        dynamo=False,
    )  # fmt: skip
    with torch.no_grad():
        outputs = {"logits": net(*tensors).numpy()}
    make_card(
        folder, name="Contrast", task="contrast", inputs=inputs, outputs=outputs,
        description="Whether atomic columns are bright or dark, and whether an image is of an annular detector.",
        pixel_A=VIEW_A, ranges={"pixel_A": config.columns.imaging.sampling_A}, **card,
    )  # fmt: skip


@dataclass
class Drawn:
    """A held-out image (1, channels, rows, cols), and what the column network says of it."""

    kind: str
    contrast: int
    dose_e_per_A2: float
    pixel_A: float
    counts: tuple[int, int]
    stack: np.ndarray
    columns: float
    f1: float


def draw(config: ContrastConfig, split: str, seed: int, batches: int = BATCHES) -> list[Drawn]:
    """Held-out images with a clear contrast, what the probe says, and the F1 of their columns at the told contrast."""
    sampler, model = ContrastSampler(config, split, [seed, 5]), find_model("columns", "columns")
    session, drawn = Session(model, "cpu", 1), []
    for k in range(batches):
        side = SIDES_PX[k % len(SIDES_PX)]
        for kinds in DRAWN:
            b = sampler.mixed(kinds, side)
            assert b.counts is not None
            for i, (kind, frames) in enumerate(zip(kinds, frame_counts(b), strict=True)):
                if not b.contrast[i]:
                    continue
                counts, s = (int(frames[1]), int(frames[2])), float(b.sampling_A[i])
                stack = b.counts[i].numpy()[None, : 3 if counts[0] else 1]
                asked = NetworkColumnFinder(model, s, "unknown", session=session, counts=counts)
                sign = "bright" if b.contrast[i] > 0 else "dark"
                told = NetworkColumnFinder(model, s, sign, session=session, counts=counts, preparation=asked.preparation)
                told.completes = False
                told.choose_threshold(stack)
                points, score = told.sampled_spots[0]
                f1 = _f1(points[score >= told.default_min_score], *b.columns[i], TOLERANCE_A / s, side)
                dose = float(b.dose_e_per_A2[i])
                columns = float(logit_of(np.clip(asked.bright_probability(stack), 1e-12, 1 - 1e-12)))
                drawn.append(Drawn(kind, int(b.contrast[i]), dose, s, counts, stack, columns, f1))
    return drawn


def judge(drawn: Sequence[Drawn], session: Session) -> list[Held]:
    """What a contrast network says of held-out images, by the program's own way from frames to logits."""
    held = []
    for d in drawn:
        rows, cols = d.stack.shape[-2:]
        guess = guess_contrast(d.stack, [Part(0, (0, rows, 0, cols))], d.counts, d.pixel_A, session)
        if guess is None:
            continue
        stem = float(logit_of(np.clip(guess.stem, 1e-6, 1 - 1e-6)))
        field_A = d.stack.shape[-1] * d.pixel_A
        held.append(Held(d.kind, d.contrast, d.dose_e_per_A2, field_A, guess.logit, d.columns, stem, d.f1))
    return held


def _f1(found: np.ndarray, truth: np.ndarray, kind: np.ndarray, tolerance: float, side: int) -> float:
    """F1 of columns found, best first; weak columns count neither way."""
    right = greedy(found, truth[kind != WEAK], truth[kind == WEAK], tolerance)[:, 0]
    columns = int((np.all((truth > 0) & (truth < side - 1), axis=1) & (kind != WEAK)).sum())
    hits = int((right > 0).sum())  # a column just outside may be hit as well
    return float(2 * hits / max(1, (right >= 0).sum() + max(columns, hits)))


def fit_decision(held: Sequence[Held]) -> dict[str, float]:
    """Weight and offset of the network's logit that make the held-out contrasts likeliest, and the least confidence that is
    sure."""
    x, sign = np.array([(h.network, 1.0) for h in held]), np.array([h.contrast for h in held], float)

    def loss(w: np.ndarray) -> float:
        return float(np.mean(np.logaddexp(0, -sign * (x @ w))) + 1e-3 * (w @ w))

    best = minimize(loss, np.zeros(2)).x
    return {"weight": round(float(best[0]), 4), "offset": round(float(best[1]), 4), "sure": sure_from(x @ best, sign)}


def sure_from(logit: np.ndarray, contrast: np.ndarray) -> float:
    """Least confidence from which on `SURE_RIGHT` of the contrasts are right, and 0.8 at least."""
    confidence, right = expit(np.abs(logit)), (logit > 0) == (contrast > 0)
    for limit in (*np.arange(0.8, 0.99, 0.005), *np.arange(0.99, 0.9995, 0.0005)):
        certain = confidence >= limit
        if certain.any() and right[certain].mean() >= SURE_RIGHT:
            return round(float(limit), 4)
    return 0.9995


def table(held: Sequence[Held], logit: Callable[[Held], float], sure: float) -> dict[str, dict[str, float]]:
    """Share of contrasts that are right, sure, and right where sure, by kind, dose, and whether columns are visible."""
    groups: dict[str, list[Held]] = {"all": list(held), "all, visible": [h for h in held if h.f1 >= VISIBLE]}
    for kind in ("movie", "single", "stem"):
        of_kind = [h for h in held if h.kind == kind]
        groups |= {kind: of_kind, f"{kind}, visible": [h for h in of_kind if h.f1 >= VISIBLE]}
    for sign, name in ((1, "bright"), (-1, "dark")):
        groups[f"HRTEM, {name}, visible"] = [h for h in held if h.kind != "stem" and h.contrast == sign and h.f1 >= VISIBLE]
    groups["annular bright field"] = [h for h in held if h.kind == "stem" and h.contrast < 0]
    for low, high in zip((0.0, *DOSES[:-1]), DOSES, strict=True):
        groups[f"single, {low:g} to {high:g} e/A2"] = [h for h in held if h.kind == "single" and low <= h.dose_e_per_A2 < high]
    result = {}
    for name, group in groups.items():
        if not group:
            continue
        value, contrast = np.array([logit(h) for h in group]), np.array([h.contrast for h in group])
        right, certain = (value > 0) == (contrast > 0), expit(np.abs(value)) >= sure
        result[name] = {"images": len(group), "right": round(float(right.mean()), 4), "sure": round(float(certain.mean()), 4)}
        if certain.any():
            result[name]["right_where_sure"] = round(float(right[certain].mean()), 4)
    return result


def ship_contrast(config: ContrastConfig, out: Path, batches: int = BATCHES, **training: Any) -> dict[str, Any]:
    """Calibrate, measure, export; returns the card's metrics."""
    net = load_trained(config)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "contrast"
        export_contrast(net, config, folder, decision=UNFITTED)
        session = Session(load_model(folder), "cpu", 1)
        chosen, held = (judge(draw(config, s, n, batches), session) for s, n in (("val", CHOICE_SEED), ("test", TEST_SEED)))
    return write_judged(net, config, out, chosen, held, **training)


def write_judged(
    net: ContrastNet, config: ContrastConfig, out: Path, chosen: Sequence[Held], held: Sequence[Held], **training: Any
) -> dict[str, Any]:
    """Export with calibration and limit from `chosen` and scores of `held`; returns the scores."""
    rule = fit_decision(chosen)
    kind_right = [(h.stem > 0) == (h.kind == "stem") for h in held]
    metrics = {
        "contrast": table(held, lambda h: rule["weight"] * h.network + rule["offset"], rule["sure"]),
        "contrast by the column network's probe": table(held, lambda h: h.columns, SURE_CONTRAST),
        "annular detector told from HRTEM": round(float(np.mean(kind_right)), 4),
    }
    parameters = sum(p.numel() for p in net.parameters())
    export_contrast(
        net, config, out, decision=rule, metrics=metrics, limits=LIMITS,
        training={
            "data": "simulated by napari_emdl.training.atoms as for the column network; no measured images",
            "recipe": config.model_dump(mode="json", include=RECIPE),
            "parameters": parameters, "held out": "own seeds of specimens; Pd on [110] never seen in training", **training,
        },
    )  # fmt: skip
    return metrics


LIMITS = (
    "Simulated training data only, as of the column network. It decides for log and networks without a probe. "
    "Where columns can hardly be seen, hardly anything can be said of their contrast: such images come out unsure."
)


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batches", type=int, default=BATCHES)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name, row in ship_contrast(read_config(args.config), args.folder, args.batches)["contrast"].items():
        print(f"{name:32s}", row)


if __name__ == "__main__":
    main()
