"""Frames as a column network sees them: cleaned, on its pixel grid, normalised; the last ones are kept.

Contrast, threshold and columns are asked for one after the other on the same frames, which need not be prepared each time.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.atoms.find.clean import Clean, cleaned
from napari_emdl.atoms.find.normalise import local_normalise
from napari_emdl.atoms.find.resample import Grid

#: normalised images are cut off at so many local standard deviations, as in training
CLIP = 10.0
#: prepared frames are kept up to this size
_KEPT_BYTES = 256 << 20


@dataclass(frozen=True)
class Prepared:
    """Frames for a network.

    Attributes
    ----------
    images
        (n, channels, rows, cols) float32 on the network's grid; a channel without an image is zero.
    present
        (n, channels) which channels hold an image.
    blank
        (n,) frames without one.
    clean
        Of every frame its images before they were resampled, None for one without an image.
    """

    images: NDArray[np.float32]
    present: NDArray[np.bool_]
    blank: NDArray[np.bool_]
    clean: list[list[Clean | None]]


def digest_of(images: NDArray[Any]) -> bytes:
    """What tells one field of view from another."""
    about = hashlib.blake2b(f"{images.shape}|{images.dtype}".encode(), digest_size=16)
    about.update(np.ascontiguousarray(images).view(np.uint8).data)
    return about.digest()


class Preparation:
    """Prepares frames; finders of one network and pixel size may share it.

    Parameters
    ----------
    network_A
        Pixel size of the network's grid.
    channels
        Of the network.
    neighbours
        True where each channel is an image of its own (a frame and means of its neighbours), False where all share one
        background and scale (a focal series).
    threads
        Frames prepared at once.
    """

    def __init__(self, network_A: float, channels: int, neighbours: bool, threads: int = 1) -> None:
        self.network_A, self.channels, self.neighbours, self.threads = network_A, channels, neighbours, threads
        self._lock = threading.Lock()
        self._last: tuple[tuple[Grid, tuple[bytes, ...]], Prepared] | None = None

    def __call__(self, stack: NDArray[Any], grid: Grid, digests: Sequence[bytes]) -> Prepared:
        """Frames (n, images, rows, cols) on a grid; `digests` tell them apart."""
        key = (grid, tuple(digests))
        with self._lock:
            if self._last is not None and self._last[0] == key:
                return self._last[1]
        made = self._prepared(stack, grid)
        if made.images.nbytes <= _KEPT_BYTES:
            with self._lock:
                self._last = key, made
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return Preparation, (self.network_A, self.channels, self.neighbours, self.threads)

    def _prepared(self, stack: NDArray[Any], grid: Grid) -> Prepared:
        out = np.zeros((len(stack), self.channels, *grid.shape), np.float32)
        present = np.zeros((len(stack), self.channels), bool)

        def one(index: int) -> list[Clean | None]:
            clean = [cleaned(image) for image in stack[index]]
            there = [part is not None for part in clean]
            if not there[0] or not (self.neighbours or all(there)):
                return clean
            present[index, : len(there)] = there
            if self.neighbours:
                for channel in np.flatnonzero(there):
                    out[index, channel] = self._normalised(clean[channel : channel + 1], grid)[0]
            else:
                out[index] = self._normalised(clean, grid)
            return clean

        if self.threads < 2 or len(stack) < 2:
            kept = [one(index) for index in range(len(stack))]
        else:
            with ThreadPoolExecutor(min(self.threads, len(stack))) as pool:
                kept = list(pool.map(one, range(len(stack))))
        return Prepared(out, present, ~present[:, 0], kept)

    def _normalised(self, parts: Sequence[Any], grid: Grid) -> NDArray[np.float32]:
        """Images that share one background and scale, on the network's grid."""
        hidden = None
        for part in parts:
            if part.hidden is not None:
                there = grid.resample(part.hidden.astype(np.float32)) > 0.5
                hidden = there if hidden is None else hidden | there
        images = local_normalise(np.stack([grid.resample(part.image) for part in parts]), self.network_A, hidden)
        return np.clip(images, -CLIP, CLIP, out=images)
