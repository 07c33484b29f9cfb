"""Which networks a method uses, and what their cards say of them."""

from __future__ import annotations

import contextlib

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import DiskParams, RunParams
from napari_emdl.jobs.executor import available_cores
from napari_emdl.models.ahead import Ahead
from napari_emdl.models.registry import Model, find_model

#: Shipped networks of each method.
PROPOSER, REFINER, GLANCE = "fcunet", "disk_refiner", "disk_glance"


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


def glance_model(params: DiskParams) -> Model | None:
    """Network that looks at candidates before the refiner does.

    None where the user chose the refiner, which may know disks that this one does not, or how many passes it takes.
    """
    _, refiner = chosen_models(params)
    own = refiner is None or refiner.name != REFINER or refiner.source != "shipped"
    return None if own or params.refine_passes else find_model(GLANCE, "disk-refiner")


def device_and_threads(run: RunParams, calls: int) -> tuple[str, int]:
    """Device of a method's networks, and threads of each where `calls` blocks are worked on at the same time."""
    return run.device, max(1, (run.workers or available_cores()) // calls)


def begin_networks(params: DiskParams, run: RunParams, calls: int) -> Ahead:
    """Networks of a method, being opened for a :class:`~napari_emdl.diffraction.find.network.NetworkFinder` made later."""
    ahead = Ahead()
    if params.method != "template":
        with contextlib.suppress(EmdlError):  # the finder says what is wrong
            for model in (*chosen_models(params), glance_model(params)):
                if model is not None:
                    ahead.begin(model, *device_and_threads(run, calls))
    return ahead


def trained_radii(model: Model) -> tuple[float, float]:
    """Least and largest radius of the disks that a network was trained on, in px."""
    ranges = model.card.emdl.ranges
    return ranges.get("radius_px") or ranges.get("probe_radius_px") or (2.2, 16.0)


def default_score(model: Model) -> float:
    """Threshold that a network recommends."""
    score = model.card.emdl.default_min_score
    return float(score) if isinstance(score, (int, float)) else 0.5
