"""Entry point: runs a command and turns every failure into one line and an exit status."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence

import typer

from napari_emdl.base.errors import Cancelled
from napari_emdl.cli import commands, tools
from napari_emdl.cli.console import FAILED, STOPPED, error_line, say_error, status_of
from napari_emdl.cli.interrupt import leave, run_interruptible
from napari_emdl.cli.root import app, only

__all__ = ["app", "main", "program"]

#: Modules that hang up commands when they are imported.
COMMANDS = (commands, tools)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status.

    Parameters
    ----------
    arguments
        Words after the program's name; those of this process when None.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        result = only(words)(words, prog_name="napari-emdl", standalone_mode=False)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        return _failed(error, debug)
    return result if isinstance(result, int) else 0


def program() -> int:
    """Run the command line of this process so that Ctrl-C acts within a second."""
    words = sys.argv[1:]
    if words[:1] == ["demo"]:  # a window must live in the main thread
        return main(words)
    try:
        status = run_interruptible(lambda: main(words))
    except (Cancelled, KeyboardInterrupt) as error:
        status = _failed(error, debug=False)
    if status == STOPPED:
        leave(status)
    return status


def _failed(error: BaseException, debug: bool) -> int:
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, BrokenPipeError) or (isinstance(error, OSError) and error.errno == errno.EPIPE):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read our output has left
        return FAILED
    if debug:
        traceback.print_exception(error)
    else:
        say_error(error_line(error))
    return status_of(error)
