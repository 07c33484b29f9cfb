"""Atomic columns in images, movies and focal series: one call for the network and for the classical finder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_emdl.atoms.find.flaws import FLAWS, Judged, flaw_note
from napari_emdl.atoms.find.log import LogFinder
from napari_emdl.atoms.find.neighbours import NeighbourReader, counts_for
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import ColumnParams, RunParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Movie
from napari_emdl.io.objects import is_object
from napari_emdl.io.opening import open_movie
from napari_emdl.jobs.blocks import check_frame_fits
from napari_emdl.jobs.control import Control
from napari_emdl.jobs.notebook import with_progress
from napari_emdl.jobs.peakjob import run_peak_job
from napari_emdl.jobs.provenance import fingerprint, input_changed, provenance
from napari_emdl.workflow.parameters import with_overrides
from napari_emdl.workflow.source import caveats_of

if TYPE_CHECKING:
    from napari_emdl.atoms.find.network import NetworkColumnFinder

#: frames, spread over the movie, from which the contrast is chosen; fewer when they are larger than so many pixels together
CONTRAST_FRAMES, CONTRAST_PIXELS = 8, 8 << 20
#: the user is told when the contrast was chosen with less certainty
SURE_CONTRAST = 0.8
#: frames that a network may look at, the expected F1 at which single frames are enough, and below which the user is told
MOST_FRAMES, ENOUGH_F1, FAINT_F1 = 9, 0.97, 0.75


class ColumnFinder(Protocol):
    """Finds columns, and tells the evidence for a column at any point."""

    default_min_score: float
    species: tuple[str, ...]
    contrast: str
    contrast_confidence: float | None
    #: what the user should know of the result
    notes: list[str]

    @property
    def info(self) -> dict[str, Any]:
        """Method, model, model_sha256, provider that really runs, note for the user, contrast."""

    def find(self, frames: NDArray[Any], control: Control | None = None) -> PeakTable:
        """Candidates of frames (n, rows, cols) or (n, foci, rows, cols), all above a low floor."""

    def sample(
        self, frames: NDArray[Any], points_px: NDArray[np.float64], control: Control | None = None
    ) -> NDArray[np.float32]:
        """Logit of "here is a column" at points (n, k, 2); NaN outside the frame."""


def merge_params(params: Any, model: Any, overrides: dict[str, Any]) -> Any:
    """Parameters with keyword overrides; an unknown name or a bad value is one clear line."""
    return with_overrides(model, params, overrides)


def pixel_size_A(movie: Movie, params: ColumnParams) -> float:
    """Pixel size typed by the user, else of the file.

    Raises
    ------
    EmdlError
        When neither is known, or no atoms can be seen with it.
    """
    pixel = params.pixel_size_A or movie.pixel_A
    if pixel is None or not np.isfinite(pixel) or pixel <= 0:
        raise EmdlError(
            'the pixel size is unknown: type it (--pixel-size "0.1 Å") or measure it from a known lattice spacing in the FFT'
        )
    if not _PIXELS_A[0] <= pixel <= _PIXELS_A[1]:
        raise EmdlError(
            f"a pixel of {pixel:.4g} Å shows no atomic columns; check the unit in the file, or type the pixel size "
            '(--pixel-size "0.1 Å")'
        )
    return float(pixel)


#: Pixel sizes (Å) of images with atoms, as in ColumnParams.
_PIXELS_A = (0.001, 10.0)


def make_finder(
    movie: Movie, params: ColumnParams, run: RunParams | None = None, control: Control | None = None
) -> ColumnFinder:
    """Finder for a movie: network or LoG, with the contrast chosen from a few frames when it is "auto".

    Raises
    ------
    EmdlError
        Unknown pixel size, no such model, or a model for another number of foci.
    """
    pixel = pixel_size_A(movie, params)
    model, note = _model_for(movie, params)
    if model is not None:
        return _network_finder(model, movie, params, pixel, run or RunParams(), control)
    contrast, confidence = (params.contrast, None) if params.contrast != "auto" else choose_contrast(movie, params, control)
    finder = LogFinder(pixel, contrast, params.min_spacing_A)
    finder.info["note"], finder.contrast_confidence = note, confidence
    return finder


def _model_for(movie: Movie, params: ColumnParams) -> tuple[Any, str]:
    """The model asked for, or the shipped one for so many foci; None is LoG, with what to tell the user."""
    if params.model == "log":
        return None, ""
    from napari_emdl.models.registry import find_model, list_models

    if params.model:
        return find_model(params.model, "columns"), ""
    shipped = [
        find_model(entry.folder, "columns")
        for entry in list_models("columns")
        if entry.source == "shipped" and not entry.problem
    ]
    fitting = [m for m in shipped if int((m.card.config.emdl.model_extra or {}).get("images", 1)) == movie.n_foci]
    if fitting:
        return next((m for m in fitting if m.name == "columns"), fitting[0]), ""
    if movie.n_foci > 1:
        raise EmdlError(f"no installed network takes a focal series of {movie.n_foci} images: choose a model, or 'log'")
    return None, "no column network is installed: the classical finder (log) was used"


def _takes_contrast(model: Any) -> bool:
    """Whether a network has an entry for the contrast among its conditions."""
    layout = (model.card.config.emdl.model_extra or {}).get("conditions", {})
    return bool(layout.get("contrast"))


def _network_finder(
    model: Any, movie: Movie, params: ColumnParams, pixel_A: float, run: RunParams, control: Control | None
) -> ColumnFinder:
    """Network finder; "auto" is decided by the network's own probe, by the spots when it has none.

    A network that takes no contrast, such as one for focal series along which it changes, is told none.
    """
    from napari_emdl.atoms.find.network import NetworkColumnFinder
    from napari_emdl.models.session import Session

    session = Session(model, run.device, run.workers)
    if model.card.emdl.heatmap is not None:
        from napari_emdl.atoms.find.heatmap import HeatmapColumnFinder

        return HeatmapColumnFinder(model, pixel_A, params.contrast, params.min_spacing_A, session)
    known = {
        "energy_keV": params.energy_keV or movie.calibration.energy_keV,
        "Cs_A": None if params.cs_um is None else params.cs_um * 1e4,
        "C10_A": None if params.defocus_nm is None else params.defocus_nm * 10,
    }

    def finder_for(sign: str, counts: tuple[int, int] = (0, 0)) -> NetworkColumnFinder:
        return NetworkColumnFinder(
            model, pixel_A, sign, known, params.min_spacing_A, batch=run.batch, session=session,
            reverse_foci=(movie.calibration.defocus_step_A or 0.0) < 0, mode=params.mode, counts=counts,
        )  # fmt: skip

    told_nothing = finder_for("unknown")
    most = _most_neighbours(told_nothing, movie, params)
    sample = _Sample(movie, pixel_A, most)
    contrast: str = params.contrast
    confidence: float | None = None
    if contrast == "auto":
        if not _takes_contrast(model):
            contrast = "unknown"
        elif "contrast" in session.outputs:
            asked = finder_for("unknown", most) if any(most) else told_nothing
            p_bright = asked.bright_probability(sample.frames(most), control)
            contrast, confidence = ("bright", p_bright) if p_bright >= 0.5 else ("dark", 1 - p_bright)
        else:
            contrast, confidence = choose_contrast(movie, params, control)
    finder = finder_for(contrast)
    if told_nothing.neighbours:
        finder = _settled(finder, finder_for(contrast, most) if any(most) else None, sample, params, control)
        if confidence is not None and finder.passing < 0.5:
            confidence = 0.5  # where there are no columns, they are neither bright nor dark
    finder.contrast_confidence = confidence
    if confidence is not None and confidence < SURE_CONTRAST:
        finder.notes.append(f"the contrast is unsure: {contrast} was taken ({confidence:.0%} sure); choose it if you know it")
    return finder


def _most_neighbours(finder: NetworkColumnFinder, movie: Movie, params: ColumnParams) -> tuple[int, int]:
    """Near and far neighbours that a frame of the movie may have at most."""
    if not finder.neighbours or movie.n_foci > 1 or movie.kind == "image" or params.frames == "1":
        return 0, 0
    asked = MOST_FRAMES if params.frames == "auto" else int(params.frames)
    return counts_for(asked, movie.n_frames)


class _Sample:
    """A few frames of a movie, read once, from which contrast, threshold and number of frames are chosen."""

    def __init__(self, movie: Movie, pixel_A: float, most: tuple[int, int]) -> None:
        self.movie, self.pixel_A = movie, pixel_A
        self._kept: dict[tuple[int, int], NDArray[Any]] = {}

    def frames(self, counts: tuple[int, int]) -> NDArray[Any]:
        """The frames, with the means of their neighbours where there are any."""
        if counts not in self._kept:
            if not any(counts):
                self._kept[counts] = contrast_frames(self.movie)
            else:
                reader = NeighbourReader(_Frames(self.movie).read, self.movie.n_frames, counts, self.pixel_A)
                self._kept[counts] = np.concatenate([reader.read(t, t + 1) for t in contrast_choice(self.movie)])
        return self._kept[counts]


def _settled(
    single: NetworkColumnFinder, several: NetworkColumnFinder | None, sample: _Sample, params: ColumnParams,
    control: Control | None,
) -> NetworkColumnFinder:  # fmt: skip
    """Finder with the number of frames that the movie needs, and the threshold that its scores ask for."""
    finder, counts = single, (0, 0)
    f1 = single.choose_threshold(sample.frames((0, 0)), control) if several is None or params.frames == "auto" else 0.0
    if several is not None and f1 < ENOUGH_F1:
        finder, counts = several, several.counts
        f1 = several.choose_threshold(sample.frames(counts), control)
    if f1 < FAINT_F1:
        finder.notes.append(_faint_note(f1, finder, sample.movie))
    return finder


def _faint_note(f1: float, finder: NetworkColumnFinder, movie: Movie) -> str:
    """How faint the columns are, and what may help."""
    ways = ["choose the contrast and the mode if you know them"]
    if movie.n_frames > 1 and sum(finder.counts) < min(MOST_FRAMES, movie.n_frames) - 1:
        ways.insert(0, "use more frames")
    if finder.pixel_A < 0.08:
        ways.insert(0, "bin the frames")
    ways.append("denoise or average frames")
    if finder.passing < 0.5:
        return (
            f"no columns: of {finder.expected_columns:.0f} suspected in a frame none is likely "
            f"(best score {finder.best_score:.2f}); if there are columns, {' or '.join(ways)}"
        )
    return (
        f"the columns are faint: about {finder.expected_columns:.0f} a frame are suspected and {finder.passing:.0f} pass, "
        f"expected F1 {f1:.2f} at threshold {finder.default_min_score:.2f}; to see more, {' or '.join(ways)}"
    )


def choose_contrast(movie: Movie, params: ColumnParams, control: Control | None = None) -> tuple[str, float]:
    """Whether columns are bright or dark, from a few frames, and how sure that is (0.5 to 1).

    Columns are compact spots and what lies between them is a net, so the responses of a Laplacian of Gaussian rise higher above
    the noise for the right sign.
    """
    frames = contrast_frames(movie)
    if frames.ndim == 4:
        frames = frames[:, frames.shape[1] // 2]
    evidence = {}
    for sign in ("bright", "dark"):
        logit = LogFinder(pixel_size_A(movie, params), sign, params.min_spacing_A).find(frames, control).column("logit")
        evidence[sign] = float(np.sum(np.maximum(0.0, logit)))
    best = max(evidence, key=lambda sign: evidence[sign])
    total = sum(evidence.values())
    return best, evidence[best] / total if total > 0 else 0.5


def contrast_choice(movie: Movie) -> list[int]:
    """Indices of the frames from which the contrast is chosen."""
    return frame_choice(movie, max(1, min(CONTRAST_FRAMES, CONTRAST_PIXELS // int(np.prod(movie.frame_shape)))))


def contrast_frames(movie: Movie) -> NDArray[Any]:
    """Frames from which the contrast is chosen."""
    return np.stack([np.asarray(movie.frame(t)) for t in contrast_choice(movie)])


def frame_choice(movie: Movie, count: int) -> list[int]:
    """Up to `count` frames spread over the movie."""
    return [int(t) for t in np.unique(np.linspace(0, movie.n_frames - 1, min(count, movie.n_frames)).astype(int))]


def sample_frames(movie: Movie, count: int) -> NDArray[Any]:
    """Up to `count` frames spread over the movie, read."""
    return np.stack([np.asarray(movie.frame(t)) for t in frame_choice(movie, count)])


def check_movie(movie: Movie) -> None:
    """Refuse what has no atomic columns.

    Raises
    ------
    EmdlError
        For datacubes, colour images and movies without frames.
    """
    if not isinstance(movie, Movie):
        raise EmdlError("columns are found in an image, movie or focal series; this is a 4D-STEM datacube or something else")
    if movie.kind != "image" and movie.frame_shape[1] in (3, 4):
        raise EmdlError("this looks like a colour image (the last axis has 3 or 4 entries); convert it to grey first")
    if movie.n_frames < 1 or min(movie.frame_shape) < 8:
        raise EmdlError(f"a movie needs at least one frame of 8 x 8 pixels, got shape {movie.shape}")
    if np.dtype(movie.dtype).kind not in "uifb":
        raise EmdlError(f"frames of type {movie.dtype} are not images; real numbers are needed")


@with_progress("finding columns", "frames")
def find_columns(
    movie: Movie | Any,
    *,
    device: str | None = None,
    contrast: str | None = None,
    params: ColumnParams | None = None,
    run: RunParams | None = None,
    output: str | None = None,
    control: Control | None = None,
    on_block: Any = None,
    **overrides: Any,
) -> PeakTable:
    """Find atomic columns in every frame.

    Parameters
    ----------
    movie
        Image, movie or focal series; or what holds one in memory: an array of numpy or dask (give ``pixel_size_A``), a
        signal of HyperSpy.
    device
        "auto", "cpu" or "cuda"; shorthand for ``run.device``.
    contrast
        "auto", "bright" or "dark"; shorthand for ``params.contrast``.
    params, run
        All settings; keyword overrides win.
    output
        Result file the job checkpoints into, to go on after an interruption.
    control
        Progress and cancel.
    on_block
        Called with (block, table) as frames get done.

    Returns
    -------
    PeakTable
        Shape (frames,) with fields row, col, score, sigma_px, species, intensity and logit. It holds all candidates above a low
        floor; ``attrs["default_min_score"]`` is the default threshold. Further attrs: species, pixel_A, method, model,
        provider, contrast.

    Raises
    ------
    EmdlError
        Unknown pixel size, not a movie, bad options.
    """
    if not isinstance(movie, Movie) and not hasattr(movie, "scan_shape") and is_object(movie):
        movie = open_movie(movie)
    check_movie(movie)
    if contrast is not None:
        overrides["contrast"] = contrast
    settings: ColumnParams = merge_params(params, ColumnParams, overrides)
    running: RunParams = merge_params(run, RunParams, {} if device is None else {"device": device})
    check_frame_fits(movie.shape[-2:], running)
    finder = make_finder(movie, settings, running, control)
    several = frames_used(finder) > 1
    record = provenance(
        {"columns": settings.model_dump(mode="json"), "contrast": finder.contrast, "frames": frames_used(finder)},
        movie,
        {name: finder.info[name] for name in ("model", "model_sha256")},
        finder.info["provider"],
        run=running.model_dump(mode="json"),
    )
    table = run_peak_job(
        shape=(movie.n_frames,),
        read=reader_for(movie, finder, settings).read,
        find=Judged(finder.find, *(() if running.scheduler else (control,)), dtype=movie.dtype if several else None),
        bytes_per_item=int(np.prod(movie.shape[-2:]))
        * (3 if several else movie.n_foci)
        * (np.dtype(movie.dtype).itemsize + 48),
        run=running,
        output=output,
        fingerprint=fingerprint(record),
        control=control,
        on_block=on_block,
        parallel=finder.info["method"] == "log",
    )
    settle_attrs(table, movie, finder, settings)
    if changed := input_changed(record, movie):
        table.attrs["warning"] = _joined(changed, table.attrs["warning"])
        table.attrs["note"] = _joined(changed, table.attrs["note"])
    record["note"] = table.attrs["note"]
    if finder.info.get("sublattices"):
        record["sublattices"] = finder.info["sublattices"]
    table.attrs |= {"provenance": record, "caveats": caveats_of(movie).to_json()}
    table.source = movie
    return table


class _Frames:
    """Reads frames in order as (n, rows, cols) or (n, foci, rows, cols)."""

    def __init__(self, movie: Movie) -> None:
        self.movie, self.data = movie, movie.data

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames `start`:`stop`."""
        return np.asarray(self.data[:, :])[None] if self.movie.kind == "image" else np.asarray(self.data[start:stop])


def finder_attrs(movie: Movie, finder: ColumnFinder, params: ColumnParams) -> dict[str, Any]:
    """What a column table tells of how it was made; enough to make the finder again."""
    return {
        "species": list(finder.species),
        "pixel_A": pixel_size_A(movie, params),
        "frame_shape": list(movie.frame_shape),
        "default_min_score": float(finder.default_min_score),
        "contrast": finder.contrast,
        "contrast_confidence": finder.contrast_confidence,
        "frames": frames_used(finder),
        "params": params.model_dump(),
        **{name: finder.info.get(name, "") for name in ("method", "model", "model_sha256", "provider", "note", "sublattices")},
    }


def reader_for(movie: Movie, finder: ColumnFinder, params: ColumnParams) -> _Frames | NeighbourReader:
    """Reader of frames as the finder takes them: alone, or with the means of their neighbours."""
    frames = _Frames(movie)
    if frames_used(finder) == 1:
        return frames
    counts = counts_for(frames_used(finder), movie.n_frames)
    return NeighbourReader(frames.read, movie.n_frames, counts, pixel_size_A(movie, params))


def find_one(movie: Movie, finder: ColumnFinder, params: ColumnParams, frame: int, control: Control | None = None) -> PeakTable:
    """Candidates of one frame, with what its neighbours add where the finder takes them."""
    find = Judged(finder.find, control, dtype=movie.dtype if frames_used(finder) > 1 else None)
    table = find(reader_for(movie, finder, params).read(frame, frame + 1))
    settle_attrs(table, movie, finder, params)
    return table


def frames_used(finder: ColumnFinder) -> int:
    """Frames that the columns of one frame come from."""
    return 1 + sum(getattr(finder, "counts", ()))


def settle_attrs(table: PeakTable, movie: Movie, finder: ColumnFinder, params: ColumnParams) -> None:
    """Give a table of judged frames its attributes, what is wrong with the frames being part of the note."""
    counts = {name: int(table.attrs.pop(name, 0)) for name in FLAWS}
    table.attrs.update(finder_attrs(movie, finder, params))
    field_A = min(movie.frame_shape) * pixel_size_A(movie, params)
    flaws = flaw_note(counts, table.n_positions, field_A)
    table.attrs["warning"] = _joined(*finder.notes, flaws)
    table.attrs["note"] = _joined(flaws, table.attrs["note"])


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def finder_from_attrs(attrs: dict[str, Any], movie: Movie, run: RunParams | None = None) -> ColumnFinder:
    """The finder that made a column table, so that evidence comes from the same network under the same conditions."""
    params = ColumnParams(**attrs.get("params", {}))
    settled = params.model_copy(
        update={
            "contrast": attrs.get("contrast", params.contrast),
            "pixel_size_A": attrs.get("pixel_A"),
            "frames": str(attrs.get("frames", params.frames)),
        }
    )
    finder = make_finder(movie, settled, run)
    finder.default_min_score = float(attrs.get("default_min_score", finder.default_min_score))
    return finder
