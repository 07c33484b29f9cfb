"""Accept a user's network: a described folder or zip as it is, a bare .onnx after a card was written for it."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from napari_emdl.base.errors import ModelError
from napari_emdl.models.card import (
    Card,
    Config,
    EmdlConfig,
    OnnxWeights,
    Task,
    Tensor,
    Weights,
    make_card,
    sha256_of,
    write_card,
)
from napari_emdl.models.heatmap import BACKGROUND, Heatmap
from napari_emdl.models.heatmaptrial import try_heatmap
from napari_emdl.models.onnxfile import check_safe
from napari_emdl.models.registry import Model, find_model, install, load_model
from napari_emdl.models.session import Session

#: Inputs and outputs by which our own networks are known; any other network is tried as image -> heat map.
CONTRACTS: dict[Task, tuple[set[str], set[str]]] = {
    "columns": ({"image", "conditions"}, {"candidates", "logit"}),
    "disk-proposer": ({"pattern", "probe_re", "probe_im"}, {"candidates"}),
    "disk-refiner": ({"pattern", "pattern_index", "position_px", "radius_px"}, {"measured"}),
    "disk-scale": ({f"level{k}" for k in range(5)}, {"probability", "crystal"}),
    "contrast": ({"view", "spectrum"}, {"logits"}),
}
#: Size given to free axes of a bare network when it is tried out.
_TRIAL_SIZE = {"columns": 128, "disk-proposer": 256, "disk-refiner": 64}


def add_model(
    path: str | Path, *, name: str | None = None, task: Task | None = None, replace: bool = False, **emdl: Any
) -> Model:
    """Add a model to the user's folder.

    Parameters
    ----------
    path
        Model folder or zip with a card, or a bare ``.onnx``.
    name
        Name to choose it by; the file's name when None.
    task
        What a bare network is for; needed when it has no card.
    replace
        Overwrite a model of this name.
    emdl
        Further card entries of a bare network (``pixel_A``, ``species``, ``ranges``, ``default_min_score``), and what is
        known of a network that gives heat maps (entries of :class:`~napari_emdl.models.heatmap.Heatmap`).

    Raises
    ------
    ModelError
        When it cannot be used; nothing is added then.
    """
    source = Path(path).expanduser()
    if source.suffix.lower() != ".onnx":
        model = find_model(source)
        _check_task(Session(model, "cpu"))
        return install(model, name or (model.name if source.is_dir() else source.stem), replace)
    if not source.is_file():
        raise ModelError(f"there is no file {source}")
    if task is None:
        raise ModelError(f"{source.name} has no card: say what it is for with `task`: columns, disk-proposer or disk-refiner")
    if task not in _TRIAL_SIZE:
        raise ModelError(f"a network for {task} needs its card; add its folder instead of {source.name}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / (name or source.stem)
        describe_bare(source, folder, task=task, **emdl)
        return install(load_model(folder), name or source.stem, replace)


def describe_bare(source: Path, folder: Path, *, task: Task, **emdl: Any) -> Card:
    """Copy a bare network into `folder`, try it on the CPU, and write a card with the trial as test tensors."""
    facts = check_safe(source)
    folder.mkdir(parents=True)
    shutil.copyfile(source, folder / "model.onnx")
    for location in facts.external_data:
        (folder / location).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.parent / location, folder / location)
    heatmap = {key: emdl.pop(key) for key in tuple(emdl) if key in Heatmap.model_fields and emdl[key] is not None}
    session = Session(_provisional(folder, source, task, emdl), "cpu", check=False)
    # The real inputs and outputs are known only now.
    if not fits_task(session, task):
        if task != "columns":  # heat maps of disks would need the probe, the radius and the scale of each pattern
            wanted = ", ".join(sorted(CONTRACTS[task][0]))
            what = task.replace("-", " ")
            raise ModelError(f"{source.name} is not a {what}: it has inputs {', '.join(session.inputs)}, needs {wanted}")
        emdl["heatmap"] = try_heatmap(source.name, session, heatmap)
        emdl.setdefault("species", [name for name in emdl["heatmap"].channels if name != BACKGROUND])
    feeds = {item.name: _trial(item, _TRIAL_SIZE[task]) for item in session.inputs.values()}
    outputs = session.trial(feeds)
    if not all(np.all(np.isfinite(value)) for value in outputs.values()):
        raise ModelError(f"{source.name} gives values that are not finite; it cannot be used")
    return make_card(folder, name=folder.name, task=task, inputs=feeds, outputs=outputs, authors=[{"name": "unknown"}], **emdl)


def fits_task(session: Session, task: Task) -> bool:
    """Whether a network has the inputs and outputs of our own contract for a task."""
    inputs, outputs = CONTRACTS[task]
    return inputs <= set(session.inputs) and outputs <= set(session.outputs)


def _check_task(session: Session) -> None:
    """Refuse a described network that cannot do what its card says it is for."""
    emdl = session.model.card.emdl
    if emdl.heatmap is None and not fits_task(session, emdl.task):
        inputs, outputs = (", ".join(sorted(names)) for names in CONTRACTS[emdl.task])
        raise ModelError(
            f"{session.model.name} has inputs {', '.join(session.inputs)} and outputs {', '.join(session.outputs)}; "
            f"{emdl.task} needs inputs {inputs} and outputs {outputs}, or an entry heatmap in its card"
        )


def _provisional(folder: Path, source: Path, task: Task, emdl: dict[str, Any]) -> Model:
    """Card that names whatever inputs and outputs the network has, so that a session can open it."""
    from napari_emdl.models.devices import ort, quiet_ort

    network = folder / "model.onnx"
    try:
        with quiet_ort():
            opened = ort().InferenceSession(str(network), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"{source.name}: the network cannot be loaded ({_why(str(error))})") from error
    try:
        config = EmdlConfig(task=task, **emdl)
    except ValueError as error:
        raise ModelError(f"bad card entry: {'; '.join(line.strip() for line in str(error).splitlines()[1:3])}") from None
    card = Card(
        name=folder.name,
        inputs=[Tensor(id=item.name) for item in opened.get_inputs()],
        outputs=[Tensor(id=item.name) for item in opened.get_outputs()],
        weights=Weights(onnx=OnnxWeights(source="model.onnx", sha256=sha256_of(network))),
        config=Config(emdl=config),
    )
    write_card(folder, card)
    return Model(folder.name, folder, card, "path")


def _why(text: str) -> str:
    """What onnxruntime says, without its own place in its source; what to do where the network is newer than it."""
    for pattern, what in (
        (r"IR version: (\d+), max supported IR version: (\d+)", "IR version"),
        (r"Opset (\d+) .*till opset (\d+)", "opset"),
    ):
        if found := re.search(pattern, text):
            has, reads = found.groups()
            return (
                f"it has {what} {has}, and this onnxruntime reads up to {reads}: export it with opset 17, or update onnxruntime"
            )
    plain = " ".join(text.split())
    return plain.split(" failed:")[-1][:200]


def _trial(item: Any, size: int) -> np.ndarray:
    """Plausible input: first free axis (batch) 1, other free axes `size`."""
    shape = [n if isinstance(n, int) and n > 0 else (1 if axis == 0 else size) for axis, n in enumerate(item.shape)]
    rng = np.random.default_rng(0)
    if "int" in item.type:
        return np.zeros(shape, item.type.removeprefix("tensor(").removesuffix(")"))
    return rng.random(shape).astype(np.float32)
