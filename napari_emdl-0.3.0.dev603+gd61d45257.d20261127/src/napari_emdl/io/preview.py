"""What opening a file in a certain way gives, before it is opened: the arrays it holds, shape and size, and a look at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import OpenError
from napari_emdl.base.params import OpenParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.reading import one_line
from napari_emdl.base.signals import Datacube, Signal
from napari_emdl.io.opening import open as open_file
from napari_emdl.io.opening import split_dataset

#: Frames averaged for a look, and the pixels read for it at most.
FRAMES, MOST_PIXELS = 9, 2**25
#: Longer sides are shown in steps.
MOST_SIDE = 512
MOST_ARRAYS = 200


@dataclass(frozen=True)
class HeldArray:
    """One of the arrays in a file.

    Attributes
    ----------
    name
        As it stands behind ``FILE::``.
    text
        Name, shape and type for a list.
    """

    name: str
    text: str


@dataclass(frozen=True)
class Preview:
    """What opening gives.

    Attributes
    ----------
    arrays
        Arrays in the file, where there are several to choose from.
    opened
        What came out, None where it cannot be opened so.
    line
        Kind, shape, type and size; or why it cannot be opened, and what to do.
    image
        (rows, cols) float32 mean of a few frames, thinned for the screen; None where there is none.
    limits
        Contrast limits of `image`.
    """

    arrays: tuple[HeldArray, ...]
    opened: Signal | PeakTable | None
    line: str
    image: NDArray[np.float32] | None = None
    limits: tuple[float, float] = (0.0, 1.0)


def preview(path: str | Path, params: OpenParams, check: Callable[[], None] = lambda: None) -> Preview:
    """Open a file and look at it.

    Parameters
    ----------
    path
        File, folder or ``FILE::DATASET``.
    params
        How it is read.
    check
        Called between reads; raises to stop.
    """
    arrays: tuple[HeldArray, ...] = ()
    try:
        arrays = arrays_in(split_dataset(path)[0])
        check()
        opened: Any = open_file(path, params=params)
        check()
        if not isinstance(opened, Signal):
            return Preview(arrays, opened, describe(opened))
        image = mean_frame(opened, check)
    except OpenError as error:
        named = tuple(HeldArray(name, name) for name in error.choices)
        return Preview(arrays or named, None, str(error))
    return Preview(arrays, opened, describe(opened), image, _limits(image))


def arrays_in(path: Path) -> tuple[HeldArray, ...]:
    """Arrays of an HDF5, .npz, TIFF or zarr file that can be images; empty where there is one only, or none can be listed."""
    from napari_emdl.io.dispatch import sniff
    from napari_emdl.io.formats import hdf5, raw, tiffs, zarrs
    from napari_emdl.io.hdf5gate import Gate

    found: list[tuple[str, tuple[int, ...], Any]] = []
    if path.is_dir():
        found = zarrs.list_arrays(path) if zarrs.is_zarr(path) else []
    elif path.is_file() and (magic := sniff(path)) == "hdf5":
        with one_line(path.name, "HDF5 file"), Gate(path) as gate:
            if not hdf5.written_by(gate):
                found = [(name.strip("/"), tuple(item.shape), item.dtype) for name, item in hdf5.image_datasets(gate)]
    elif path.is_file() and magic == "zip" and path.suffix.lower() == ".npz":
        found = raw.list_arrays(path)
    elif path.is_file() and magic == "tiff":
        found = tiffs.list_series(path)
    listed = [HeldArray(name, f"{name}  ({_times(shape)} {dtype})") for name, shape, dtype in found[:MOST_ARRAYS]]
    return tuple(listed) if len(listed) > 1 else ()


def mean_frame(signal: Signal, check: Callable[[], None] = lambda: None) -> NDArray[np.float32]:
    """(rows, cols) mean of a few frames or patterns spread over the signal, thinned to the screen; missing pixels are NaN."""
    rows, cols = signal.shape[-2:]
    lead = signal.shape[:-2]
    count = int(np.clip(MOST_PIXELS // max(1, rows * cols), 1, FRAMES))
    total, seen = np.zeros((rows, cols), np.float32), np.zeros((rows, cols), np.float32)
    for flat in np.unique(np.linspace(0, int(np.prod(lead, dtype=np.int64)) - 1, count).astype(int)):
        check()
        where = tuple(int(i) for i in np.unravel_index(flat, lead)) if lead else (slice(None),)
        frame = np.asarray(signal.data[where], np.float32)
        there = np.isfinite(frame)
        if signal.given_mask is not None:
            there &= ~signal.given_mask
        total += np.where(there, frame, 0)
        seen += there
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(seen > 0, total / seen, np.nan).astype(np.float32)
    step = max(1, -(-max(rows, cols) // MOST_SIDE))
    shown = mean[::step, ::step]
    return np.log1p(np.maximum(shown, 0)) if isinstance(signal, Datacube) else shown


def _limits(image: NDArray[np.float32]) -> tuple[float, float]:
    finite = image[np.isfinite(image)]
    low, high = (float(v) for v in np.quantile(finite, (0.01, 0.995))) if finite.size else (0.0, 1.0)
    return low, high if high > low else low + 1.0


def describe(opened: Signal | PeakTable) -> str:
    """Kind, shape, type, size and calibration of what is opened, in a line; a line each for what must be known of it."""
    if isinstance(opened, PeakTable):
        return f"peak lists: {_times(opened.shape)} positions, {opened.n_peaks:,} peaks"
    known, shape = opened.calibration, opened.shape
    if isinstance(opened, Datacube):
        what = "one pattern" if opened.n_patterns == 1 else f"datacube: scan {_times(shape[:2])}"
        parts = [what, f"detector {_times(shape[2:])} px"]
        sizes = [("scan step", known.pixel_nm, "nm"), ("detector pixel", known.q_pixel_invA, "1/Å")]
    else:
        stacks = {"movie": f"movie: {shape[0]} frames", "focal_series": f"focal series: {_times(shape[:2])} (time x focus)"}
        parts = [stacks.get(opened.kind, "image"), f"{_times(shape[-2:])} px"]
        sizes = [("pixel", known.pixel_nm, "nm")]
    parts += [str(opened.dtype), _bytes(opened.nbytes)]
    parts += [f"{name} {np.mean(size):.4g} {unit}" if size else f"{name} not known" for name, size, unit in sizes]
    parts += [f"{known.energy_keV:g} kV"] if known.energy_keV else []
    return "\n".join((", ".join(parts), *opened.notes))


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)


def _bytes(count: int) -> str:
    power = min(3, max(0, len(str(count)) - 1) // 3)
    return f"{count / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB')[power]}"
