"""Frames as a finder takes them: alone, or with the means of their neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.atoms.find.finders import ColumnFinder
from napari_emdl.atoms.find.moviefacts import pixel_size_A
from napari_emdl.atoms.find.neighbours import NeighbourReader, counts_for
from napari_emdl.base.params import ColumnParams
from napari_emdl.base.signals import Movie


class Frames:
    """Reads frames in order as (n, rows, cols) or (n, foci, rows, cols)."""

    def __init__(self, movie: Movie) -> None:
        self.movie, self.data = movie, movie.data

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames `start`:`stop`."""
        return np.asarray(self.data[:, :])[None] if self.movie.kind == "image" else np.asarray(self.data[start:stop])


def reader_for(movie: Movie, finder: ColumnFinder, params: ColumnParams) -> Frames | NeighbourReader:
    """Reader of frames as the finder takes them: alone, or with the means of their neighbours."""
    frames = Frames(movie)
    if frames_used(finder) == 1:
        return frames
    counts = counts_for(frames_used(finder), movie.n_frames)
    return NeighbourReader(frames.read, movie.n_frames, counts, pixel_size_A(movie, params))


def frames_used(finder: ColumnFinder) -> int:
    """Frames that the columns of one frame come from."""
    return 1 + sum(getattr(finder, "counts", ()))
