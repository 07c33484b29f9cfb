"""Every file of the validation data opens lazily, with its axes in order and its calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_emdl import io
from napari_emdl.base.errors import OpenError
from napari_emdl.base.peaks import PeakTable

# file: kind, shape, dtype, calibration that the file holds
FORMATS: dict[str, tuple[str, tuple[int, ...], str, dict[str, Any]]] = {
    "formats/001_4x2_6bit.mib": ("datacube", (2, 4, 256, 256), "uint8", {}),
    "formats/001_4x2_6bit.hdr": ("datacube", (2, 4, 256, 256), "uint8", {}),
    "formats/20241021_00405_movie.mrc": ("movie", (32, 4, 8), "uint16", {}),
    "formats/Custom_movie.mrc": ("movie", (30, 16, 16), "uint16", {}),
    "formats/64x64x5_TEM_preview.emi": ("movie", (5, 64, 64), "float32", {"pixel_nm": (6.281834, 6.281834), "energy_keV": 200}),
    "formats/64x64x5_TEM_preview_1.ser": (
        "movie",
        (5, 64, 64),
        "float32",
        {"pixel_nm": (6.281834, 6.281834), "energy_keV": 200},
    ),
    "formats/dm_stack.tif": ("movie", (2, 68, 68), "float32", {"pixel_nm": (1686.74, 168.674), "frame_interval_s": 2.5}),
    "formats/ncem_emd_type1.h5": ("datacube", (3, 4, 5, 6), "int64", {}),
    "formats/py4dstem_2x3x4x5.h5": (
        "datacube",
        (2, 3, 4, 5),
        "float32",
        {"pixel_nm": (0.126797, 0.126797), "q_pixel_invA": (0.0442516, 0.0442516)},
    ),
    "formats/scan_3x2.blo": ("datacube", (3, 2, 144, 144), "uint8", {"pixel_nm": (12.8, 12.8), "energy_keV": 200}),
    "formats/stack.dm4": ("movie", (2, 2, 2), "bool", {}),
    "formats/stack_int.dm3": ("movie", (2, 2, 2), "int16", {}),
    "formats/test_tvips_2233_000.tvips": ("datacube", (1, 4, 3, 3), "uint16", {"q_pixel_invA": (0.1, 0.1), "energy_keV": 200}),
    "formats/test_tvips_2345_split_000.tvips": ("datacube", (1, 6, 4, 5), "uint16", {"energy_keV": 200}),
    "formats/test_tvips_2345_split_001.tvips": ("datacube", (1, 6, 4, 5), "uint16", {"energy_keV": 200}),
    "formats/test_tvips_2345_split_002.tvips": ("datacube", (1, 6, 4, 5), "uint16", {"energy_keV": 200}),
    "formats/velox_haadf.emd": ("image", (128, 128), "uint16", {"pixel_nm": (87.3708, 87.3708), "energy_keV": 300}),
    "formats/velox_tem_stack.emd": (
        "movie",
        (2, 3, 3),
        "int16",
        {"pixel_nm": (0.00817288, 0.00817288), "frame_interval_s": 0.8, "energy_keV": 300},
    ),
    "real/nbed_bragg_disks_512.tif": ("image", (512, 512), "int32", {}),
    "real/virus_4dstem_40x40x256x256.h5": (
        "datacube",
        (40, 40, 256, 256),
        "uint8",
        {"pixel_nm": (3.125, 3.125), "energy_keV": 300, "semiangle_mrad": 1.03},
    ),
    "real/hrtem_movie_pt_ceo2_noisy.tif": ("movie", (41, 180, 180), "uint8", {}),
    "real/hrtem_movie_pt_ceo2_denoised.tif": ("movie", (41, 180, 180), "uint8", {}),
    "real/graphene_defect_hrtem.dm3": ("image", (512, 512), "float32", {}),
    "real/pzo_columns.dm3": ("image", (525, 525), "float32", {"pixel_nm": (0.0159945, 0.0159945)}),
    "cases/al.emd.h5": ("datacube", (10, 10, 256, 256), "uint16", {"pixel_nm": (1, 1), "q_pixel_invA": (0.0142857, 0.0142857)}),
    "cases/mgo.emd.h5": ("datacube", (10, 10, 256, 256), "uint16", {"q_pixel_invA": (0.0166667, 0.0166667)}),
    "cases/cu_dev.tif": ("movie", (32, 512, 512), "uint8", {"pixel_nm": (0.009, 0.009), "frame_interval_s": 0.5}),
    "cases/ag_dev.tif": ("movie", (48, 512, 512), "uint8", {"pixel_nm": (0.0095, 0.0095), "frame_interval_s": 0.5}),
    "cases/mos2_dev.tif": ("focal_series", (6, 3, 384, 384), "uint8", {"pixel_nm": (0.01, 0.01)}),
    "cases/al_probe.npy": ("image", (256, 256), "uint32", {}),
}


@pytest.mark.parametrize("name", FORMATS)
def test_file_opens_with_its_axes_and_calibration(shared_data: Path, name: str) -> None:
    kind, shape, dtype, calibration = FORMATS[name]
    opened = io.open(shared_data / name)
    assert (opened.kind, opened.shape, opened.dtype.name) == (kind, shape, dtype)
    for field, value in calibration.items():
        assert getattr(opened.calibration, field) == pytest.approx(value, rel=1e-4)
        assert opened.calibration.source[field] == "file"
    if "pixel_nm" not in calibration and kind != "datacube":
        assert opened.calibration.pixel_nm is None
    first = opened.data[(0,) * (opened.data.ndim - 2)] if opened.data.ndim > 2 else opened.data[:, :]
    assert first.shape == shape[-2:]
    assert isinstance(first, np.ndarray)
    assert first.dtype.isnative


@pytest.mark.parametrize(
    "name",
    [
        "formats/001_4x2_6bit.mib",
        "formats/Custom_movie.mrc",
        "formats/scan_3x2.blo",
        "formats/velox_tem_stack.emd",
        "formats/stack_int.dm3",
    ],
)
def test_values_are_those_of_rosettasciio(shared_data: Path, name: str) -> None:
    from importlib import import_module

    from napari_emdl.io.formats.vendor import PLUGINS

    path = shared_data / name
    plugin = {".mib": "quantumdetector", ".mrc": "mrc"}.get(path.suffix) or PLUGINS[path.suffix]
    expected = import_module(f"rsciio.{plugin}").file_reader(str(path), lazy=True)[0]["data"].compute()
    np.testing.assert_array_equal(np.asarray(io.open(path).data), expected)


def test_ser_is_read_the_right_way_up(shared_data: Path) -> None:
    from rsciio.tia import file_reader

    path = shared_data / "formats/64x64x5_TEM_preview_1.ser"
    np.testing.assert_array_equal(np.asarray(io.open(path).data), file_reader(str(path))[0]["data"])


@pytest.mark.parametrize("ending", ["", "_1"])
def test_spectra_are_refused_in_one_line(shared_data: Path, ending: str) -> None:
    name = f"16x16-diffraction_imagel_5x5x256x256_EDS{ending}.{'ser' if ending else 'emi'}"
    with pytest.raises(OpenError, match="holds spectra, not images"):
        io.open(shared_data / "formats" / name)


def test_lone_pattern_as_datacube(shared_data: Path) -> None:
    cube = io.open_datacube(shared_data / "real/nbed_bragg_disks_512.tif")
    assert cube.shape == (1, 1, 512, 512)
    assert cube.patterns(0, 1).sum() == np.asarray(cube.data).sum()


def test_tvips_series_as_a_scan(shared_data: Path) -> None:
    cube = io.open_datacube(shared_data / "formats/test_tvips_2345_split_000.tvips", shape=(2, 3))
    assert cube.shape == (2, 3, 4, 5)


def test_peak_lists_of_py4dstem(shared_data: Path) -> None:
    path = shared_data / "real/py4dstem_braggdisks_calibrated.h5"
    with pytest.raises(OpenError, match="peak lists"):
        io.open(path)
    disks = io.load(path)
    assert isinstance(disks, PeakTable)
    assert disks.shape == (80, 58)
    assert disks.n_peaks > 100_000
    pixel = disks.attrs["calibration"].q_pixel_invA[0]
    vectors = (disks.positions_px() - disks.attrs["origin_px"][0, 0]) * pixel
    assert vectors[0] == pytest.approx([-0.00692827, 0.00080758], abs=1e-7)
    assert "notional detector" in disks.attrs["note"]
    assert io.info(path)["kind"] == "disks"
