"""Which networks a method uses, and what their cards say of them."""

from __future__ import annotations

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import DiskParams
from napari_emdl.models.registry import Model, find_model

#: Shipped networks of each method.
PROPOSER, REFINER = "fcunet", "disk_refiner"


def chosen_models(params: DiskParams) -> tuple[Model | None, Model | None]:
    """(proposer, refiner) of a method; a model the user names takes the part it is made for."""
    given = find_model(params.model) if params.model else None
    task = given.card.emdl.task if given is not None else None
    needed = {"fcunet": ("disk-proposer", "disk-refiner"), "fcunet-plain": ("disk-proposer",), "light": ("disk-refiner",)}
    if params.method not in needed:
        raise EmdlError(f"the method {params.method!r} uses no network")
    if task is not None and task not in needed[params.method]:
        raise EmdlError(f"model {params.model!r} is for {task}, which the method {params.method!r} does not use")
    made: list[Model | None] = []
    for part, name in (("disk-proposer", PROPOSER), ("disk-refiner", REFINER)):
        if part not in needed[params.method]:
            made.append(None)
        else:
            made.append(given if task == part else find_model(name, part))  # type: ignore[arg-type]
    return made[0], made[1]


def trained_radii(model: Model) -> tuple[float, float]:
    """Least and largest radius of the disks that a network was trained on, in px."""
    ranges = model.card.emdl.ranges
    return ranges.get("radius_px") or ranges.get("probe_radius_px") or (2.2, 16.0)


def default_score(model: Model) -> float:
    """Threshold that a network recommends."""
    score = model.card.emdl.default_min_score
    return float(score) if isinstance(score, (int, float)) else 0.5
