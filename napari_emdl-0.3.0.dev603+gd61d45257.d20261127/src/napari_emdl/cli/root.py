"""The program's commands are hung up here; what runs them is :mod:`napari_emdl.cli.app`."""

from __future__ import annotations

import typer

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
