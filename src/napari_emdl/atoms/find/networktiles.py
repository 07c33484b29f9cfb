"""A network over frames of any size: tiles with margins, batches that fit, and maps of whole frames put together from them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from scipy.special import expit

from napari_emdl.atoms.find.resample import Grid
from napari_emdl.atoms.find.tiles import Tile, spread, tiles
from napari_emdl.jobs.control import Control
from napari_emdl.models.session import Session

Maps = NDArray[np.float32]

#: input pixels times batch on a GPU
GPU_BATCH_PX = 16 * 512 * 512
#: side of the part of a frame that is asked for the contrast, network pixels, and what counts as a column there
PROBE_PX, PROBE_SURE = 320, 0.3
#: of frames at least so large, network pixels, parts of the second side are asked which hold columns, three by three at most;
#: fewer map pixels with columns than this say nothing
GLANCE_FROM_PX, GLANCE_PX, GLANCE_LEAST = 2048, 512, 2000


class TiledNetwork:
    """An open network with its tiles.

    Parameters
    ----------
    session
        Takes "image" (n, channels, rows, cols) and "conditions" (n, k).
    stride
        Network pixels of a map pixel.
    margin_px, multiple
        Margin of a tile that its inner part needs, and what the sides of a tile are multiples of, network pixels.
    tile_px
        Largest side of a tile.
    batch
        Tiles of one call; None takes one on a CPU, as many as fit on a GPU.
    """

    def __init__(
        self, session: Session, stride: int, margin_px: int, multiple: int, tile_px: int, batch: int | None = None
    ) -> None:
        self.session, self.stride, self.margin_px, self.multiple = session, stride, margin_px, multiple
        self.tile_px = max(int(tile_px) // multiple * multiple, 2 * margin_px + multiple)
        self.batch = batch

    def tiles(self, shape: tuple[int, int]) -> list[Tile]:
        """Tiles of frames of (rows, cols) network pixels."""
        return tiles(shape, self.tile_px, self.margin_px, self.multiple)

    def middle(self, shape: tuple[int, int]) -> Tile:
        """A small part in the middle of frames of several tiles."""
        row, col = ((n - GLANCE_PX) // (2 * self.multiple) * self.multiple for n in shape)
        return _part(max(0, row), max(0, col))

    def run(
        self, inputs: NDArray[np.float32], told: NDArray[np.float32], outputs: tuple[str, ...], control: Control | None
    ) -> dict[str, NDArray[np.float32]]:
        """Outputs for inputs (n, channels, rows, cols) and their conditions (n, k), in batches that fit."""
        results: list[dict[str, NDArray[np.float32]]] = []
        area = inputs.shape[-1] * inputs.shape[-2]
        batch = self.batch or (1 if self.session.provider.startswith("CPU") else max(1, GPU_BATCH_PX // area))

        def call(start: int, stop: int) -> None:
            feeds = {"image": inputs[start:stop], "conditions": told[start:stop]}
            results.append(self.session.run(feeds, outputs, control))

        self.session.in_batches(len(inputs), batch, call)
        return {name: np.concatenate([part[name] for part in results]) for name in outputs}

    def empty_maps(self, count: int, grid: Grid) -> Maps:
        """(count, rows, cols) zeros at the network's stride."""
        return np.zeros((count, *(-(-n // self.stride) for n in grid.shape)), np.float32)

    def paste(self, maps: Maps, logit: NDArray[np.float32], tile: Tile) -> None:
        """Put the likeliest species of a tile's core (n, species, rows, cols) into the maps of whole frames."""
        s, (r0, r1), (c0, c1) = self.stride, *tile.core
        height, width = -(-r1 // s) - r0 // s, -(-c1 // s) - c0 // s
        top, left = (r0 - tile.start[0]) // s, (c0 - tile.start[1]) // s
        part = logit[:, :, top : top + height, left : left + width].max(1)
        maps[:, r0 // s : r0 // s + height, c0 // s : c0 // s + width] = part

    def glance(self, logit_of: Callable[[Tile], NDArray[np.float32]], blank: NDArray[np.bool_], grid: Grid) -> Maps | None:
        """Logit maps of some parts of large frames, low elsewhere; None where frames are small or a part shows no column.

        Parameters
        ----------
        logit_of
            Tile -> logit (n, species, rows, cols) of all frames.
        blank
            (n,) frames that show nothing.
        """
        if min(grid.shape) < GLANCE_FROM_PX:
            return None
        maps = self.empty_maps(len(blank), grid)
        maps[:] = -np.inf
        for row, col in itertools.product(*(spread(n, GLANCE_PX, self.multiple) for n in grid.shape)):
            tile = _part(row, col)
            self.paste(maps, logit_of(tile), tile)
        seen = (expit(maps) > PROBE_SURE).sum(axis=(1, 2))
        return maps if np.all(seen[~blank] >= GLANCE_LEAST) else None

    def densest(self, logit: Maps, shape: tuple[int, int]) -> Tile:
        """The part of a frame, PROBE_PX at most, where most columns are seen."""
        side = PROBE_PX // self.stride
        sure = expit(logit) > PROBE_SURE
        share = ndi.uniform_filter(sure.astype(np.float32), [min(side, n) for n in sure.shape], mode="constant")
        middle = np.array(np.unravel_index(np.argmax(share), share.shape)) * self.stride
        size = np.minimum(PROBE_PX, shape)
        row, col = np.clip(middle - size // 2, 0, shape - size) // self.multiple * self.multiple
        height, width = -(-size // self.multiple) * self.multiple
        return Tile((int(row), int(col)), (int(height), int(width)), ((0, shape[0]), (0, shape[1])))


def _part(row: int, col: int) -> Tile:
    """A part of GLANCE_PX a side without margins."""
    return Tile((row, col), (GLANCE_PX, GLANCE_PX), ((row, row + GLANCE_PX), (col, col + GLANCE_PX)))
