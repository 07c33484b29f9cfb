"""Layers beside the results: what is written can be read, in pixels and in units."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile

from napari_emdl.exporting.annotations import export_layers

SPACE = {"scale": (1.5, 2.0), "units": ("nanometer", "nanometer"), "translate": (0.0, 0.0)}


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_points_shapes_labels_and_images(tmp_path: Path) -> None:
    labels = np.arange(12).reshape(3, 4)
    image = np.linspace(0, 1, 12).reshape(3, 4)
    features = pd.DataFrame({"grain": ["a", "b"]})
    corners = [np.array([[0.0, 0], [0, 2], [2, 2], [2, 0]]), np.array([[1.0, 1], [2, 3]])]
    layers = [
        (np.array([[1.0, 2.0], [3.0, 4.0]]), {"name": "mine", "features": features, **SPACE}, "points"),
        (corners, {"name": "mine", "shape_type": ["rectangle", "line"], **SPACE, "translate": (3.0, 0.0)}, "shapes"),
        ([], {"name": "empty", **SPACE}, "shapes"),
        (labels, {"name": "grains/1", **SPACE}, "labels"),
        (image, {"name": "Bright field", "scale": (1.0, 1.0), "units": ("pixel", "pixel")}, "image"),
        (np.zeros((2, 2, 2)), {"name": "arrows"}, "vectors"),
    ]
    written = export_layers(layers, tmp_path, {"settings": {"a": 1}}, ("svg",))
    assert {file.name for file in written} == {
        *("mine.csv", "mine_2.csv", "empty.csv", "grains_1.ome.tif"),
        *("Bright_field.ome.tif", "Bright_field.svg", "layers.json"),
    }
    points = rows_of(tmp_path / "mine.csv")
    assert points[1] == {"row_px": "3", "col_px": "4", "row_nm": "4.5", "col_nm": "8", "grain": "b"}
    shapes = rows_of(tmp_path / "mine_2.csv")
    assert [row["type"] for row in shapes] == ["rectangle"] * 4 + ["line"] * 2
    assert (shapes[-1]["shape"], shapes[-1]["corner"], shapes[-1]["row_px"], shapes[-1]["row_nm"]) == ("1", "1", "4", "6")
    assert rows_of(tmp_path / "empty.csv") == []
    with tifffile.TiffFile(tmp_path / "grains_1.ome.tif") as file:
        np.testing.assert_array_equal(file.asarray(), labels)
        assert 'PhysicalSizeX="2.0"' in file.ome_metadata and 'PhysicalSizeXUnit="nm"' in file.ome_metadata
    np.testing.assert_allclose(tifffile.imread(tmp_path / "Bright_field.ome.tif"), image, rtol=1e-6)
    record = json.loads((tmp_path / "layers.json").read_text())
    assert record["settings"] == {"a": 1} and record["layers"][5] == {
        "name": "arrows",
        "type": "vectors",
        "files": [],
        "scale": [],
        "units": [],
    }
