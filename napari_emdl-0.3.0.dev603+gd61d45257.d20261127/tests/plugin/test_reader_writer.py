"""Reader, writer and manifest, without a window."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers import Layer
from npe2 import PluginManifest

import napari_emdl
from napari_emdl.base.errors import EmdlError
from napari_emdl.gui import layers
from napari_emdl.gui.kit import session, styles
from napari_emdl.gui.kit.layerfile import read_layers, write_layers, write_tiff
from napari_emdl.plugin.reader import get_reader, read, read_in_window

pytestmark = pytest.mark.gui

MANIFEST = Path(napari_emdl.__file__).parent / "napari.yaml"


def test_every_command_of_the_manifest_is_there():
    manifest = PluginManifest.from_file(MANIFEST)
    for command in manifest.contributions.commands:
        module, _, name = command.python_name.partition(":")
        assert callable(getattr(import_module(module), name)), command.python_name
    widgets = {widget.display_name for widget in manifest.contributions.widgets}
    assert session.WORKSPACE in widgets


def test_the_top_level_manifest_is_the_one_in_the_package():
    link = Path(__file__).resolve().parents[2] / "napari.yaml"
    assert link.resolve() == MANIFEST.resolve()


def a_viewer() -> ViewerModel:
    """Layers of all kinds with units."""
    viewer = ViewerModel()
    space = styles.space((1.5, 2.0), "nm", ("scan row", "scan col"))
    random = np.random.default_rng(0)
    viewer.add_image(
        random.normal(size=(20, 30)).astype(np.float32),
        name="εxx",
        colormap=styles.diverging(),
        contrast_limits=(-2, 2),
        **space,
    )
    viewer.add_points(
        random.uniform(0, 20, (5, 2)), name="columns", features={"score": np.arange(5.0), "kind": list("abcab")}, **space
    )
    viewer.add_shapes([np.array([[1.0, 1], [1, 5], [4, 5], [4, 1]])], shape_type="rectangle", name="region", **space)
    viewer.add_labels(random.integers(0, 3, (20, 30)), name="why", visible=False, **space)
    return viewer


def test_layers_come_back_as_they_were(tmp_path):
    viewer = a_viewer()
    target = tmp_path / "all.emdl.h5"
    assert write_layers(str(target), [layer.as_layer_data_tuple() for layer in viewer.layers]) == [str(target)]
    again = [Layer.create(*data) for data in read_layers(str(target))]
    assert [layer.name for layer in again] == ["εxx", "columns", "region", "why"]
    for before, after in zip(viewer.layers, again, strict=True):
        np.testing.assert_allclose(after.scale, before.scale)
        assert after.units == before.units and after.axis_labels == before.axis_labels and after.visible == before.visible
    np.testing.assert_array_equal(again[0].data, viewer.layers[0].data)
    assert tuple(again[0].contrast_limits) == (-2, 2)
    np.testing.assert_allclose(again[0].colormap.colors, styles.diverging().colors, atol=1e-6)
    assert list(again[1].features["kind"]) == list("abcab") and again[1].features["score"].tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(again[2].data[0], viewer.layers[2].data[0])
    np.testing.assert_array_equal(again[3].data, viewer.layers[3].data)


def test_the_reader_opens_what_the_writer_wrote(tmp_path):
    viewer = a_viewer()
    target = str(tmp_path / "all.emdl.h5")
    write_layers(target, [layer.as_layer_data_tuple() for layer in viewer.layers])
    assert get_reader(target) is read_in_window
    assert len(read(target)) == 4


def test_a_tiff_has_its_pixel_size(tmp_path):
    layer = a_viewer().layers[0]
    data, attributes, _ = layer.as_layer_data_tuple()
    target = tmp_path / "map.ome.tif"
    write_tiff(str(target), data, attributes)
    with tifffile.TiffFile(target) as file:
        assert 'PhysicalSizeY="1.5"' in file.ome_metadata and 'PhysicalSizeXUnit="nm"' in file.ome_metadata
        np.testing.assert_array_equal(file.asarray(), layer.data)
    opened = read(str(target))
    np.testing.assert_allclose(opened[0][1]["scale"][-2:], (1.5, 2.0))


def test_a_folder_that_cannot_be_written_gives_one_line(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(EmdlError, match="cannot write") as error:
        write_layers(str(blocked / "x.emdl.h5"), [a_viewer().layers[0].as_layer_data_tuple()])
    assert "\n" not in str(error.value)


def test_a_damaged_file_gives_one_line(tmp_path):
    target = tmp_path / "cut.h5"
    target.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    with pytest.raises(EmdlError) as error:
        read(str(target))
    assert "\n" not in str(error.value)


def test_code_and_missing_files_are_left_alone(tmp_path):
    (tmp_path / "a.py").write_text("")
    assert get_reader(str(tmp_path / "a.py")) is None
    assert get_reader(str(tmp_path / "none.h5")) is None


def test_a_movie_is_lazy_and_calibrated():
    from napari_emdl.base.signals import Calibration, in_memory

    calibration = Calibration(pixel_nm=(0.01, 0.01), frame_interval_s=0.5)
    movie = in_memory(np.arange(3 * 4 * 5).reshape(3, 4, 5), "movie", calibration, name="m")
    ((data, attributes, kind),) = layers.signal_layers(movie)
    assert kind == "image" and data.chunks[0] == (1, 1, 1)
    assert attributes["scale"] == (0.5, 0.01, 0.01) and attributes["units"] == ("s", "nm", "nm")
    np.testing.assert_array_equal(np.asarray(data), movie.data)
    layer = Layer.create(data, attributes, kind)
    assert session.signal_of(layer) is movie


@pytest.mark.parametrize(
    "name", ["cases/mgo.emd.h5", "cases/cu_dev.tif", "real/graphene_defect_hrtem.dm3", "formats/scan_3x2.blo"]
)
def test_real_files_open_as_layers(shared_data, name):
    for data, attributes, kind in read(str(shared_data / name)):
        layer = Layer.create(data, attributes, kind)
        assert session.signal_of(layer) is not None
        assert layer.ndim == len(layer.units) == len(layer.axis_labels)
