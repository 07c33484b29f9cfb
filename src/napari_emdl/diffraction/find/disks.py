"""Finding Bragg disks in a datacube, by any method, as a job."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_emdl.base.caveats import INPUT, RANGE, Caveats
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import DiskParams, ProbeParams, RunParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Datacube, in_memory
from napari_emdl.diffraction.find.howread import ReadingFinder, reading_of
from napari_emdl.diffraction.find.neighbours import with_support
from napari_emdl.diffraction.find.netmodels import begin_networks
from napari_emdl.diffraction.find.ownprobe import MEASURED
from napari_emdl.diffraction.find.plausible import NO_CRYSTAL
from napari_emdl.diffraction.find.probe import Probe, make_probe
from napari_emdl.diffraction.find.scaleguess import scale_model
from napari_emdl.diffraction.find.template import FIELDS
from napari_emdl.diffraction.find.trained import outside_training
from napari_emdl.io.objects import is_object
from napari_emdl.io.opening import open_datacube
from napari_emdl.jobs.blocks import check_frame_fits
from napari_emdl.jobs.control import Control
from napari_emdl.jobs.executor import available_cores
from napari_emdl.jobs.notebook import with_progress
from napari_emdl.models.ahead import Ahead
from napari_emdl.workflow.finder import Finder, FinderInfo
from napari_emdl.workflow.parameters import with_overrides
from napari_emdl.workflow.source import caveats_of


class NothingFinder:
    """Finds nothing: for data in which no disk could be measured."""

    default_min_score = 0.5
    parallel = True

    def __init__(self, params: DiskParams, reason: str) -> None:
        self.info = FinderInfo(params.method, provider="none", caveats=Caveats([reason], INPUT))

    def find(self, patterns: NDArray[Any], control: Control | None = None) -> PeakTable:
        """Empty table over (n,)."""
        return PeakTable.empty((len(patterns),), FIELDS)


def make_finder(
    params: DiskParams,
    probe: Probe,
    detector_shape: tuple[int, int],
    run: RunParams | None = None,
    calls: int = 1,
    ahead: Ahead | None = None,
) -> Finder:
    """Finder of `params.method`.

    Parameters
    ----------
    probe
        Vacuum probe on the detector's grid.
    detector_shape
        (rows, cols) of the patterns.
    calls
        How often :meth:`Finder.find` is called at the same time.
    ahead
        Where the networks may be open already.
    """
    finder = _make_finder(params, probe, detector_shape, run, calls, ahead)
    return finder if probe.reading is None or probe.reading.as_they_are else ReadingFinder(finder, probe.reading)


def _make_finder(
    params: DiskParams,
    probe: Probe,
    detector_shape: tuple[int, int],
    run: RunParams | None,
    calls: int,
    ahead: Ahead | None,
) -> Finder:
    if probe.trust == 0:
        return NothingFinder(params, probe.note)
    if params.flip_passes:
        from napari_emdl.diffraction.find.flips import FlipFinder

        once = params.model_copy(update={"flip_passes": False})
        return FlipFinder(lambda flipped: _make_finder(once, flipped, detector_shape, run, calls, ahead), probe)
    from napari_emdl.diffraction.find.spots import SpotFinder, is_spot

    # who gives template matching a small probe wants it matched; what the data show as spots are fitted as spots
    as_spots = probe.source == MEASURED if params.method == "template" else params.method != "fcunet-plain"
    small = is_spot(probe) and as_spots and params.model is None
    if small and params.method == "template":
        return SpotFinder(probe, params, detector_shape)
    if params.method == "template":
        from napari_emdl.diffraction.find.template import TemplateFinder

        return TemplateFinder(probe, params, detector_shape)
    from napari_emdl.diffraction.find.network import NetworkFinder

    network = NetworkFinder(probe, params, detector_shape, run or RunParams(), calls, ahead)
    if not small:
        return network
    from napari_emdl.diffraction.find.small import SmallDiskFinder

    return SmallDiskFinder(network, SpotFinder(probe, params, detector_shape))


@with_progress("finding disks", "patterns")
def find_disks(
    cube: Datacube | ArrayLike | Any,
    *,
    probe: Probe | ArrayLike | str | Path | None = None,
    method: str | None = None,
    device: str | None = None,
    params: DiskParams | None = None,
    run: RunParams | None = None,
    output: str | Path | None = None,
    control: Control | None = None,
    on_block: Callable[[Any, PeakTable], None] | None = None,
    **overrides: Any,
) -> PeakTable:
    """Find the Bragg disks of every pattern.

    Parameters
    ----------
    cube
        Datacube; or what holds one in memory: a 4-D array (scan row, scan col, detector row, detector col) of numpy or dask, a
        signal of HyperSpy or pyxem, a DataCube of py4DSTEM.
    probe
        Vacuum probe: a :class:`Probe`, an image, or FILE or ``FILE::DATASET``; None takes what `params.probe` says, else
        measures the data's central disk.
    method, device
        Override `params.method` ("fcunet", "fcunet-plain", "light", "template") and `run.device`.
    output
        Result file the job belongs to; finished blocks are kept in ``<output>.part`` so that the job can be resumed.
    on_block
        Called as ``on_block(block, table)`` when a block is finished.
    overrides
        Fields of :class:`DiskParams`, such as ``min_spacing_px=4``.

    Returns
    -------
    PeakTable
        Over (scan rows, scan cols), fields row, col (px), intensity, score, sigma_px. It holds all candidates above a low
        floor; ``table.filter(min_score=table.attrs["default_min_score"])`` shows those the method stands by.
        By networks, and of spots, scores of disks in doubt are raised where neighbouring positions show them.
    """
    from napari_emdl.jobs.peakjob import run_peak_job
    from napari_emdl.jobs.provenance import fingerprint, input_changed, provenance

    signal = _as_datacube(cube)
    params = _with_overrides(params or DiskParams(), method, probe, overrides)
    run = RunParams.model_validate({**(run or RunParams()).model_dump(), **({"device": device} if device else {})})
    shape = signal.detector_shape
    check_frame_fits(shape, run)
    calls = run.workers or available_cores()
    ahead = begin_networks(params, run, calls)  # while the probe is measured
    made = probe if isinstance(probe, Probe) else make_probe(signal, params.probe, shape, _image_of(probe))
    if made.reading is None:
        made = replace(made, reading=reading_of(signal))
    finder = make_finder(params, made, shape, run, calls, ahead)

    record = provenance(
        {"disks": params.model_dump(mode="json"), "probe": _digest(made.image)},
        signal,
        finder.info.network if finder.info.model else None,
        finder.info.provider,
        run=run.model_dump(mode="json"),
    )
    table = run_peak_job(
        shape=signal.scan_shape,
        read=signal.patterns,
        find=lambda patterns: finder.find(patterns, control),
        bytes_per_item=int(np.prod(shape)) * max(4, signal.dtype.itemsize),
        run=run,
        output=output,
        fingerprint=fingerprint(record),
        control=control,
        on_block=on_block,
        parallel=finder.parallel,
    )
    threshold = params.min_score if params.min_score is not None else finder.default_min_score
    if finder.default_min_score <= 1:  # scores are probabilities
        table = with_support(table, made.radius_px, threshold)
    seen = (_nothing_seen(table, threshold) or _no_crystal_seen(made)) if made.trust > 0 else ""
    of_input = Caveats([input_changed(record, signal)], INPUT) + caveats_of(signal)
    of_finder = finder.info.caveats + Caveats(outside_training(params, signal.calibration), RANGE)
    caveats = of_input + Caveats([seen, made.note]) + of_finder + Caveats(_defects_seen(table.attrs), INPUT)
    record |= {"provider": finder.info.provider, "caveats": caveats.to_json()}
    record["probe"] = {
        "source": made.source,
        "radius_px": round(made.radius_px, 3),
        "edge_width_px": round(made.edge_width_px, 3),
    } | (scale_model() if made.source == MEASURED and made.trust > 0 else {})
    if made.reading is not None and not made.reading.as_they_are:
        record["reading"] = made.reading.facts
    record["n_supported"] = int(table.attrs.get("n_supported", 0))
    table.attrs.update(
        detector_shape=shape,
        probe=made.image,
        probe_radius_px=made.radius_px,
        probe_source=made.source,
        calibration=signal.calibration,
        method=params.method,
        default_min_score=threshold,
        note=str(caveats),
        caveats=caveats.to_json(),
        provenance=record,
    )
    table.source = signal
    return table


def _nothing_seen(table: PeakTable, threshold: float) -> str:
    """One line where no pattern has more than the direct beam; empty else."""
    shown = np.bincount(table.flat_index()[table.column("score") >= threshold], minlength=table.n_positions)
    most = int(shown.max(initial=0))
    if most > 1:
        return ""
    what = "no pattern has a disk beside the direct beam" if most else "no disk was found"
    return f"{what}; if there are some, give a vacuum probe or a probe radius, or lower the least score"


def _no_crystal_seen(probe: Probe) -> str:
    """One line where the scale network was asked and sees no crystal's disks, one by one or in the scan; empty else."""
    if probe.source != MEASURED or probe.paired or not 0 < probe.crystal < NO_CRYSTAL:
        return ""
    return (
        f"as a whole the patterns do not look like a crystal's ({100 * probe.crystal:.0f} % likely): "
        "look whether disks are what is circled, and whether they lie apart"
    )


def _defects_seen(counts: dict[str, Any]) -> list[str]:
    """What the finder counted of bad patterns, a line for each kind."""
    words = {
        "n_raised": "with negative noise (the dark level is over-subtracted), raised by its depth",
        "n_lowered": "with a dark level in the counts, which was taken off",
        "n_cleaned": "with missing or negative values, which were filled in",
        "n_saturated": "with saturated pixels",
        "n_empty": "without any counts",
        "n_ringed": "with places on what looks like a ring about the direct beam (amorphous or fine-grained), left out",
        "n_full": "with more disks than were kept: raise the most disks",
        "n_refused": "with bright places that are no crystal's (all alike, or without lattice and pairs, as on Kikuchi lines), "
        "left out: give a probe radius to have them measured",
    }
    seen = ((int(counts[name]), text) for name, text in words.items() if counts.get(name))
    return [f"{n} pattern{'s' if n > 1 else ''} {text}" for n, text in seen]


def _as_datacube(cube: Datacube | ArrayLike | Any) -> Datacube:
    if isinstance(cube, Datacube):
        return cube
    if hasattr(cube, "kind"):
        raise EmdlError(
            f"disks are found in a datacube, not in a {cube.kind.replace('_', ' ')}; open it with `kind='datacube'`"
        )
    array = cube if is_object(cube) else np.asarray(cube)
    if hasattr(array, "shape") and len(array.shape) != 4:
        raise EmdlError(
            f"a datacube has 4 axes (scan row, scan col, detector row, detector col), the array has shape {tuple(array.shape)}"
        )
    if isinstance(array, np.ndarray):
        wrapped = in_memory(array, "datacube")
        assert isinstance(wrapped, Datacube)
        return wrapped
    return open_datacube(array)


def _digest(image: NDArray[Any]) -> str:
    """A probe measured from other patterns, or another file of the same name, makes another result."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def _image_of(probe: Any) -> Any:
    return None if probe is None or isinstance(probe, str | Path) else probe


def _with_overrides(params: DiskParams, method: str | None, probe: Any, overrides: dict[str, Any]) -> DiskParams:
    changed: dict[str, Any] = dict(overrides)
    if method is not None:
        changed["method"] = method
    if isinstance(probe, str | Path):
        changed["probe"] = ProbeParams(file=str(probe), edge_width_px=params.probe.edge_width_px)
    return with_overrides(DiskParams, params, changed)
