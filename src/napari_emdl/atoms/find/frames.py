"""Frames as a finder takes them: alone, or with the means of their neighbours."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.atoms.find.finders import ColumnFinder
from napari_emdl.atoms.find.mending import fill_thin, thin_and_wide
from napari_emdl.atoms.find.moviefacts import pixel_size_A
from napari_emdl.atoms.find.neighbours import NeighbourReader, counts_for
from napari_emdl.base.missing import Missing
from napari_emdl.base.params import ColumnParams
from napari_emdl.base.signals import Movie


class Frames:
    """Reads frames in order as (n, rows, cols) or (n, foci, rows, cols), without pixels that the signal knows to be missing.

    Numbers of half or extended precision come as single precision.

    Dead lines and pixels are filled from around, wide gaps with the median. Borders of aligned frames and NaN stay: the finders
    see them frame by frame.
    """

    def __init__(self, movie: Movie) -> None:
        self.movie, self.data = movie, movie.data

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames `start`:`stop`."""
        image = self.movie.kind == "image"
        frames = np.asarray(self.data[:, :])[None] if image else np.asarray(self.data[start:stop])
        if frames.dtype.kind == "f" and frames.dtype.itemsize not in (4, 8):
            frames = frames.astype(np.float32)  # half and extended precision, which scipy does not take
        facts = self.movie.missing_facts
        return frames if facts.pixels is None and not facts.codes else _mended(frames, facts)


def _mended(frames: NDArray[Any], facts: Missing) -> NDArray[Any]:
    bad = replace(facts, border=None).of(frames)
    if bad is None:
        return frames
    out = np.array(frames)
    for image, missing in zip(out.reshape(-1, *out.shape[-2:]), bad.reshape(-1, *out.shape[-2:]), strict=True):
        unknown = missing if image.dtype.kind != "f" else missing | ~np.isfinite(image)
        if unknown.all():
            continue
        thin, wide = thin_and_wide(missing)
        fill_thin(image, thin, unknown)
        if wide.any():
            image[wide] = np.nan if image.dtype.kind == "f" else np.median(image[~unknown])
    return out


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
