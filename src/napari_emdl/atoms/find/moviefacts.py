"""What a movie must be, and what must be known of it, for columns to be found in it."""

from __future__ import annotations

import numpy as np

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import ColumnParams
from napari_emdl.base.signals import Movie

#: Pixel sizes (Å) of images that can show columns: neighbours are at least 1.4 Å apart, which takes two pixels.
_PIXELS_A = (0.005, 0.8)
#: what to do where the pixel size is not known
NO_PIXEL = "the pixel size is unknown: type it (`pixel_size_A`) or measure it from a known lattice spacing in the FFT"


def pixel_size_A(movie: Movie, params: ColumnParams) -> float:
    """Pixel size typed by the user, else of the file.

    Raises
    ------
    EmdlError
        When neither is known, or no atoms can be seen with it.
    """
    pixel = params.pixel_size_A or movie.pixel_A
    if pixel is None or not np.isfinite(pixel) or pixel <= 0:
        raise EmdlError(NO_PIXEL)
    if not _PIXELS_A[0] <= pixel <= _PIXELS_A[1]:
        raise EmdlError(
            f"a pixel of {pixel:.4g} Å shows no atomic columns; check the unit in the file, or type the pixel size "
            "(`pixel_size_A`)"
        )
    return float(pixel)


def check_movie(movie: Movie) -> None:
    """Refuse what has no atomic columns.

    Raises
    ------
    EmdlError
        For datacubes, colour images and movies without frames.
    """
    if not isinstance(movie, Movie):
        raise EmdlError("columns are found in an image, movie or focal series; this is a 4D-STEM datacube or something else")
    if movie.kind != "image" and movie.frame_shape[1] in (3, 4):
        raise EmdlError("this looks like a colour image (the last axis has 3 or 4 entries); convert it to grey first")
    if movie.n_frames < 1 or min(movie.frame_shape) < 8:
        raise EmdlError(f"a movie needs at least one frame of 8 x 8 pixels, got shape {movie.shape}")
    if np.dtype(movie.dtype).kind not in "uifb":
        raise EmdlError(f"frames of type {movie.dtype} are not images; real numbers are needed")
