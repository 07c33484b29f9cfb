"""What the program says on stderr: one line for an error, one for each thing worth knowing; and its exit statuses."""

from __future__ import annotations

import sys

import typer

from napari_emdl.base.caveats import Caveats
from napari_emdl.base.errors import Cancelled, EmdlError
from napari_emdl.cli.wording import said

#: Exit statuses: a failure, wrong usage, stopped by Ctrl-C.
FAILED, USAGE, STOPPED = 1, 2, 130

# BadParameter < UsageError < ClickException, wherever this version of typer keeps click.
_UsageError, _ClickException = typer.BadParameter.__mro__[1:3]


def status_of(error: BaseException) -> int:
    """Exit status for an error."""
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, _UsageError):
        return USAGE
    return STOPPED if isinstance(error, (Cancelled, KeyboardInterrupt, typer.Abort)) else FAILED


def error_line(error: BaseException) -> str:
    """What went wrong, in one line."""
    if isinstance(error, _ClickException):
        text = error.format_message()  # type: ignore[attr-defined]
        context = getattr(error, "ctx", None)
        return text + (f" (see '{context.command_path} --help')" if context is not None else "")
    if isinstance(error, (EmdlError, Cancelled)):
        text = str(error)
    elif isinstance(error, (KeyboardInterrupt, typer.Abort)):
        text = "stopped"
    elif isinstance(error, MemoryError):
        text = "out of memory; give a smaller --max-memory or --batch"
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    elif isinstance(error, ModuleNotFoundError):
        text = f"this needs the package {error.name}, which is not installed ({error})"
    else:
        text = f"internal error: {type(error).__name__}: {error}; run again with --debug and report it"
    return said(" ".join(text.split()))


def say_error(text: str) -> None:
    """One line on stderr."""
    print(f"napari-emdl: {text}", file=sys.stderr)


def say_note(text: str) -> None:
    """One line on stderr that is worth knowing but no error."""
    print(f"note: {said(' '.join(text.split()))}", file=sys.stderr)


def say_caveats(caveats: Caveats) -> None:
    """One line on stderr for each."""
    for text in caveats.texts:
        say_note(text)
