"""Networks of others that turn an image into heat maps, as AtomAI, PyTorch or Keras users have them.

Such a network knows nothing of our contract: it takes one image and gives a map a class, with its own layout and scaling. What
it expects stands in its card under ``config.emdl.heatmap``; :class:`HeatmapRunner` wraps scaling, tiles and activation around
it, so that what comes back is always a probability for each pixel of the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from napari_emdl.base.errors import ModelError
from napari_emdl.jobs.control import Control

Layout = Literal["NCHW", "NHWC", "NHW"]
Scaling = Literal["zero-one", "standard", "none"]
Activation = Literal["none", "sigmoid", "softmax"]
#: Channels with this meaning hold no peaks.
BACKGROUND = "background"
#: Side of the tiles, and how far they overlap at most.
_TILE, MARGIN = 512, 64


class Heatmap(BaseModel):
    """What an image -> heat map network expects and gives.

    Attributes
    ----------
    layout
        Order of the axes: batch, channel, row, col, or batch, row, col, channel, or batch, row, col.
    scaling
        How an image is scaled before it goes in: to 0..1, to mean 0 and standard deviation 1, or not at all.
    activation
        What turns the output into probabilities.
    channels
        Meaning of each output channel; ``background`` for one without peaks.
    contrast
        Contrast of the peaks it was trained on; images of the other contrast are inverted first. "any" leaves them.
    multiple_of
        Rows and cols must be a multiple of this.
    size
        Fixed (rows, cols) of the input, None where any size is taken.
    input_channels
        Number of input channels; the image is repeated.
    batch
        Number of images that it takes at once; the image is repeated.
    levels
        Value of the brightest pixel that goes in: 255 for networks that take bytes.
    output
        Name of the output that holds the maps, None for the first.
    stride
        Pixels of the image for each of a smaller map, along rows and cols.
    cell_px
        Where among these pixels the value belongs, from the first.
    border
        Pixels on every side of the image for which there is no map (convolutions without padding).
    """

    model_config = ConfigDict(extra="forbid", defer_build=True)

    layout: Layout = "NCHW"
    scaling: Scaling = "zero-one"
    activation: Activation = "sigmoid"
    channels: list[str] = Field(min_length=1)
    contrast: Literal["bright", "dark", "any"] = "any"
    multiple_of: int = Field(32, ge=1)
    size: tuple[int, int] | None = None
    input_channels: int = Field(1, ge=1)
    batch: int = Field(1, ge=1)
    levels: int = Field(1, ge=1)
    output: str | None = None
    stride: int = Field(1, ge=1)
    cell_px: float = Field(0.0, ge=0)
    border: int = Field(0, ge=0, le=MARGIN)

    @property
    def peak_channels(self) -> list[int]:
        """Indices of the channels that hold peaks."""
        return [i for i, name in enumerate(self.channels) if name != BACKGROUND]


class HeatmapRunner:
    """Runs an image -> heat map network on images of any size.

    Parameters
    ----------
    session
        The loaded network.
    """

    def __init__(self, session: Any) -> None:
        entry = session.model.card.emdl.heatmap
        if entry is None:
            raise ModelError(f"model {session.model.name} is not an image -> heat map network")
        self.session, self.heatmap = session, entry
        (self._input,), self._output = session.inputs, entry.output or session.outputs[0]

    def maps(self, image: NDArray[Any], control: Control | None = None) -> NDArray[np.float32]:
        """Probabilities (channels, rows, cols) of an image (rows, cols) without NaN.

        Raises
        ------
        ModelError
            When the network does not run on it, or gives a map of another shape.
        Cancelled
            When cancelled.
        """
        border = self.heatmap.border
        values = np.pad(scaled(image, self.heatmap.scaling), border, mode="symmetric")
        out = np.zeros((len(self.heatmap.channels), *values.shape), np.float32)
        for part, core, inner in self._tiles(values.shape):
            out[(slice(None), *core)] = self._run(values[part], control)[(slice(None), *inner)]
        return out[:, border : border + image.shape[0], border : border + image.shape[1]]

    def _run(self, tile: NDArray[np.float32], control: Control | None) -> NDArray[np.float32]:
        padded, entry = self._padded(tile), self.heatmap
        feed = feed_of(padded, entry.layout, entry.input_channels, entry.batch, entry.levels)
        value = self.session.run({self._input: feed}, [self._output], control)[self._output]
        probability = activated(as_channels(value, entry.layout, entry.batch), entry.activation)
        if entry.stride > 1:
            probability = _spread(probability, entry.stride, entry.cell_px)
        if entry.border:  # the tiles overlap by more than that
            probability = np.pad(probability, [(0, 0), (entry.border,) * 2, (entry.border,) * 2])
        if probability.shape != (len(entry.channels), *padded.shape):
            raise ModelError(
                f"{self.session.model.name} gives maps of shape {probability.shape} for an image of {padded.shape}; "
                f"{len(entry.channels)} maps of the image's own size are needed"
            )
        return probability[:, : tile.shape[0], : tile.shape[1]]

    def _padded(self, tile: NDArray[np.float32]) -> NDArray[np.float32]:
        wanted = self.heatmap.size or tuple(-(-n // self.heatmap.multiple_of) * self.heatmap.multiple_of for n in tile.shape)
        add = [(0, max(0, w - n)) for w, n in zip(wanted, tile.shape, strict=True)]
        return np.pad(tile, add, mode="symmetric") if any(a for _, a in add) else tile

    def _tiles(self, shape: tuple[int, ...]) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...], tuple[slice, ...]]]:
        """(part of the image, core in the image, core in the part) of overlapping tiles."""
        sizes = self.heatmap.size or (_TILE, _TILE)
        spans = [list(_spans(n, size)) for n, size in zip(shape, sizes, strict=True)]
        for rows in spans[0]:
            for cols in spans[1]:
                yield (rows[0], cols[0]), (rows[1], cols[1]), (rows[2], cols[2])


def _spans(length: int, size: int) -> Iterator[tuple[slice, slice, slice]]:
    margin = min(MARGIN, size // 4)
    step = size - 2 * margin
    core = 0
    while core < length:
        end = length if core + size - margin >= length else core + step + (margin if core == 0 else 0)
        start = max(0, min(core - margin, length - size))
        yield slice(start, min(length, start + size)), slice(core, end), slice(core - start, end - start)
        core = end


def feed_of(image: NDArray[np.float32], layout: Layout, channels: int, batch: int, levels: int) -> NDArray[np.float32]:
    """Image (rows, cols) as the network takes it, repeated for every channel and every image of a fixed batch."""
    value = np.rint(np.clip(image, 0, 1) * levels).astype(np.float32) if levels > 1 else image
    if layout != "NHW":
        value = np.repeat(value[None], channels, axis=0)
        value = value if layout == "NCHW" else np.moveaxis(value, 0, -1)
    return np.repeat(value[None], batch, axis=0)


def as_channels(value: NDArray[Any], layout: Layout, batch: int = 1) -> NDArray[np.float32]:
    """Output of a network as (channels, rows, cols)."""
    array = np.asarray(value, np.float32)
    if array.ndim == 2:
        return array[None]
    if array.ndim == 3:
        if array.shape[0] == batch:  # one map without a channel axis
            return array[:1]
        return np.moveaxis(array, -1, 0) if layout == "NHWC" else array
    if array.ndim != 4:
        raise ModelError(f"the network gives an array of shape {array.shape}; maps (batch, channel, row, col) are needed")
    return np.moveaxis(array[0], -1, 0) if layout == "NHWC" else array[0]


def _spread(maps: NDArray[np.float32], stride: int, cell_px: float) -> NDArray[np.float32]:
    """Maps of cells of `stride` pixels on the pixels themselves, by cubic splines."""
    from scipy import ndimage as ndi

    shape = (maps.shape[1] * stride, maps.shape[2] * stride)
    how: dict[str, Any] = {"offset": -cell_px / stride, "output_shape": shape, "order": 3, "mode": "nearest"}
    return np.stack([np.clip(ndi.affine_transform(one, [1 / stride] * 2, **how), 0, 1) for one in maps])


def scaled(image: NDArray[Any], scaling: Scaling) -> NDArray[np.float32]:
    values = np.asarray(image, np.float32)
    if scaling == "none":
        return values
    if scaling == "standard":
        spread = float(values.std())
        return (values - values.mean()) / np.float32(spread or 1.0)
    low, high = float(values.min()), float(values.max())
    return (values - np.float32(low)) / np.float32((high - low) or 1.0)


def activated(value: NDArray[np.float32], activation: Activation) -> NDArray[np.float32]:
    if activation == "sigmoid":
        return (1 / (1 + np.exp(-np.clip(value, -80, 80)))).astype(np.float32)
    if activation == "softmax":
        shifted = np.exp(value - value.max(axis=0, keepdims=True))
        return shifted / shifted.sum(axis=0, keepdims=True)
    return np.clip(value, 0.0, 1.0)
