"""A bare image -> heat map network is tried on an image of spots: how its input and maps are laid out, and what they mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from napari_emdl.base.errors import ModelError
from napari_emdl.models.heatmap import BACKGROUND, MARGIN, Activation, Heatmap, Layout, activated, as_channels, feed_of, scaled

#: Sizes tried where any is taken, not square so that exchanged axes show, with what their sides are multiples of.
_TRIALS = (((128, 160), 32), ((128, 256), 128))
_SPACING = 16
#: Spacing of the cells of maps that are smaller than the image.
_STRIDES = (2, 4, 8)
#: Maps within this of 0..1 are probabilities, or were trained towards them; logits reach further on an image of spots.
_LOOSE = 0.5
#: A map this high over this share of an image of spots, bright or dark, is the background.
_HIGH, _MOSTLY = 0.6, 0.75
_FLOATS = {"tensor(float)": 1, "tensor(float16)": 1, "tensor(double)": 1, "tensor(uint8)": 255}


@dataclass(frozen=True)
class _Tried:
    """What a network gave for an image."""

    maps: NDArray[np.float32]
    size: tuple[int, int]
    output: str
    integer: bool


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
    if item.type not in _FLOATS or len(item.shape) not in (3, 4):
        raise ModelError(
            f"{name} takes {item.type} of shape {list(item.shape)}; a float image (batch, channel, row, col) is needed"
        )
    settled = dict(given) | _input_of(name, item, given)
    if settled["levels"] > 1 and given.get("scaling", "zero-one") != "zero-one":
        raise ModelError(f"{name} takes bytes, into which images go scaled to 0..255; leave `scaling` away")
    tried, multiple = _first_that_runs(name, session, item.name, settled, dark=False)
    settled.setdefault("multiple_of", multiple)
    settled |= _grid_of(name, tried)
    if tried.output != next(iter(session.outputs)):
        settled["output"] = tried.output
    settled["channels"] = _channels_of(name, tried, given.get("channels"))
    settled["activation"] = given.get("activation") or _activation_of(tried.maps, settled["channels"])
    heatmap = _described(settled)
    if heatmap.activation == "softmax" and BACKGROUND not in heatmap.channels:
        raise ModelError(f"{name}: softmax needs a map of the background among `channels`, since its maps add up to 1")
    other, _ = _first_that_runs(name, session, item.name, settled, dark=True)
    _refuse_background(name, heatmap, (tried.maps, other.maps))
    return heatmap


def _described(entries: dict[str, Any]) -> Heatmap:
    try:
        return Heatmap(**entries)
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelError(f"bad {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _input_of(name: str, item: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Layout, channels, batch, size and levels by the shape and type of the input."""
    shape = list(item.shape)
    batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else 1
    layout: Layout = "NHW" if len(shape) == 3 else given.get("layout") or _layout_of(name, shape)
    rows, cols = (shape[1:3] if layout in ("NHW", "NHWC") else shape[2:])  # fmt: skip
    n_in = 1 if layout == "NHW" else shape[1 if layout == "NCHW" else 3]
    size = (rows, cols) if isinstance(rows, int) and isinstance(cols, int) else None
    channels = n_in if isinstance(n_in, int) else 1
    return {"layout": layout, "size": size, "input_channels": channels, "batch": batch, "levels": _FLOATS[item.type]}


def _layout_of(name: str, shape: list[Any]) -> Layout:
    first, last = (isinstance(n, int) and n <= 4 for n in (shape[1], shape[3]))
    if first == last:
        raise ModelError(f"{name} has an input of shape {list(shape)}: say the order of its axes with `layout`: NCHW or NHWC")
    return "NCHW" if first else "NHWC"


def _first_that_runs(name: str, session: Any, key: str, settled: dict[str, Any], dark: bool) -> tuple[_Tried, int]:
    """Result for the first size that the network takes, and what its sides are multiples of."""
    size: tuple[int, int] | None = settled["size"]
    multiple: int | None = settled.get("multiple_of")
    trials: list[tuple[tuple[int, int], int]] = [t for t in _TRIALS if multiple is None or t[1] % multiple == 0]
    if size is not None:
        trials = [(size, 32)]
    elif not trials and multiple is not None:
        trials = [((multiple, 2 * multiple), multiple)]
    for number, (wanted, sides) in enumerate(trials):
        try:
            return _trial(name, session, key, settled, wanted, dark), sides
        except ModelError as error:
            if number + 1 == len(trials) or "does not run on this input" not in str(error):
                raise
    raise AssertionError  # the loop returns or raises


def _trial(name: str, session: Any, key: str, settled: dict[str, Any], size: tuple[int, int], dark: bool) -> _Tried:
    """Maps of an image of spots on noise; anything the network makes of it must be finite."""
    rng = np.random.default_rng(0)
    half = _SPACING // 2
    rows, cols = np.mgrid[: size[0], : size[1]]
    image = np.exp(-(((rows % _SPACING) - half) ** 2 + ((cols % _SPACING) - half) ** 2) / 8) + rng.normal(0, 0.1, size)
    plain = scaled(-image if dark else image, "zero-one")
    layout, batch = settled["layout"], settled["batch"]
    values = session.trial({key: feed_of(plain, layout, settled["input_channels"], batch, settled["levels"])})
    for value in values.values():
        if np.asarray(value).dtype.kind == "f" and not np.all(np.isfinite(value)):
            raise ModelError(f"{name} gives values that are not finite; it cannot be used")
    found = [_Tried(maps, size, output, integer) for output, maps, integer in _readable(values, layout, batch)]
    if not found:
        shapes = ", ".join(str(np.shape(value)) for value in values.values())
        raise ModelError(f"{name} gives arrays of shape {shapes}; maps (batch, channel, row, col) are needed")
    return next((one for one in found if min(one.maps.shape[1:]) > 1), found[0])


def _readable(values: dict[str, Any], layout: Layout, batch: int) -> Iterator[tuple[str, NDArray[np.float32], bool]]:
    for output, value in values.items():
        array = np.asarray(value)
        if array.ndim in (2, 3, 4):
            yield output, as_channels(array, layout, batch), array.dtype.kind != "f"


def _grid_of(name: str, tried: _Tried) -> dict[str, Any]:
    """Spacing of the map's cells or border that it lacks, by the size of the maps."""
    size, found = tried.size, tried.maps.shape[1:]
    if found == size:
        return {}
    lost = [n - m for n, m in zip(size, found, strict=True)]
    stride = next((s for s in _STRIDES if found == (size[0] // s, size[1] // s)), None)
    if stride is not None:
        return {"stride": stride, "cell_px": _cell_px(tried.maps, stride)}
    if lost[0] == lost[1] and lost[0] > 0 and lost[0] % 2 == 0 and lost[0] // 2 <= min(MARGIN, min(size) // 4):
        return {"border": lost[0] // 2}
    exchanged = "; it exchanges rows and cols" if found == size[::-1] else ""
    raise ModelError(f"{name} gives maps of {found} for an image of {size}; maps of the image's own size are needed{exchanged}")


def _cell_px(maps: NDArray[np.float32], stride: int) -> float:
    """Where in its cell of `stride` pixels a value belongs: the middle, or the first pixel as strided convolutions have it.

    The spots of the trial lie every 16 px; the phase of that period in the maps tells the two apart. A network that answers
    between the spots is half a period off, which changes nothing.
    """
    half = _SPACING / 2
    middle = (stride - 1) / 2
    strongest = maps[int(np.argmax(maps.std(axis=(1, 2))))]
    shifts = []
    for axis in (0, 1):
        profile = strongest.mean(axis=1 - axis)
        count = len(profile) * stride // _SPACING * _SPACING // stride  # whole periods
        turn = np.sum(profile[:count] * np.exp(-2j * np.pi * np.arange(count) * stride / _SPACING))
        at = -float(np.angle(turn)) * _SPACING / (2 * np.pi)  # of the answers, if each stood at its first pixel
        shifts.append((half - at) % half)
    away = {place: sum(min(abs(s - place), half - abs(s - place)) for s in shifts) for place in (middle, 0.0)}
    return min(away, key=lambda place: away[place])


def _channels_of(name: str, tried: _Tried, given: list[str] | None) -> list[str]:
    maps = tried.maps
    if tried.integer and (len(maps) > 1 or maps.max() > 1 or maps.min() < 0):
        raise ModelError(f"{name} gives the number of the class of each pixel; export it before the argmax, with a map a class")
    channels = given or (["column"] if len(maps) == 1 else None)
    if channels is None or len(channels) != len(maps):
        likely = int(np.argmax(np.median(maps, axis=(1, 2))))  # most of an image of spots is background
        names = [f"species{i + (i < likely)}" if i != likely else BACKGROUND for i in range(len(maps))]
        raise ModelError(f"{name} gives {len(maps)} maps: say what they are with `channels`, such as {','.join(names)}")
    return channels


def _activation_of(maps: NDArray[np.float32], channels: list[str]) -> Activation:
    """None where the output is a probability already; softmax takes a background, without which its maps add up to 1."""
    if maps.min() >= -_LOOSE and maps.max() <= 1.0 + _LOOSE:
        return "none"
    return "softmax" if BACKGROUND in channels else "sigmoid"


def _refuse_background(name: str, heatmap: Heatmap, trials: tuple[NDArray[np.float32], ...]) -> None:
    """Refuse maps of columns that are high nearly everywhere: every maximum of a background would count as a column."""
    shares = [(activated(maps, heatmap.activation) > _HIGH).mean(axis=(1, 2)) for maps in trials]
    for channel in heatmap.peak_channels:
        if all(share[channel] > _MOSTLY for share in shares):
            raise ModelError(
                f"{name}: map {channel + 1} ({heatmap.channels[channel]}) is high over {100 * shares[0][channel]:.0f} % of an "
                f"image of spots, so it is the {BACKGROUND}; name it so with `channels`"
            )
