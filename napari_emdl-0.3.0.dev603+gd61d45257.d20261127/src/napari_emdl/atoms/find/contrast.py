"""Whether columns are bright or dark, from a few frames of a movie."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.atoms.find.log import LogFinder
from napari_emdl.atoms.find.moviefacts import pixel_size_A
from napari_emdl.base.params import ColumnParams
from napari_emdl.base.signals import Movie
from napari_emdl.jobs.control import Control

#: frames, spread over the movie, from which the contrast is chosen; fewer when they are larger than so many pixels together
CONTRAST_FRAMES, CONTRAST_PIXELS = 8, 8 << 20


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
