"""Signals and results in a notebook: they show themselves, draw the figures of the panels and turn into tables."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import napari_emdl as emdl
from helpers.results_made import UNITS, disks, small_occupancy, strain
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Calibration, in_memory
from napari_emdl.exporting import dataframes


def small_cube():
    return in_memory(np.random.default_rng(3).poisson(4, (2, 3, 32, 30)).astype(np.uint16), "datacube", UNITS, "scan <1>")


def columns() -> PeakTable:
    lists = [
        {"row": [10.0, 20.0], "col": [5.0, 9.0], "score": [0.9, 0.1], "species": [0, 1]},
        {"row": [11.0], "col": [6.0], "score": [0.8], "species": [1]},
    ]
    table = PeakTable.from_lists(lists)
    table.attrs.update(species=["Mo", "S2"], pixel_A=0.2, frame_shape=[32, 30], default_min_score=0.5)
    return table


def movie():
    frames = np.random.default_rng(4).poisson(9, (2, 32, 30)).astype(np.uint16)
    return in_memory(frames, "movie", Calibration(pixel_nm=(0.02, 0.02), frame_interval_s=0.5), "movie")


def pictures(text: str) -> list[Image.Image]:
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"data:image/png;base64,([^\"']+)", text)]


RESULTS = {"disks": disks, "strain": strain, "columns": columns, "occupancy": small_occupancy}


@pytest.mark.parametrize("name", RESULTS)
def test_results_show_shape_and_a_thumbnail(name: str) -> None:
    text = RESULTS[name]()._repr_html_()
    assert f">{name}<" in text
    (picture,) = pictures(text)
    assert max(picture.size) == 160
    assert len(np.unique(np.asarray(picture))) > 1


def test_signals_show_shape_and_units() -> None:
    text = small_cube()._repr_html_()
    assert "2 x 3 x 32 x 30 uint16" in text and "2 nm" in text and "0.02 1/Å" in text and "200 keV" in text
    assert "scan &lt;1&gt;" in text, "names of files are escaped"
    assert "0.5 s" in movie()._repr_html_()


def test_a_line_of_text_is_short() -> None:
    assert repr(small_cube()) == "Datacube('scan <1>', shape=(2, 3, 32, 30), uint16)"
    assert repr(strain()) == f"StrainMap(shape=(4, 5), {strain().mask.sum()} positions fitted)"
    assert repr(small_occupancy()).startswith("Occupancy(24 frames, ")


def test_a_signal_whose_file_is_gone_still_shows_its_facts(tmp_path: Path) -> None:
    np.save(tmp_path / "frames.npy", np.ones((3, 16, 16), np.float32))
    opened = emdl.open_movie(tmp_path / "frames.npy")
    (tmp_path / "frames.npy").unlink()
    text = opened._repr_html_()
    assert "3 x 16 x 16" in text and not pictures(text)


@pytest.mark.parametrize("name", RESULTS)
def test_figures_show_themselves(name: str) -> None:
    figure = RESULTS[name]().plot()
    assert len(pictures(figure._repr_html_())) == 1
    assert all(axes.has_data() for axes in figure.axes)


def test_the_strain_figure_takes_its_style_and_names_a_wrong_one() -> None:
    made = strain()
    figure = made.plot(components=("exx",), limit_pct=2, width_mm=85)
    assert figure.get_size_inches()[0] == pytest.approx(85 / 25.4)
    shown = figure.axes[0].images[0]
    assert shown.get_clim() == (-2, 2)
    np.testing.assert_allclose(np.ma.filled(shown.get_array(), np.nan), made.exx * 100)
    with pytest.raises(EmdlError, match="width_mm"):
        made.plot(width_mm=1)
    with pytest.raises(EmdlError, match="takes no options"):
        disks().plot(limit_pct=2)


def test_disks_are_drawn_on_their_pattern() -> None:
    table, cube = disks((2, 3), most=9), small_cube()
    figure = table.show(1, 2, signal=cube)
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), np.log10(1.0 + cube.data[1, 2]), rtol=1e-6)
    expected = table[1, 2][table[1, 2]["score"] >= 0.3]
    rings = axes.collections[0]
    np.testing.assert_allclose(rings.get_offsets(), np.stack([expected["col"], expected["row"]], axis=1))
    assert f"{len(expected)} disks (score ≥ 0.3)" in axes.get_title()
    every = table.filter(min_score=0.0).show(1, 2, signal=cube)
    assert f"{len(table[1, 2])} disks" in every.axes[0].get_title(), "a table that is filtered shows what it shows"


def test_columns_are_drawn_on_their_frame_by_species() -> None:
    table, frames = columns(), movie()
    axes = table.show(0, signal=frames).axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), frames.data[0])
    assert [collection.get_offsets().tolist() for collection in axes.collections] == [[[5.0, 10.0]], []]
    with pytest.raises(EmdlError, match="no position"):
        table.show(2, signal=frames)


def test_found_disks_remember_their_patterns_and_views_do_too(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).poisson(2, (1, 2, 64, 64)).astype(np.uint16)
    frames[..., 28:37, 28:37] += 400
    np.save(tmp_path / "cube.npy", frames)
    cube = emdl.open_datacube(tmp_path / "cube.npy")
    table = emdl.find_disks(cube, method="template", params=None)
    assert table.source is cube
    for view in (table.filter(min_score=0.5), table.compact(), table.with_columns(extra=table.column("row"))):
        np.testing.assert_allclose(view.show(0, 1).axes[0].images[0].get_array(), np.log10(1.0 + frames[0, 1]), rtol=1e-6)
    emdl.save(table, tmp_path / "disks.h5")
    loaded = emdl.load(tmp_path / "disks.h5")
    np.testing.assert_allclose(loaded.show(0, 0).axes[0].images[0].get_array(), np.log10(1.0 + frames[0, 0]), rtol=1e-6)
    (tmp_path / "cube.npy").unlink()
    with pytest.raises(EmdlError, match="is gone"):
        emdl.load(tmp_path / "disks.h5").show(0, 0)


def test_tables_have_the_names_of_the_exported_ones() -> None:
    pytest.importorskip("pandas")
    table = disks((4, 3))
    frame = table.to_dataframe()
    assert len(frame) == table.n_peaks
    np.testing.assert_array_equal(frame["scan_row"] * 3 + frame["scan_col"], table.flat_index())
    np.testing.assert_array_equal(frame["row_px"], table.column("row"))
    made = strain()
    np.testing.assert_array_equal(made.to_dataframe()["exx"], made.exx.ravel())
    assert set(columns().to_dataframe()["species"]) == {"Mo", "S2"}
    occupancy = small_occupancy()
    assert len(occupancy.to_dataframe()) == occupancy.n_frames * occupancy.n_sites


def test_labelled_arrays_have_units() -> None:
    pytest.importorskip("xarray")
    cube = small_cube()
    labelled = cube.to_xarray()
    assert labelled.dims == ("scan_row", "scan_col", "row", "col")
    assert labelled.chunks[0] == (1, 1), "a signal stays lazy"
    assert labelled["scan_col"].values.tolist() == [0.0, 2.0, 4.0] and labelled["row"].attrs["units"] == "1/Å"
    np.testing.assert_array_equal(labelled[1, 2], cube.data[1, 2])
    made = strain()
    maps = made.to_xarray()
    np.testing.assert_array_equal(maps["sigma_eyy"], made.sigma[..., 1])
    assert maps["theta_rad"].attrs["units"] == "rad" and maps["scan_row"].attrs["units"] == "nm"
    np.testing.assert_array_equal(disks((4, 3)).to_xarray()["n_peaks"], disks((4, 3)).counts())
    occupancy = small_occupancy()
    found = occupancy.to_xarray()
    np.testing.assert_array_equal(found["p_occupied"], occupancy.p_occupied)
    assert found.sizes == {"frame": occupancy.n_frames, "site": occupancy.n_sites}
    assert movie().to_xarray()["time"].values.tolist() == [0.0, 0.5]


def test_a_library_that_is_missing_is_one_line() -> None:
    with pytest.raises(EmdlError, match=r"to_nowhere needs no_such_library: pip install 'napari-emdl\[notebook\]'"):
        dataframes.needed("no_such_library", "to_nowhere")


def test_nothing_is_drawn_or_imported_before_it_is_asked_for() -> None:
    code = "import napari_emdl as emdl; emdl.PeakTable; emdl.Datacube; emdl.find_disks; emdl.fit_strain"
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    assert not {"matplotlib", "pandas", "xarray", "tqdm", "IPython"} & set(run.stdout.split())
