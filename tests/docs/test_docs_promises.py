"""The documentation keeps its promises: every command and option it names exists and takes the values it shows."""

from __future__ import annotations

import contextlib
import re
import shlex
import tomllib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer
from packaging.requirements import Requirement

import napari_emdl as emdl
from helpers.docs_text import ROOT, blocks, commands, pages, spans, table_rows, text_of
from napari_emdl.cli.app import app, main

#: Commands whose options are read elsewhere, by the program they call.
PASSED_ON = ("bench", "train", "demo")
#: Options of other programs that the docs name.
FOREIGN = {"--count", "--seed", "--runs", "--metrics", "--out", "--crystals", "--from", "--config"}
PAGES = {str(page.relative_to(ROOT)): page for page in pages()}


@cache
def known() -> dict[tuple[str, ...], dict[str, str]]:
    """Command -> its options with the values they take ("" for anything)."""

    def of(command) -> dict[str, str]:
        options = {}
        for parameter in command.params:
            if parameter.param_type_name == "option":
                options |= dict.fromkeys((*parameter.opts, *parameter.secondary_opts), parameter.metavar or "")
        return options | {"--help": "", "--debug": ""}

    group = typer.main.get_command(app)
    found = {}
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found |= {(name, inner): of(one) for inner, one in command.commands.items()}
        else:
            found[(name,)] = of(command)
    return found


def help_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with contextlib.suppress(SystemExit):
        main([*words, "--help"])
    captured = capsys.readouterr()
    return captured.out + captured.err


def plain(line: str) -> list[str]:
    """Words of a command line; optional parts are taken, placeholders of a shell loop filled in."""
    line = (
        re.sub(r'"?\$\{?file[^}"]*\}?([^"\s]*)"?', r"scan\1", line)
        .replace("[...]", "")
        .replace(" ... ", " 0.1 ")
        .replace("...", "")
    )
    line = re.sub(r"\[([^\]]*)\]", r"\1", line)
    return shlex.split(line)[1:]


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_understood(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command line runs as far as its missing files: status 2 would be wrong usage, of an option or of its value."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    wrong = []
    for line in commands(text_of(PAGES[page])):
        words = plain(line)
        if words[0] == "COMMAND" or (len(words) == 1 and (words[0],) in known()):  # its name alone
            continue
        if words[0] in PASSED_ON or any("|" in word for word in words):
            names = words[0].split("|")
            assert all((name,) in known() or any(name == at[0] for at in known()) for name in names), line
            asked = [word for word in words if word.startswith("--")]
            inner = [word.split("|")[0] for word in words[1:2] if not word.startswith("-")]
            there = help_of([words[0], *inner], capsys) if words[0] in PASSED_ON else " ".join(_options(words[0]))
            wrong += [f"{line}: {option}" for option in asked if option != "--help" and option not in there]
            continue
        if "--help" in words or words[:2] == ["models", "check"]:
            continue
        status = main(words)
        said = capsys.readouterr().err
        if status not in (0, 1) or "Traceback" in said:
            wrong.append(f"{line}: status {status}, {said.strip()}")
    assert not wrong, "\n".join(wrong)


def _options(command: str) -> set[str]:
    return {option for at, options in known().items() if at[0] == command for option in options}


def test_options_exist_and_take_the_values_shown(capsys: pytest.CaptureFixture[str]) -> None:
    every: dict[str, set[str]] = {}
    for options in known().values():
        for option, takes in options.items():
            every.setdefault(option, set()).add(takes)
    passed_on = " ".join(help_of(words, capsys) for words in (["bench", "disks"], ["bench", "occupancy"], ["demo"], ["train"]))
    wrong = []
    for page, span in ((page, span) for page, path in PAGES.items() for span in spans(text_of(path))):
        if span.startswith(("python ", "pip ", "make ", "napari-emdl ")):
            continue
        for option, value in re.findall(r"(?<![\w-])(--[a-z][a-z0-9-]+)(?:[ =]([^\s,`]+))?", span):
            if option in FOREIGN or option in passed_on:
                continue
            if option not in every:
                wrong.append(f"{page}: {option} in `{span}`")
            elif "|" in value and not any(set(value.split("|")) <= set(takes.split("|")) for takes in every[option]):
                wrong.append(f"{page}: {option} {value} in `{span}`; it takes {' or '.join(every[option])}")
    assert not wrong, "\n".join(wrong)


def test_the_table_of_commands_is_complete() -> None:
    rows = table_rows(text_of(ROOT / "docs" / "cli.md"), "# Command line")
    named = {word for row in rows for span in spans(row[0])[:1] for word in span.split()[:1]}
    assert named == {at[0] for at in known()}


def test_what_every_computing_command_takes() -> None:
    rows = table_rows(text_of(ROOT / "docs" / "cli.md"), "## What every computing command takes")
    options = {option for row in rows for span in spans(row[0]) for option in re.findall(r"--[a-z-]+", span)}
    assert {"--device", "--max-memory", "--resume", "--restart"} <= options
    for command in ("disks", "strain", "columns", "occupancy", "watch", "run"):
        missing = options - set(known()[(command,)])
        assert missing <= ({"--scheduler"} if command == "watch" else set()), (command, missing)


def test_modules_that_are_run_exist_and_take_the_options_shown() -> None:
    wrong = []
    for page in PAGES.values():
        text = text_of(page)
        for line in [*blocks(text), *spans(text)]:
            match = re.match(r"python -m (napari_emdl[\w.]*|tests\.\w+)(.*)", line)
            if match is None:
                continue
            module, rest = match.groups()
            place = ROOT / "src" if module.startswith("napari_emdl") else ROOT
            path = place / Path(*module.split("."))
            path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
            if not path.is_file():
                wrong.append(line)
                continue
            source = path.read_text(encoding="utf-8")
            wrong += [f"{line}: {option}" for option in re.findall(r"(--[a-z-]+)", rest) if f'"{option}"' not in source]
    assert not wrong, "\n".join(wrong)


def test_options_while_loading_are_fields_of_the_parameters() -> None:
    from napari_emdl.base.params import OpenParams

    rows = table_rows(text_of(ROOT / "docs" / "files.md"), "## Options while loading")
    named = {span for row in rows for span in spans(row[0])}
    assert named == set(OpenParams.model_fields)


def test_every_public_name_has_its_place_in_the_reference() -> None:
    text = text_of(ROOT / "docs" / "reference" / "api.md")
    named = set(re.findall(r"\.\. auto(?:function|class|exception):: ([\w.]+)", text))
    assert {name for name in named if "." not in name} == set(emdl.__all__) - {"__version__"}


def test_python_in_the_pages_names_what_exists() -> None:
    wrong = []
    for page in PAGES.values():
        for name in re.findall(r"(?<![\w./])emdl\.(?!h5|tolerance|heatmap)(\w+)", page.read_text(encoding="utf-8")):
            if not hasattr(emdl, name):
                wrong.append(f"{page.name}: emdl.{name}")
        for name in spans(text_of(page)):
            match = re.fullmatch(r"(napari_emdl(?:\.\w+)+)(?:\(.*\))?", name)
            if match and not _importable(match.group(1)):
                wrong.append(f"{page.name}: {name}")
    assert not wrong, "\n".join(wrong)


def _importable(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            if find_spec(".".join(parts[:n])) is None:
                continue
        except (ModuleNotFoundError, ValueError):
            continue
        if n == len(parts):
            return True
        source = Path(str(find_spec(".".join(parts[:n])).origin)).read_text(encoding="utf-8")
        return re.search(rf"\b{re.escape(parts[n])}\b", source) is not None
    return False


def test_links_lead_somewhere() -> None:
    """Sphinx checks them as well, where it is installed; this needs nothing."""
    wrong = []
    for page in PAGES.values():
        if page.suffix != ".md":
            continue
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            file = target.split("#")[0]
            if not file or "://" in file or "generated/" in file or file.endswith("tutorials/index.rst"):
                continue
            if not (page.parent / file).exists():
                wrong.append(f"{page.relative_to(ROOT)}: {target}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES)
def test_pip_understands_what_the_docs_install(page: str) -> None:
    """What follows ``pip install`` is a requirement pip takes (it refuses "NAME @ ."), with extras the project has."""
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"])
    for quoted, bare in re.findall(r"pip install (?:[\"']([^\"']+)[\"']|([^\s`\"']+))", PAGES[page].read_text("utf-8")):
        target = quoted or bare
        here = re.fullmatch(r"\.(\[[\w,-]+\])?", target)
        wanted = Requirement(f"napari-emdl{here[1] or ''}" if here else target)
        assert wanted.url is None, target
        if wanted.name == "napari-emdl":
            assert wanted.extras <= extras, target


def test_numbers_of_the_front_pages_are_those_of_the_whole_tables() -> None:
    benchmarks = text_of(ROOT / "docs" / "benchmarks.md")
    summary, whole = benchmarks.split("\n## Strain against", 1)
    known = set(re.findall(r"\d+(?:\.\d+)?", whole))
    for name, text in (
        ("README", text_of(ROOT / "README.md").split("## Three numbers")[1].split("\n##")[0]),
        ("summary", summary),
    ):
        rows = [line.split("|", 2)[2] for line in text.splitlines() if line.startswith("|")]
        numbers = {number for row in rows for number in re.findall(r"\d+(?:\.\d+)?", row)}
        assert len(numbers) >= 6 and numbers <= known, (name, sorted(numbers - known))
