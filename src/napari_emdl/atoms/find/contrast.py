"""Whether columns are bright or dark, from a few frames of a movie."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from napari_emdl.atoms.find.contrastguess import guess_contrast
from napari_emdl.atoms.find.log import LogFinder
from napari_emdl.atoms.find.moviefacts import pixel_size_A
from napari_emdl.base.params import ColumnParams
from napari_emdl.base.signals import Movie
from napari_emdl.jobs.control import Control

if TYPE_CHECKING:
    from napari_emdl.atoms.find.network import NetworkColumnFinder

#: without the contrast network, the user is told when the contrast was chosen with less certainty
SURE_CONTRAST = 0.8
#: frames, spread over the movie, from which the contrast is chosen; fewer when they are larger than so many pixels together
CONTRAST_FRAMES, CONTRAST_PIXELS = 8, 8 << 20


@dataclass(frozen=True)
class Decision:
    """A contrast and how it came about.

    Attributes
    ----------
    contrast
        "bright" or "dark".
    confidence
        0.5 to 1.
    sure
        Least confidence that counts as sure.
    evidence
        What spoke for it, for provenance.
    """

    contrast: str
    confidence: float
    sure: float = SURE_CONTRAST
    evidence: dict[str, Any] = field(default_factory=dict)


def decide_contrast(asked: NetworkColumnFinder, frames: NDArray[Any], control: Control | None = None) -> Decision:
    """Contrast of some frames of a movie, or of an image, by the parts of them in which a column network sees most columns.

    The contrast network and the probe of the shipped column network decide together. Networks that users tuned or added may
    know nothing but one contrast: they decide alone.

    Parameters
    ----------
    asked
        Finder that is told no contrast.
    frames
        As that finder takes them.
    """
    parts = asked.asked_parts(frames, control)
    if asked.model.source == "shipped":
        stack = np.asarray(frames)
        guess = guess_contrast(stack[:, None] if stack.ndim == 3 else stack, parts, asked.counts, asked.pixel_A)
        if guess is not None:
            return Decision(guess.contrast, guess.confidence, guess.sure, guess.evidence)
    bright = float(expit(np.mean([part.logit for part in parts]))) if parts else 0.5
    return Decision("bright" if bright >= 0.5 else "dark", max(bright, 1 - bright))


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
