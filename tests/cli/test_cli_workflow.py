"""Run options in every command, jobs of stages, caveats everywhere, documented options that exist, no import circle."""

from __future__ import annotations

import ast
import io
import json
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

import napari_emdl
from helpers.earlier import unpack_earlier
from napari_emdl import load
from napari_emdl.base.caveats import Caveats
from napari_emdl.cli import main

DOCS = Path(__file__).resolve().parents[2] / "docs"
COMMANDS = {"info", "disks", "strain", "columns", "occupancy", "watch", "run", "export", "devices", "train", "demo"}
COMMANDS |= {f"models {name}" for name in ("list", "show", "check", "add")}
LOG = ["--model", "log", "--pixel-size", "0.2", "--contrast", "bright"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of version 0.2 and the data they were made from."""
    return unpack_earlier(tmp_path)


def lines(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[str, str]:
    """Output and errors of a command that must succeed."""
    assert main([str(word) for word in words]) == 0, capsys.readouterr().err
    out = capsys.readouterr()
    return out.out, out.err


def failure(capsys: pytest.CaptureFixture[str], status: int, *words: object) -> str:
    assert main([str(word) for word in words]) == status
    out = capsys.readouterr()
    error = [line for line in out.err.splitlines() if not line.startswith("note: ")]
    assert len(error) == 1 and error[0].startswith("napari-emdl: "), out.err
    return error[0]


# jobs


@pytest.mark.parametrize(
    ("command", "count"), [("disks", 144), ("strain", 6), ("columns", 124), ("occupancy", 16)], ids=lambda value: str(value)
)
def test_jobs_of_version_0_2_run(folder: Path, capsys: pytest.CaptureFixture[str], command: str, count: int) -> None:
    """Same numbers as version 0.2 wrote: disks, fitted positions, columns, sites."""
    lines(capsys, "run", folder / f"job_{command}.yaml")
    result = load(folder / f"out_{command}.h5")
    found = {
        "disks": lambda: result.n_peaks,
        "columns": lambda: result.n_peaks,
        "strain": lambda: int(result.mask.sum()),
        "occupancy": lambda: len(result.sites_px),
    }
    assert found[command]() == count
    assert not list(folder.glob("*.part"))


def test_one_job_reproduces_an_analysis(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Open, find, fit, export; every path beside the job, the probe's too."""
    row, col = np.mgrid[:40, :40] - 20
    (folder / "job").mkdir()
    np.save(folder / "job" / "probe.npy", np.clip(3.0 - np.hypot(row, col), 0, 1))
    shutil.move(folder / "cube.npy", folder / "job" / "cube.npy")
    job = {
        "stages": [
            {"stage": "open", "path": "cube.npy"},
            {"stage": "find", "disks": {"method": "template", "probe": {"file": "probe.npy"}}, "output": "disks.h5"},
            {"stage": "fit", "strain": {"reference": [0, 2, 0, 1]}, "output": "strain.h5"},
            {"stage": "export", "to": "figures"},
        ],
        "run": {"workers": 1},
    }
    (folder / "job" / "job.yaml").write_text(yaml.safe_dump(job))
    out, _ = lines(capsys, "run", folder / "job" / "job.yaml")
    assert (folder / "job" / "figures").is_dir() and "figures" in out
    # blocks of the same size: float32 sums over others round otherwise
    by_hand = ["--method", "template", "--probe", folder / "job" / "probe.npy", "--workers", "1"]
    lines(capsys, "disks", folder / "job" / "cube.npy", "-o", folder / "d.h5", *by_hand)
    lines(capsys, "strain", folder / "d.h5", "-o", folder / "s.h5", "--reference", "0:2,0:1")
    np.testing.assert_array_equal(load(folder / "job" / "strain.h5").exx, load(folder / "s.h5").exx)
    assert load(folder / "job" / "disks.h5").attrs["provenance"]["run"]["workers"] == 1


def test_a_job_that_writes_outside_its_folder_asks_first(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "job").mkdir()
    stages = [
        {"stage": "open", "path": "../cube.npy"},
        {"stage": "find", "disks": {"method": "template", "probe": {"radius_px": 3}}, "output": "../away.h5"},
    ]
    job = folder / "job" / "job.yaml"
    job.write_text(yaml.safe_dump({"stages": stages}))
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert main(["run", str(job)]) == 1
    assert "writes outside its folder" in capsys.readouterr().err
    assert not (folder / "away.h5").exists()
    lines(capsys, "run", job, "-o", folder / "named.h5")  # what the command line names is not asked for
    assert (folder / "named.h5").exists()
    monkeypatch.setattr("sys.stdin", io.StringIO(""))  # a cluster has nobody to ask
    _, err = lines(capsys, "run", job)
    assert f"writes outside its folder: {folder / 'away.h5'}" in err
    assert (folder / "away.h5").exists()


@pytest.mark.parametrize(
    ("stages", "why"),
    [
        ([], "begins with one stage 'open'"),
        ([{"stage": "open", "path": "cube.npy"}], "does nothing with it"),
        ([{"stage": "open", "path": "cube.npy"}, {"stage": "find", "disks": {}}], "needs an output"),
        ([{"stage": "open", "path": "cube.npy"}, {"stage": "find", "output": "x.h5"}], "needs one of the sections"),
        ([{"stage": "open", "path": "cube.npy"}, {"stage": "fit", "strain": {}, "output": "x.h5"}], "nothing to fit"),
        ([{"stage": "open", "path": "columns.h5"}, {"stage": "fit", "strain": {}, "output": "x.h5"}], "nothing to fit"),
        ([{"stage": "open", "path": "cube.npy"}, {"stage": "export", "to": "x"}], "nothing to export"),
        ([{"stage": "open", "path": "c.npy"}, {"stage": "fit", "strain": {"axis": 3}}], "strain.axis: there is no such"),
    ],
)  # fmt: skip
def test_jobs_that_make_no_sense(folder: Path, capsys: pytest.CaptureFixture[str], stages: list, why: str) -> None:
    (folder / "job.yaml").write_text(yaml.safe_dump({"stages": stages}))
    assert why in failure(capsys, 1, "run", folder / "job.yaml")
    assert not (folder / "x.h5").exists()


# run options


def test_occupancy_of_columns_resumes(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once columns are given, evidence was computed without checkpoint, memory limit or scheduler."""
    from napari_emdl.atoms.find.log import LogFinder

    out = folder / "occ.h5"
    frames: list[int] = []
    sample = LogFinder.sample

    def breaks(self: LogFinder, images: np.ndarray, points: np.ndarray, control: object = None) -> np.ndarray:
        if sum(frames) >= 3:
            raise OSError(5, "the disk went away")
        frames.append(len(images))
        return sample(self, images, points, control)

    words = ["occupancy", folder / "columns.h5", "-o", out, "--workers", 1, "--max-memory", "400KB"]
    monkeypatch.setattr(LogFinder, "sample", breaks)
    assert "the disk went away" in failure(capsys, 1, *words)
    assert max(frames) == 1  # 400 KB hold a frame, not four
    monkeypatch.setattr(LogFinder, "sample", sample)
    assert "--resume" in failure(capsys, 1, *words)
    counted: list[int] = []

    def counts(self: LogFinder, images: np.ndarray, points: np.ndarray, control: object = None) -> np.ndarray:
        counted.append(len(images))
        return sample(self, images, points, control)

    monkeypatch.setattr(LogFinder, "sample", counts)
    lines(capsys, *words, "--resume")
    assert sum(counted) == 8 - sum(frames)
    resumed = load(out)
    lines(capsys, "occupancy", folder / "columns.h5", "-o", folder / "whole.h5")
    np.testing.assert_array_equal(resumed.p_occupied, load(folder / "whole.h5").p_occupied)
    assert not list(folder.glob("*.part"))


def test_columns_and_strain_on_a_cluster(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        lines(capsys, "occupancy", folder / "columns.h5", "-o", folder / "occ.h5", "--scheduler", address)
        words = ("strain", folder / "disks.h5", "--reference", "0:2,0:1", "--fit", "peaks", "-o")
        lines(capsys, *words, folder / "here.h5")
        lines(capsys, *words, folder / "s.h5", "--scheduler", address)
    np.testing.assert_allclose(load(folder / "occ.h5").p_occupied, load(folder / "occupancy.h5").p_occupied, atol=1e-6)
    np.testing.assert_allclose(load(folder / "s.h5").exx, load(folder / "here.h5").exx, atol=1e-9)
    monkeypatch.setattr("napari_emdl.jobs.executor.ANSWER_S", 0.5)
    assert "scheduler" in failure(
        capsys, 1, "strain", folder / "disks.h5", "-o", folder / "x.h5", "--scheduler", "tcp://127.0.0.1:9"
    )


# options the documentation promises


def documented(text: str) -> dict[str, set[str]]:
    """Options after each command in code spans and examples of a page."""
    found: dict[str, set[str]] = {}
    for words in re.findall(r"(?:napari-emdl |`)((?:models )?[a-z]+)((?: [^`\n]*)?)", text):
        found.setdefault(words[0], set()).update(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", words[1]))
    return found


def options_of(command: str) -> set[str]:
    import typer

    from napari_emdl.cli.root import app

    found = typer.main.get_command(app)
    for word in command.split():
        found = found.commands[word]  # type: ignore[attr-defined]
    names = {name for parameter in found.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return names | {"--help", "--debug", "--version"}


@pytest.mark.parametrize("page", [*sorted(DOCS.glob("*.md")), DOCS.parent / "README.md"], ids=lambda path: path.name)
def test_every_documented_option_exists(page: Path) -> None:
    for command, options in documented(page.read_text(encoding="utf-8")).items():
        if command in COMMANDS:
            assert options <= options_of(command), f"{page.name}: {command} has no {sorted(options - options_of(command))}"


def table_of(text: str, heading: str) -> set[str]:
    """Options in the table under a heading."""
    section = text.split(f"## {heading}")[1].split("\n## ")[0]
    return {
        name for line in section.splitlines() if line.startswith("| `--") for name in re.findall(r"--[a-z][a-z0-9-]*", line)
    }


def test_no_command_has_two_options_of_one_name() -> None:
    import typer

    from napari_emdl.cli.root import app

    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        flags = [flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)]
        assert len(flags) == len(set(flags)), f"{name}: {sorted(flag for flag in flags if flags.count(flag) > 1)}"


def test_the_tables_of_options_hold() -> None:
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    every = table_of(text, "What every computing command takes")
    assert every >= {"--device", "--batch", "--max-memory", "--workers", "--scheduler", "--resume", "--restart"}
    for command in ("disks", "strain", "columns", "occupancy", "run"):
        assert every <= options_of(command), command
    assert every - {"--scheduler"} <= options_of("watch")
    opening = table_of(text, "Files that lack information")
    assert opening <= options_of("disks") | options_of("info")
    everywhere = set().union(*(options_of(name) for name in (*COMMANDS, "bench")))
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)) <= everywhere


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_of_benchmarks_names_them(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", word]) == 0
    assert "conditions" in capsys.readouterr().out


def test_the_list_of_commands_cuts_nothing_off(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["--help"]) == 0
    assert "..." not in capsys.readouterr().out.split("Commands:")[1]


# caveats


def test_caveats_stand_in_the_file_on_stderr_and_in_info(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = "frames of 12.8 Å hold too little to judge: check the pixel size and the result"
    _, err = lines(capsys, "columns", folder / "movie.npy", "-o", folder / "c.h5", *LOG)
    assert err.splitlines() == [f"note: {small}"]
    with h5py.File(folder / "c.h5") as file:
        assert json.loads(file.attrs["caveats"])[0]["text"] == small
    out, _ = lines(capsys, "info", folder / "c.h5")
    assert f"caveat: {small}" in out
    out, _ = lines(capsys, "info", "--json", folder / "c.h5")
    assert json.loads(out)["caveats"] == [small]
    _, err = lines(capsys, "occupancy", folder / "c.h5", "-o", folder / "o.h5")
    occupancy = load(folder / "o.h5")
    assert small in Caveats.of(occupancy).texts
    own = [text for text in Caveats.of(occupancy).texts if text != small]
    assert [line.removeprefix("note: ") for line in err.splitlines()] == own


def test_strain_carries_the_caveats_of_its_disks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cube = np.load(folder / "cube.npy").astype(np.float32)
    cube[0, 0, :3] = -1.0
    np.save(folder / "bad.npy", cube)
    words = ["--method", "template", "--probe-radius", "2.5"]
    _, err = lines(capsys, "disks", folder / "bad.npy", "-o", folder / "d.h5", *words)
    told = [line.removeprefix("note: ") for line in err.splitlines()]
    assert "missing pixels: 3 dead pixels" in told and any("missing or negative values" in line for line in told)
    assert Caveats.of(load(folder / "d.h5")).texts == told
    _, err = lines(capsys, "strain", folder / "d.h5", "-o", folder / "s.h5")
    assert {f"note: {caveat}" for caveat in told} <= set(err.splitlines())
    assert set(told) <= set(Caveats.of(load(folder / "s.h5")).texts)


# outputs


def test_a_file_of_somebody_else_is_refused_unchanged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = folder / "notes.txt"
    foreign.write_text("mine")
    for words in (
        ["columns", folder / "movie.npy", *LOG],
        ["disks", folder / "cube.npy", "--method", "template"],
        ["strain", folder / "disks.h5"],
        ["occupancy", folder / "columns.h5"],
    ):
        assert "is not a result of napari-emdl" in failure(capsys, 1, *words, "-o", foreign)
        assert foreign.read_text() == "mine"
    entries = yaml.safe_load((folder / "job_disks.yaml").read_text()) | {"output": "notes.txt"}
    (folder / "job.yaml").write_text(yaml.safe_dump(entries))
    assert "is not a result of napari-emdl" in failure(capsys, 1, "run", folder / "job.yaml")
    assert foreign.read_text() == "mine"


# the source of columns


def test_the_movie_of_columns_is_found_beside_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The path in the file of version 0.2 is of another machine; the movie lies beside it."""
    lines(capsys, "occupancy", folder / "columns.h5", "-o", folder / "o.h5")
    assert load(folder / "o.h5").attrs["provenance"]["input"]["path"] == str(folder / "movie.npy")
    (folder / "movie.npy").rename(folder / "moved.npy")
    line = failure(capsys, 1, "occupancy", folder / "columns.h5", "-o", folder / "x.h5")
    assert "is gone" in line and "--movie FILE" in line
    lines(capsys, "occupancy", folder / "columns.h5", "-o", folder / "x.h5", "--movie", folder / "moved.npy")
    lines(capsys, "occupancy", folder / "columns.h5", "-o", folder / "y.h5", "--method", "threshold")
    assert load(folder / "y.h5").attrs["provenance"]["input"]["shape"] == [8, 64, 64]


# structure


def test_the_command_line_has_no_import_circle() -> None:
    root = Path(napari_emdl.__file__).parent / "cli"
    graph: dict[str, set[str]] = {}
    for path in root.glob("*.py"):
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("napari_emdl.cli"):
                rest = node.module.removeprefix("napari_emdl.cli").removeprefix(".")
                names |= {rest} if rest else {alias.name for alias in node.names}
        graph[path.stem] = names & {other.stem for other in root.glob("*.py")}
    done: set[str] = set()
    while graph.keys() - done:
        free = {name for name, needs in graph.items() if name not in done and needs <= done}
        assert free, f"a circle among {sorted(graph.keys() - done)}"
        done |= free


def test_an_input_that_changes_during_the_run_is_said(tmp_path: Path) -> None:
    """The file is written anew while the disks are found: the result says so, in the file and on the command line's channel."""
    import napari_emdl as emdl
    from napari_emdl.base.params import DiskParams, ProbeParams

    rng = np.random.default_rng(0)
    np.save(tmp_path / "cube.npy", rng.poisson(3.0, (4, 4, 48, 48)).astype(np.uint16))

    def write_anew(*_: object) -> None:
        with open(tmp_path / "cube.npy", "r+b") as file:
            file.seek(-2, 2)
            file.write(b"\x07\x00")

    table = emdl.find_disks(
        emdl.open_datacube(tmp_path / "cube.npy"),
        params=DiskParams(method="template", probe=ProbeParams(radius_px=4)),
        on_block=write_anew,
    )
    assert "changed during the run; run it again" in table.attrs["note"]
    saved = emdl.load(emdl.save(table, tmp_path / "disks.h5"))
    assert any("changed during the run" in text for text in Caveats.of(saved).texts)
