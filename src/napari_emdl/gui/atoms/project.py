"""The HRTEM panels of a viewer as a project and back: settings, columns with edits, occupancy, and what the panels showed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_emdl.atoms.find.edits import ColumnEdits
from napari_emdl.base.errors import EmdlError, OpenError
from napari_emdl.base.params import ColumnLimits
from napari_emdl.base.signals import Movie
from napari_emdl.gui.atoms.session import AtomsSession, movie_of
from napari_emdl.gui.kit import notices
from napari_emdl.gui.kit.layerfile import read_layers, write_layers
from napari_emdl.gui.kit.ownlayers import MAX_IMAGE_BYTES, MAX_IMAGE_BYTES_KEPT, LayerData, add_own, digest_of, own_layers
from napari_emdl.gui.kit.projects import Keeper
from napari_emdl.gui.kit.session import COLUMNS as COLUMNS_TITLE
from napari_emdl.gui.kit.session import DIFFUSION as DIFFUSION_TITLE
from napari_emdl.gui.kit.session import register, unregister
from napari_emdl.gui.kit.signals import with_project
from napari_emdl.workflow.partial import PartialPeaks
from napari_emdl.workflow.project import AtomsProject, Collected, Part, Project, open_movie, read_project

COLUMNS, DONE, EDITS, OCCUPANCY = "columns.h5", "columns_done.npy", "edits.json", "occupancy.h5"
OWN_LAYERS = "frames.emdl.h5"
#: Panels by the name projects keep them under, and their titles.
TITLES = {"columns": COLUMNS_TITLE, "diffusion": DIFFUSION_TITLE}
#: Columns above this are left to the run's own journal while a session is kept: copying them every few seconds is too slow.
MOST_KEPT = 500_000


def collect(session: AtomsSession, copy_results: bool = True) -> Collected:
    """Everything that is set in the HRTEM panels of a viewer.

    Raises
    ------
    EmdlError
        When there is no movie, or one that could not be opened again.
    """
    data, movie = session.data, session.movie
    if movie is None or session.viewer is None:
        raise EmdlError("open a movie before saving a project")
    sample = dict(movie.metadata.get("sample") or {})
    if not (movie.path or sample):
        raise EmdlError("this movie is not a file; save it first, a project names the file of its movie")
    settings, results = data.settings, data.results
    parts: dict[str, Part] = {}
    if results.candidates.n_done:
        table = results.candidates.filled()
        if copy_results or table.n_peaks <= MOST_KEPT:
            parts |= _column_parts(table, results.candidates.done)
    edits = results.edits.to_json()
    if edits:
        parts[EDITS] = lambda path: path.write_text(json.dumps(edits), encoding="utf-8")
    if results.fitted is not None:
        parts[OCCUPANCY] = _saver(results.fitted)
    layers, left_out = own_layers(
        session.viewer.layers, session.layer, MAX_IMAGE_BYTES if copy_results else MAX_IMAGE_BYTES_KEPT
    )
    if layers:
        parts[OWN_LAYERS] = lambda path: write_layers(str(path), layers)
    section = AtomsProject(
        movie=movie.path,
        open_options=dict(movie.metadata.get("open_options") or {}),
        sample=sample,
        shape=movie.shape,
        pixel_A=movie.pixel_A,
        pixel_source=movie.calibration.source.get("pixel_nm", "file"),
        frame=session.frame,
        columns=settings.columns,
        occupancy=settings.occupancy,
        run=settings.run.model_copy(update={"resume": None}),
        min_score=settings.limits.min_score,
        default_min_score=settings.default_min_score,
        fitted=results.fitted is not None,
        display={**session.shown_later, **{name: panel.display() for name, panel in session.panels.items()}},
    )
    changed = (
        f"{results.candidates.n_done}{id(results.candidates)}{edits}{id(results.fitted)}{digest_of(session.viewer.layers)}"
    )
    return Collected(Project(atoms=section), parts, left_out, changed)


def _column_parts(table: Any, done: Any) -> dict[str, Part]:
    parts: dict[str, Part] = {COLUMNS: _saver(table)}
    if not done.all():
        finished = done.copy()
        parts[DONE] = lambda path: np.save(path, finished)
    return parts


def _saver(result: Any) -> Part:
    from napari_emdl.io import save

    return lambda path: save(result, path)


@dataclass
class Opened:
    """What a project file held of a movie."""

    path: Path
    project: AtomsProject
    movie: Movie
    parts: dict[str, Any]

    def restore(self, session: AtomsSession) -> None:
        """Make the session as it was when the project was saved; its movie is the session's already."""
        project, data = self.project, session.data
        settings = data.settings
        settings.columns, settings.occupancy, settings.run = project.columns, project.occupancy, project.run
        if project.default_min_score is not None:
            settings.default_min_score = project.default_min_score
        settings.limits = ColumnLimits(min_score=project.min_score)
        data.forget()
        if EDITS in self.parts:
            data.results.edits = ColumnEdits.from_json(self.parts[EDITS])
        table = self.parts.get(COLUMNS)
        if table is not None and table.n_positions == data.results.candidates.n_positions:
            data.results.candidates = PartialPeaks.of(table, self.parts.get(DONE))
        session.settings_changed.emit()
        session.columns_changed.emit(range(data.results.candidates.n_positions))
        session.limits_changed.emit()
        fitted = self.parts.get(OCCUPANCY)
        if fitted is not None:
            whole = data.results.candidates.table()
            session.set_fitted(fitted, None if whole is None else data.results.edits.apply(whole))
            session.limits_changed.emit()
        else:
            session.occupancy_changed.emit()
        session.seek(project.frame)
        session.shown_later = {name: shown for name, shown in project.display.items() if name not in session.panels}
        for name, shown in project.display.items():
            if name in session.panels:
                session.panels[name].put_display(shown)
        add_own(session.viewer, self.parts.get(OWN_LAYERS, []))
        session.restored.emit(self.path)


def read_opened(path: str | Path) -> Opened:
    """Read a project file and open its movie.

    Raises
    ------
    EmdlError
        In one line, when the file is damaged, or its movie is missing or another one.
    """
    from napari_emdl.io import load
    from napari_emdl.samples.atoms import blinking_movie

    readers: dict[str, Part] = {
        COLUMNS: load,
        DONE: np.load,
        EDITS: lambda file: json.loads(file.read_text(encoding="utf-8")),
        OCCUPANCY: load,
        OWN_LAYERS: read_layers,
    }
    whole, parts = read_project(path, readers)
    if whole.atoms is None:
        raise OpenError(f"{Path(path).name} holds no movie")
    movie = open_movie(whole.atoms, path, lambda **how: blinking_movie(**how)[0])
    return Opened(Path(path), whole.atoms, movie, parts)


def opened_layers(opened: Opened) -> list[LayerData]:
    """Layers that bring an opened project to the panels."""
    return with_project(opened.movie, opened)


class AtomsWorkspace:
    """The HRTEM panels of a viewer, for :class:`napari_emdl.gui.kit.projects.Keeper`."""

    science = "atoms"

    def __init__(self, session: AtomsSession) -> None:
        self.session = session

    @property
    def named(self) -> Any:
        """What holds the movie's project file."""
        return self.session.data.named

    def collect(self, copy_results: bool = True) -> Collected:
        """See :func:`collect`."""
        return collect(self.session, copy_results)

    def read(self, path: Path) -> Opened:
        """See :func:`read_opened`."""
        return read_opened(path)

    def take(self, opened: Opened) -> None:
        """Be as the project says; its movie is opened unless it is open already."""
        session = self.session
        if session.viewer is None:
            return
        known = self._layer_of(opened.movie)
        if known is not None:
            session.set_layer(known)
            movie = session.movie
            assert movie is not None
            if opened.movie.pixel_A is not None and opened.movie.pixel_A != movie.pixel_A:
                session.set_pixel_A(opened.movie.pixel_A, opened.movie.calibration.source.get("pixel_nm", "file"))
            session.movie_changed.emit()
            opened.restore(session)
            return
        for layer in opened_layers(opened):
            made = session.viewer._add_layer_from_data(*layer)
            session.set_layer(made[0])

    def _layer_of(self, movie: Movie) -> Any:
        """Layer of the same movie, the one that is analysed before others, or None."""
        session = self.session
        for layer in sorted(session.movie_layers(), key=lambda layer: layer is not session.layer):
            there = movie_of(layer)
            if there is not None and there.shape == movie.shape and _same_place(there, movie):
                return layer
        return None

    def suggested(self) -> Path | None:
        """File of the movie."""
        movie = self.session.movie
        return Path(movie.path.partition("::")[0]) if movie is not None and movie.path else None

    def say(self, line: str) -> None:
        """One line in the panels."""
        self.session.message.emit(line)

    def warn(self, line: str) -> None:
        """One line that stays."""
        self.say(line)
        if self.session.viewer is not None and self.session.panels:
            notices.tell(self.session.viewer, line)


def enter(session: AtomsSession, name: str, panel: Any) -> Keeper:
    """A panel of the session is open; gives what keeps the session's projects."""
    session.panels[name] = panel
    register(session.viewer, TITLES[name], panel)
    if session.keeper is None:
        session.keeper = Keeper(session.viewer, AtomsWorkspace(session), session)
        session.restored.connect(session.keeper.took)
    keeper: Keeper = session.keeper
    return keeper


def leave(session: AtomsSession, name: str) -> None:
    """A panel was closed; with the last one the parameters are remembered and there is no session to restore any more."""
    session.panels.pop(name, None)
    if session.viewer is not None:
        unregister(session.viewer, TITLES[name])
    session.data.settings.keep()
    if not session.panels and session.keeper is not None:
        session.keeper.close()
        session.keeper = None


def _same_place(a: Movie, b: Movie) -> bool:
    return a.path == b.path and a.metadata.get("sample") == b.metadata.get("sample")
