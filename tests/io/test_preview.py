"""What a file would give, before it is opened; values that JSON does not know; stores as abTEM writes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType

import h5py
import numpy as np
import pytest
import tifffile
import zarr

from napari_emdl import io
from napari_emdl.base.errors import Cancelled, OpenError
from napari_emdl.base.params import OpenParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Datacube, Signal
from napari_emdl.io.packing import jsonable
from napari_emdl.io.preview import arrays_in, describe, mean_frame, preview


def test_arrays_are_listed_where_there_are_several(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["scan/data"] = np.zeros((2, 3, 8, 8), np.uint16)
        file["image"] = np.zeros((16, 20), np.float32)
    np.savez(tmp_path / "two.npz", a=np.zeros((8, 9), np.int16), b=np.zeros((4, 8, 9), np.float32))
    store = zarr.open_group(str(tmp_path / "two.zarr"), mode="w")
    for name, shape in (("a", (8, 9)), ("inner/b", (4, 8, 9)), ("line", (5,))):
        store[name] = np.zeros(shape, np.float32)
    listed = {path.name: [(a.name, a.text) for a in arrays_in(path)] for path in sorted(tmp_path.iterdir())}
    assert sorted(listed["two.h5"]) == [
        ("image", "image  (16 x 20 float32)"),
        ("scan/data", "scan/data  (2 x 3 x 8 x 8 uint16)"),
    ]
    assert sorted(listed["two.npz"]) == [("a", "a  (8 x 9 int16)"), ("b", "b  (4 x 8 x 9 float32)")]
    assert listed["two.zarr"] == [("a", "a  (8 x 9 float32)"), ("inner/b", "inner/b  (4 x 8 x 9 float32)")]
    np.save(tmp_path / "one.npy", np.zeros((8, 8)))
    tifffile.imwrite(tmp_path / "one.tif", np.zeros((8, 8), np.uint8))
    (tmp_path / "empty").mkdir()
    assert all(arrays_in(tmp_path / name) == () for name in ("one.npy", "one.tif", "empty", "no such file"))


def test_a_look_is_the_mean_of_frames_spread_over_the_movie(tmp_path: Path) -> None:
    frames = np.zeros((20, 6, 7), np.float32)
    frames[[0, 2, 4, 7, 9, 11, 14, 16, 19]] = 2.0  # the nine that are looked at
    np.save(tmp_path / "movie.npy", frames)
    seen = preview(tmp_path / "movie.npy", OpenParams(kind="movie", pixel_nm=(0.02, 0.02), energy_keV=300.0))
    assert isinstance(seen.opened, Signal) and seen.arrays == ()
    assert seen.line == "movie: 20 frames, 6 x 7 px, float32, 3.36 kB, pixel 0.02 nm, 300 kV"
    np.testing.assert_array_equal(seen.image, np.full((6, 7), 2.0, np.float32))
    assert seen.limits == (2.0, 3.0)  # one value alone


def test_patterns_are_shown_by_their_logarithm_thinned_and_without_what_is_missing() -> None:
    cube = np.full((1, 2, 1200, 4), 3.0, np.float32)
    cube[0, 0, 3, 1] = np.nan  # one of the two is known
    cube[..., 0, 0] = np.nan
    image = mean_frame(Datacube(cube, "datacube"))
    assert image.shape == (400, 2)
    assert np.isnan(image[0, 0]) and np.isfinite(image).sum() == 799
    np.testing.assert_allclose(image[np.isfinite(image)], np.log(4.0), rtol=1e-6)
    assert describe(Datacube(cube[:, :1], "datacube")).startswith("one pattern, detector 1200 x 4 px, float32, 19.2 kB")
    assert describe(Signal(np.zeros((5, 6), np.uint8), "image")) == "image, 5 x 6 px, uint8, 30 bytes, pixel not known"
    series = describe(Signal(np.zeros((2, 3, 5, 6), np.uint8), "focal_series"))
    assert series.startswith("focal series: 2 x 3 (time x focus), 5 x 6 px")
    assert describe(PeakTable.empty((2, 3))) == "peak lists: 2 x 3 positions, 0 peaks"


def test_what_cannot_be_opened_says_why_and_what_there_is_to_choose(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a"], file["b"] = np.zeros((3, 8, 8), np.uint16), np.zeros((3, 8, 8), np.uint16)
    seen = preview(tmp_path / "two.h5", OpenParams())
    assert seen.opened is None and seen.image is None and [a.name for a in seen.arrays] == ["a", "b"]
    assert "a" in seen.line and "b" in seen.line
    assert preview(f"{tmp_path / 'two.h5'}::b", OpenParams(kind="movie")).opened is not None
    assert "gone.h5" in preview(tmp_path / "gone.h5", OpenParams()).line

    def stop() -> None:
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        preview(f"{tmp_path / 'two.h5'}::b", OpenParams(kind="movie"), stop)


@dataclass
class Named:
    name: str


def test_values_that_json_does_not_know() -> None:
    given = [np.arange(3), np.float32(0.5), Named("a"), MappingProxyType({1: 2}), {7}, (1, 2), PurePosixPath("a/b")]
    assert [jsonable(value) for value in given] == [[0, 1, 2], 0.5, {"name": "a"}, {1: 2}, [7], [1, 2], "a/b"]


def test_a_store_of_abtem_has_axes_and_units(tmp_path: Path) -> None:
    store = zarr.open_group(str(tmp_path / "patterns.zarr"), mode="w")
    values = np.arange(2 * 3 * 8 * 8, dtype=np.float32).reshape(2, 3, 8, 8)
    store["array0"] = values
    scan = [{"type": "ScanAxis", "label": label, "sampling": 2.0, "units": "Å"} for label in ("x", "y")]
    keywords = {"ensemble_axes_metadata": scan, "sampling": [0.05, 0.05], "metadata": {"energy": 80e3, "semiangle_cutoff": 2.5}}
    store.attrs.update({"kwargs0": keywords, "type0": "DiffractionPatterns"})
    cube = io.open(tmp_path / "patterns.zarr")
    assert isinstance(cube, Datacube) and cube.shape == (2, 3, 8, 8)
    np.testing.assert_array_equal(cube.data[1, 2], values[1, 2])
    known = cube.calibration
    assert known.energy_keV == 80 and known.semiangle_mrad == 2.5
    assert known.q_pixel_invA == pytest.approx((0.05, 0.05)) and known.pixel_nm == pytest.approx((0.2, 0.2))
    with pytest.raises(OpenError, match="has no array 'array7'; it holds array0"):
        io.open(f"{tmp_path / 'patterns.zarr'}::array7")
