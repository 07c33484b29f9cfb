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
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from napari_emdl.base.errors import ModelError
from napari_emdl.jobs.control import Control

Layout = Literal["NCHW", "NHWC"]
Scaling = Literal["zero-one", "standard", "none"]
Activation = Literal["none", "sigmoid", "softmax"]
#: Channels with this meaning hold no peaks.
BACKGROUND = "background"
_TILE, _MARGIN = 512, 64
_TRIAL = 128


class Heatmap(BaseModel):
    """What an image -> heat map network expects and gives.

    Attributes
    ----------
    layout
        Order of the axes: batch, channel, row, col or batch, row, col, channel.
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
        (self._input,), self._output = session.inputs, session.outputs[0]

    def maps(self, image: NDArray[Any], control: Control | None = None) -> NDArray[np.float32]:
        """Probabilities (channels, rows, cols) of an image (rows, cols) without NaN.

        Raises
        ------
        ModelError
            When the network does not run on it, or gives a map of another shape.
        Cancelled
            When cancelled.
        """
        scaled = _scaled(image, self.heatmap.scaling)
        out = np.zeros((len(self.heatmap.channels), *image.shape), np.float32)
        for part, core, inner in self._tiles(image.shape):
            out[(slice(None), *core)] = self._run(scaled[part], control)[(slice(None), *inner)]
        return out

    def _run(self, tile: NDArray[np.float32], control: Control | None) -> NDArray[np.float32]:
        padded = self._padded(tile)
        stack = np.repeat(padded[None], self.heatmap.input_channels, axis=0)
        feed = stack[None] if self.heatmap.layout == "NCHW" else np.moveaxis(stack, 0, -1)[None]
        value = self.session.run({self._input: feed}, [self._output], control)[self._output]
        probability = _activated(as_channels(value, self.heatmap.layout), self.heatmap.activation)
        if probability.shape != (len(self.heatmap.channels), *padded.shape):
            raise ModelError(
                f"{self.session.model.name} gives maps of shape {probability.shape} for an image of {padded.shape}; "
                f"{len(self.heatmap.channels)} maps of the image's own size are needed"
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
    margin = min(_MARGIN, size // 4)
    step = size - 2 * margin
    core = 0
    while core < length:
        end = length if core + size - margin >= length else core + step + (margin if core == 0 else 0)
        start = max(0, min(core - margin, length - size))
        yield slice(start, min(length, start + size)), slice(core, end), slice(core - start, end - start)
        core = end


def as_channels(value: NDArray[Any], layout: Layout) -> NDArray[np.float32]:
    """Output of a network as (channels, rows, cols)."""
    array = np.asarray(value, np.float32)
    if array.ndim == 3:  # one map without a channel axis
        return array[:1]
    if array.ndim != 4:
        raise ModelError(f"the network gives an array of shape {array.shape}; maps (batch, channel, row, col) are needed")
    return array[0] if layout == "NCHW" else np.moveaxis(array[0], -1, 0)


def _scaled(image: NDArray[Any], scaling: Scaling) -> NDArray[np.float32]:
    values = np.asarray(image, np.float32)
    if scaling == "none":
        return values
    if scaling == "standard":
        spread = float(values.std())
        return (values - values.mean()) / np.float32(spread or 1.0)
    low, high = float(values.min()), float(values.max())
    return (values - np.float32(low)) / np.float32((high - low) or 1.0)


def _activated(value: NDArray[np.float32], activation: Activation) -> NDArray[np.float32]:
    if activation == "sigmoid":
        return (1 / (1 + np.exp(-np.clip(value, -80, 80)))).astype(np.float32)
    if activation == "softmax":
        shifted = np.exp(value - value.max(axis=0, keepdims=True))
        return shifted / shifted.sum(axis=0, keepdims=True)
    return value


def try_heatmap(name: str, session: Any, given: dict[str, Any]) -> Heatmap:
    """Try a bare network as image -> heat map and complete what the user gave of its description.

    Parameters
    ----------
    name
        For messages.
    session
        The loaded network.
    given
        Entries of :class:`Heatmap` that the user knows.

    Raises
    ------
    ModelError
        Saying in one line what about it does not fit, or which option is needed.
    """
    if len(session.inputs) != 1:
        raise ModelError(f"{name} has {len(session.inputs)} inputs ({', '.join(session.inputs)}); an image network has one")
    (item,) = session.inputs.values()
    if "float" not in item.type or len(item.shape) != 4:
        raise ModelError(
            f"{name} takes {item.type} of shape {list(item.shape)}; a float image (batch, channel, row, col) is needed"
        )
    layout: Layout = given.get("layout") or _layout_of(name, item.shape)
    rows, cols = (item.shape[2:] if layout == "NCHW" else item.shape[1:3])  # fmt: skip
    size = (rows, cols) if isinstance(rows, int) and isinstance(cols, int) else None
    n_in = item.shape[1] if layout == "NCHW" else item.shape[3]
    n_in = n_in if isinstance(n_in, int) else 1
    value = _trial(name, session, item.name, size or (_TRIAL, _TRIAL), n_in, layout)
    maps = as_channels(value, layout)
    if maps.shape[1:] != (size or (_TRIAL, _TRIAL)):
        raise ModelError(
            f"{name} gives maps of {maps.shape[1:]} for an image of {size or (_TRIAL, _TRIAL)}; maps of the image's own size "
            "are needed"
        )
    channels = given.get("channels") or (["column"] if len(maps) == 1 else None)
    if channels is None or len(channels) != len(maps):
        raise ModelError(
            f"{name} gives {len(maps)} maps: say what they are with --channels, such as "
            f"{','.join([f'species{i + 1}' for i in range(len(maps) - 1)] + [BACKGROUND])}"
        )
    settled = {"layout": layout, "channels": channels, "size": size, "input_channels": n_in}
    settled["activation"] = given.get("activation") or _activation_of(maps)
    try:
        return Heatmap(**{**given, **settled})
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelError(f"bad {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _layout_of(name: str, shape: list[Any]) -> Layout:
    first, last = (isinstance(n, int) and n <= 4 for n in (shape[1], shape[3]))
    if first == last:
        raise ModelError(f"{name} has an input of shape {list(shape)}: say the order of its axes with --layout NCHW or NHWC")
    return "NCHW" if first else "NHWC"


def _trial(name: str, session: Any, key: str, size: tuple[int, int], channels: int, layout: Layout) -> NDArray[Any]:
    """Output for an image of spots on noise; anything the network makes of it must be finite."""
    rng = np.random.default_rng(0)
    rows, cols = np.mgrid[: size[0], : size[1]]
    image = np.exp(-(((rows % 16) - 8) ** 2 + ((cols % 16) - 8) ** 2) / 8) + rng.normal(0, 0.1, size)
    stack = np.repeat(_scaled(image, "zero-one")[None], channels, axis=0)
    feed = stack[None] if layout == "NCHW" else np.moveaxis(stack, 0, -1)[None]
    value = next(iter(session.trial({key: feed}).values()))
    if not np.all(np.isfinite(value)):
        raise ModelError(f"{name} gives values that are not finite; it cannot be used")
    return np.asarray(value)


def _activation_of(maps: NDArray[np.float32]) -> Activation:
    """None where the output is a probability already, else what belongs to so many channels."""
    if maps.min() >= 0.0 and maps.max() <= 1.0 + 1e-5:
        return "none"
    return "sigmoid" if len(maps) == 1 else "softmax"
