"""Signals and results in a notebook: figures of the panels, a pattern or frame with its peaks, a summary with a thumbnail."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from html import escape
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import ValidationError

from napari_emdl.base.caveats import Caveats
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.kinds import kind_of
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Datacube, Signal
from napari_emdl.exporting import figures, occupancyfigures, tables
from napari_emdl.exporting.dataframes import to_dataframe, to_xarray
from napari_emdl.exporting.framefigure import FramePeaks, draw_frame, frame_values, shown_range, species_of

dataframe, xarray = to_dataframe, to_xarray
_SCREEN_DPI, _THUMBNAIL_PX = 110, 160
_CELL = "text-align:left; vertical-align:top"


class NotebookFigure(Figure):
    """A figure that shows itself in a notebook, with or without pyplot."""

    def _repr_html_(self) -> str:
        data = io.BytesIO()
        self.savefig(data, format="png", dpi=_SCREEN_DPI)
        return _img(data.getvalue(), "max-width: 100%")


def _img(png: bytes, style: str) -> str:
    return f'<img style="{style}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _drawn(draw: Callable[[Any], None], width_in: float, height_in: float) -> Figure:
    made = NotebookFigure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(made)
    draw(made)
    return made


# Figures of results


def figure(thing: Any, **options: Any) -> Figure:
    """Figure of a result; `options` are those of a strain figure.

    Raises
    ------
    EmdlError
        For options that the result does not take.
    """
    kind = kind_of(thing).name
    if kind == "strain":
        return _strain(thing, options)
    if options:
        raise EmdlError(f"plot of {kind} takes no options; got {', '.join(options)}")
    if kind == "disks":
        return _drawn(lambda made: _draw_disks(made, standing(thing)), 9.0, 4.2)
    if kind == "columns":
        flat = standing(thing).reshape((thing.n_positions,))
        return _drawn(lambda made: figures.draw_columns(made, flat, tables.known_pixel_A(thing.attrs)), 9.0, 4.4)
    return _drawn(lambda made: _draw_occupancy(made, thing), 10.0, 4.4)


def standing(peaks: PeakTable) -> PeakTable:
    """Peaks that the finder stands by; a table that is filtered already stays as it is."""
    least = peaks.attrs.get("default_min_score")
    return peaks if peaks.mask is not None or least is None else peaks.filter(min_score=least)


def _strain(strain: Any, options: dict[str, Any]) -> Figure:
    from napari_emdl.exporting.strainfigure import FigureStyle, reference_of, strain_figure

    reference = options.pop("reference", reference_of(strain))
    try:
        style = FigureStyle(**options)
    except ValidationError as error:
        first = error.errors()[0]
        raise EmdlError(f"strain figure: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return strain_figure(strain, style, reference, NotebookFigure)


def _draw_disks(made: Any, disks: PeakTable) -> None:
    from napari_emdl.exporting.folder import bragg_vector_map

    calibration = disks.attrs.get("calibration")
    q = None if calibration is None else calibration.q_pixel_invA
    step = tables.pixel_nm_of(calibration)
    left, right = made.subfigures(1, 2)
    vectors, label = bragg_vector_map(disks), "square root of intensity"
    figures.draw_image(left, vectors, "Bragg vector map", label, None if q is None else q[1], "1/Å", "inferno", compress=True)
    counts = np.atleast_2d(disks.counts())
    figures.draw_image(right, counts, "disks at each position", "number", None if step is None else step[1], "nm")


def _draw_occupancy(made: Any, occupancy: Any) -> None:
    left, right = made.subfigures(1, 2)
    occupancyfigures.draw_sites(left, occupancy)
    occupancyfigures.draw_raster(right, occupancy)


# One pattern or frame


def at(thing: Any, position: tuple[int, ...], signal: Any) -> Figure:
    """One pattern or frame, with its peaks where `thing` has peaks.

    Raises
    ------
    EmdlError
        For a position outside, a result without patterns or frames, or a file that is gone.
    """
    if isinstance(thing, Signal):
        return _drawn(lambda made: draw_frame(made, thing, _position(position, thing.shape[:-2])), 5.2, 4.6)
    peaks = thing if isinstance(thing, PeakTable) else None
    source = signal if signal is not None else _source(thing)
    place = _position(position, peaks.shape if peaks is not None else source.shape[:-2])
    shown = None if peaks is None else _peaks_at(peaks, place)
    return _drawn(lambda made: draw_frame(made, source, place, shown), 5.2, 4.6)


def _peaks_at(peaks: PeakTable, place: tuple[int, ...]) -> FramePeaks:
    """Peaks of a position that the finder stands by."""
    rows = standing(peaks)[place if len(place) > 1 else (place[0] if place else 0)]
    least = peaks.attrs.get("default_min_score") if peaks.mask is None else None
    return FramePeaks(rows, float(peaks.attrs.get("probe_radius_px") or 5.0), species_of(peaks.attrs), least)


def _source(thing: Any) -> Signal:
    from napari_emdl.workflow.source import source_of

    source = getattr(thing, "source", None)
    return source if source is not None else source_of(thing)


def _position(position: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    if not position:
        return tuple(n // 2 for n in shape)
    if len(position) != len(shape) or any(not -n <= i < n for i, n in zip(position, shape, strict=True)):
        raise EmdlError(f"there is no position {position}; positions lie in {' x '.join(map(str, shape))}")
    return tuple(int(i) % n for i, n in zip(position, shape, strict=True))


# Summary


def html(thing: Any) -> str:
    """Table of facts beside a thumbnail."""
    facts = _signal_facts(thing) if isinstance(thing, Signal) else _result_facts(thing)
    rows = "".join(
        f"<tr><th style='{_CELL}'>{escape(k)}</th><td style='{_CELL}'>{escape(str(v))}</td></tr>" for k, v in facts.items() if v
    )
    picture = _thumbnail(thing)
    image = "" if picture is None else f"<td>{picture}</td>"
    return f"<table><tr>{image}<td><table>{rows}</table></td></tr></table>"


def _units(pair: tuple[float, float] | None, unit: str) -> str:
    if pair is None:
        return "unknown"
    return f"{pair[0]:.4g} {unit}" if np.isclose(*pair) else f"{pair[0]:.4g} x {pair[1]:.4g} {unit}"


def _signal_facts(signal: Signal) -> dict[str, Any]:
    known, cube = signal.calibration, isinstance(signal, Datacube)
    facts: dict[str, Any] = {
        signal.kind.replace("_", " "): signal.name or "array",
        "shape": " x ".join(map(str, signal.shape)) + f" {signal.dtype}, {signal.nbytes / 1e6:,.4g} MB",
        "scan step" if cube else "pixel": _units(known.pixel_nm, "nm"),
    }
    if cube:
        facts["detector pixel"] = _units(known.q_pixel_invA, "1/Å")
    facts["frame interval"] = f"{known.frame_interval_s:.4g} s" if known.frame_interval_s else ""
    facts["beam"] = ", ".join(
        f"{value:g} {unit}" for value, unit in ((known.energy_keV, "keV"), (known.semiangle_mrad, "mrad")) if value
    )
    return facts | {"notes": "; ".join(signal.notes)}


def _result_facts(result: Any) -> dict[str, Any]:
    kind, attrs = kind_of(result).name, result.attrs
    over = (
        " x ".join(map(str, result.shape)) if hasattr(result, "shape") else f"{result.n_frames} frames, {result.n_sites} sites"
    )
    facts: dict[str, Any] = {kind: over}
    if isinstance(result, PeakTable):
        facts["peaks"] = f"{result.n_peaks:,}, fields {', '.join(result.fields)}"
    elif kind == "strain":
        facts["fitted"] = f"{result.mask.mean():.0%} of the positions"
        sigma = result.sigma[result.mask][:, :3]
        facts["typical error"] = f"{100 * np.nanmedian(sigma):.3f} %" if sigma.size else ""
        facts["axes"] = (attrs.get("axes") or {}).get("text", "")
    else:
        facts["blinking sites"] = int((result.class_probability[:, 1] > 0.5).sum())
        facts["events"] = len(result.events)
        facts["frame interval"] = f"{attrs['frame_interval_s']:.4g} s" if attrs.get("frame_interval_s") else ""
    record = attrs.get("provenance") or {}
    facts["method"] = attrs.get("method", "")
    facts["device"] = record.get("provider", "")
    return facts | {"caveats": "; ".join(Caveats.of(result).texts)}


def _thumbnail(thing: Any) -> str | None:
    """Small picture; None where the file is gone."""
    try:
        values, low, high, colors = _thumbnail_values(thing)
    except (EmdlError, OSError):
        return None
    from matplotlib import colormaps
    from PIL import Image

    grey = np.clip((values - low) / (high - low), 0, 1)
    picture = colormaps[colors](np.ma.masked_invalid(grey), bytes=True)[..., :3]
    factor = _THUMBNAIL_PX / max(picture.shape[:2])
    size = max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor))
    image = Image.fromarray(picture).resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BOX)
    data = io.BytesIO()
    image.save(data, format="PNG")
    return _img(data.getvalue(), "image-rendering: pixelated; min-width: 6rem; max-width: none")


def _thumbnail_values(thing: Any) -> tuple[NDArray[Any], float, float, str]:
    if isinstance(thing, Signal):
        frame = frame_values(thing, tuple(n // 2 for n in thing.shape[:-2]))
        return (*shown_range(frame, isinstance(thing, Datacube)), "gray")
    kind = kind_of(thing).name
    if kind == "strain":
        limit = figures.symmetric_limit(thing.exx)
        return thing.exx, -limit, limit, "RdBu_r"
    from napari_emdl.exporting.folder import bragg_vector_map, occupancy_map

    if kind == "occupancy":
        return occupancy_map(thing), 0.0, 1.0, "viridis"
    if kind == "disks":
        return (*shown_range(bragg_vector_map(standing(thing)), True), "inferno")
    counts = np.atleast_2d(standing(thing).counts()).astype(float)
    return counts, 0.0, float(max(1.0, counts.max(initial=0))), "viridis"
