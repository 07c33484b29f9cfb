"""Cut a long row of patterns or frames into blocks that fit the memory limit."""

from __future__ import annotations

from dataclasses import dataclass

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import RunParams

#: Most items in a block: keeps progress, cancel and checkpoints lively however much memory there is.
MAX_ITEMS = 512
#: Part of the memory limit that blocks may take; the rest is for results and temporary copies.
MEMORY_SHARE = 0.7


@dataclass(frozen=True)
class Block:
    """Items `start`:`stop` in scan order."""

    index: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of items."""
        return self.stop - self.start


def make_blocks(total: int, size: int) -> list[Block]:
    """Cut `total` items into blocks of `size`; the last one may be shorter, none is left out."""
    if size < 1:
        raise ValueError(f"a block needs at least one item, got {size}")
    return [Block(i, start, min(start + size, total)) for i, start in enumerate(range(0, total, size))]


def block_size(bytes_per_item: float, run: RunParams, workers: int) -> int:
    """Items in a block so that `workers` blocks at once stay within the memory limit.

    Parameters
    ----------
    bytes_per_item
        Memory one item needs while it is worked on: as read, plus temporary arrays.
    run
        Gives `max_memory`.
    workers
        Blocks held at the same time.
    """
    fits = MEMORY_SHARE * run.max_memory_bytes / (max(1, workers) * max(1.0, float(bytes_per_item)))
    return max(1, min(MAX_ITEMS, int(fits)))


def check_frame_fits(frame_shape: tuple[int, ...], run: RunParams) -> None:
    """Refuse frames of which a single one, as float32, takes more than the memory limit.

    Raises
    ------
    EmdlError
        In one line, with what can be done.
    """
    nbytes = 4
    for n in frame_shape:
        nbytes *= int(n)
    if nbytes > run.max_memory_bytes:
        size = " x ".join(map(str, frame_shape))
        raise EmdlError(
            f"one frame of {size} takes {nbytes / 1e9:.1f} GB, more than the memory limit of {run.max_memory}; raise it "
            "(`max_memory`), or take a part of the frame (`detector_crop`) or fewer pixels (`detector_bin`)"
        )
