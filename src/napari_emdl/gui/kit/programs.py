"""Programs of OpenGL that the window builds, with less waiting.

vispy looks for the variables of each program with a regular expression that takes the square of the length of a line: 30 to
40 ms of the thread of the window for each text, and for each layer of points or shapes. Only lines that declare something can
have a variable in them, so it is given those alone while a panel of ours is open.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

#: A statement is looked for from the line on that one of these stands in.
DECLARES = re.compile(r"\b(?:uniform|attribute|varying|const|in|out)\b")

_usual: Callable[..., None] | None = None


def begin() -> None:
    """Read programs the short way until :func:`end`; nothing where this vispy reads them otherwise."""
    global _usual
    from vispy.gloo.program import Program

    if _usual is None and hasattr(Program, "_parse_variables_from_code"):
        _usual = Program._parse_variables_from_code
        Program._parse_variables_from_code = _parse


def end() -> None:
    """vispy as it was."""
    global _usual
    from vispy.gloo.program import Program

    if _usual is not None:
        Program._parse_variables_from_code = _usual
        _usual = None


def declarations(code: str) -> str:
    """Lines of a program that declare variables, with those that a declaration goes on in."""
    return "\n".join(_declaring(code.splitlines()))


def _declaring(lines: Iterable[str]) -> Iterable[str]:
    goes_on = False
    for line in lines:
        if goes_on or DECLARES.search(line):
            yield line
            goes_on = ";" not in line


def _parse(program: Any, update_variables: bool = True) -> None:
    assert _usual is not None
    whole = program._shaders
    program._shaders = [SimpleNamespace(code=declarations(shader.code)) for shader in whole]
    try:
        _usual(program, update_variables)
    finally:
        program._shaders = whole
