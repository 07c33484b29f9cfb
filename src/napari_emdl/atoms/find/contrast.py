"""Whether columns are bright or dark, from a few frames of a movie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from napari_emdl.atoms.find.contrastguess import Part, guess_contrast
from napari_emdl.atoms.find.frames import Frames
from napari_emdl.atoms.find.log import LogFinder
from napari_emdl.atoms.find.moviefacts import pixel_size_A
from napari_emdl.base.params import ColumnParams
from napari_emdl.base.signals import Movie
from napari_emdl.jobs.control import Control

if TYPE_CHECKING:
    from napari_emdl.atoms.find.network import NetworkColumnFinder

#: least certainty of a column network's probe that counts as sure: of 929 held-out images of all kinds it has it on 50 %, and
#: is right there on 99.6 % (from 0.8 on 98.0 % of 72 %). What spots alone say is never sure.
SURE_CONTRAST, NEVER = 0.985, 1.1
#: frames, spread over the movie, from which the contrast is chosen; fewer when they are larger than so many pixels together
CONTRAST_FRAMES, CONTRAST_PIXELS = 8, 8 << 20
#: side of the part of a frame that is asked about without a column network, and how many places are tried for it
PART_A, TRIED = 40.0, 200


@dataclass(frozen=True)
class Decision:
    """A contrast and how it came about.

    Attributes
    ----------
    contrast
        "bright" or "dark".
    confidence
        0.5 to 1.
    sure_from
        Least confidence that counts as sure.
    evidence
        What spoke for it, for provenance.
    """

    contrast: str
    confidence: float
    sure_from: float
    evidence: dict[str, Any] = field(default_factory=dict)

    @property
    def sure(self) -> bool:
        """Whether the other contrast need not be considered."""
        return self.confidence >= self.sure_from


def decide_contrast(asked: NetworkColumnFinder, frames: NDArray[Any], control: Control | None = None) -> Decision:
    """Contrast of some frames of a movie, or of an image, by the probe of a column network that has one.

    Parameters
    ----------
    asked
        Finder that is told no contrast.
    frames
        As that finder takes them.
    """
    bright = asked.bright_probability(frames, control)
    evidence = {"decided_by": "column network", "bright": round(bright, 4), "frames": len(frames)}
    return Decision("bright" if bright >= 0.5 else "dark", max(bright, 1 - bright), SURE_CONTRAST, evidence)


def choose_contrast(movie: Movie, params: ColumnParams, control: Control | None = None) -> Decision:
    """Contrast of a few frames of a movie without a column network that could be asked.

    The contrast network looks where a Laplacian of Gaussian responds most to either sign. Where it cannot, as on frames of a
    few pixels, the responses decide: columns are compact spots and what lies between them is a net, so they rise higher above
    the noise for the right sign.
    """
    frames = contrast_frames(movie)
    if frames.ndim == 4:
        frames = frames[:, frames.shape[1] // 2]
    pixel_A = pixel_size_A(movie, params)
    found = {sign: LogFinder(pixel_A, sign, params.min_spacing_A).find(frames, control) for sign in ("bright", "dark")}
    parts = []
    for index in range(len(frames)):
        spots = np.concatenate([np.stack([rows["row"], rows["col"]], -1) for rows in (t.at(index) for t in found.values())])
        parts.append(Part(index, _crowded(spots, frames.shape[1:], PART_A / pixel_A)))
    guess = guess_contrast(frames[:, None], parts, (0, 0), pixel_A)
    if guess is not None:
        return Decision(guess.contrast, guess.confidence, guess.sure, guess.evidence)
    rise = {sign: float(np.sum(np.maximum(0.0, table.column("logit")))) for sign, table in found.items()}
    best = max(rise, key=lambda sign: rise[sign])
    total = sum(rise.values())
    confidence = rise[best] / total if total > 0 else 0.5
    return Decision(best, confidence, NEVER, {"decided_by": "spots", "frames": len(frames)})


def _crowded(spots_px: NDArray[np.floating], shape: Sequence[int], side_px: float) -> tuple[int, int, int, int]:
    """The square of a frame, about one of the spots, that holds most of them: row0, row1, col0, col1."""
    size = np.minimum(np.round(side_px), shape).astype(int)
    middle = np.array(shape) / 2
    if len(spots_px):
        tried = spots_px[:: -(-len(spots_px) // TRIED)]
        count = cKDTree(spots_px).query_ball_point(tried, side_px / 2, p=np.inf, return_length=True)
        middle = tried[int(np.argmax(count))]
    row, col = (int(v) for v in np.clip(np.round(middle - size / 2), 0, np.array(shape) - size))
    return row, row + int(size[0]), col, col + int(size[1])


def contrast_choice(movie: Movie) -> list[int]:
    """Indices of the frames from which the contrast is chosen."""
    return frame_choice(movie, max(1, min(CONTRAST_FRAMES, CONTRAST_PIXELS // int(np.prod(movie.frame_shape)))))


def contrast_frames(movie: Movie) -> NDArray[Any]:
    """Frames from which the contrast is chosen."""
    return np.concatenate([Frames(movie).read(t, t + 1) for t in contrast_choice(movie)])


def frame_choice(movie: Movie, count: int) -> list[int]:
    """Up to `count` frames spread over the movie."""
    return [int(t) for t in np.unique(np.linspace(0, movie.n_frames - 1, min(count, movie.n_frames)).astype(int))]
