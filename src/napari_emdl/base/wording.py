"""Options named in lines for people: written once, as Python names them, and read in the words of where they are read.

Errors, caveats and notes name an option in backquotes, alone or with a value: "give `shape=(rows, cols)`". Python and files
keep it so; the command line makes it ``--shape rows,cols`` and the window the label of the field, by :func:`worded`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

#: What an option and its value, "" for none, are called where the line is read; None leaves it as it is.
Say = Callable[[str, str], str | None]

_OPTION = re.compile(r"`([A-Za-z_][A-Za-z0-9_]*)(?:=([^`]*))?`")


def worded(text: str, say: Say) -> str:
    """`text` with each option it names in the words of `say`."""
    return _OPTION.sub(lambda found: say(found[1], plain(found[2] or "")) or found[0], text)


def options_in(text: str) -> Iterator[tuple[str, str]]:
    """Names and values of the options that a line names."""
    return ((found[1], plain(found[2] or "")) for found in _OPTION.finditer(text))


def plain(value: str) -> str:
    """A value without the quotes and brackets that Python wants."""
    return value.strip("'\"()")
