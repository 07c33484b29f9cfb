"""Lines for people name options in the words of where they are read: Python, the command line, the window."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import napari_emdl
from napari_emdl.base.wording import options_in
from napari_emdl.cli import wording as terminal
from napari_emdl.cli.root import app
from napari_emdl.gui.kit import wording as window

ROOT = Path(napari_emdl.__file__).parent
#: What writes lines that are read in all three.
CORE = ("base", "io", "models", "jobs", "diffraction", "atoms", "workflow", "exporting", "samples", "demo.py")
#: Options of ``models add`` and of the demo, which have no place in the window.
ELSEWHERE = {"task", "layout", "scaling", "channels", "name", "replace", "out"}


def lines_of_the_core() -> Iterator[tuple[str, str]]:
    """Place and text of every string of the core that is not a docstring; of f-strings, the values are left open."""
    for part in CORE:
        for file in sorted((ROOT / part).rglob("*.py")) if (ROOT / part).is_dir() else [ROOT / part]:
            tree = ast.parse(file.read_text(encoding="utf-8"))
            skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                if id(node) in skipped:
                    continue
                if isinstance(node, ast.JoinedStr):
                    skipped |= {id(value) for value in node.values}
                    text = "".join(str(value.value) if isinstance(value, ast.Constant) else "…" for value in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    text = node.value
                else:
                    continue
                yield f"{file.relative_to(ROOT)}:{node.lineno}", text


def flags_of_all_commands() -> set[str]:
    """Every option of every command."""
    found: set[str] = set()
    groups = [typer.main.get_command(app)]
    while groups:
        command = groups.pop()
        groups += list(getattr(command, "commands", {}).values())
        found |= {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    return found


def test_every_option_named_in_the_core_is_one_of_the_command_line_and_of_the_window() -> None:
    flags, labels = flags_of_all_commands(), set(window._labels())
    named = 0
    for place, text in lines_of_the_core():
        assert not re.search(r"(?<![\w-])--[a-z]", text), f"{place} says {text!r}: name the option as `name` or `name=value`"
        for name, value in options_in(text):
            if name == "…":
                continue
            named += 1
            said = terminal.said(f"`{name}={value}`" if value else f"`{name}`")
            assert said.split()[0] in flags or name == "cube", f"{place}: {said} is no option"
            assert name in labels | ELSEWHERE or (name, value) in window.BUTTONS, f"{place}: the window has no {name}"
    assert named > 40


@pytest.mark.parametrize(
    ("line", "typed", "seen"),
    [
        ("use `fit='peaks'`", "use --fit peaks", "use “Fit to”: peaks"),
        ("give `shape=(rows, cols)` or `axes='QKRC'`", "give --shape rows,cols or --axes QKRC",
         "give “Shape”: rows, cols or “Axis order”: QKRC"),
        ("type it (`pixel_size_A`)", "type it (--pixel-size)", "type it (“Pixel size”)"),
        ("`resume=True` or `resume=False`", "--resume or --restart",
         "“Resume” or “Go on” or “Run” or “Start again”"),
        ("raise it (`max_memory`)", "raise it (--max-memory)", "raise it (“Memory”)"),
        ("`frames=(0, 12)` and `mask`", "--frames 0,12 and --mask", "“Frames”: 0, 12 and “Mask”"),
        ("a `quoted word` stays", "a `quoted word` stays", "a `quoted word` stays"),
    ],
)  # fmt: skip
def test_a_line_in_the_terminal_and_in_the_window(line: str, typed: str, seen: str) -> None:
    assert terminal.said(line) == typed
    assert window.said(line) == window.said(window.said(line)) == seen


def test_results_of_earlier_versions_name_flags() -> None:
    assert window.said('type it (--pixel-size "0.1 Å"); go on with --fit peaks') == (
        'type it (“Pixel size” "0.1 Å"); go on with “Fit to” peaks'
    )
