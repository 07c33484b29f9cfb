"""Pixel size of an image that has none: the one at which a column network sees most columns, and these repeat.

Columns are looked for by their size in ångström, but the network sees a crystal at wrong pixel sizes as well as long as they
are wrong by less than a third or so. Where nothing is known, the sizes that the strongest lattice planes allow are tried one by
one on a part of the image. What comes out is good enough to find columns, whose positions are in pixels; no length should rest
on it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from scipy.spatial import cKDTree

from napari_emdl.atoms.find.finders import ColumnFinder
from napari_emdl.atoms.find.making import make_finder
from napari_emdl.atoms.find.moviefacts import NO_PIXEL, pixel_size_A
from napari_emdl.atoms.find.order import LITTLE_ORDER, order_of
from napari_emdl.atoms.find.pixelsize import log_spectrum, spacing_px
from napari_emdl.atoms.find.tiles import spread
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import ColumnParams, RunParams
from napari_emdl.base.signals import Movie, in_memory
from napari_emdl.jobs.control import Control

#: where a pixel size comes from, in the calibration's sources
GUESSED = "guess"
#: pixel sizes that are tried, A
TRIED_A = (0.025, 0.035, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28)
#: spacings of the planes that make the strongest spot in the Fourier transform of an image of columns, A
_PLANES_A = (0.75, 5.0)
#: side of the part that is looked at: least and most pixels, and plane spacings
_SIDE_PX, _SIDE_PLANES = (320, 768), 16
#: spots nearer to the centre of the transform are no planes, nor are shorter ones; the logarithm of the power, smoothed so
#: much, stands so far out of the ring around it
_LONGEST_PART, _SHORTEST_PX, _SMOOTH, _STANDS_OUT = 8, 3.3, 1.0, 1.5
#: longest planes and those from which on spots are less likely of planes, pixels, and what counts as slow
_LONGEST_PX, _FINE_PX, _EVEN_PX = 80.0, 10.0, 20.0
#: fewer columns are no ground for a guess
_LEAST = 12
#: Given sizes are doubted where columns are at least so far apart (A) or hardly any pass, when the guess is another size (by
#: this factor; it is right within 1.5 mostly) and speaks so much more.
_FAR_APART_A, _SAME_SIZE, _CLEARLY = 4.4, 1.6, 1.3


@dataclass(frozen=True)
class PixelGuess:
    """A pixel size and what it rests on.

    Attributes
    ----------
    pixel_A
        The guess.
    columns
        Columns seen at it in the part that was looked at.
    spacing_px
        Median distance of nearest columns.
    """

    pixel_A: float
    columns: int
    spacing_px: float

    @property
    def line(self) -> str:
        """What the user should know."""
        return (
            f"the pixel size is unknown: {self.pixel_A:g} Å was guessed, at which most columns repeat (nearest ones "
            f"{self.spacing_px:.1f} px or {self.spacing_px * self.pixel_A:.1f} Å apart); it may be off by half or more, as are "
            "all lengths in Å and nm, while positions in pixels are not; type it (`pixel_size_A`) if you know it"
        )


def with_guessed_pixel(
    movie: Movie, params: ColumnParams, run: RunParams | None = None, control: Control | None = None
) -> tuple[Movie, ColumnParams, str]:
    """A movie and settings with a pixel size, and a line where it had to be guessed.

    Raises
    ------
    EmdlError
        When nothing in the image tells it.
    """
    if params.pixel_size_A or movie.pixel_A:
        return movie, params, ""
    guess = guess_pixel_size(movie, params, run, control)
    if guess is None:
        raise EmdlError(f"{NO_PIXEL}; no lattice of columns was seen from which it could be guessed")
    pixel_nm = (guess.pixel_A / 10, guess.pixel_A / 10)
    calibrated = replace(movie, calibration=movie.calibration.override(GUESSED, pixel_nm=pixel_nm))
    return calibrated, params.model_copy(update={"pixel_size_A": guess.pixel_A}), guess.line


def guess_pixel_size(
    movie: Movie, params: ColumnParams, run: RunParams | None = None, control: Control | None = None
) -> PixelGuess | None:
    """Pixel size at which the shipped network sees most columns in the middle frame of a movie; None where it sees no lattice.

    Parameters
    ----------
    movie
        Image, movie or focal series.
    params
        Settings for columns; the model and the pixel size are not used.
    run
        Where the network runs.
    control
        Progress and cancel.
    """
    planes_px, part = _looked_at(movie)
    if not part.size:
        return None
    allowed = _allowed(planes_px)
    # the others are for images whose strongest spot is none of planes
    others = [a for a in TRIED_A if a not in allowed]
    return _best_of(part, allowed, params, run, control)[0] or _best_of(part, others, params, run, control)[0]


def pixel_size_doubt(
    movie: Movie, params: ColumnParams, finder: ColumnFinder, run: RunParams | None = None, control: Control | None = None
) -> str:
    """A line where the pixel size that was typed, or that the file has, makes no sense and another one does; else "".

    Looked into only where the given size leaves next to no columns, or has them farther apart than most crystals do.

    Parameters
    ----------
    movie
        Image, movie or focal series.
    params
        Settings for columns; the model is not used.
    finder
        What :func:`make_finder` made with them.
    run
        Where the network runs.
    control
        Progress and cancel.
    """
    spots = getattr(finder, "sampled_spots", [])
    if not spots or movie.n_foci > 1:
        return ""
    places = [points[score >= finder.default_min_score] for points, score in spots]
    near = [cKDTree(p).query(p, 2)[0][:, 1] for p in places if len(p) >= _LEAST]
    given_A = pixel_size_A(movie, params)
    if near and float(np.median(np.concatenate(near))) * given_A < _FAR_APART_A:
        return ""
    planes_px, part = _looked_at(movie)
    guess, seen = _best_of(part, _allowed(planes_px), params, run, control)
    if guess is None or 1 / _SAME_SIZE < guess.pixel_A / given_A < _SAME_SIZE:
        return ""
    if seen < _CLEARLY * _seen_at(part, given_A, params, run, control)[1]:
        return ""
    return (
        f"is the pixel size right? At {given_A:.3g} Å hardly a lattice of columns is seen, at about {guess.pixel_A:g} Å "
        f"{guess.columns} columns in a part of the image repeat; check it (`pixel_size_A`)"
    )


def _allowed(planes_px: float | None) -> list[float]:
    """Pixel sizes at which the strongest planes have a spacing that planes have; none without planes."""
    return [a for a in TRIED_A if planes_px is not None and _PLANES_A[0] <= a * planes_px <= _PLANES_A[1]]


def _best_of(
    part: NDArray[np.float32], sizes_A: list[float], params: ColumnParams, run: RunParams | None, control: Control | None
) -> tuple[PixelGuess | None, float]:
    """The size for which most speaks, and how much."""
    best, value = None, 0.0
    for pixel_A in sizes_A:
        if control is not None:
            control.check()
        guess, seen = _seen_at(part, pixel_A, params, run, control)
        if guess is not None and seen > value:
            best, value = guess, seen
    return best, value


def _looked_at(movie: Movie) -> tuple[float | None, NDArray[np.float32]]:
    """Spacing (px) of the strongest planes of the middle frame, and its part that is looked at; empty where it is blank."""
    frame = np.asarray(movie.frame(movie.n_frames // 2))
    frame = np.asarray(frame if frame.ndim == 2 else frame[len(frame) // 2], np.float32)
    finite = frame[np.isfinite(frame)]
    if not finite.size or not np.ptp(finite) > 0:
        return None, np.zeros((0, 0), np.float32)
    planes_px = _strongest_planes(frame)
    return planes_px, _part(frame, planes_px)


def _seen_at(
    part: NDArray[np.float32], pixel_A: float, params: ColumnParams, run: RunParams | None, control: Control | None
) -> tuple[PixelGuess | None, float]:
    """What the shipped network sees in an image at a pixel size, and how much that speaks for the size."""
    image: Any = in_memory(part, "image")
    settings = params.model_copy(update={"model": "", "pixel_size_A": pixel_A, "min_score": None})
    finder = make_finder(image, settings, run, control)
    spots = getattr(finder, "sampled_spots", [])
    points, score = spots[0] if spots else (np.zeros((0, 2)), np.zeros(0))
    passing = score >= finder.default_min_score
    if passing.sum() < _LEAST:
        return None, 0.0
    order = order_of([(points, score)], finder.default_min_score).value
    if not order >= LITTLE_ORDER:
        return None, 0.0
    sure = 2 * (finder.contrast_confidence or 1.0) - 1
    near = np.median(cKDTree(points[passing]).query(points[passing], 2)[0][:, 1])
    return PixelGuess(pixel_A, int(passing.sum()), float(near)), float(np.sum(2 * score[passing] - 1)) * order * sure


def _strongest_planes(frame: NDArray[np.float32]) -> float | None:
    """Spacing (px) of the planes whose spot stands out most in the Fourier transform of a frame; None where none does."""
    side = min(1024, *frame.shape)
    middle = frame[tuple(slice((n - side) // 2, (n - side) // 2 + side) for n in frame.shape)]
    try:
        spectrum = log_spectrum(_evened(middle))
    except EmdlError:
        return None
    radius = np.hypot(*np.ogrid[-(side // 2) : side - side // 2, -(side // 2) : side - side // 2])
    ring = np.minimum(radius.astype(int), side // 2)
    smooth = ndi.gaussian_filter(spectrum, _SMOOTH)
    excess = smooth - ndi.median(smooth, ring, range(side // 2 + 1))[ring]
    excess[(radius < max(_LONGEST_PART, side / _LONGEST_PX)) | (radius > side / _SHORTEST_PX) | (excess < _STANDS_OUT)] = 0
    excess /= np.maximum(1, radius * _FINE_PX / side)  # noise that resampling left is high near the edge of the transform
    spot = np.unravel_index(int(np.argmax(excess)), excess.shape)
    if not excess[spot] > 0:
        return None
    return spacing_px((side, side), (float(spot[0]), float(spot[1])))


def _evened(frame: NDArray[np.float32]) -> NDArray[np.float32]:
    """A frame without its slow changes and of the same contrast everywhere: the rim of a specimen is no lattice."""
    frame = np.nan_to_num(frame, nan=float(np.nanmedian(frame)))
    out = frame - ndi.gaussian_filter(frame, _EVEN_PX)
    wide = np.sqrt(ndi.gaussian_filter(out**2, _EVEN_PX))
    return np.asarray(out / np.maximum(wide, 1e-3 * wide.max() + 1e-12), np.float32)


def _part(frame: NDArray[np.float32], planes_px: float | None) -> NDArray[np.float32]:
    """The part of a frame whose Fourier transform has the highest spots."""
    wanted = int(np.clip(_SIDE_PLANES * (planes_px or 0), *_SIDE_PX))
    size = tuple(min(wanted, n) for n in frame.shape)
    starts = itertools.product(*(spread(n, side, 1) for n, side in zip(frame.shape, size, strict=True)))

    def height(part: NDArray[np.float32]) -> float:
        try:
            spectrum = log_spectrum(_evened(part))
        except EmdlError:
            return 0.0
        radius = np.hypot(*np.ogrid[tuple(slice(-(n // 2), n - n // 2) for n in part.shape)])
        return float(spectrum[radius >= _LONGEST_PART].max(initial=0.0))

    return max((frame[r : r + size[0], c : c + size[1]] for r, c in starts), key=height)
