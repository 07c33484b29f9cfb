"""What the atom panels of one viewer share: the movie, candidates by frame, hand edits, threshold, occupancy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary, ref

import numpy as np
from napari.layers import Image
from numpy.typing import NDArray
from qtpy.QtCore import QObject
from qtpy.QtCore import Signal as QtSignal

from napari_emdl.base.params import ColumnParams, RunParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Calibration, Kind, Movie
from napari_emdl.gui.atoms.edits import ColumnEdits
from napari_emdl.gui.kit.session import bare, signal_of, tag_of


class Candidates:
    """Candidates of the frames that were run so far; blocks may come in any order."""

    def __init__(self, n_frames: int) -> None:
        self.n_frames = n_frames
        self.attrs: dict[str, Any] = {}
        self._home: dict[int, tuple[PeakTable, int]] = {}
        self._blocks: list[tuple[int, PeakTable]] = []

    @property
    def done(self) -> int:
        """Number of frames run."""
        return len(self._home)

    def put(self, start: int, table: PeakTable) -> None:
        """Take in the candidates of frames `start`, `start` + 1, ..."""
        self.attrs = {**self.attrs, **table.attrs}
        if table.n_positions == self.n_frames:
            self._blocks.clear()
        self._blocks.append((start, table))
        for index in range(table.n_positions):
            self._home[start + index] = (table, index)

    def rows(self, frame: int) -> NDArray[np.void] | None:
        """Candidates of a frame, None when it was not run."""
        home = self._home.get(frame)
        return None if home is None else home[0].at(home[1])

    def counts(self, min_score: float, edits: ColumnEdits) -> NDArray[np.float64]:
        """(frames,) number of columns shown at a threshold, NaN for frames that were not run."""
        counts = np.full(self.n_frames, np.nan)
        for start, table in self._blocks:
            counts[start : start + table.n_positions] = table.filter(min_score=min_score).counts()
        for frame in edits.edited_frames:
            candidates = self.rows(frame)
            if candidates is not None:
                counts[frame] = len(edits.merge(frame, candidates, min_score)[0])
        return counts

    def table(self) -> PeakTable | None:
        """Table over all frames, None until every frame was run."""
        if self.done < self.n_frames:
            return None
        home = self._home[0][0]
        if home.n_positions == self.n_frames:
            return home
        parts = [self._home[frame][0].select_positions([self._home[frame][1]]) for frame in range(self.n_frames)]
        joined = PeakTable.concatenate(parts, (self.n_frames,))
        joined.attrs = dict(self.attrs)
        return joined


class AtomsSession(QObject):
    """State shared by the panels of a viewer; panels change it through its methods and follow its signals."""

    movie_changed = QtSignal()
    frame_changed = QtSignal(int)
    columns_changed = QtSignal(object)
    threshold_changed = QtSignal(float)
    occupancy_changed = QtSignal()

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._viewer = ref(viewer)
        self.layer: Any = None
        self.movie: Movie | None = None
        self.candidates = Candidates(0)
        self.edits = ColumnEdits()
        self.min_score = 0.5
        self.column_params = ColumnParams()
        self.run_params = RunParams()
        self.occupancy: Any = None
        self._frame = 0
        viewer.dims.events.point.connect(self._on_dims)
        viewer.layers.events.removed.connect(self._on_removed)

    @property
    def viewer(self) -> Any:
        """The viewer; the session does not keep it alive."""
        return self._viewer()

    @property
    def frame(self) -> int:
        """Frame now shown."""
        return self._frame

    @property
    def species(self) -> list[str]:
        """Names of the species the finder tells apart."""
        names = self.candidates.attrs.get("species")
        return [str(name) for name in names] if names is not None and len(names) else ["column"]

    def movie_layers(self) -> list[Any]:
        """Image layers that can be analysed, opened by us or by napari."""
        return [layer for layer in self.viewer.layers if movie_of(layer) is not None]

    def set_layer(self, layer: Any) -> None:
        """Analyse the movie of another layer; None analyses nothing."""
        if layer is self.layer:
            return
        self.layer = layer
        self.movie = None if layer is None else movie_of(layer)
        self.edits.clear()
        self.occupancy = None
        self.candidates = Candidates(self.movie.n_frames if self.movie else 0)
        self._frame = self._frame_of_dims()
        self.movie_changed.emit()
        self.occupancy_changed.emit()
        self._take_results(tag_of(layer) if layer is not None else {})

    def _take_results(self, found: dict[str, Any]) -> None:
        """Results that were opened from a file together with the movie."""
        columns, occupancy = found.get("columns"), found.get("occupancy")
        if columns is not None:
            self.put_columns(0, columns)
        if occupancy is not None:
            self.set_occupancy(occupancy)

    def set_pixel_A(self, pixel_A: float, source: str) -> None:
        """Override the pixel size of the movie."""
        if self.movie is not None:
            pixel_nm = (pixel_A / 10, pixel_A / 10)
            self.movie = replace(self.movie, calibration=self.movie.calibration.override(source, pixel_nm=pixel_nm))
            old = tuple(self.layer.scale[-2:])
            for layer in [other for other in self.viewer.layers if tuple(other.scale[-2:]) == old]:
                layer.scale = (*layer.scale[:-2], *pixel_nm)
                layer.units = (*layer.units[:-2], "nm", "nm")
            self.viewer.reset_view()

    def pixel_text(self) -> str:
        """Where the pixel size comes from, and the field of view; nothing when it is unknown."""
        calibration = self.movie.calibration if self.movie is not None else Calibration()
        if self.movie is None or calibration.pixel_nm is None:
            return ""
        source = calibration.source.get("pixel_nm", "file")
        said = {"file": "from the file", "user": "typed by you", "measured": "measured in the FFT"}.get(source, source)
        sides = [f"{n * p:.3g}" for n, p in zip(self.movie.frame_shape, calibration.pixel_nm, strict=True)]
        return f"{said}; field of view {' x '.join(sides)} nm"

    def forget_columns(self) -> None:
        """Drop candidates, edits and what was made of them: the settings they came from have changed."""
        self.candidates = Candidates(self.movie.n_frames if self.movie else 0)
        self.edits.clear()
        self.columns_changed.emit(None)
        self.set_occupancy(None)

    def put_columns(self, start: int, table: PeakTable) -> None:
        """Take in candidates of frames from `start` on."""
        self.candidates.put(start, table)
        self.columns_changed.emit(range(start, start + table.n_positions))

    def edited(self, frame: int | None) -> None:
        """Tell that hand edits changed in a frame."""
        if frame is not None:
            self.columns_changed.emit(range(frame, frame + 1))

    def set_min_score(self, value: float) -> None:
        """Other threshold, a view of what is there."""
        if value != self.min_score:
            self.min_score = value
            self.threshold_changed.emit(value)

    def set_occupancy(self, occupancy: Any) -> None:
        """Other occupancy result; None takes it away."""
        if occupancy is not self.occupancy:
            self.occupancy = occupancy
            self.occupancy_changed.emit()

    def columns(self) -> PeakTable | None:
        """Columns of all frames with hand edits and threshold, None until all frames were run."""
        table = self.candidates.table()
        return None if table is None else self.edits.apply(table, self.min_score)

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
        frame = self._frame_of_dims()
        if frame != self._frame:
            self._frame = frame
            self.frame_changed.emit(frame)

    def _on_removed(self, event: Any) -> None:
        if event.value is self.layer:
            self.set_layer(None)


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
    units = [str(unit) for unit in layer.units[-2:]]
    per_unit = {"nanometer": 1.0, "angstrom": 0.1, "micrometer": 1e3}
    known = all(unit in per_unit for unit in units)
    row_nm, col_nm = (float(s) * per_unit.get(u, 1.0) for s, u in zip(layer.scale[-2:], units, strict=True))
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
