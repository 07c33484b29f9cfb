"""Plain images (PNG, JPEG, BMP, GIF) and what is made of colour: grey where the channels agree, luminance where not."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import OpenError
from napari_emdl.base.reading import first_line, one_line
from napari_emdl.io.axes import Axis, Found
from napari_emdl.io.sources import FramesSource

#: Said where colours were turned into one channel.
LUMINANCE_NOTE = "colours were turned into their luminance; a camera's own file keeps the counts"
#: Rec. 601, as scikit-image, PIL and ImageJ (weighted) do.
_WEIGHTS = np.array([0.299, 0.587, 0.114])
_MOST_PIXELS = 2**28


def to_grey(image: NDArray[Any]) -> tuple[NDArray[Any], bool]:
    """One channel of an image (rows, cols, channels), and whether colours were turned into luminance.

    Equal channels give the channel itself, so that a grey picture saved as colour keeps its values. Opacity is left out.
    """
    channels = image[..., :3] if image.shape[-1] >= 3 else image[..., :1]
    if np.array_equal(channels, np.broadcast_to(channels[..., :1], channels.shape)):
        return np.ascontiguousarray(channels[..., 0]), False
    grey = channels.astype(np.float64) @ _WEIGHTS
    return (np.rint(grey).astype(image.dtype) if image.dtype.kind in "iu" else grey.astype(image.dtype)), True


def read_plain(path: Path, index: int = 0) -> tuple[NDArray[Any], bool]:
    """(rows, cols) image `index` of a file, and whether its colours were turned into luminance."""
    import imageio.v3 as imageio
    from PIL import Image

    with one_line(path.name, "image"), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path) as header:
                cols, rows = header.size
                if rows * cols > _MOST_PIXELS:
                    raise OpenError(f"{path.name} says that it has {rows} x {cols} pixels; that is too large for an image")
            image = np.asarray(imageio.imread(path, index=index))
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise OpenError(f"{path.name} is too large for an image ({first_line(error)}); save it as TIFF") from error
        coloured = False
        if image.ndim == 3 and image.shape[-1] in (2, 3, 4):
            image, coloured = to_grey(image)
        if image.ndim != 2:
            raise OpenError(f"{path.name} holds {image.shape}, not one image")
        return (image.astype(np.uint8) if image.dtype.kind == "b" else image), coloured


def read_plain_frame(path: Path) -> NDArray[Any]:
    """(rows, cols) image of a file."""
    return read_plain(path)[0]


class _Frames:
    """Reads the frames of an image file: one, or those of an animated GIF."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, index: int) -> NDArray[Any]:
        return read_plain(self.path, index)[0]


def read_picture(path: Path) -> Found:
    """Open a plain image, or an animated GIF as a movie."""
    from PIL import Image

    image, coloured = read_plain(path)
    with one_line(path.name, "image"), Image.open(path) as file:
        count = int(getattr(file, "n_frames", 1)) if file.format == "GIF" else 1
    leading = (count,) if count > 1 else ()
    source = FramesSource(_Frames(path), leading, image.shape, image.dtype, path.name)
    axes = (*(Axis(n, letter="T") for n in leading), Axis(image.shape[0], letter="Y"), Axis(image.shape[1], letter="X"))
    notes = (LUMINANCE_NOTE,) if coloured else ()
    facts = {"format": path.suffix.lower().lstrip(".") or "image"}
    return Found(source, axes, name=path.stem, metadata=facts, notes=notes)
