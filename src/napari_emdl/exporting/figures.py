"""Figures of results, and what they share: maps with colour bars, scale bars, outlines of regions; no pyplot."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from napari_emdl.base.showing import species_colour
from napari_emdl.io.outputs import atomic_path

FORMATS = ("png", "svg", "pdf")


def save_figure(path: Path, draw: Callable[[Figure], None], width_in: float, height_in: float) -> Path:
    """Draw into a new figure and save it in the format of the file name's ending; it appears whole or not at all."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure)
    # Text stays text, so that it can be edited.
    with atomic_path(path) as temporary, rc_context({"svg.fonttype": "none", "pdf.fonttype": 42}):
        figure.savefig(temporary, format=path.suffix[1:], dpi=200)
    return path


def scale_bar_length(extent: float) -> float:
    """Round length (1, 2 or 5 times a power of ten) of about a quarter of `extent`."""
    decade = 10.0 ** math.floor(math.log10(extent / 4))
    return max((m * decade for m in (1, 2, 5) if m * decade <= extent / 4), default=decade)


def add_scale_bar(axes: Any, shape: tuple[int, ...], pixel: float, unit: str) -> None:
    """Scale bar at the lower left; pixel is the size of a column."""
    extent = shape[1] * pixel
    length = scale_bar_length(extent)
    width, height = length / pixel, max(0.012 * shape[0], 0.02)
    left, top = 0.05 * shape[1] - 0.5, 0.93 * shape[0] - 0.5
    axes.add_patch(Rectangle((left, top), width, height, facecolor="white", edgecolor="black", linewidth=0.6))
    label = f"{length:g} {unit}"
    text = axes.text(left + width / 2, top - 0.01 * shape[0], label, ha="center", va="bottom", color="white", fontsize=8)
    from matplotlib.patheffects import withStroke

    text.set_path_effects([withStroke(linewidth=1.5, foreground="black")])


def symmetric_limit(values: NDArray[np.floating[Any]]) -> float:
    """Colour limit for maps centred at 0: the 98th percentile of the magnitude, so that a few outliers do not hide the rest."""
    finite = np.abs(values[np.isfinite(values)])
    return float(np.percentile(finite, 98)) or 1e-6 if finite.size else 1e-6


def draw_outline(axes: Any, reference: Any) -> None:
    """Outline of the unstrained region: four numbers (row0, row1, col0, col1) or a mask."""
    region = np.asarray(reference)
    if region.shape == (4,):
        row0, row1, col0, col1 = (float(v) for v in region)
        axes.add_patch(
            Rectangle((col0 - 0.5, row0 - 0.5), col1 - col0, row1 - row0, fill=False, edgecolor="black", linestyle="--")
        )
    elif region.ndim == 2 and region.any():
        rows, cols = region.shape
        around = np.pad(region.astype(float), 1)  # so that the outline is closed where the region meets the border
        limits = axes.get_xlim(), axes.get_ylim()
        axes.contour(
            np.arange(-1, cols + 1), np.arange(-1, rows + 1), around, [0.5], colors="black", linestyles="--", linewidths=1
        )
        axes.set(xlim=limits[0], ylim=limits[1])


def draw_image(
    figure: Figure,
    image: NDArray[Any],
    title: str,
    label: str,
    pixel: float | None,
    unit: str,
    cmap: str = "viridis",
    compress: bool = False,
) -> None:
    """One map with colour bar and, when the pixel size is known, a scale bar; `compress` shows the square root."""
    axes = figure.subplots()
    shown = np.sqrt(np.clip(image, 0, None)) if compress else image
    finite = shown[np.isfinite(shown)]
    top = float(np.percentile(finite, 99.8)) if finite.size and compress else None
    drawn = axes.imshow(np.ma.masked_invalid(shown), cmap=cmap, vmax=top or None, interpolation="nearest")
    axes.set_title(title)
    axes.set_xticks([])
    axes.set_yticks([])
    figure.colorbar(drawn, ax=axes, label=label, shrink=0.85)
    if pixel is not None:
        add_scale_bar(axes, image.shape, pixel, unit)


def draw_columns(figure: Figure, peaks: Any, pixel_A: float | None) -> None:
    """Columns of the first frame by species, and their number in every frame."""
    left, right = figure.subplots(1, 2)
    first = peaks.at(0)
    species = [str(name) for name in peaks.attrs.get("species") or ["column"]]
    index = first["species"].astype(int) if "species" in peaks.fields else np.zeros(len(first), int)
    shape = peaks.attrs.get("frame_shape")
    for i, name in enumerate(species):
        chosen = first[index == i]
        left.scatter(chosen["col"], chosen["row"], s=6, label=f"{name} ({len(chosen)})", color=species_colour(i))
    if shape is not None:
        left.set_xlim(-0.5, shape[1] - 0.5)
        left.set_ylim(shape[0] - 0.5, -0.5)
    else:
        left.invert_yaxis()
    left.set(aspect="equal", title="columns of frame 0", xlabel="col (px)", ylabel="row (px)")
    left.legend(fontsize=8, loc="upper right")
    counts = np.diff(peaks.offset)
    right.plot(counts, marker="o", markersize=3, linewidth=1)
    right.set(
        title="columns in every frame",
        xlabel="frame",
        ylabel="number of columns",
        ylim=(0, max(1, counts.max(initial=1)) * 1.1),
    )
    if pixel_A is not None and shape is not None:
        add_scale_bar(left, tuple(shape), pixel_A / 10, "nm")
