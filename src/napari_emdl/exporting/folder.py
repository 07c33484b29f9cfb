"""Export a result to a folder: CSV tables, OME-TIFF maps with pixel size, figures, provenance."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Calibration
from napari_emdl.exporting import tables
from napari_emdl.io.outputs import atomic_path
from napari_emdl.io.packing import jsonable
from napari_emdl.io.results import load, result_type
from napari_emdl.io.summary import calibration_info

Pixel = tuple[float, float] | None
PARTS = ("csv", "tiff", "figures", "json")
#: radius of the spot that stands for a site in the occupancy map, in Å
_SITE_RADIUS_A = 0.6


def export(
    result: Any,
    folder: str | Path,
    *,
    parts: Sequence[str] = PARTS,
    figure_formats: Sequence[str] = ("png",),
    mean: NDArray[Any] | None = None,
) -> list[Path]:
    """Write a result into a folder.

    Parameters
    ----------
    result
        PeakTable, StrainMap, Occupancy, or the path of a result file.
    folder
        Made when it is not there; files of the same names are replaced.
    parts
        Which of "csv", "tiff", "figures" and "json" (provenance) to write.
    figure_formats
        Of "png", "svg", "pdf".
    mean
        Drift-corrected mean image (rows, cols) of the movie, to be drawn under the sites of an occupancy.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    EmdlError
        When the result cannot be read or a file cannot be written.
    """
    if isinstance(result, (str, Path)):
        result = load(result)
    unknown = sorted(set(parts) - set(PARTS)) + sorted(set(figure_formats) - {"png", "svg", "pdf"})
    if unknown:
        raise EmdlError(f"cannot export {unknown[0]!r}; parts are {', '.join(PARTS)}, figures are png, svg or pdf")
    kind = result_type(result)
    target = Path(folder).expanduser()
    if target.exists() and not target.is_dir():
        raise EmdlError(f"cannot export to {target}: it is a file, not a folder")
    writer = _Writer(target, set(parts), tuple(figure_formats))
    if kind == "occupancy":
        _export_occupancy(writer, result, mean)
    else:
        {"disks": _export_disks, "columns": _export_columns, "strain": _export_strain}[kind](writer, result)
    if "json" in writer.parts:
        record = {"result": kind, "provenance": getattr(result, "attrs", {}).get("provenance") or {}} | _facts(result)
        writer.text(f"{kind}_provenance.json", json.dumps(record, indent=2, default=jsonable, ensure_ascii=False))
    return writer.written


class _Writer:
    """Writes the parts that are wanted and remembers the files."""

    def __init__(self, folder: Path, parts: set[str], formats: tuple[str, ...]) -> None:
        self.folder, self.parts, self.formats = folder, parts, formats
        self.written: list[Path] = []

    def csv(self, name: str, columns: Callable[[], tables.Columns]) -> None:
        if "csv" in self.parts:
            self.written.append(tables.write_csv(self.folder / name, columns()))

    def tiff(self, name: str, image: NDArray[Any], pixel_nm: Pixel, **facts: Any) -> None:
        if "tiff" in self.parts:
            self.written.append(write_ome_tiff(self.folder / name, image, pixel_nm, **facts))

    def figure(self, name: str, draw: Callable[[Any], None], width_in: float = 5.0, height_in: float = 4.2) -> None:
        if "figures" in self.parts:
            from napari_emdl.exporting.figures import save_figure

            self.written += [save_figure(self.folder / f"{name}.{f}", draw, width_in, height_in) for f in self.formats]

    def text(self, name: str, text: str) -> None:
        with atomic_path(self.folder / name) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
        self.written.append(self.folder / name)


def write_ome_tiff(
    path: Path,
    image: NDArray[Any],
    pixel_nm: Pixel,
    names: Sequence[str] = (),
    description: str = "",
    interval_s: float | None = None,
) -> Path:
    """Write (rows, cols) or (channels, rows, cols) as an OME-TIFF with its pixel size.

    Parameters
    ----------
    path
        File, ending in .ome.tif.
    image
        Float or integer map.
    pixel_nm
        (row, col) pixel size; None writes none.
    names
        Channel names.
    description
        What the values are, and their unit.
    interval_s
        Time from frame to frame of a stack.
    """
    import tifffile

    metadata: dict[str, Any] = {"axes": {2: "YX", 3: "TYX" if interval_s else "CYX"}[image.ndim]}
    if pixel_nm is not None:
        metadata |= {
            "PhysicalSizeY": pixel_nm[0],
            "PhysicalSizeYUnit": "nm",
            "PhysicalSizeX": pixel_nm[1],
            "PhysicalSizeXUnit": "nm",
        }
    if interval_s:
        metadata |= {"TimeIncrement": interval_s, "TimeIncrementUnit": "s"}
    if names:
        metadata["Channel"] = {"Name": list(names)}
    if description:
        metadata["Description"] = description
    with atomic_path(path) as temporary:
        tifffile.imwrite(temporary, image, ome=True, metadata=metadata, photometric="minisblack", compression="zlib")
    return path


def _facts(result: Any) -> dict[str, Any]:
    """Small facts of a result beside its provenance; no arrays."""
    attrs = getattr(result, "attrs", {})
    out = {k: v for k, v in attrs.items() if isinstance(v, (str, int, float, bool, list, tuple, dict)) and k != "provenance"}
    calibration = attrs.get("calibration") or getattr(getattr(result, "calibration", None), "calibration", None)
    return {"facts": out} | ({"calibration": calibration_info(calibration)} if isinstance(calibration, Calibration) else {})


# Disks


def _export_disks(writer: _Writer, disks: PeakTable) -> None:
    writer.csv("disks.csv", lambda: tables.disk_columns(disks))
    calibration = disks.attrs.get("calibration") or Calibration()
    step = calibration.pixel_nm
    counts = disks.counts().astype(np.uint16)
    writer.tiff("disk_count.ome.tif", counts, step, description="Bragg disks at each scan position")
    bragg_map = bragg_vector_map(disks)
    q = calibration.q_pixel_invA
    unit = "" if q is None else f"; a pixel is {q[0]:.8g} x {q[1]:.8g} 1/Å (row x col)"
    writer.tiff("bragg_vector_map.ome.tif", bragg_map, None, description=f"Bragg vector map, intensity per pixel{unit}")

    def draw_map(figure: Any) -> None:
        from napari_emdl.exporting.figures import draw_image

        pixel = None if q is None else q[1]
        draw_image(figure, bragg_map, "Bragg vector map", "square root of intensity", pixel, "1/Å", "inferno", compress=True)

    def draw_counts(figure: Any) -> None:
        from napari_emdl.exporting.figures import draw_image

        draw_image(figure, counts, "disks per position", "number", None if step is None else step[1], "nm")

    writer.figure("bragg_vector_map", draw_map)
    writer.figure("disk_count", draw_counts)


def bragg_vector_map(disks: PeakTable) -> NDArray[np.float32]:
    """Intensity of all disks on the detector, shifted to a common origin when the table knows the origin."""
    from napari_emdl.diffraction import lattice

    shape = disks.attrs.get("detector_shape")
    if shape is None:
        shape = tuple(np.ceil(disks.positions_px().max(axis=0)).astype(int) + 1) if disks.n_peaks else (1, 1)
    centre = np.array(shape) // 2
    origin = disks.attrs.get("origin_px")
    return lattice.bragg_vector_map(disks, centre if origin is None else origin, (int(shape[0]), int(shape[1])), centre)


# Strain


def _export_strain(writer: _Writer, strain: Any) -> None:
    from napari_emdl.diffraction.fit.strain import COMPONENTS, REASONS

    writer.csv("strain.csv", lambda: tables.strain_columns(strain, REASONS))
    inner = getattr(strain.calibration, "calibration", strain.calibration)
    step = tables.pixel_nm_of(inner)
    axes = strain.attrs.get("axes") or {}
    axis = axes.get("text") or f"x axis at {strain.axis_deg:g} degrees from the detector's rows towards its columns"
    for i, name in enumerate(COMPONENTS):
        what = "rotation in rad" if name == "theta_rad" else f"strain {name}, no unit (0.01 is 1 %)"
        writer.tiff(
            f"{name}.ome.tif", getattr(strain, name).astype(np.float32), step, description=f"{what}; {axis}; NaN: no fit"
        )
        sigma = strain.sigma[..., i].astype(np.float32)
        writer.tiff(f"sigma_{name}.ome.tif", sigma, step, description=f"standard error of {name}; NaN: no fit")
    if strain.region is not None:
        writer.tiff("region.ome.tif", strain.region, step, description="region (phase) of each position; 0: none")
    if "figures" in writer.parts:
        from napari_emdl.exporting.strainfigure import reference_of, save_strain_figure

        for kind in writer.formats:
            writer.written.append(save_strain_figure(writer.folder / f"strain.{kind}", strain, reference=reference_of(strain)))


# Columns and occupancy


def _export_columns(writer: _Writer, peaks: PeakTable) -> None:
    pixel_A = tables.known_pixel_A(peaks.attrs)
    flat = peaks.reshape((peaks.n_positions,))
    writer.csv("columns.csv", lambda: tables.column_columns(flat, pixel_A))
    shape = tuple(peaks.attrs.get("frame_shape") or ())
    if len(shape) == 2:
        heat = _histogram(flat.positions_px(), (int(shape[0]), int(shape[1])))
        size = None if pixel_A is None else (pixel_A / 10, pixel_A / 10)
        writer.tiff("column_heatmap.ome.tif", heat, size, description="detections per pixel over all frames")

    def draw(figure: Any) -> None:
        from napari_emdl.exporting.figures import draw_columns

        draw_columns(figure, flat, pixel_A)

    if flat.n_positions:
        writer.figure("columns", draw, 10.0, 4.8)


def _histogram(positions_px: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float32]:
    places = np.rint(positions_px).astype(int)
    inside = np.all((places >= 0) & (places < shape), axis=1)
    flat = np.ravel_multi_index(tuple(places[inside].T), shape)
    return np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float32)


def _export_occupancy(writer: _Writer, occupancy: Any, mean: NDArray[Any] | None) -> None:
    from napari_emdl.atoms.fit.drift import FLAGS
    from napari_emdl.atoms.fit.sites import GROUPS
    from napari_emdl.exporting import occupancyfigures as figures

    writer.csv("sites.csv", lambda: tables.site_columns(occupancy, GROUPS))
    writer.csv("occupancy.csv", lambda: tables.occupancy_columns(occupancy))
    writer.csv("events.csv", lambda: tables.structured_columns(occupancy.events))
    writer.csv("rates.csv", lambda: tables.rate_columns(occupancy))
    writer.csv("frames.csv", lambda: tables.frame_columns(occupancy, FLAGS))
    pixel_A = tables.known_pixel_A(occupancy.attrs)
    size = None if not pixel_A else (pixel_A / 10, pixel_A / 10)
    heat = occupancy_map(occupancy)
    writer.tiff("occupancy_map.ome.tif", heat, size, description="mean occupancy at each site, drift corrected; NaN: no site")
    raster = np.where(occupancy.valid, occupancy.p_occupied, np.nan).astype(np.float32)
    writer.tiff("occupancy_frames_sites.ome.tif", raster, None, description="chance of being occupied: row frame, col site")
    if len(occupancy.sites_px):
        writer.figure("occupancy_map", lambda f: figures.draw_sites(f, occupancy, mean), 6.0, 5.0)
        writer.figure("occupancy_in_time", lambda f: figures.draw_raster(f, occupancy), 7.0, 5.0)
    if len(occupancy.rates):
        writer.figure("rates", lambda f: figures.draw_rates(f, occupancy), 6.0, 4.0)
        writer.figure("dwell_times", lambda f: figures.draw_dwell(f, occupancy), 5.0, 4.0)
    _export_movie(writer, occupancy)


def occupancy_map(occupancy: Any) -> NDArray[np.float32]:
    """Image in which every site is a spot of its mean occupancy; NaN where there is no site."""
    place = occupancy.sites_px
    if not len(place):
        return np.full((1, 1), np.nan, np.float32)
    shape = tuple(int(n) for n in occupancy.attrs.get("frame_shape") or np.ceil(place.max(axis=0)).astype(int) + 4)
    out = np.full(shape, np.nan, np.float32)
    pixel_A = occupancy.attrs.get("pixel_A")
    radius = max(1.0, _SITE_RADIUS_A / pixel_A) if pixel_A else 2.0
    reach = int(np.ceil(radius))
    for (row, col), value in zip(place, occupancy.mean_occupancy(), strict=True):
        r0, r1 = max(0, int(row) - reach), min(shape[0], int(row) + reach + 2)
        c0, c1 = max(0, int(col) - reach), min(shape[1], int(col) + reach + 2)
        if r0 < r1 and c0 < c1:
            rows, cols = np.ogrid[r0:r1, c0:c1]
            out[r0:r1, c0:c1][np.hypot(rows - row, cols - col) <= radius] = value
    return out


def _export_movie(writer: _Writer, occupancy: Any) -> None:
    """Annotated movie, where the atoms side offers one for results without their frames."""
    try:
        render = import_module("napari_emdl.exporting.rendering")
    except ModuleNotFoundError:
        return
    draw = getattr(render, "export_movie", None)
    if draw is not None and "figures" in writer.parts:
        writer.written += list(draw(occupancy, writer.folder))
