"""Export: tables, TIFF with scale, figures with colour bars, provenance."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from matplotlib.figure import Figure

from helpers.results_made import disks, small_occupancy, strain
from napari_emdl import io
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.exporting.figures import scale_bar_length, symmetric_limit
from napari_emdl.exporting.folder import export
from napari_emdl.exporting.occupancyfigures import draw_rates, draw_sites


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_disks(tmp_path: Path) -> None:
    made = disks((4, 3))
    written = export(made, tmp_path)
    names = {p.name for p in written}
    assert names >= {
        "disks.csv",
        "disk_count.ome.tif",
        "bragg_vector_map.ome.tif",
        "bragg_vector_map.png",
        "disks_provenance.json",
    }
    assert all(p.is_file() and p.stat().st_size > 0 for p in written)
    rows = table(tmp_path / "disks.csv")
    assert len(rows) == made.n_peaks
    flat = made.flat_index()
    for row, position, value in zip(rows, flat, made.column("row"), strict=True):
        assert (int(row["scan_row"]), int(row["scan_col"])) == divmod(position, 3)
        assert float(row["row_px"]) == pytest.approx(value, rel=1e-6)
    counts = io.open(tmp_path / "disk_count.ome.tif")
    assert counts.calibration.pixel_nm == pytest.approx((2.0, 2.0))
    np.testing.assert_array_equal(counts.data[:, :], made.counts())
    total = tifffile.imread(tmp_path / "bragg_vector_map.ome.tif").sum()
    assert total == pytest.approx(made.column("intensity").sum(), rel=0.1)
    record = json.loads((tmp_path / "disks_provenance.json").read_text())
    assert record["provenance"]["params"]["method"] == "template"
    assert record["calibration"]["q_pixel_invA"] == [0.02, 0.02]


def test_strain_from_a_file(tmp_path: Path) -> None:
    made = strain()
    io.save(made, tmp_path / "strain.h5")
    written = export(tmp_path / "strain.h5", tmp_path / "out", figure_formats=("png", "svg", "pdf"))
    assert {p.suffix for p in written} == {".csv", ".tif", ".png", ".svg", ".pdf", ".json"}
    rows = table(tmp_path / "out" / "strain.csv")
    assert len(rows) == made.exx.size
    for row, value, good in zip(rows, made.exx.ravel(), made.mask.ravel(), strict=True):
        assert row["exx"] == "" if not good else float(row["exx"]) == pytest.approx(value)
        assert row["fitted"] == str(int(good))
    image = io.open(tmp_path / "out" / "exx.ome.tif")
    np.testing.assert_allclose(image.data[:, :], made.exx.astype("f4"))
    assert image.calibration.pixel_nm == pytest.approx((2.0, 2.0))
    svg = (tmp_path / "out" / "strain.svg").read_text()
    assert all(text in svg for text in (">%</text>", ">degrees</text>"))


def test_strain_figure_is_centred_and_scaled() -> None:
    from matplotlib.patches import Rectangle

    from napari_emdl.exporting.strainfigure import strain_figure

    made = strain()
    figure = strain_figure(made, reference=(0, 2, 1, 3))
    maps = [axes for axes in figure.axes if axes.images]
    names = ["$\\varepsilon_{xx}$", "$\\varepsilon_{yy}$", "$\\varepsilon_{xy}$", "$\\theta$"]
    assert [axes.get_title() for axes in maps] == names
    limits = [axes.images[0].get_clim() for axes in maps]
    assert all(low == -high for low, high in limits)
    assert limits[0] == limits[1] == limits[2]
    np.testing.assert_allclose(maps[0].images[0].get_array().filled(np.nan), made.exx * 100)
    assert all("2 nm" in [text.get_text() for text in axes.texts] for axes in maps)
    boxes = [p for p in maps[0].patches if isinstance(p, Rectangle) and not p.get_fill()]
    assert [(b.get_x(), b.get_y(), b.get_width(), b.get_height()) for b in boxes] == [(0.5, -0.5, 2.0, 2.0)]


def test_columns_and_occupancy(tmp_path: Path) -> None:
    occupancy = small_occupancy()
    written = {p.name for p in export(occupancy, tmp_path)}
    assert {
        "sites.csv",
        "occupancy.csv",
        "events.csv",
        "rates.csv",
        "frames.csv",
        "occupancy_map.ome.tif",
        "occupancy_map.png",
    } <= written
    sites = table(tmp_path / "sites.csv")
    assert len(sites) == occupancy.n_sites  # type: ignore[attr-defined]
    assert len(table(tmp_path / "occupancy.csv")) == occupancy.p_occupied.size  # type: ignore[attr-defined]
    heat = io.open(tmp_path / "occupancy_map.ome.tif")
    assert heat.calibration.pixel_nm == pytest.approx((0.015, 0.015))
    at = tuple(np.rint(occupancy.sites_px[0]).astype(int))  # type: ignore[attr-defined]
    assert heat.data[at] == pytest.approx(occupancy.mean_occupancy()[0], abs=1e-6)  # type: ignore[attr-defined]

    assert {"occupancy_map.png", "occupancy_in_time.png", "rates.png", "dwell_times.png"} <= written
    figure = Figure()
    mean = np.arange(8 * 9, dtype=float).reshape(8, 9)
    draw_sites(figure, occupancy, mean)
    image, sites = figure.axes[0].images[0], figure.axes[0].collections[0]
    np.testing.assert_array_equal(image.get_array(), mean)
    np.testing.assert_allclose(sites.get_offsets(), occupancy.sites_px[:, ::-1])  # type: ignore[attr-defined]
    np.testing.assert_allclose(sites.get_array(), occupancy.mean_occupancy())  # type: ignore[attr-defined]
    figure = Figure()
    draw_rates(figure, occupancy)
    drawn = [container for container in figure.axes[0].containers if len(container.lines[0].get_xdata())]
    rates = occupancy.rates  # type: ignore[attr-defined]
    for container, name in zip(drawn, ("p_off", "p_on"), strict=True):
        np.testing.assert_allclose(container.lines[0].get_ydata(), rates[name][np.isfinite(rates[name])])

    columns = {"row": np.arange(4.0), "col": np.arange(4.0), "score": np.ones(4), "species": np.array([0, 1, 1, 0])}
    peaks = PeakTable((2,), [0, 3, 4], columns, {"species": ["Mo", "S"], "pixel_A": 0.1, "frame_shape": [8, 8]})
    export(peaks, tmp_path / "columns")
    rows = table(tmp_path / "columns" / "columns.csv")
    assert [r["species"] for r in rows] == ["Mo", "S", "S", "Mo"]
    assert [r["frame"] for r in rows] == ["0", "0", "0", "1"]
    assert float(rows[3]["row_A"]) == pytest.approx(0.3)


def test_empty_results_export(tmp_path: Path) -> None:
    empty = PeakTable.empty((2, 2), ("row", "col", "intensity", "score", "sigma_px"))
    assert export(empty, tmp_path / "disks")
    none = PeakTable.empty((3,), ("row", "col", "score", "species"))
    assert export(none, tmp_path / "columns")


def test_wrong_requests(tmp_path: Path) -> None:
    with pytest.raises(EmdlError, match="parts are"):
        export(disks(), tmp_path, parts=("xls",))
    (tmp_path / "file").write_text("x")
    with pytest.raises(EmdlError, match="a file, not a folder"):
        export(disks(), tmp_path / "file")
    with pytest.raises(EmdlError, match="does not exist"):
        export(tmp_path / "none.h5", tmp_path)
    assert [p.name for p in export(disks(), tmp_path / "a", parts=("csv",))] == ["disks.csv"]


def test_scale_bars_and_limits() -> None:
    for extent in (0.3, 1.0, 7.3, 40.0, 999.0, 12345.0):
        length = scale_bar_length(extent)
        assert 0.1 * extent <= length <= 0.25 * extent
        assert f"{length:e}"[0] in "125"
    assert symmetric_limit(np.array([np.nan, -2.0, 1.0])) == pytest.approx(2.0, rel=0.02)
    assert symmetric_limit(np.full(3, np.nan)) > 0


def test_export_leaves_no_global_matplotlib_state(tmp_path: Path) -> None:
    import sys

    before = sys.modules.get("matplotlib.pyplot")
    figures = before.get_fignums() if before else []
    export(disks(), tmp_path)
    after = sys.modules.get("matplotlib.pyplot")
    assert (after.get_fignums() if after else []) == figures


@pytest.mark.parametrize("name", ['=HYPERLINK("x")', "+1+cmd", "-2+3", "@SUM(1)", "\t=1", "\r=1"])
def test_no_cell_is_a_formula(tmp_path: Path, name: str) -> None:
    from napari_emdl.exporting.tables import write_csv

    path = write_csv(tmp_path / "a.csv", {"species": [name, "Mo"], name: [-1.5, 2.0], "n": [-3, 4]})
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows == [["species", f"'{name}", "n"], [f"'{name}", "-1.5", "-3"], ["Mo", "2", "4"]]
