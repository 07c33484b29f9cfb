"""Model cards: ``rdf.yaml`` in the bioimage.io 0.5 model description, our own facts under ``config.emdl``.

A model is a folder with ``model.onnx``, ``rdf.yaml`` and test tensors; see ``docs/models.md``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from napari_emdl.base.errors import ModelError, OpenError
from napari_emdl.base.reading import read_yaml
from napari_emdl.models.heatmap import Heatmap

CARD_NAME = "rdf.yaml"
FORMAT_VERSION = "0.5.4"

Task = Literal["disk-proposer", "disk-refiner", "disk-scale", "columns", "contrast"]
TASKS: tuple[Task, ...] = ("disk-proposer", "disk-refiner", "disk-scale", "columns", "contrast")


class _Part(BaseModel):
    """The standard has many more entries than we read; those are kept and passed through."""

    model_config = ConfigDict(extra="allow", defer_build=True)


class File(_Part):
    """File beside the card."""

    source: str
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")


class Tensor(_Part):
    """Input or output of the network; `id` is its name in the graph."""

    id: str
    axes: list[Any] = []
    data: Any = None
    test_tensor: File | None = None

    @property
    def batched(self) -> bool:
        """Whether the first axis counts the items of a batch."""
        return bool(self.axes) and isinstance(self.axes[0], dict) and self.axes[0].get("type") == "batch"


class OnnxWeights(File):
    """The network file; its sha256 is required."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    opset_version: int | None = None


class Weights(_Part):
    """Weights of the network; we read ONNX alone."""

    onnx: OnnxWeights


class EmdlConfig(_Part):
    """What this program needs to know of a network.

    Attributes
    ----------
    task
        What it is for.
    ranges
        Training range of a condition -> (low, high), such as ``probe_radius_px`` or ``pixel_A``; outside it users are warned.
    default_min_score
        Least score of a disk or column that is shown; one number, or one a condition (such as contrast).
    pixel_A
        Pixel size the network works at (columns).
    species
        Names of the output channels (columns).
    heatmap
        How to use a network of others that gives heat maps and knows nothing of our inputs and outputs.
    metrics, limits
        Measured quality and known limits, shown by ``models show``.
    """

    task: Task
    ranges: dict[str, tuple[float, float]] = {}
    default_min_score: float | dict[str, float] | None = None
    pixel_A: float | None = Field(None, gt=0)
    species: list[str] | None = None
    tolerance: float = Field(2e-3, gt=0, le=0.1, description="Largest relative deviation from the test tensors")
    heatmap: Heatmap | None = None
    metrics: Any = None
    limits: Any = None


class Config(_Part):
    """Tool-specific entries."""

    emdl: EmdlConfig


class Card(_Part):
    """Model description (bioimage.io 0.5)."""

    format_version: str = FORMAT_VERSION
    type: Literal["model"] = "model"
    name: str
    version: str | float | int | None = None
    description: str = ""
    license: str = ""
    authors: list[Any] = []
    inputs: list[Tensor] = Field(min_length=1)
    outputs: list[Tensor] = Field(min_length=1)
    weights: Weights
    config: Config

    @property
    def emdl(self) -> EmdlConfig:
        """Our own entries."""
        return self.config.emdl


def read_card(folder: Path) -> Card:
    """Read and validate the card of a model folder.

    Raises
    ------
    ModelError
        When there is no card or an entry is missing or wrong; names the entry.
    """
    path = folder / CARD_NAME
    if not path.is_file():
        raise ModelError(f"{folder} has no {CARD_NAME}; add one with 'napari-emdl models add NETWORK.onnx' (`task`)")
    try:
        entries = read_yaml(path)
    except OpenError as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(entries, dict):
        raise ModelError(f"{path} is not a model description")
    try:
        card = Card.model_validate(entries)
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if not card.format_version.startswith("0.5"):
        raise ModelError(f"{path} has format {card.format_version}; bioimage.io 0.5 is needed")
    return card


def write_card(folder: Path, card: Card) -> None:
    """Write `card` into `folder`."""
    import yaml  # cards are read far more often

    entries = card.model_dump(mode="json", exclude_none=True)
    (folder / CARD_NAME).write_text(yaml.safe_dump(entries, sort_keys=False, allow_unicode=True), encoding="utf-8")


def file_in(folder: Path, entry: File) -> Path:
    """Path of a file that a card names, checked to lie in the folder and to have the stated sha256.

    Raises
    ------
    ModelError
        When it lies elsewhere, is missing, or is another file.
    """
    path = (folder / entry.source).resolve()
    if Path(entry.source).is_absolute() or not path.is_relative_to(folder.resolve()):
        raise ModelError(f"the card of {folder.name} names a file outside its folder ({entry.source}), which is refused")
    if not path.is_file():
        raise ModelError(f"{folder.name} lacks the file {entry.source} that its card names")
    if entry.sha256 and sha256_of(path) != entry.sha256:
        raise ModelError(
            f"{folder.name}: {entry.source} is not the file its card describes (sha256 differs); get the model again"
        )
    return path


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_card(
    folder: Path,
    *,
    name: str,
    task: Task,
    inputs: dict[str, np.ndarray],
    outputs: dict[str, np.ndarray],
    description: str = "",
    network: str = "model.onnx",
    version: str = "1",
    authors: list[Any] | None = None,
    license: str = "BSD-3-Clause",
    axes: dict[str, list[Any]] | None = None,
    **emdl: Any,
) -> Card:
    """Describe ``folder/network``: saves the test tensors beside it and writes the card.

    Parameters
    ----------
    folder
        Holds the network.
    name, description, version, authors, license
        As in the bioimage.io model description.
    task
        What it is for.
    inputs, outputs
        Test tensors by graph name: the network gives `outputs` for `inputs`.
    axes
        Axes of tensors by graph name, as in the bioimage.io description; a plain list of sizes when not given.
    emdl
        Further entries of :class:`EmdlConfig`.
    """
    from napari_emdl.models.onnxfile import check_safe

    facts = check_safe(folder / network)

    def tensors(side: str, arrays: dict[str, np.ndarray]) -> list[Tensor]:
        described = []
        for key, array in arrays.items():
            path = folder / f"test_{side}_{key}.npy"
            np.save(path, array)
            entry = File(source=path.name, sha256=sha256_of(path))
            given = (axes or {}).get(key) or _plain_axes(array)
            described.append(Tensor(id=key, axes=given, data={"type": array.dtype.name}, test_tensor=entry))
        return described

    weights = OnnxWeights(source=network, sha256=sha256_of(folder / network), opset_version=facts.opset.get("", None))
    card = Card(
        name=name,
        version=version,
        description=description or name,
        license=license,
        authors=authors or [{"name": "napari-emdl developers"}],
        inputs=tensors("input", inputs),
        outputs=tensors("output", outputs),
        weights=Weights(onnx=weights),
        config=Config(emdl=EmdlConfig(task=task, **emdl)),
    )
    write_card(folder, card)
    return card


def _plain_axes(array: np.ndarray) -> list[dict[str, Any]]:
    named: list[dict[str, Any]] = [{"type": "batch"}] if array.ndim else []
    return named + [{"type": "index", "id": f"axis{i}", "size": int(n)} for i, n in enumerate(array.shape[1:], 1)]
