"""Strain figures ready to print: chosen maps, range, colours, size and type, with strain axes and ends of the colour bars."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from pydantic import Field

from napari_emdl.base.params import Params
from napari_emdl.diffraction.judge.glance import axes_on_scan, beyond
from napari_emdl.exporting.figures import add_scale_bar, draw_outline, symmetric_limit
from napari_emdl.exporting.tables import pixel_nm_of
from napari_emdl.io.outputs import atomic_path

Component = Literal["exx", "eyy", "exy", "theta_rad"]
COMPONENTS: tuple[Component, ...] = ("exx", "eyy", "exy", "theta_rad")
#: Diverging and perceptually even, white or near it in the middle.
COLORMAPS = ("RdBu_r", "coolwarm", "PuOr_r", "PiYG", "vlag", "icefire")
_TITLES = {"exx": "$\\varepsilon_{xx}$", "eyy": "$\\varepsilon_{yy}$", "exy": "$\\varepsilon_{xy}$", "theta_rad": "$\\theta$"}
_MASKED = "0.75"
MM_PER_INCH = 25.4


class FigureStyle(Params):
    """How a strain figure looks.

    Attributes
    ----------
    components
        Maps, in that order.
    limit_pct, limit_deg
        Ends of the colour bars of strain (%) and rotation (degrees); None takes the 98th percentile of the magnitude.
    colormap
        A diverging colour map of matplotlib.
    region, axes, scale_bar
        Outline of the reference region, glyph of the strain axes, scale bar.
    width_mm, dpi, font_pt
        Width of the figure, resolution of what is not a vector, size of the type.
    """

    components: tuple[Component, ...] = Field(default=COMPONENTS, min_length=1)
    limit_pct: float | None = Field(default=None, gt=0)
    limit_deg: float | None = Field(default=None, gt=0)
    colormap: str = "RdBu_r"
    region: bool = True
    axes: bool = True
    scale_bar: bool = True
    width_mm: float = Field(default=170.0, ge=30, le=500)
    dpi: int = Field(default=300, ge=50, le=1200)
    font_pt: float = Field(default=8.0, ge=4, le=24)


def strain_figure(strain: Any, style: FigureStyle | None = None, reference: Any = None, make: type[Figure] = Figure) -> Figure:
    """Figure of strain maps.

    Parameters
    ----------
    strain
        :class:`~napari_emdl.diffraction.fit.strain.StrainMap`.
    reference
        (row0, row1, col0, col1) or (R, C) bool, outlined where the style asks for it.
    make
        Class of the figure.
    """
    style = style or FigureStyle()
    rows, cols = strain.shape
    count = len(style.components)
    across = count if count < 4 else 2
    down = -(-count // across)
    step_nm = pixel_nm_of(getattr(strain.calibration, "calibration", strain.calibration))
    aspect = 1.0 if step_nm is None else step_nm[0] / step_nm[1]
    width_in = style.width_mm / MM_PER_INCH
    map_in = width_in / across * 0.78
    height_in = float(np.clip(down * (map_in * aspect * rows / cols + 3.2 * style.font_pt / 72), 0.8, 30.0))
    with rc_context({"font.size": style.font_pt, "axes.titlesize": style.font_pt + 1}):
        figure = make(figsize=(width_in, height_in), layout="constrained", dpi=style.dpi)
        FigureCanvasAgg(figure)
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for panel, name in zip(panels, style.components, strict=False):
            _draw(figure, panel, strain, name, style, aspect)
            if style.scale_bar and step_nm is not None:
                add_scale_bar(panel, strain.shape, step_nm[1], "nm")
            if style.region and reference is not None:
                draw_outline(panel, reference)
            if style.axes:
                _draw_axes(panel, axes_on_scan(strain), strain.shape, style.font_pt)
    return figure


def reference_of(strain: Any) -> Any:
    """Reference region of a strain map: four numbers or a mask; None where it has none."""
    reference = strain.attrs.get("reference")
    params = strain.attrs.get("params") or {}
    return params.get("reference") if reference is None or isinstance(reference, str) else reference


def _draw(figure: Figure, panel: Any, strain: Any, name: Component, style: FigureStyle, aspect: float) -> None:
    values, limit, unit = _values(strain, name, style)
    low, high = beyond(values, (-limit, limit))
    ends = {(True, True): "both", (True, False): "min", (False, True): "max"}.get((low > 0, high > 0), "neither")
    panel.set_facecolor(_MASKED)
    image = panel.imshow(
        np.ma.masked_invalid(values), cmap=style.colormap, vmin=-limit, vmax=limit, aspect=aspect, interpolation="nearest"
    )
    panel.set_title(_TITLES[name])
    panel.set_xticks([])
    panel.set_yticks([])
    figure.colorbar(image, ax=panel, label=unit, shrink=0.85, extend=ends)


def _values(strain: Any, name: Component, style: FigureStyle) -> tuple[NDArray[Any], float, str]:
    """Values, end of the colour bar and unit."""
    if name == "theta_rad":
        values = np.rad2deg(strain.theta_rad)
        return values, style.limit_deg or symmetric_limit(values), "degrees"
    strains = np.stack([strain.exx, strain.eyy, strain.exy]) * 100
    return np.asarray(getattr(strain, name), float) * 100, style.limit_pct or symmetric_limit(strains), "%"


def _draw_axes(panel: Any, axes: Any, shape: tuple[int, int], font_pt: float) -> None:
    """Arrows of x and y at the lower right; grey where they are directions on the detector only."""
    size = 0.14 * min(shape)
    corner = np.array([shape[0] - 0.5 - 1.8 * size, shape[1] - 0.5 - 1.8 * size])
    color = "black" if axes.known else "0.35"
    halo = [withStroke(linewidth=2, foreground="white")]  # it lies on any colour
    for vector, name in ((axes.x, "x"), (axes.y, "y")):
        row, col = corner + size * vector
        look = {"arrowstyle": "->", "color": color, "shrinkA": 0, "shrinkB": 0, "path_effects": halo}
        panel.annotate("", (col, row), (corner[1], corner[0]), arrowprops=look)
        row, col = corner + 1.4 * size * vector
        text = panel.text(col, row, name, color=color, ha="center", va="center", fontsize=font_pt, style="italic")
        text.set_path_effects(halo)


def save_strain_figure(path: str | Path, strain: Any, style: FigureStyle | None = None, reference: Any = None) -> Path:
    """Write a figure in the format of the file name's ending (PNG, SVG, PDF, TIFF); text stays text in SVG and PDF.

    Raises
    ------
    EmdlError
        When it cannot be written.
    """
    target = Path(path)
    figure = strain_figure(strain, style, reference)
    kind = target.suffix[1:].lower() or "png"
    with atomic_path(target) as temporary, rc_context({"svg.fonttype": "none", "pdf.fonttype": 42}):
        figure.savefig(temporary, format=kind, dpi=figure.dpi)
    return target


def rendered(figure: Figure, dpi: float | None = None) -> NDArray[np.uint8]:
    """(rows, cols, 4) uint8 picture of a figure."""
    if dpi is not None:
        figure.set_dpi(dpi)
    canvas = figure.canvas
    draw: Callable[[], None] = canvas.draw
    draw()
    return np.array(canvas.buffer_rgba(), np.uint8)  # type: ignore[attr-defined]
