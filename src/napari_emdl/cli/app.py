"""Entry point: runs a command and turns every failure into one line and an exit status."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence

import typer

from napari_emdl.base.errors import Cancelled, EmdlError

#: Exit statuses: a failure, wrong usage, stopped by Ctrl-C.
FAILED, USAGE, STOPPED = 1, 2, 130

app = typer.Typer(
    name="napari-emdl",
    help="Interactive electron microscopy analysis with neural networks: Bragg disks and strain, atomic columns and occupancy.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
models_app = typer.Typer(help="Networks: list, show, check, add.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(models_app, name="models")

# BadParameter < UsageError < ClickException, wherever this version of typer keeps click.
_UsageError, _ClickException = typer.BadParameter.__mro__[1:3]


def _version(asked: bool) -> None:
    if asked:
        from napari_emdl import __version__

        typer.echo(f"napari-emdl {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of errors; may stand anywhere in the command."),
) -> None:
    """Options before the command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status.

    Parameters
    ----------
    arguments
        Words after the program's name; those of this process when None.
    """
    from napari_emdl.cli import commands, tools  # noqa: F401 (they register the commands)

    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        result = app(words, prog_name="napari-emdl", standalone_mode=False)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        return _failed(error, debug)
    return result if isinstance(result, int) else 0


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
    return " ".join(text.split())


def say_error(text: str) -> None:
    """One line on stderr."""
    print(f"napari-emdl: {text}", file=sys.stderr)


def say_note(text: str) -> None:
    """One line on stderr that is worth knowing but no error."""
    if text:
        print(f"note: {' '.join(text.split())}", file=sys.stderr)
