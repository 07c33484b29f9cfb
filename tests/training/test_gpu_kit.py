"""The kit for a machine with a GPU, on the CPU with a tiny budget."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from napari_emdl.training.diffraction.config import TrainConfig, load_config  # noqa: E402
from napari_emdl.training.diffraction.tasks import make_task  # noqa: E402
from napari_emdl.training.diffraction.weights import load_weights  # noqa: E402

CONFIGS = Path(__file__).parents[2] / "src" / "napari_emdl" / "training" / "configs"
KIT = Path(__file__).parents[2] / "scripts" / "gpu"
pytestmark = pytest.mark.skipif(not KIT.is_dir(), reason="the kit is part of the repository, not of the package")


def entry():
    spec = importlib.util.spec_from_file_location("gpu_kit_run", KIT / "run.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_everything_runs_with_a_tiny_budget(tmp_path):
    command = [sys.executable, str(KIT / "run.py"), "--device", "cpu", "--tiny", "--out", str(tmp_path / "out")]
    done = subprocess.run([*command, "--parts", "disks", "scale", "sessions"], capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    files = {p.name for p in (tmp_path / "out").iterdir()}
    trained = {f"{name}{end}" for name in ("refiner", "fcunet", "scale") for end in (".npz", "_loss.csv")}
    assert files == {"report.json", *trained}
    assert report["scale"]["steps"] == 2 and report["scale"]["patterns_seen"] == 4 and report["scale"]["runs_a_process"] >= 1
    assert report["disks"]["runs"] == 6
    for name in ("refiner", "fcunet"):
        assert report["disks"][name]["steps"] == 2 and report["disks"][name]["patterns_seen"] == 4
    assert report["sessions"]["fcunet"]["equal"] and report["sessions"]["disk_refiner"]["equal"]
    sizes = {"widths": (4, 8, 8), "blocks": (1, 1), "hidden": 16}
    model = make_task(TrainConfig(network="refiner", library=[], output="", refiner=sizes)).build()
    scale = make_task(load_config(CONFIGS / "scale.yaml")).build()
    (tmp_path / "scale").mkdir()
    (tmp_path / "out" / "scale.npz").rename(tmp_path / "scale" / "weights.npz")
    load_weights(scale, tmp_path / "scale")
    (tmp_path / "out" / "refiner.npz").rename(tmp_path / "weights.npz")
    load_weights(model, tmp_path)


def test_a_failing_part_leaves_its_reason_and_the_others_go_on(tmp_path, monkeypatch):
    run = entry()
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "a.py").write_text("SHARE = 1\ndef run(context):\n    raise ValueError('no beams today')\n")
    (parts / "b.py").write_text("SHARE = 3\ndef run(context):\n    return {'seconds_given': context.seconds}\n")
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py", "--out", str(tmp_path / "out"), "--device", "cpu", "--minutes", "1"])
    assert run.main() == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "no beams today" in report["a"]["failed"]
    assert 50 < report["b"]["seconds_given"] <= 60


def test_files_that_would_not_come_back_are_named(tmp_path):
    run = entry()
    (tmp_path / "large.npz").write_bytes(np.zeros(17 * 2**20, np.uint8).tobytes())
    assert run.check_files(tmp_path) == ["large.npz has 17.0 MiB"]
    for k in range(8):
        (tmp_path / f"{k}.csv").write_text("x")
    assert run.check_files(tmp_path)[-1] == "9 files"


def test_commands_for_the_lent_machine_are_short_enough():
    commands = [line for line in (KIT / "README.md").read_text().splitlines() if re.match(r" {4}\S", line)]
    assert commands and max(map(len, commands)) < 2000
