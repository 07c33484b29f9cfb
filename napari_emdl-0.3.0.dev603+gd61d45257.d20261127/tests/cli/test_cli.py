"""The command line as users type it: results on disk, one line for every failure, honest exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import ColumnParams, DiskParams, OccupancyParams, RunParams, StrainParams
from napari_emdl.cli import main
from napari_emdl.cli.options import options_of, read_length_A, read_pair, read_region
from napari_emdl.cli.training import read_conditions
from napari_emdl.jobs import part_path

TEMPLATE = ["--method", "template", "--probe-radius", "4"]


def strained_cube(shape: tuple[int, int] = (3, 4)) -> np.ndarray:
    """Patterns of disks on a square lattice whose row axis is stretched by 1 % a scan column."""
    rng = np.random.default_rng(0)
    row, col = np.mgrid[:96, :96]
    index = np.stack(np.meshgrid(np.arange(-2, 3), np.arange(-2, 3), indexing="ij"), axis=-1).reshape(-1, 2) * 18.0
    cube = np.empty((*shape, 96, 96), np.uint16)
    for at in np.ndindex(*shape):
        image = np.full((96, 96), 0.3)
        for site in index / (1 + 0.01 * at[1] * np.array([1, 0])) + 48:
            image += 50 * np.clip(4.5 - np.hypot(row - site[0], col - site[1]), 0, 1)
        cube[at] = rng.poisson(image)
    return cube


@pytest.fixture
def cube(tmp_path: Path) -> Path:
    np.save(tmp_path / "cube.npy", strained_cube())
    return tmp_path / "cube.npy"


def failed(capsys: pytest.CaptureFixture[str], status: int, *words: object) -> str:
    """Run a command that must fail; returns its one line."""
    assert main([str(word) for word in words]) == status
    out = capsys.readouterr()
    assert out.err.count("\n") == 1 and out.err.startswith("napari-emdl: "), out.err
    assert "Traceback" not in out.err
    return out.err


def test_disks_strain_info_export(cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    disks, strain, folder = tmp_path / "disks.h5", tmp_path / "strain.h5", tmp_path / "out"
    assert main(["disks", str(cube), "-o", str(disks), *TEMPLATE]) == 0
    assert "disks in 12 patterns" in capsys.readouterr().out
    assert not part_path(disks).exists()
    with h5py.File(disks) as file:
        assert file["peaks/offset"].shape == (13,)
        assert set(file["peaks"]) >= {"row", "col", "intensity", "score", "sigma_px"}
        assert json.loads(file.attrs["provenance"])["params"]["disks"]["method"] == "template"
    assert main(["strain", str(disks), "-o", str(strain), "--reference", "0:3,0:1"]) == 0
    from napari_emdl import load

    fitted = load(strain)
    slope = np.polyfit(range(4), np.nanmean(fitted.exx, axis=0), 1)[0]
    assert slope == pytest.approx(0.01, rel=0.3)
    assert main(["info", str(strain)]) == 0
    assert "strain" in capsys.readouterr().out
    assert main(["export", str(strain), "--to", str(folder)]) == 0
    written = capsys.readouterr().out.split()
    assert written and all(Path(path).is_file() for path in written)


def test_info_as_json(cube: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(cube), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["kind"] == "datacube" and facts["shape"] == [3, 4, 96, 96]


def test_threshold_and_candidates(cube: Path, tmp_path: Path) -> None:
    counts = {}

    def run(name: str, *more: str) -> np.ndarray:
        output = tmp_path / f"{name}.h5"
        assert main(["disks", str(cube), "-o", str(output), *TEMPLATE, *more]) == 0
        with h5py.File(output) as file:
            counts[name] = len(file["peaks/row"])
            return file["peaks/score"][()]

    limit = float(np.median(run("default")))
    assert run("strict", "--min-score", str(limit)).min() >= limit
    run("all", "--keep-candidates")
    assert 0 < counts["strict"] < counts["default"] <= counts["all"]


def test_job_file(cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = tmp_path / "job.yaml"
    entries = {"command": "disks", "input": "cube.npy", "output": "from_job.h5", "disks": {"method": "template"}}
    job.write_text(yaml.safe_dump(entries))
    assert main(["run", str(job), "--workers", "1"]) == 0
    assert (tmp_path / "from_job.h5").is_file()
    capsys.readouterr()
    job.write_text(yaml.safe_dump({**entries, "disks": {"method": "magic"}}))
    assert "disks.method" in failed(capsys, 1, "run", job)
    job.write_text(yaml.safe_dump({**entries, "disks": None}))
    assert "no section 'disks'" in failed(capsys, 1, "run", job)
    assert "cannot be read" in failed(capsys, 1, "run", tmp_path / "nojob.yaml")


def test_bad_input_is_one_line(cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.h5"
    assert "does not exist" in failed(capsys, 1, "disks", tmp_path / "nofile.h5", "-o", out)
    assert "does not exist" in failed(capsys, 1, "disks", cube, "-o", tmp_path / "no" / "x.h5")
    assert "is a folder" in failed(capsys, 1, "disks", cube, "-o", tmp_path)
    assert "input itself" in failed(capsys, 1, "disks", cube, "-o", cube)
    assert "there is no model" in failed(capsys, 1, "disks", cube, "-o", out, "--model", "nonesuch")
    assert "probe file" in failed(capsys, 1, "disks", cube, "-o", out, "--method", "template", "--probe", "none.npy")
    garbage = tmp_path / "garbage.h5"
    garbage.write_bytes(b"garbage")
    failed(capsys, 1, "disks", garbage, "-o", out)
    failed(capsys, 1, "strain", garbage, "-o", out)
    failed(capsys, 1, "export", garbage, "--to", tmp_path / "o")
    assert not out.exists()


def test_wrong_usage_has_status_2(cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.h5"
    assert "--method" in failed(capsys, 2, "disks", cube, "-o", out, "--method", "magic")
    assert "--min-score" in failed(capsys, 2, "disks", cube, "-o", out, "--min-score", "-1")
    assert "--max-memory" in failed(capsys, 2, "disks", cube, "-o", out, "--max-memory", "lots")
    assert "--reference" in failed(capsys, 2, "strain", out, "-o", out, "--reference", "3")
    assert "--pixel-size" in failed(capsys, 2, "columns", out, "-o", out, "--pixel-size", "big")
    failed(capsys, 2, "disks", cube)
    failed(capsys, 2, "nonsense")
    failed(capsys, 2, "train", "magic")
    failed(capsys, 2, "models", "add", "x.onnx", "--task", "cooking")


def test_cuda_that_is_not_there(cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from napari_emdl.models.devices import cuda_problem

    if not cuda_problem():
        pytest.skip("CUDA works here")
    line = failed(
        capsys, 1, "disks", cube, "-o", tmp_path / "x.h5", "--method", "light", "--probe-radius", 4, "--device", "cuda"
    )
    assert "CUDA cannot be used" in line


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["disks", str(tmp_path / "nofile.h5"), "-o", str(tmp_path / "x.h5"), "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_partial_result_is_never_touched_unasked(cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.h5"
    part_path(out).write_bytes(b"EMDLPART1\n\x10\x00\x00\x00" + b'{"fingerprint": ')
    failed(capsys, 1, "disks", cube, "-o", out, *TEMPLATE)
    assert main(["disks", str(cube), "-o", str(out), *TEMPLATE, "--restart"]) == 0
    assert out.exists() and not part_path(out).exists()


SLOW = """
import sys, time
import napari_emdl.diffraction.find.template as template
find = template.TemplateFinder.find
def slow(self, patterns, control=None):
    time.sleep(0.2)
    return find(self, patterns, control)
template.TemplateFinder.find = slow
from napari_emdl.__main__ import entry
sys.exit(entry())
"""
STUCK = """
import sys, time
from napari_emdl.diffraction.find import template
def stuck(self, patterns, control=None):
    print("stuck", flush=True)
    end = time.monotonic() + 60
    while time.monotonic() < end:  # as a long call of numpy: it hears nothing
        sum(range(1000))
template.TemplateFinder.find = stuck
from napari_emdl.__main__ import entry
sys.exit(entry())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_a_block_that_hears_nothing(tmp_path: Path, number: int) -> None:
    np.save(tmp_path / "cube.npy", strained_cube((3, 3)))
    words = ["disks", str(tmp_path / "cube.npy"), "-o", str(tmp_path / "x.h5"), *TEMPLATE, "--workers", "1"]
    process = subprocess.Popen([sys.executable, "-c", STUCK, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "stuck\n"
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=30)  # the block itself takes a minute
    assert process.returncode == 130
    assert "stopped" in err and "Traceback" not in err and err.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_while_the_program_is_being_loaded() -> None:
    code = (
        "import sys, builtins, time\nfrom napari_emdl.__main__ import entry\nreal = builtins.__import__\n"
        "def slow(name, *a, **k):\n"
        "    if name == 'napari_emdl.cli':\n        print('loading', flush=True); time.sleep(60)\n"
        "    return real(name, *a, **k)\n"
        "builtins.__import__ = slow\nsys.exit(entry())"
    )
    process = subprocess.Popen([sys.executable, "-c", code, "info"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "loading\n"
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and err == "napari-emdl: stopped\n"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_keeps_what_was_done(tmp_path: Path) -> None:
    np.save(tmp_path / "cube.npy", strained_cube((10, 10)))
    out = tmp_path / "x.h5"
    words = ["disks", str(tmp_path / "cube.npy"), "-o", str(out), *TEMPLATE, "--workers", "1", "--max-memory", "300KB"]
    process = subprocess.Popen([sys.executable, "-c", SLOW, *words], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (part_path(out).exists() and part_path(out).stat().st_size > 2000) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "--resume" in err and "Traceback" not in err and err.count("\n") == 1
    assert not out.exists()
    assert main([*words[:-4], "--workers", "2", "--resume"]) == 0
    with h5py.File(out) as file:
        assert file["peaks/offset"].shape == (101,)
    assert not part_path(out).exists()


def test_models_and_devices(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import platformdirs

    monkeypatch.setattr(platformdirs, "user_data_dir", lambda *a, **k: str(tmp_path / "data"))
    assert main(["models", "list", "--json"]) == 0
    names = [entry["name"] for entry in json.loads(capsys.readouterr().out)]
    assert main(["devices", "--json"]) == 0
    assert [device["name"] for device in json.loads(capsys.readouterr().out)] == ["cpu", "cuda"]
    if names:
        assert main(["models", "show", names[0]]) == 0
        assert "weights" in capsys.readouterr().out
    assert "there is no model" in failed(capsys, 1, "models", "show", "nonesuch")
    (tmp_path / "bad.onnx").write_bytes(b"bad")
    assert "damaged" in failed(capsys, 1, "models", "add", tmp_path / "bad.onnx", "--task", "columns")


def test_every_parameter_is_an_option() -> None:
    """Nothing in params.py is out of reach of the command line, and the flags of one command do not clash."""
    for models in (
        (DiskParams, RunParams),
        (StrainParams,),
        (ColumnParams, RunParams),
        (OccupancyParams, ColumnParams, RunParams),
    ):
        flags = [flag for model in models for option in options_of(model) for flag in option.flags]
        doubles = {flag for flag in flags if flags.count(flag) > 1}
        assert doubles <= ({"--min-score"} if OccupancyParams in models else set())
    disks = {flag for option in options_of(DiskParams) for flag in option.flags}
    assert {"--method", "--model", "--probe", "--probe-radius", "--min-score"} <= disks
    columns = {flag for option in options_of(ColumnParams) for flag in option.flags}
    assert {"--kv", "--cs-um", "--defocus-nm", "--contrast", "--pixel-size", "--min-score"} <= columns
    run = {flag for option in options_of(RunParams) for flag in option.flags}
    assert {"--device", "--batch", "--max-memory", "--workers", "--scheduler", "--resume/--restart"} == run


@pytest.mark.parametrize(
    ("text", "value"), [("0.1 Å", 0.1), ("0.1\u212b", 0.1), ("0.1A", 0.1), ("0.1", 0.1), ("10 pm", 0.1), ("0.01nm", 0.1)]
)
def test_lengths(text: str, value: float) -> None:
    assert read_length_A(text) == pytest.approx(value)


def test_pairs_and_regions() -> None:
    assert read_pair("12.5,-3") == (12.5, -3)
    assert read_region("0:10, 5:20") == (0, 10, 5, 20)
    for bad in ("5:5,0:3", "1,2", "a:b,c:d"):
        with pytest.raises(ValueError):
            read_region(bad)


def test_conditions(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("contrast: bright\n")
    found = read_conditions(["dose_e_per_A2=50:200 energy_keV=300", str(tmp_path / "mine.yaml")])
    assert found == {"dose_e_per_A2": (50.0, 200.0), "energy_keV": 300.0, "contrast": "bright"}
    with pytest.raises(EmdlError, match="name=value"):
        read_conditions(["bright"])
