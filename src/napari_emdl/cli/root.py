"""The program's commands are hung up here; what runs them is :mod:`napari_emdl.cli.app`."""

from __future__ import annotations

from collections.abc import Sequence

import typer


def _program() -> typer.Typer:
    return typer.Typer(
        name="napari-emdl",
        help=(
            "Interactive electron microscopy analysis with neural networks: "
            "Bragg disks and strain, atomic columns and occupancy."
        ),
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
        rich_markup_mode=None,
    )


app = _program()
models_app = typer.Typer(help="Networks: list, show, check, add.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(models_app, name="models")


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


def only(words: Sequence[str]) -> typer.Typer:
    """The program with the command of a command line alone: typer makes the options of all commands, a twentieth of a start.

    Where the first word is no command (help, a group, a mistyped one), it is the whole program.
    """
    wanted = [
        command
        for command in app.registered_commands
        if words and words[0] == (command.name or getattr(command.callback, "__name__", ""))
    ]
    if not wanted:
        return app
    one = _program()
    one.registered_callback, one.registered_commands = app.registered_callback, wanted
    return one
