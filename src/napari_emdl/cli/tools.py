"""Commands around the science: models, devices, benchmarks, training, demo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from napari_emdl.base.errors import EmdlError, ModelError
from napari_emdl.cli.console import error_line
from napari_emdl.cli.options import read_length_A
from napari_emdl.cli.root import app, models_app

Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


@models_app.command("list")
def models_list(as_json: Json = False) -> None:
    """List shipped and own models."""
    from dataclasses import asdict

    from napari_emdl.models.registry import list_models

    entries = list_models()
    if as_json:
        typer.echo(json.dumps([asdict(entry) for entry in entries], indent=2, default=str))
        return
    if not entries:
        typer.echo("no models; add one with 'napari-emdl models add'")
    for entry in entries:
        state = f"NOT USABLE: {entry.problem}" if entry.problem else entry.description
        typer.echo(f"{entry.name:<16} {entry.source:<8} {entry.task:<14} {state}")


@models_app.command("show")
def models_show(name: Annotated[str, typer.Argument(help="Name, folder or zip.")], as_json: Json = False) -> None:
    """Show a model's card: what it is for, training ranges, measured quality, limits."""
    import yaml

    from napari_emdl.models.registry import find_model

    model = find_model(name)
    card = model.card.model_dump(mode="json", exclude_none=True)
    if as_json:
        typer.echo(json.dumps({"folder": str(model.folder), "source": model.source, **card}, indent=2))
        return
    typer.echo(f"# {model.name} ({model.source}): {model.folder}")
    typer.echo(yaml.safe_dump(card, sort_keys=False, allow_unicode=True), nl=False)


@models_app.command("check")
def models_check(
    names: Annotated[list[str] | None, typer.Argument(help="Names, folders or zips; all models when none is given.")] = None,
    device: Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to run them.")] = "auto",
) -> None:
    """Check files and run the test tensors of models."""
    from napari_emdl.models.registry import find_model, list_models
    from napari_emdl.models.session import Session

    wanted = names or [str(entry.folder) for entry in list_models()]
    failed = []
    for name in wanted:
        try:
            session = Session(find_model(name), device)
            off = session.test()
        except ModelError as error:
            failed.append(name)
            typer.echo(f"{Path(name).name}: FAILS: {error_line(error)}")
            continue
        tested = f"test tensors reproduced within {off:.1e}" if off is not None else "loads; the card has no test tensors"
        typer.echo(f"{session.model.name}: ok, {tested}, on {session.provider.removesuffix('ExecutionProvider')}")
    if failed:
        raise ModelError(f"{len(failed)} of {len(wanted)} models cannot be used; see the lines above")


@models_app.command("add")
def models_add(
    path: Annotated[Path, typer.Argument(help="Model folder, zip, or a bare .onnx.")],
    name: Annotated[str | None, typer.Option("--name", help="Name to choose it by.", show_default=False)] = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task", metavar="columns|disk-proposer|disk-refiner", help="What a bare network is for.", show_default=False
        ),
    ] = None,
    pixel_size: Annotated[
        str | None, typer.Option("--pixel-size", help='Pixel size a bare column network works at, "0.1 Å".', show_default=False)
    ] = None,
    species: Annotated[
        str | None, typer.Option("--species", help="Names of a bare network's channels, such as Mo,S2,S1.", show_default=False)
    ] = None,
    min_score: Annotated[
        float | None, typer.Option("--min-score", min=0, help="Default threshold of a bare network.", show_default=False)
    ] = None,
    layout: Annotated[
        str | None, typer.Option("--layout", metavar="NCHW|NHWC", help="Order of a bare network's axes.", show_default=False)
    ] = None,
    scaling: Annotated[
        str | None,
        typer.Option(
            "--scaling", metavar="zero-one|standard|none", help="How images are scaled for a bare network.", show_default=False
        ),
    ] = None,
    activation: Annotated[
        str | None,
        typer.Option(
            "--activation",
            metavar="none|sigmoid|softmax",
            help="What turns a bare network's output into probabilities.",
            show_default=False,
        ),
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option("--channels", help="What a bare network's output maps are, such as Mo,S,background.", show_default=False),
    ] = None,
    contrast: Annotated[
        str | None,
        typer.Option(
            "--contrast", metavar="bright|dark|any", help="Contrast a bare network was trained on.", show_default=False
        ),
    ] = None,
    multiple_of: Annotated[
        int | None,
        typer.Option("--multiple-of", min=1, help="Rows and cols must be a multiple of this.", show_default=False),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite a model of this name.")] = False,
) -> None:
    """Add a model to your own; a bare .onnx gets a card from the options given here."""
    from napari_emdl.models.add import add_model
    from napari_emdl.models.card import TASKS

    if task is not None and task not in TASKS:
        raise typer.BadParameter(f"--task: choose {', '.join(TASKS)}")
    entries: dict[str, Any] = {}
    if pixel_size is not None:
        try:
            entries["pixel_A"] = read_length_A(pixel_size)
        except ValueError as error:
            raise typer.BadParameter(f"--pixel-size: {error}") from None
    if species is not None:
        entries["species"] = [part.strip() for part in species.split(",")]
    if min_score is not None:
        entries["default_min_score"] = min_score
    if channels is not None:
        entries["channels"] = [part.strip() for part in channels.split(",")]
    known = {
        "layout": layout,
        "scaling": scaling,
        "activation": activation,
        "contrast": contrast,
        "multiple_of": multiple_of,
    }
    entries |= {key: value for key, value in known.items() if value is not None}
    model = add_model(path, name=name, task=task, replace=replace, **entries)  # type: ignore[arg-type]
    typer.echo(f"added {model.name} ({model.card.emdl.task}) in {model.folder}")


@app.command()
def devices(as_json: Json = False) -> None:
    """List where networks can run, and why somewhere they cannot."""
    from dataclasses import asdict

    from napari_emdl.models.devices import devices as list_devices

    found = list_devices()
    typer.echo(json.dumps([asdict(d) for d in found], indent=2) if as_json else "\n".join(map(str, found)))


_BENCHMARKS = ("disks", "columns", "occupancy", "limits", "speed", "nothing", "conditions")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": ["-h"]})
def bench(
    context: typer.Context,
    what: Annotated[
        str, typer.Argument(metavar="disks|columns|occupancy|limits|speed|nothing|conditions", help="What to measure.")
    ],
) -> None:
    """Measure accuracy and speed against other programs. On validation cases; prints one table. See 'bench WHAT --help'."""
    if what == "--help":  # an option of the benchmarks everywhere else
        typer.echo(context.get_help())
        return
    if what not in _BENCHMARKS:
        raise typer.BadParameter(f"there is no benchmark {what!r}; choose {', '.join(_BENCHMARKS[:-1])} or {_BENCHMARKS[-1]}")
    from importlib import import_module

    if what == "conditions":
        _require_torch("rendering patterns of held-out crystals")
    home = "napari_emdl.training.diffraction.nothingset" if what == "conditions" else f"napari_emdl.bench.{what}"
    status = import_module(home).run(context.args)
    if isinstance(status, int) and status:
        raise typer.Exit(status)


def _require_torch(purpose: str) -> None:
    try:
        import torch  # noqa: F401
    except ImportError:
        raise EmdlError(f"{purpose} needs torch: pip install 'napari-emdl[train]'") from None


@app.command()
def train(
    network: Annotated[str, typer.Argument(metavar="fcunet|light|refiner|columns", help="What to train.")],
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Configuration (YAML); the shipped recipe when left out.", show_default=False),
    ] = None,
    from_model: Annotated[
        str | None, typer.Option("--from", help="Fine-tune this column model instead (columns).", show_default=False)
    ] = None,
    conditions: Annotated[
        list[str] | None,
        typer.Option(
            "--conditions",
            help='Your microscope: a YAML file, or "dose_e_per_A2=50:200 contrast=bright" (columns, with --from).',
            show_default=False,
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the fine-tuned model.", show_default=False)] = None,
    minutes: Annotated[float, typer.Option("--minutes", min=0.05, help="Time for a fine-tuning.")] = 6.0,
    resume: Annotated[bool, typer.Option("--resume/--restart", help="Go on from the last checkpoint, or begin again.")] = True,
) -> None:
    """Train a network or fine-tune one to your microscope. Needs the extra 'train'."""
    if network not in ("fcunet", "light", "refiner", "columns"):
        raise typer.BadParameter(f"there is no network {network!r} to train; choose fcunet, light, refiner or columns")
    _require_torch("training")
    from napari_emdl.cli.training import train_network

    train_network(network, config, from_model, conditions or [], name, resume, minutes)


@app.command()
def demo(
    headless: Annotated[bool, typer.Option("--headless", help="Write figures and results without a window.")] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for results.")] = Path("demo-out"),
) -> None:
    """Open the sample datacube with its disks and strain. Without a display it writes figures and results."""
    from napari_emdl.demo import main

    main(headless=headless, out=out)
