"""What the atom panels of one viewer share: the movie's settings and results, and the signals that tell of changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary, ref

import numpy as np
from napari.layers import Image
from numpy.typing import NDArray
from qtpy.QtCore import QObject
from qtpy.QtCore import Signal as QtSignal

from napari_emdl.atoms.find.edits import ColumnEdits
from napari_emdl.base.params import ColumnLimits
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Calibration, Datacube, Kind, Movie
from napari_emdl.gui.atoms.data import Aside, AtomsData
from napari_emdl.gui.kit import units
from napari_emdl.gui.kit.session import (
    COLUMNS,
    DIFFUSION,
    WORKSPACE,
    bare,
    bring_forward,
    fit_view,
    role_of,
    signal_of,
    tag_of,
    when_idle,
)
from napari_emdl.workflow.partial import PartialPeaks

#: what the panel says of where a pixel size comes from
SAID = {
    "file": "from the file", "user": "typed by you", "measured": "measured in the FFT",
    "guess": "guessed, may be off by half or more",
}  # fmt: skip


class AtomsSession(QObject):
    """State shared by the panels of a viewer; panels change it through its methods and follow its signals.

    Signals
    -------
    movie_changed, frame_changed, columns_changed, limits_changed, occupancy_changed
        Another movie; another frame; candidates of a range of frames (None: all are gone); the limits or the finder's own
        threshold; the occupancy that is shown.
    pixel_changed
        The movie has another pixel size.
    settings_changed
        Parameters were replaced from outside (project, job, defaults): forms are to show them.
    message
        One line for the status of the panels.
    restored
        The session is as the project at this path says.
    """

    movie_changed = QtSignal()
    frame_changed = QtSignal(int)
    columns_changed = QtSignal(object)
    limits_changed = QtSignal()
    settings_changed = QtSignal()
    occupancy_changed = QtSignal()
    pixel_changed = QtSignal()
    message = QtSignal(str)
    restored = QtSignal(object)

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._viewer = ref(viewer)
        self.layer: Any = None
        self.data = AtomsData()
        self.data.settings.begin()
        self.panels: dict[str, Any] = {}
        self.shown_later: dict[str, dict[str, Any]] = {}  # what a project says of panels that are not open yet
        self.keeper: Any = None
        self.history: Any = None
        self._frame = 0
        self._aside: WeakKeyDictionary[Any, Aside] = WeakKeyDictionary()
        viewer.layers.events.inserted.connect(self._make_way, position="first")
        viewer.layers.events.inserted.connect(self._on_inserted)
        viewer.dims.events.point.connect(self._on_dims)
        viewer.layers.events.removed.connect(self._on_removed)

    # what is set and found, in one place: :class:`~napari_emdl.gui.atoms.data.AtomsData`

    @property
    def movie(self) -> Movie | None:
        """Movie that is analysed."""
        return self.data.movie

    @property
    def candidates(self) -> PartialPeaks:
        """Candidates by frame."""
        return self.data.results.candidates

    @property
    def edits(self) -> ColumnEdits:
        """Changes by hand."""
        return self.data.results.edits

    @property
    def min_score(self) -> float:
        """Threshold that counts."""
        return self.data.settings.min_score

    @property
    def occupancy(self) -> Any:
        """Occupancy at that threshold, None until there is one."""
        return self.data.results.occupancy

    @property
    def species(self) -> list[str]:
        """Names of the species the finder tells apart."""
        return self.data.species

    @property
    def viewer(self) -> Any:
        """The viewer; the session does not keep it alive."""
        return self._viewer()

    @property
    def frame(self) -> int:
        """Frame now shown."""
        return self._frame

    def movie_layers(self) -> list[Any]:
        """Image layers that can be analysed, opened by us or by napari."""
        return [layer for layer in self.viewer.layers if movie_of(layer) is not None]

    def set_layer(self, layer: Any) -> None:
        """Analyse the movie of another layer; None analyses nothing. What was found in the movie before is kept with it."""
        if layer is self.layer:
            return
        if layer is not None:
            units.make_way(self.viewer, layer)  # before results are shown, which have its units
        before, self.layer = self.layer, layer
        if before is not None:
            self._aside[before] = self.data.put_aside()
        aside = self._aside.pop(layer, None) if layer is not None else None
        if aside is not None:
            self.data.take_back(aside)
        else:
            self.data.start(None if layer is None else movie_of(layer))
        self._frame = self._frame_of_dims()
        self.movie_changed.emit()
        self.limits_changed.emit()
        if aside is not None:
            self.columns_changed.emit(range(self.candidates.n_positions))
        self.occupancy_changed.emit()
        self._take_results(tag_of(layer) if layer is not None else {})
        self._bring_up(layer, before)

    def _bring_up(self, layer: Any, before: Any) -> None:
        """Show the movie that is analysed, and not the one before; the view fits."""
        if layer is None or before is None:
            return
        if before in self.viewer.layers:
            before.visible = False
        if not any(tag_of(other).get("role") == "mean" and other.visible for other in self.viewer.layers):
            layer.visible = True
        units.settle(self.viewer)
        self.viewer.layers.selection.active = layer
        fit_view(self.viewer)

    def _make_way(self, event: Any) -> None:
        """Before napari shows it."""
        if signal_of(event.value) is not None:
            units.make_way(self.viewer, event.value)

    def _on_inserted(self, event: Any) -> None:
        """A movie that is opened is the one to be analysed."""
        if isinstance(signal_of(event.value), Movie):
            layer = event.value
            when_idle(lambda: self._follow(layer))  # napari is still placing it

    def _follow(self, layer: Any) -> None:
        if self.viewer is not None and self.panels and layer in self.viewer.layers:
            self.set_layer(layer)
            single = self.movie is not None and self.movie.n_frames == 1
            for other in (WORKSPACE, DIFFUSION) if single else (WORKSPACE,):  # an image has no occupancy
                bring_forward(self.viewer, COLUMNS, instead_of=other)

    def _take_results(self, found: dict[str, Any]) -> None:
        """Results that were opened from a file together with the movie, or a whole project."""
        project = found.pop("project", None)
        if project is not None:
            project.restore(self)
            return
        columns, occupancy = found.pop("columns", None), found.pop("occupancy", None)
        if columns is not None:
            self.put_columns(0, columns)
        if occupancy is not None:
            self.set_fitted(occupancy, self.candidates.table())
            self.set_limits(ColumnLimits(min_score=occupancy.attrs.get("min_score")))

    def set_pixel_A(self, pixel_A: float, source: str) -> None:
        """Override the pixel size of the movie."""
        if self.movie is not None:
            pixel_nm = (pixel_A / 10, pixel_A / 10)
            self.data.movie = replace(self.movie, calibration=self.movie.calibration.override(source, pixel_nm=pixel_nm))
            old = tuple(self.layer.scale[-2:])
            mine = [other for other in self.viewer.layers if not _of_a_scan(other)]
            for layer in [other for other in mine if tuple(other.scale[-2:]) == old]:
                layer.scale = (*layer.scale[:-2], *pixel_nm)
                units.forget(layer)
                layer.units = (*layer.units[:-2], "nm", "nm")
            units.settle(self.viewer)
            fit_view(self.viewer)
            self.pixel_changed.emit()

    def use_pixel_A(self, pixel_A: float, source: str) -> None:
        """Override the pixel size and find the columns anew."""
        self.set_pixel_A(pixel_A, source)
        self.forget_columns()
        self.frame_changed.emit(self.frame)

    def pixel_text(self) -> str:
        """Where the pixel size comes from, and the field of view; nothing when it is unknown."""
        calibration = self.movie.calibration if self.movie is not None else Calibration()
        if self.movie is None or calibration.pixel_nm is None:
            return ""
        source = calibration.source.get("pixel_nm", "file")
        said = SAID.get(source, source)
        sides = [f"{n * p:.3g}" for n, p in zip(self.movie.frame_shape, calibration.pixel_nm, strict=True)]
        return f"{said}; field of view {' x '.join(sides)} nm"

    def forget_columns(self) -> None:
        """Drop candidates, edits and what was made of them: the settings they came from have changed."""
        self.data.forget()
        self.columns_changed.emit(None)
        self.occupancy_changed.emit()

    def put_columns(self, start: int, table: PeakTable, found_for: PartialPeaks | None = None) -> None:
        """Take in candidates of frames from `start` on; nothing when they were `found_for` candidates that are gone."""
        if found_for is not None and found_for is not self.candidates:
            return
        before = self.min_score
        self.data.put(start, table)
        self.columns_changed.emit(range(start, start + table.n_positions))
        if self.min_score != before:
            self.limits_changed.emit()

    def edited(self, frame: int | None) -> None:
        """Tell that hand edits changed in a frame."""
        if frame is not None:
            self.columns_changed.emit(range(frame, frame + 1))

    def set_limits(self, limits: ColumnLimits) -> None:
        """Other limits, a view of what is there; a `min_score` of None is the finder's own."""
        if limits != self.data.settings.limits:
            self.data.settings.limits = limits
            self.limits_changed.emit()

    def set_fitted(self, fitted: Any, columns: PeakTable | None) -> None:
        """Occupancy as it was fitted, with the columns it was fitted to."""
        results = self.data.results
        results.fitted, results.fitted_columns, results.occupancy = fitted, columns, fitted
        self.occupancy_changed.emit()

    def set_occupancy(self, occupancy: Any) -> None:
        """The fitted occupancy at another threshold."""
        if occupancy is not self.occupancy:
            self.data.results.occupancy = occupancy
            self.occupancy_changed.emit()

    def seek(self, frame: int) -> None:
        """Go to a frame."""
        if self.layer is None or self.movie is None or self.movie.kind == "image":
            return
        frame = int(np.clip(frame, 0, self.movie.n_frames - 1))
        axis = self._time_axis()
        world = frame * float(self.layer.scale[0]) + float(self.layer.translate[0])
        self.viewer.dims.set_point(axis, world)

    def _time_axis(self) -> int:
        return int(self.viewer.dims.ndim - self.layer.ndim)

    def _frame_of_dims(self) -> int:
        if self.layer is None or self.movie is None or self.movie.kind == "image":
            return 0
        point = self.viewer.dims.point[self._time_axis()]
        frame = (point - float(self.layer.translate[0])) / float(self.layer.scale[0])
        return int(np.clip(round(frame), 0, self.movie.n_frames - 1))

    def _on_dims(self, event: Any = None) -> None:
        if self.layer is not None and self.layer not in self.viewer.layers:
            return  # its going changes the axes, before the list of layers has heard of it: nothing may be added now
        frame = self._frame_of_dims()
        if frame != self._frame:
            self._frame = frame
            self.frame_changed.emit(frame)

    def _on_removed(self, event: Any) -> None:
        if event.value is self.layer:
            self.set_layer(None)


def _of_a_scan(layer: Any) -> bool:
    """True for the maps of a datacube and the cross-hair on them: a movie's pixel size is not theirs."""
    return isinstance(signal_of(layer), Datacube) or role_of(layer) == "crosshair"


_sessions: WeakKeyDictionary[Any, AtomsSession] = WeakKeyDictionary()


def session_of(viewer: Any) -> AtomsSession:
    """The session of a viewer, made when first asked for."""
    viewer = bare(viewer)
    found = _sessions.get(viewer)
    if found is None:
        found = _sessions[viewer] = AtomsSession(viewer)
    return found


def movie_of(layer: Any) -> Movie | None:
    """Movie behind an image layer: the opened file, or what napari itself holds; None for anything else."""
    signal = signal_of(layer)
    if signal is not None:
        return signal if isinstance(signal, Movie) else None
    kinds: dict[int, Kind] = {2: "image", 3: "movie"}
    if not isinstance(layer, Image) or layer.multiscale or layer.rgb or layer.ndim not in kinds or tag_of(layer):
        return None
    names = [str(unit) for unit in layer.units[-2:]]
    per_unit = {"nanometer": 1.0, "angstrom": 0.1, "micrometer": 1e3}
    known = all(unit in per_unit for unit in names)
    row_nm, col_nm = (float(s) * per_unit.get(u, 1.0) for s, u in zip(layer.scale[-2:], names, strict=True))
    calibration = Calibration(pixel_nm=(row_nm, col_nm) if known else None, source={"pixel_nm": "file"} if known else {})
    return Movie(_Read(layer.data), kinds[layer.ndim], calibration, str(layer.source.path or ""), layer.name)


class _Read:
    """Array of a foreign layer (numpy, dask, zarr); indexing reads just that part."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self.shape = tuple(int(n) for n in data.shape)
        self.dtype = np.dtype(data.dtype)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        return np.asarray(self._data[index])
