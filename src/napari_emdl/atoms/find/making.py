"""The finder that a movie asks for: which model, how many frames, bright or dark, and from which score on."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.atoms.find.contrast import (
    Decision,
    choose_contrast,
    contrast_choice,
    contrast_frames,
    decide_contrast,
)
from napari_emdl.atoms.find.finders import ColumnFinder
from napari_emdl.atoms.find.frames import Frames
from napari_emdl.atoms.find.log import LogFinder
from napari_emdl.atoms.find.moviefacts import pixel_size_A
from napari_emdl.atoms.find.neighbours import NeighbourReader, counts_for
from napari_emdl.atoms.find.order import LITTLE_ORDER, order_of
from napari_emdl.atoms.find.refusing import NOTHING_PASSES, few_and_faint, refuse_few, refused
from napari_emdl.atoms.find.second import confirmed, second_opinion
from napari_emdl.atoms.find.tiles import spread
from napari_emdl.base.caveats import Caveats
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import ColumnParams, RunParams
from napari_emdl.base.signals import Movie
from napari_emdl.jobs.control import Control

if TYPE_CHECKING:
    from napari_emdl.atoms.find.network import NetworkColumnFinder

#: of images at least so large (side, A) the less likely contrast is tried on parts of the second side
PARTS_FROM_A, PART_A = 250.0, 64.0
#: frames that a network may look at, the expected F1 at which single frames are enough, and below which the user is told
MOST_FRAMES, ENOUGH_F1, FAINT_F1 = 9, 0.97, 0.75


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
        finder = _network_finder(model, movie, params, pixel, run or RunParams(), control)
        return (
            finder
            if params.model
            else confirmed(
                finder,
                model,
                movie,
                params,
                lambda m, told: _network_finder(m, movie, told, pixel, run or RunParams(), control),
            )
        )
    decided = choose_contrast(movie, params, control) if params.contrast == "auto" else None
    finder = LogFinder(pixel, decided.contrast if decided else params.contrast, params.min_spacing_A)
    finder.caveats = Caveats([note])
    if decided is not None:
        finder.contrast_confidence, finder.contrast_evidence = decided.confidence, decided.evidence
        finder.caveats += _unsure(decided)
    return finder


def _unsure(decided: Decision) -> Caveats:
    """A line where the contrast is not sure."""
    if decided.sure:
        return Caveats()
    line = f"the contrast is unsure: {decided.contrast} was taken ({decided.confidence:.0%} sure); choose it if you know it"
    return Caveats([line])


def _model_for(movie: Movie, params: ColumnParams) -> tuple[Any, str]:
    """The model asked for, or the shipped one for so many foci; None is LoG, with what to tell the user."""
    if params.model == "log":
        return None, ""
    from napari_emdl.models.registry import find_model, shipped_models

    if params.model:
        return find_model(params.model, "columns"), ""
    fitting = shipped_models(
        "columns", lambda card: int(_facts(card).get("images", 1)) == movie.n_foci and not second_opinion(card)
    )
    if fitting:
        return next((m for m in fitting if m.name == "columns"), fitting[0]), ""
    if movie.n_foci > 1:
        raise EmdlError(f"no installed network takes a focal series of {movie.n_foci} images: choose a model, or 'log'")
    return None, "no column network is installed: the classical finder (log) was used"


def _facts(card: Any) -> dict[str, Any]:
    return card.emdl.model_extra or {}


def _takes_contrast(model: Any) -> bool:
    """Whether a network has an entry for the contrast among its conditions."""
    return bool(_facts(model.card).get("conditions", {}).get("contrast"))


def _network_finder(
    model: Any, movie: Movie, params: ColumnParams, pixel_A: float, run: RunParams, control: Control | None
) -> ColumnFinder:
    """Network finder; "auto" is decided by the network's own probe, by the contrast network when it has none.

    A network that takes no contrast, such as one for focal series along which it changes, is told none.
    """
    from napari_emdl.atoms.find.network import NetworkColumnFinder
    from napari_emdl.atoms.find.prepared import Preparation
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
            pooled=movie.kind == "image",  # in a movie a site may be empty in one frame and full in the next
            preparation=preparation,
        )  # fmt: skip

    preparation: Preparation | None = None
    told_nothing = finder_for("unknown")
    preparation = told_nothing.preparation
    most = _most_neighbours(told_nothing, movie, params)
    sample = _Sample(movie, pixel_A, most)
    contrast: str = params.contrast
    decided: Decision | None = None
    if contrast == "auto":
        contrast = "unknown"
        if _takes_contrast(model):
            if "contrast" in session.outputs:
                asked = finder_for("unknown", most) if any(most) else told_nothing
                decided = decide_contrast(asked, sample.frames(most), control)
            else:
                decided = choose_contrast(movie, params, control)
            contrast = decided.contrast

    def settled(sign: str, seen: _Sample = sample) -> NetworkColumnFinder:
        several = finder_for(sign, most) if any(most) else None
        return _settled(finder_for(sign), several, seen, params, control) if told_nothing.neighbours else finder_for(sign)

    finder = settled(contrast)
    if decided is None:
        if told_nothing.neighbours:
            refuse_few(finder)
        return finder
    finder.contrast_confidence, finder.contrast_evidence = decided.confidence, decided.evidence
    if not told_nothing.neighbours:
        finder.caveats += _unsure(decided)
    elif not decided.sure:
        parts = sample.parts()
        other = settled("dark" if contrast == "bright" else "bright", parts)
        other.passing *= parts.times
        finder = _of_two(finder, other)
        finder.contrast_evidence = decided.evidence
    elif finder.passing < 0.5 or refuse_few(finder):
        finder.contrast_confidence = 0.5  # where there are no columns, they are neither bright nor dark
    return finder


def _of_two(taken: NetworkColumnFinder, other: NetworkColumnFinder) -> NetworkColumnFinder:
    """The likelier of two readings of an image, bright and dark, with a note that offers the other; the other one where nothing
    passes in the first."""
    confidence = taken.contrast_confidence or 0.5
    for one, two in ((taken, other), (other, taken)):
        if one.passing >= 0.5 and two.default_min_score >= NOTHING_PASSES and not _repeats(one):
            line = (
                f"no columns: the {one.passing:.0f} {one.contrast} spots above threshold {one.default_min_score:.2f} do not "
                f"repeat, nor do the {two.contrast} ones; if they are columns, set this threshold"
            )
            one.caveats += Caveats([line])
            one.default_min_score, one.passing = NOTHING_PASSES, 0.0
    if taken.passing < 0.5 <= other.passing:
        taken, other, confidence = other, taken, 0.5
    if taken.passing < 0.5 or refuse_few(taken, other):
        confidence = 0.5
    else:
        taken.readings = {finder.contrast: finder.passing for finder in (taken, other)}
        line = (
            f"the contrast is unsure: {taken.contrast} was taken ({confidence:.0%} sure), which gives {taken.passing:.0f} "
            f"columns a frame; {other.contrast} gives {other.passing:.0f}; choose it (`contrast='{other.contrast}'`) if "
            "that is right"
        )
        taken.caveats += Caveats([line])
    taken.contrast_confidence = confidence
    return taken


def _repeats(finder: NetworkColumnFinder) -> bool:
    """Whether the spots that pass, even a few, show any order."""
    return bool(order_of(finder.sampled_spots, finder.default_min_score).value >= LITTLE_ORDER)


def _most_neighbours(finder: NetworkColumnFinder, movie: Movie, params: ColumnParams) -> tuple[int, int]:
    """Near and far neighbours that a frame of the movie may have at most."""
    if not finder.neighbours or movie.n_foci > 1 or movie.kind == "image" or params.frames == "1":
        return 0, 0
    asked = MOST_FRAMES if params.frames == "auto" else int(params.frames)
    return counts_for(asked, movie.n_frames)


class _Sample:
    """A few frames of a movie, read once, from which contrast, threshold and number of frames are chosen.

    Attributes
    ----------
    times
        How many of its images fit into a frame.
    """

    times = 1.0

    def __init__(self, movie: Movie, pixel_A: float, most: tuple[int, int]) -> None:
        self.movie, self.pixel_A, self.most = movie, pixel_A, most
        self._kept: dict[tuple[int, int], NDArray[Any]] = {}

    def frames(self, counts: tuple[int, int]) -> NDArray[Any]:
        """The frames, with the means of their neighbours where there are any."""
        if counts not in self._kept:
            if not any(counts):
                self._kept[counts] = contrast_frames(self.movie)
            else:
                reader = NeighbourReader(Frames(self.movie).read, self.movie.n_frames, counts, self.pixel_A)
                self._kept[counts] = np.concatenate([reader.read(t, t + 1) for t in contrast_choice(self.movie)])
        return self._kept[counts]

    def parts(self) -> _Sample:
        """Parts spread over an image so large that searching it twice would take long; else this sample."""
        shape = self.movie.frame_shape
        if self.movie.kind != "image" or min(shape) * self.pixel_A < PARTS_FROM_A:
            return self
        side = round(PART_A / self.pixel_A)
        image = self.frames((0, 0))[0]
        starts = itertools.product(*(spread(n, side, 1) for n in shape))
        made = _Sample(self.movie, self.pixel_A, self.most)
        made._kept[0, 0] = np.stack([image[row : row + side, col : col + side] for row, col in starts])
        made.times = float(np.prod(shape)) / side**2
        return made


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
    if not refused(finder, sample.frames(finder.counts)) and f1 < FAINT_F1 and not few_and_faint(finder):
        finder.caveats += Caveats([_faint_note(f1, finder, sample.movie)])
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
