"""One pattern or frame with its peaks as a figure: in a notebook, and ready to print."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.showing import species_colour
from napari_emdl.base.signals import Datacube, Signal
from napari_emdl.exporting import figures
from napari_emdl.exporting.colours import disk_colours

#: Endings a figure can have.
FIGURE_TYPES = (".png", ".pdf", ".svg")
_LATTICE = "#4da6ff"
_WIDTH_IN, _BAR_IN, _HEAD_IN, _LEGEND_IN = 5.0, 0.9, 0.35, 0.25


@dataclass(frozen=True)
class FramePeaks:
    """Peaks of one pattern or frame.

    Attributes
    ----------
    rows
        Structured array with `row`, `col`, `score`, for columns also `species`.
    radius_px
        Radius of the rings around disks.
    species
        Names of the kinds of columns.
    min_score
        Threshold to be named beside the number, None for none.
    lattice_px
        (n, 2) fitted lattice points.
    """

    rows: NDArray[np.void]
    radius_px: float = 5.0
    species: tuple[str, ...] = ("column",)
    min_score: float | None = None
    lattice_px: NDArray[np.floating] | None = None


def species_of(attrs: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the kinds of columns, as the attributes of their table have them."""
    names = attrs.get("species")
    return tuple(str(name) for name in names) if names is not None and len(names) else ("column",)


def frame_values(signal: Signal, position: tuple[int, ...]) -> NDArray[np.float32]:
    """Pattern or frame as float32, NaN where the detector has no value; the middle focus of a focal series."""
    if signal.kind == "focal_series" and len(position) == 1:
        position = (*position, signal.shape[1] // 2)
    if signal.kind == "image":
        position = ()
    frame = signal.data[position if position else (slice(None), slice(None))]
    return signal.values(np.asarray(frame), np.nan)


def shown_range(frame: NDArray[Any], diffraction: bool) -> tuple[NDArray[Any], float, float]:
    """Values to draw (logarithm of a pattern) and their range."""
    values = np.log10(1 + np.clip(frame, 0, None)) if diffraction else frame
    finite = values[np.isfinite(values)]
    if not finite.size:
        return values, 0.0, 1.0
    low, high = np.percentile(finite, (1, 99.8))
    return values, float(low), float(max(high, low + 1e-9))


def draw_frame(made: Any, signal: Signal, position: tuple[int, ...], peaks: FramePeaks | None = None) -> None:
    """Draw one pattern or frame, with its peaks, into a figure of matplotlib."""
    diffraction = isinstance(signal, Datacube)
    values, low, high = shown_range(frame_values(signal, position), diffraction)
    axes = made.subplots()
    axes.set_facecolor("0.75")
    axes.imshow(np.ma.masked_invalid(values), cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    known = signal.calibration
    pixel = (known.q_pixel_invA if diffraction else known.pixel_nm) or (None, None)
    if pixel[1] is not None:
        figures.add_scale_bar(axes, values.shape, pixel[1], "1/Å" if diffraction else "nm")
    name = "pattern" if diffraction else "field" if signal.kind == "focal_series" else "frame"
    alone = all(n == 1 for n in signal.shape[:-2])
    title = [f"{name} {', '.join(map(str, position))}"] if position and not alone else []
    if peaks is not None:
        said = _draw_disks(made, axes, peaks) if diffraction else _draw_columns(made, axes, peaks, values.shape)
        score = "" if peaks.min_score is None else f" (score ≥ {peaks.min_score:.3g})"
        crosses = ", crosses: fitted lattice" if peaks.lattice_px is not None and len(peaks.lattice_px) else ""
        title.append(said + score + crosses)
    axes.set_title(": ".join(title) or name, fontsize=10)


def _draw_disks(made: Any, axes: Any, peaks: FramePeaks) -> str:
    """Rings of the probe's radius by score, crosses for the lattice."""
    from matplotlib.collections import EllipseCollection
    from matplotlib.colors import ListedColormap

    found, size = peaks.rows, np.full(len(peaks.rows), 2 * peaks.radius_px)
    places = np.stack([found["col"], found["row"]], axis=-1)
    rings = EllipseCollection(size, size, 0, units="xy", offsets=places, transOffset=axes.transData, facecolors="none")
    rings.set(array=found["score"], cmap=ListedColormap(disk_colours()), linewidth=1.2)
    axes.add_collection(rings)
    if len(found):
        made.colorbar(rings, ax=axes, label="score", shrink=0.85)
    if peaks.lattice_px is not None and len(peaks.lattice_px):
        axes.scatter(peaks.lattice_px[:, 1], peaks.lattice_px[:, 0], s=14, marker="+", color=_LATTICE, linewidths=0.8)
    return f"{len(found)} disk{'' if len(found) == 1 else 's'}"


def _draw_columns(made: Any, axes: Any, peaks: FramePeaks, shape: tuple[int, ...]) -> str:
    """Rings by species in the colours of the window, smaller than half of the least usual spacing."""
    from scipy.spatial import cKDTree

    found = peaks.rows
    places = np.stack([found["col"], found["row"]], axis=-1).astype(float)
    spacing = float(np.median(cKDTree(places).query(places, k=2)[0][:, 1])) if len(places) > 1 else 0.1 * max(shape)
    width_pt = 72 * (_WIDTH_IN - 0.3)
    side_pt = float(np.clip(0.7 * spacing * width_pt / shape[1], 2.0, 9.0))
    index = found["species"].astype(int) if "species" in (found.dtype.names or ()) else np.zeros(len(found), int)
    for i, name in enumerate(peaks.species):
        chosen = places[index == i]
        edge = {"facecolors": "none", "edgecolors": species_colour(i), "linewidths": min(1.0, 0.2 * side_pt)}
        axes.scatter(chosen[:, 0], chosen[:, 1], s=side_pt**2, label=name, **edge)
    axes.set(xlim=(-0.5, shape[1] - 0.5), ylim=(shape[0] - 0.5, -0.5))  # marks at the rim do not widen it
    if len(peaks.species) > 1:
        # on the image it would hide columns
        made.legend(fontsize=8, loc="outside lower center", ncols=len(peaks.species), frameon=False)
    return f"{len(found)} column{'' if len(found) == 1 else 's'}"


def save_frame_figure(
    path: str | Path, signal: Signal, position: tuple[int, ...] = (), peaks: FramePeaks | None = None
) -> Path:
    """Write one pattern or frame with its peaks as PNG, PDF or SVG, as the ending of `path` says.

    Parameters
    ----------
    path
        File to write; it appears whole or not at all.
    signal, position
        Scan row and col of a datacube, frame of a movie; nothing for an image.
    peaks
        What is marked in it.

    Raises
    ------
    EmdlError
        For another ending.
    """
    target = Path(path)
    if target.suffix.lower() not in FIGURE_TYPES:
        raise EmdlError(f"a figure is written as {', '.join(FIGURE_TYPES)}, not {target.suffix or 'without ending'}")
    rows, cols = signal.shape[-2:]
    bar = _BAR_IN if isinstance(signal, Datacube) and peaks is not None else 0.0
    legend = _LEGEND_IN if peaks is not None and len(peaks.species) > 1 else 0.0
    height = float(np.clip((_WIDTH_IN - 0.3) * rows / cols, 1.5, 12.0)) + _HEAD_IN + legend
    return figures.save_figure(target, lambda made: draw_frame(made, signal, position, peaks), _WIDTH_IN + bar, height)
