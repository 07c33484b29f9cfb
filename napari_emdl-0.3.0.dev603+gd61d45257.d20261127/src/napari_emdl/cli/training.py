"""``napari-emdl train``: the only door from the program to :mod:`napari_emdl.training`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import typer

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.reading import read_yaml
from napari_emdl.cli.progress import terminal_control
from napari_emdl.training.tuning import tune

_CONFIGS = {"fcunet": "fcunet.yaml", "refiner": "refiner.yaml", "columns": "columns.yaml"}


def train_network(
    network: str,
    config: Path | None,
    from_model: str | None,
    conditions: list[str],
    name: str | None,
    resume: bool,
    minutes: float,
) -> None:
    """Train `network`, or fine-tune a column network when `from_model` is given."""
    if from_model is not None or conditions:
        if network != "columns":
            raise EmdlError("--from and --conditions tune a column network: use 'napari-emdl train columns --from MODEL ...'")
        _tune(from_model, read_conditions(conditions), name, minutes)
        return
    if network == "light":
        network = "refiner"
        typer.echo("the light method proposes by correlation and measures by the refiner: training the refiner", err=True)
    path = config or _shipped_config(network)
    if not path.is_file():
        raise EmdlError(f"there is no configuration {path}; see docs/training.md")
    if network == "columns":
        _train_columns(path, resume)
    else:
        from napari_emdl.training.diffraction.train import train

        trainer = train(path, resume, network)
        typer.echo(f"trained {network}: {trainer.folder}")


def _shipped_config(network: str) -> Path:
    return Path(str(files("napari_emdl.training"))) / "configs" / _CONFIGS[network]


def _train_columns(path: Path, resume: bool) -> None:
    from napari_emdl.training.atoms.train import train_columns

    with terminal_control("training columns", "%") as control:
        folder = train_columns(
            path,
            resume,
            progress=lambda part, text: control.report(round(1000 * part), 1000, text),
            cancel=lambda: control.cancelled,
        )
        control.check()
    typer.echo(f"trained columns: {folder}")


def _tune(from_model: str | None, conditions: dict[str, Any], name: str | None, minutes: float) -> None:
    """Fine-tune a column network to the user's microscope and add it to the user's models."""
    base = from_model or "columns"
    with terminal_control("fine-tuning", "%") as control:
        made = tune(base, conditions, name or f"{Path(base).name}-tuned", minutes, control)
    for which, scores in (("original", made.original), ("tuned", made.tuned)):
        typer.echo(f"{which}: " + ", ".join(f"{key} {value:.3f}" for key, value in scores.items()))
    typer.echo(made.said)
    typer.echo(f"added {made.name} to your models: {made.folder}")


def read_conditions(words: list[str]) -> dict[str, Any]:
    """Conditions from a YAML file, or from "name=value" and "name=low:high" words.

    Raises
    ------
    EmdlError
        For a word that is neither.
    """
    found: dict[str, Any] = {}
    for word in (part for text in words for part in text.split()):
        if Path(word).suffix in (".yaml", ".yml"):
            if not Path(word).is_file():
                raise EmdlError(f"there is no file of conditions {word}")
            entries = read_yaml(Path(word))
            if not isinstance(entries, dict):
                raise EmdlError(f"{word} must hold entries such as 'dose_e_per_A2: [50, 200]'")
            found |= entries
            continue
        key, mark, value = word.partition("=")
        if not mark or not key:
            raise EmdlError(
                f"cannot read the condition {word!r}; write name=value or name=low:high, such as dose_e_per_A2=50:200"
            )
        parts = [_number(part) for part in value.split(":")]
        found[key] = parts[0] if len(parts) == 1 else tuple(parts)
    return found


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
