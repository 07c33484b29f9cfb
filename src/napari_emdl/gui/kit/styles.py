"""How layers look, in one place: colour maps, units, names. napari keeps units only if EVERY layer of a viewer has them."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.utils.colormaps import AVAILABLE_COLORMAPS, Colormap

#: Key of layer.metadata under which the package keeps what it needs to know a layer again.
METADATA_KEY = "napari_emdl"

#: Accent colours that read on the dark and on the light theme.
CROSS_COLOR = "#ffb000"
REFERENCE_COLOR = "#21d07a"
DETECTOR_COLORS = ("#35b7ff", "#ff7ac8", "#ffd23f", "#7dff8a", "#c9a0ff")
LATTICE_COLORS = ("#ff5d5d", "#4da6ff")
PATTERN_COLORMAP = "gray"

#: attribute of StrainMap, layer name, factor to the shown unit, shown unit
STRAIN_MAPS = (
    ("exx", "ε xx", 100.0, "%"),
    ("eyy", "ε yy", 100.0, "%"),
    ("exy", "ε xy", 100.0, "%"),
    ("theta_rad", "θ", 180.0 / np.pi, "°"),
)


def matplotlib_colormap(name: str) -> Colormap:
    """napari colour map from matplotlib's of that name; NaN is transparent."""
    import matplotlib  # a tenth of a second, and the panel opens without

    colors = matplotlib.colormaps[name](np.linspace(0, 1, 256))
    return Colormap(colors, name=name)


def disk_colormap() -> Colormap:
    """Colours of the scores of disks, as figures have them."""
    from napari_emdl.exporting.colours import disk_colours

    return Colormap(disk_colours(), name="disk score")


def listed(colors: tuple[str, ...]) -> Colormap:
    """Single colours for values 1, 2, ...: contrast limits go from 0.5 to one half above the last; NaN is transparent."""
    import matplotlib.colors

    rgba = np.array([matplotlib.colors.to_rgba(color) for color in colors])
    return Colormap(rgba, name="reasons", interpolation="zero", controls=np.linspace(0, 1, len(colors) + 1))


def diverging() -> Colormap:
    """Blue (negative) over white to red (positive)."""
    return matplotlib_colormap("RdBu_r")


def space(
    pixel_size: tuple[float, float] | None,
    unit: str = "nm",
    axis_labels: tuple[str, str] = ("row", "col"),
    leading: tuple[tuple[str, float, str], ...] = (),
) -> dict[str, Any]:
    """Scale, units, axis labels and translation for a layer; pass it to every layer of a viewer.

    Parameters
    ----------
    pixel_size
        (row, col) size of a pixel in `unit`; None shows pixels.
    unit
        A unit napari knows, such as "nm" or "1/angstrom".
    axis_labels
        Names of the two image axes.
    leading
        (name, step, unit) of the axes before the image, such as (("time", 0.1, "s"),).
    """
    step, name = (tuple(float(v) for v in pixel_size), unit) if pixel_size else ((1.0, 1.0), "pixel")
    return {
        "scale": tuple(s for _, s, _ in leading) + step,
        "units": (*(u for _, _, u in leading), name, name),
        "axis_labels": tuple(n for n, _, _ in leading) + axis_labels,
        "translate": (0.0,) * (len(leading) + 2),
    }


def symmetric_limits(*arrays: np.ndarray, quantile: float = 0.98, least: float = 1e-6) -> tuple[float, float]:
    """Contrast limits centred at 0 that hold `quantile` of the finite values of `arrays`."""
    values = np.concatenate([np.abs(a[np.isfinite(a)]).ravel() for a in arrays]) if arrays else np.zeros(0)
    limit = max(float(np.quantile(values, quantile)) if values.size else 1.0, least)
    return -limit, limit


#: Ends of a colour scale, times a power of ten, within which napari's colour bar has room for numbers besides 0.
ROUND_ENDS = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 10.0)


def rounded_limits(limits: tuple[float, float]) -> tuple[float, float]:
    """Limits symmetric about 0, a little wider so that they end in a round number."""
    power = 10.0 ** np.floor(np.log10(limits[1]))
    end = next((f * power for f in ROUND_ENDS if f * power >= limits[1] * (1 - 1e-6)), limits[1])
    return -float(end), float(end)


def end_marks(beyond: tuple[float, float]) -> str:
    """Marks for the shares of values below and above a colour scale, such as "▼ 1 % ▲ 6 %"; empty below half a per cent."""
    return " ".join(f"{sign} {100 * share:.0f} %" for sign, share in zip("▼▲", beyond, strict=True) if share >= 0.005)


def show_colorbar(layer: Any, visible: bool = True) -> None:
    """Show the layer's colour bar where this napari has one (0.6.5 and later)."""
    colorbar = getattr(layer, "colorbar", None)
    if colorbar is not None:
        colorbar.visible = visible


def has_colorbar(layer: Any) -> bool:
    """True while the layer's colour bar is shown, and where this napari has none."""
    colorbar = getattr(layer, "colorbar", None)
    return colorbar is None or bool(colorbar.visible)


def apply_look(layer: Any, look: dict[str, Any]) -> None:
    """Give a layer the visibility, opacity, contrast and colours of `look`; what it does not have is left out."""
    limits = look.get("contrast_limits")
    if limits is not None and hasattr(layer, "contrast_limits_range") and limits[0] < limits[1]:
        low, high = layer.contrast_limits_range
        layer.contrast_limits_range = (min(low, limits[0]), max(high, limits[1]))
        layer.contrast_limits = limits
    colormap = look.get("colormap")
    if colormap in AVAILABLE_COLORMAPS and colormap != getattr(layer.colormap, "name", colormap):
        layer.colormap = colormap
    for name in ("visible", "opacity", "gamma"):
        if name in look and getattr(layer, name, look[name]) != look[name]:  # napari draws anew for the same value as well
            setattr(layer, name, look[name])


#: For a tool button with a menu, whose text ends in ▾: Qt's own arrow would lie over the text.
MENU_BUTTON = "QToolButton::menu-indicator { image: none; } QToolButton { padding: 2px 6px; }"


def show_scale_bar(viewer: Any, width: float | None = None) -> None:
    """Scale bar in the units of the layers.

    Parameters
    ----------
    width
        Width of the image in those units: the bar then keeps a round length of at least 1 where that fits, because napari
        writes 0.5 1/Å as 500 1/kÅ.
    """
    viewer.scale_bar.visible = True
    viewer.scale_bar.length = max(1.0, nice_length(0.25 * width)) if width is not None and width > 1.5 else None


def nice_length(about: float) -> float:
    """1, 2 or 5 times a power of ten, at most `about`."""
    power = 10.0 ** np.floor(np.log10(about))
    return float(max(f * power for f in (1.0, 2.0, 5.0) if f * power <= about))
