"""Export of layers that lie over a map: points and shapes as CSV, labels and images as TIFF with units.

A JSON file beside them says what they are and where they come from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.exporting import tables
from napari_emdl.exporting.folder import write_ome_tiff
from napari_emdl.io.outputs import atomic_path
from napari_emdl.io.packing import jsonable

#: What a layer is as plain values: (data, attributes, type), as napari's writers get it.
LayerData = tuple[Any, Mapping[str, Any], str]
RECORD = "layers.json"
_NM = ("nm", "nanometer", "nanometre")


def export_layers(
    layers: Sequence[LayerData], folder: str | Path, record: Mapping[str, Any], figure_formats: Sequence[str] = ()
) -> list[Path]:
    """Write layers into a folder.

    Parameters
    ----------
    layers
        (data, attributes, type); types other than points, shapes, labels and image are left out and said so in the record.
    folder
        Made when it is not there; files of the same names are replaced.
    record
        Where they come from and with what settings, for ``layers.json``.
    figure_formats
        Of "png", "svg", "pdf": one figure an image, with colour bar and scale bar.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    EmdlError
        When a file cannot be written.
    """
    target = Path(folder).expanduser()
    written: list[Path] = []
    entries = []
    taken: set[str] = {RECORD.split(".")[0]}
    for data, attributes, kind in layers:
        name = _file_name(str(attributes.get("name") or kind), taken)
        files = _write(target, name, data, attributes, kind, figure_formats)
        written += files
        entries.append(
            {
                "name": attributes.get("name"),
                "type": kind,
                "files": [file.name for file in files],
                "scale": list(attributes.get("scale", ())),
                "units": [str(unit) for unit in attributes.get("units", ())],
            }
        )
    text = json.dumps({**record, "layers": entries}, indent=2, default=jsonable, ensure_ascii=False)
    with atomic_path(target / RECORD) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return [*written, target / RECORD]


def _file_name(name: str, taken: set[str]) -> str:
    """Name of a layer as a file's, told apart from those before it."""
    plain = "".join(c if c.isalnum() or c in "-_" else "_" for c in name).strip("_") or "layer"
    unique, n = plain, 2
    while unique.lower() in taken:
        unique, n = f"{plain}_{n}", n + 1
    taken.add(unique.lower())
    return unique


def _write(folder: Path, name: str, data: Any, attributes: Mapping[str, Any], kind: str, formats: Sequence[str]) -> list[Path]:
    if kind == "points":
        return [tables.write_csv(folder / f"{name}.csv", point_columns(data, attributes))]
    if kind == "shapes":
        return [tables.write_csv(folder / f"{name}.csv", shape_columns(data, attributes))]
    if kind not in ("labels", "image") or np.ndim(data) != 2:
        return []
    image = np.asarray(data)
    if kind == "labels":
        image = image.astype(np.uint16 if image.min(initial=0) >= 0 and image.max(initial=0) < 2**16 else np.int32)
    elif image.dtype == np.float64:
        image = image.astype(np.float32)
    pixel = _pixel_nm(attributes)
    files = [write_ome_tiff(folder / f"{name}.ome.tif", image, pixel, description=str(attributes.get("name", "")))]
    if kind == "image":
        from napari_emdl.exporting.figures import draw_image, save_figure

        def draw(figure: Any) -> None:
            draw_image(figure, image, str(attributes.get("name", "")), "value", pixel[1] if pixel else None, "nm", "gray")

        files += [save_figure(folder / f"{name}.{ending}", draw, 5.0, 4.2) for ending in formats]
    return files


def _pixel_nm(attributes: Mapping[str, Any]) -> tuple[float, float] | None:
    units = [str(unit) for unit in attributes.get("units", ())][-2:]
    if len(units) < 2 or any(unit not in _NM for unit in units):
        return None
    row, col = (float(step) for step in tuple(attributes["scale"])[-2:])
    return row, col


def _place(vertices: NDArray[Any], attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Row and col in pixels and, where the layer has them, in nm; a layer shifted against the map is shifted here too."""
    points = np.asarray(vertices, float)[..., -2:].reshape(-1, 2)
    scale = np.asarray(tuple(attributes.get("scale", (1.0, 1.0)))[-2:], float)
    points = points + np.asarray(tuple(attributes.get("translate", (0.0, 0.0)))[-2:], float) / scale
    out = {"row_px": points[:, 0], "col_px": points[:, 1]}
    pixel = _pixel_nm(attributes)
    if pixel is not None:
        out |= {"row_nm": points[:, 0] * pixel[0], "col_nm": points[:, 1] * pixel[1]}
    return out


def point_columns(data: Any, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """One row a point: its place and its features."""
    return {**_place(np.asarray(data), attributes), **_features(attributes)}


def _features(attributes: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    table: Any = attributes.get("features")
    return {str(name): np.asarray(table[name]) for name in getattr(table, "columns", ())}


def shape_columns(data: Sequence[Any], attributes: Mapping[str, Any]) -> dict[str, Any]:
    """One row a corner: number and type of the shape, the corner, its place, and the features of the shape."""
    counts = [len(shape) for shape in data]
    of = np.repeat(np.arange(len(data)), counts)
    kinds = attributes.get("shape_type", "polygon")
    kinds = [kinds] * len(data) if isinstance(kinds, str) else [str(kind) for kind in kinds]
    corners = np.concatenate([np.asarray(shape, float)[:, -2:] for shape in data]) if counts else np.zeros((0, 2))
    return {
        "shape": of,
        "type": np.asarray(kinds, dtype=object)[of] if counts else np.zeros(0, object),
        "corner": np.concatenate([np.arange(n) for n in counts]) if counts else np.zeros(0, int),
        **_place(corners, attributes),
        **{name: values[of] for name, values in _features(attributes).items()},
    }
