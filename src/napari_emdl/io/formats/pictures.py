"""Plain images (PNG, JPEG, BMP, GIF, WebP, JPEG 2000); of colour the grey where the channels agree, luminance where not."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import OpenError
from napari_emdl.base.reading import first_line, one_line
from napari_emdl.base.signals import Calibration
from napari_emdl.io.axes import Axis, Found
from napari_emdl.io.sources import FramesSource

#: Said where colours were turned into one channel.
LUMINANCE_NOTE = "colours were turned into their luminance; a camera's own file keeps the counts"
#: Rec. 601, as scikit-image, PIL and ImageJ (weighted) do.
_WEIGHTS = np.array([0.299, 0.587, 0.114])
_MOST_PIXELS = 2**28
_PLAIN_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I", "I;16", "I;16B", "F")
#: Formats of several images, shown one after the other.
_ANIMATED = ("GIF", "PNG", "WEBP")
PLAYED_NOTE = "the frame interval of {:.3g} s is that of playing; give `frame_interval_s` if frames were taken at another rate"


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
                mode = None if header.mode in _PLAIN_MODES else "RGB"  # inks and their like have no luminance of their own
                if rows * cols > _MOST_PIXELS:
                    raise OpenError(f"{path.name} says that it has {rows} x {cols} pixels; that is too large for an image")
            image = np.asarray(imageio.imread(path, index=index, mode=mode))
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
    """Reads the frames of an image file: one, or those of an animation."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, index: int) -> NDArray[Any]:
        return read_plain(self.path, index)[0]


def read_picture(path: Path) -> Found:
    """Open a plain image, or an animated GIF, PNG or WebP as a movie."""
    from PIL import Image

    image, coloured = read_plain(path)
    notes = [LUMINANCE_NOTE] if coloured else []
    interval_s = None
    with one_line(path.name, "image"), Image.open(path) as file:
        count = int(getattr(file, "n_frames", 1)) if file.format in _ANIMATED else 1
        if count > 1:
            file.seek(1)
            file.load()  # where the durations of some formats become known
            interval_s = float(file.info.get("duration") or 0.0) * 1e-3 or None
            notes += [PLAYED_NOTE.format(interval_s)] if interval_s else []
    leading = (count,) if count > 1 else ()
    source = FramesSource(_Frames(path), leading, image.shape, image.dtype, path.name)
    axes = (*(Axis(n, letter="T") for n in leading), Axis(image.shape[0], letter="Y"), Axis(image.shape[1], letter="X"))
    facts = {"format": path.suffix.lower().lstrip(".") or "image"}
    calibration = Calibration().override("file", frame_interval_s=interval_s)
    return Found(source, axes, calibration, path.stem, metadata=facts, notes=tuple(notes))
