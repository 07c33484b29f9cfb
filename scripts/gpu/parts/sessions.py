"""onnxruntime sessions of the shipped disk networks on the GPU: equal to the CPU within tolerance, and patterns a second.

Without the GPU's provider (only onnxruntime for the CPU is installed) the same runs on the CPU, and the report says so.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

SHARE = 1.0
#: Largest differences that count as equal: structure factor (0..1), and positions in px of disks that are surely there.
TOLERANCE = {"fcunet": 5e-3, "disk_refiner": 2e-2, "disk_glance": 2e-2}
_BATCHES = (1, 4, 16, 64, 256)
_DISKS_A_PATTERN = 40


def run(context: Any) -> dict[str, Any]:
    """Compare and time both networks."""
    import onnxruntime as ort

    if context.device == "cuda":
        import torch  # noqa: F401  loads the CUDA libraries that the provider needs

        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
    available = ort.get_available_providers()
    fast = "CUDAExecutionProvider" if context.device == "cuda" and "CUDAExecutionProvider" in available else available[-1]
    report: dict[str, Any] = {"onnxruntime": ort.__version__, "available": available}
    for name in TOLERANCE:
        folder = context.root / "src" / "napari_emdl" / "models" / "shipped" / name
        report[name] = _one(name, folder, fast, context)
    return report


def _session(folder: Path, provider: str) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(
        str(folder / "model.onnx"), options, providers=list(dict.fromkeys([provider, "CPUExecutionProvider"]))
    )


def _one(name: str, folder: Path, provider: str, context: Any) -> dict[str, Any]:
    with np.load(folder / "test_input.npz") as stored:
        inputs = {key: stored[key] for key in stored.files}
    slow, fast = _session(folder, "CPUExecutionProvider"), _session(folder, provider)
    difference = _difference(name, slow.run(None, inputs)[0], fast.run(None, inputs)[0])
    used = fast.get_providers()[0]
    report = {
        "provider": used,
        "version": yaml.safe_load((folder / "rdf.yaml").read_text("utf-8"))["version"],
        "difference": difference,
        "equal": difference <= TOLERANCE[name],
        "patterns_per_s": {},
    }
    if context.device == "cuda" and used != "CUDAExecutionProvider":
        report["note"] = "onnxruntime has no CUDA provider here: install the onnxruntime-gpu wheel (scripts/gpu/README.md)"
    spent = context.seconds / (2 * len(_BATCHES) + 2)
    for batch in _BATCHES[:2] if context.tiny or used != "CUDAExecutionProvider" else _BATCHES:
        report["patterns_per_s"][str(batch)] = round(
            _speed(fast, _repeated(name, inputs, batch), batch, spent, context.tiny), 1
        )
    return report


def _difference(name: str, want: np.ndarray, got: np.ndarray) -> float:
    if name == "fcunet":
        return float(np.abs(want - got).max())
    sure = want[:, 3] > 0.5
    return float(np.abs(want[sure, :2] - got[sure, :2]).max())


def _repeated(name: str, inputs: dict[str, np.ndarray], batch: int) -> dict[str, np.ndarray]:
    """Inputs for a batch of patterns, each with some tens of disks for the refiner."""
    pattern = np.resize(inputs["pattern"], (batch, *inputs["pattern"].shape[1:]))
    if name == "fcunet":
        return inputs | {"pattern": pattern}
    count = batch * _DISKS_A_PATTERN
    out = inputs | {"pattern": pattern, "pattern_index": np.repeat(np.arange(batch, dtype=np.int64), _DISKS_A_PATTERN)}
    out["position_px"] = np.resize(inputs["position_px"], (count, 2))
    if "beam_px" in inputs:
        out["beam_px"] = np.resize(inputs["beam_px"], (batch, 2))
    return out


def _speed(session: Any, feeds: dict[str, np.ndarray], batch: int, seconds: float, tiny: bool) -> float:
    """Patterns a second, copies to and from the device included; the first call, which tunes, does not count."""
    session.run(None, feeds)
    start, calls = time.monotonic(), 0
    while calls < 1 or (not tiny and calls < 200 and time.monotonic() - start < seconds):
        session.run(None, feeds)
        calls += 1
    return batch * calls / (time.monotonic() - start)
