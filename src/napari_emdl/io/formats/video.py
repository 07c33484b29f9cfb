"""Films (MP4, AVI, MOV, ...) frame by frame, through imageio and the FFmpeg that comes with it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import OpenError
from napari_emdl.base.reading import one_line
from napari_emdl.base.signals import Calibration
from napari_emdl.io.axes import Axis, Found
from napari_emdl.io.formats.pictures import LUMINANCE_NOTE, PLAYED_NOTE, to_grey
from napari_emdl.io.sources import FramesSource

_MOST_PIXELS, _MOST_FRAMES = 2**26, 10_000_000


class _Film:
    """Reads frame i of a film; frames in a row without seeking. Reopens the file after unpickling."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._reader: Any = None
        self._next = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def open(self) -> Any:
        import imageio

        if self._reader is None:
            self._reader = imageio.get_reader(str(self.path), "ffmpeg")
            self._next = 0
        return self._reader

    def colour(self, index: int) -> NDArray[Any]:
        """Frame `index` as (rows, cols, 3)."""
        with self._lock:
            frame = np.asarray(self.open().get_data(index))
            self._next = index + 1
            return frame

    def __call__(self, index: int) -> NDArray[Any]:
        return to_grey(self.colour(index))[0]


def read_video(path: Path) -> Found:
    """Open a film lazily as a movie of one channel."""
    with one_line(path.name, "film"):
        film = _Film(path)
        facts = film.open().get_meta_data()
        cols, rows = (int(n) for n in facts["size"])
        if not 0 < rows * cols <= _MOST_PIXELS:
            raise OpenError(f"{path.name} says that its frames have {rows} x {cols} pixels; it is damaged")
        count = int(film.open().count_frames())
        if not 0 < count <= _MOST_FRAMES:
            raise OpenError(f"{path.name} holds no frames that can be read")
        first = film.colour(0)
        grey, coloured = to_grey(first)
        notes = ["films are compressed with loss; the camera's own file is better"]
        notes += [LUMINANCE_NOTE] if coloured else []
        rate = float(facts.get("fps") or 0.0)
        interval_s = 1.0 / rate if 1e-3 < rate < 1e6 else None
        notes += [PLAYED_NOTE.format(interval_s)] if interval_s else []
        calibration = Calibration().override("file", frame_interval_s=interval_s)
        source = FramesSource(film, (count,), grey.shape, grey.dtype, path.name)
        axes = (Axis(count, letter="T"), Axis(grey.shape[0], letter="Y"), Axis(grey.shape[1], letter="X"))
        described = {"format": f"film ({facts.get('codec', 'unknown codec')})"}
        return Found(source, axes, calibration, path.stem, "movie", described, notes=tuple(notes))
