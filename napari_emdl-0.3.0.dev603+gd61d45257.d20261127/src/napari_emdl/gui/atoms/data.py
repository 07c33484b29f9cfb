"""Settings and results of one HRTEM movie. No Qt and no layers: what a project keeps, and what jobs are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_emdl.atoms.find.edits import ColumnEdits
from napari_emdl.atoms.fit.result import Occupancy
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import ColumnLimits, ColumnParams, OccupancyParams, RunParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Movie
from napari_emdl.base.stages import FindStage, FitStage, Job, OpenStage
from napari_emdl.workflow.partial import PartialPeaks
from napari_emdl.workflow.settings import Presets, Remembered

#: Fields that the next start begins with; contrast, conditions, pixel size, times and thresholds belong to a movie.
REMEMBERED = Remembered(
    "hrtem",
    {
        "columns": ("model", "min_spacing_A"),
        "occupancy": ("method", "evidence", "min_site_fraction", "max_distance_A", "extrapolate"),
        "run": ("device", "batch", "max_memory", "workers", "scheduler"),
    },
)
PRESETS: Presets[ColumnLimits] = Presets("column_thresholds", ColumnLimits)
#: Threshold until a finder has said its own.
FIRST_MIN_SCORE = 0.5


@dataclass
class Settings:
    """What is set.

    Attributes
    ----------
    columns, occupancy, run
        Parameters. The threshold is in none of them: `limits` carries it from the slider to the fit and its provenance.
    limits
        What a column must pass; a `min_score` of None is the finder's own.
    default_min_score
        Threshold the finder recommends.
    """

    columns: ColumnParams = field(default_factory=ColumnParams)
    occupancy: OccupancyParams = field(default_factory=OccupancyParams)
    run: RunParams = field(default_factory=RunParams)
    limits: ColumnLimits = field(default_factory=ColumnLimits)
    default_min_score: float = FIRST_MIN_SCORE

    @property
    def min_score(self) -> float:
        """Threshold that counts."""
        return self.default_min_score if self.limits.min_score is None else self.limits.min_score

    def begin(self) -> None:
        """Take the parameters of the last start."""
        known, _ = REMEMBERED.begin(self._sections())
        self.columns, self.occupancy, self.run = known["columns"], known["occupancy"], known["run"]

    def keep(self) -> None:
        """Remember the parameters for the next start."""
        REMEMBERED.keep(self._sections())

    def use_defaults(self) -> None:
        """Parameters as they come; what belongs to the movie stays."""
        plain = REMEMBERED.defaults(self._sections())
        self.columns, self.occupancy, self.run = plain["columns"], plain["occupancy"], plain["run"]

    def _sections(self) -> dict[str, ColumnParams | OccupancyParams | RunParams]:
        return {"columns": self.columns, "occupancy": self.occupancy, "run": self.run}


@dataclass
class Results:
    """What was found and fitted.

    Attributes
    ----------
    candidates
        Candidates of the frames found so far.
    edits
        Columns set, moved and taken out by hand.
    fitted, fitted_columns
        Occupancy as it was fitted, and the columns behind it; other thresholds are made of them.
    occupancy
        Occupancy at the threshold that counts.
    """

    candidates: PartialPeaks = field(default_factory=lambda: PartialPeaks((0,)))
    edits: ColumnEdits = field(default_factory=ColumnEdits)
    fitted: Occupancy | None = None
    fitted_columns: PeakTable | None = None
    occupancy: Occupancy | None = None


@dataclass
class Named:
    """Project file of one movie."""

    project_file: Path | None = None


@dataclass(frozen=True)
class Aside:
    """A movie that is open and not shown: its calibration as it was typed, limits, results and project file."""

    movie: Movie | None
    limits: ColumnLimits
    default_min_score: float
    results: Results
    named: Named


class AtomsData:
    """Movie, settings and results."""

    def __init__(self) -> None:
        self.movie: Movie | None = None
        self.settings = Settings()
        self.results = Results()
        self.named = Named()

    def start(self, movie: Movie | None) -> None:
        """Begin with another movie; parameters stay, the threshold goes back to the finder's own."""
        self.movie = movie
        self.settings.limits = ColumnLimits()
        self.named = Named()
        self.forget()

    def put_aside(self) -> Aside:
        """What is to be kept of the movie while another one is shown."""
        return Aside(self.movie, self.settings.limits, self.settings.default_min_score, self.results, self.named)

    def take_back(self, aside: Aside) -> None:
        """Be as :meth:`put_aside` left it; parameters stay."""
        self.movie, self.settings.limits, self.results = aside.movie, aside.limits, aside.results
        self.settings.default_min_score, self.named = aside.default_min_score, aside.named

    def forget(self) -> None:
        """Drop what was found: the settings it came from have changed."""
        self.results = Results(PartialPeaks((self.movie.n_frames if self.movie is not None else 0,)))

    def put(self, start: int, table: PeakTable) -> None:
        """Take in candidates of the frames from `start` on."""
        candidates = self.results.candidates
        if table.n_positions == candidates.n_positions:
            self.results.candidates.attrs = {}
        candidates.put(start, table)
        default = candidates.attrs.get("default_min_score")
        if default is not None:
            self.settings.default_min_score = float(default)

    @property
    def species(self) -> list[str]:
        """Names of the species the finder tells apart."""
        names = self.results.candidates.attrs.get("species")
        return [str(name) for name in names] if names is not None and len(names) else ["column"]

    def counts(self) -> NDArray[np.float64]:
        """(frames,) number of columns shown, NaN for frames that were not run."""
        candidates, edits = self.results.candidates, self.results.edits
        counts = candidates.counts(min_score=self.settings.min_score)
        for frame in edits.edited_frames:
            rows = candidates.rows(frame)
            if rows is not None:
                counts[frame] = len(edits.merge(frame, rows, self.settings.min_score)[0])
        return counts

    def shown(self, frame: int) -> tuple[NDArray[np.void], NDArray[np.int64]] | None:
        """Columns of a frame with edits and threshold, and the key of each; None when it was not run."""
        rows = self.results.candidates.rows(frame)
        return None if rows is None else self.results.edits.merge(frame, rows, self.settings.min_score)

    def columns(self) -> PeakTable | None:
        """Columns of all frames with edits and threshold, None until all frames were run."""
        table = self.results.candidates.table()
        return None if table is None else self.results.edits.apply(table, self.settings.min_score)

    def find_params(self) -> ColumnParams:
        """Parameters to find columns with: a pixel size that was typed or measured goes with them."""
        own = self.movie is not None and self.movie.calibration.source.get("pixel_nm") in ("user", "measured")
        pixel_A = self.movie.pixel_A if self.movie is not None and own else None
        return self.settings.columns.model_copy(update={"pixel_size_A": pixel_A, "min_score": None})

    def fit_params(self, min_score: float | None = None) -> OccupancyParams:
        """Parameters to fit with, the threshold among them."""
        least = self.settings.min_score if min_score is None else min_score
        return self.settings.occupancy.model_copy(update={"min_score": least})

    def job(self, target: Path) -> Job:
        """Job that finds the columns and fits the occupancy as they are set; results lie beside `target`.

        Raises
        ------
        EmdlError
            When the movie is not a file.
        """
        movie = self.movie
        if movie is None or not movie.path:
            raise EmdlError("this movie is not a file: save it first, a job needs a file to read")
        columns = self.find_params()
        if columns.pixel_size_A is None:
            columns = columns.model_copy(update={"pixel_size_A": movie.pixel_A})
        fit = self.settings.occupancy.model_copy(update={"min_score": self.settings.limits.min_score})
        output = str(target.with_suffix(".h5"))
        stages: list[OpenStage | FindStage | FitStage] = [
            OpenStage(path=movie.path, options=dict(movie.metadata.get("open_options") or {}))
        ]
        if movie.n_frames > 1:
            stages += [FindStage(columns=columns), FitStage(occupancy=fit, output=output)]
        else:
            with_limit = columns.model_copy(update={"min_score": self.settings.limits.min_score})
            stages.append(FindStage(columns=with_limit, output=output))
        return Job(stages=tuple(stages), run=self.settings.run.model_copy(update={"resume": None}))
