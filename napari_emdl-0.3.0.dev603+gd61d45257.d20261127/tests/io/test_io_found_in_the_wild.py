"""Faults met on public files of other programs: RosettaSciIO's own test files, demos of pyxem, Atomap and TEMUL."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
from rsciio import hspy, pantarhei, zspy

import helpers.io_writers as writers
from napari_emdl import io
from napari_emdl.base.errors import EmdlError, OpenError
from napari_emdl.base.missing import find_missing

FRAMES = np.arange(5 * 16 * 12, dtype="u2").reshape(5, 16, 12)


def _signal(data: np.ndarray, scale: float, units: str | None, signal_axes: int = 2) -> dict:
    count = data.ndim
    axes = [
        {"name": f"a{i}", "size": n, "scale": scale, "offset": 0.0, "units": units, "navigate": i < count - signal_axes,
         "index_in_array": i, "_type": "UniformDataAxis"}
        for i, n in enumerate(data.shape)
    ]  # fmt: skip
    metadata = {"General": {"title": "t"}, "Signal": {"signal_type": ""}}
    return {
        "data": data, "axes": axes, "metadata": metadata, "original_metadata": {}, "package_info": {},
        "attributes": {"_lazy": False, "ragged": False}, "learning_results": {}, "models": {}, "tmp_parameters": {},
    }  # fmt: skip


@pytest.mark.parametrize(("mode", "pixel"), [("STEM Diffraction", 2.1e-8), ("TEM Diffraction", 3.8e-10)])
def test_images_taken_with_the_projector_in_diffraction_mode_stay_images(tmp_path: Path, mode: str, pixel: float) -> None:
    writers.write_ser(tmp_path / "a_1.ser", FRAMES, pixel_m=pixel)
    (tmp_path / "a.emi").write_bytes(
        b"<ObjectInfo><ExperimentalDescription><Root><Data><Label>Mode</Label><Value>" + mode.encode() + b"</Value></Data>"
        b"</Root></ExperimentalDescription><AcquireInfo><CameraNamePath>c</CameraNamePath></AcquireInfo></ObjectInfo>"
    )
    opened = io.open(tmp_path / "a_1.ser")
    assert opened.kind == "movie"
    assert opened.calibration.pixel_nm == pytest.approx((1e9 * pixel,) * 2)
    writers.write_ser(tmp_path / "b_1.ser", FRAMES, pixel_m=1.7e8)  # pixels in 1/m, and no .emi file that says so
    pattern = io.open(tmp_path / "b_1.ser")
    assert pattern.kind == "datacube"
    assert pattern.calibration.q_pixel_invA == pytest.approx((0.017,) * 2)


def test_a_detector_pixel_that_no_camera_length_gives_is_left_out(tmp_path: Path) -> None:
    hspy.file_writer(str(tmp_path / "a.hspy"), _signal(FRAMES[0], 7.8e-20, "1/nm"))
    opened = io.open(tmp_path / "a.hspy")
    assert opened.calibration.q_pixel_invA is None
    assert "q_pixel_invA" not in opened.calibration.source
    assert "cannot be meant" in opened.notes[0]
    assert io.open(tmp_path / "a.hspy", q_pixel_invA=0.01).calibration.q_pixel_invA == (0.01, 0.01)


def test_a_pixel_that_shows_no_columns_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    from napari_emdl.atoms.find.columns import find_columns

    hspy.file_writer(str(tmp_path / "a.hspy"), _signal(np.zeros((64, 64), "f4"), 1.0, "nm"))
    with pytest.raises(EmdlError, match="10 Å shows no atomic columns"):
        find_columns(io.open(tmp_path / "a.hspy"))


def test_one_signal_axis_is_a_spectrum(tmp_path: Path) -> None:
    hspy.file_writer(str(tmp_path / "a.hspy"), _signal(FRAMES[0], 1.0, None, signal_axes=1))
    with pytest.raises(OpenError, match="only spectra"):
        io.open(tmp_path / "a.hspy")


@pytest.mark.parametrize("writer", [zspy, pantarhei], ids=["zspy", "prz"])
def test_hyperspy_zip_stores_and_ceos_files_open(tmp_path: Path, writer: object) -> None:
    import zipfile

    ending = "zspy" if writer is zspy else "prz"
    path = tmp_path / f"a.{ending}"
    writer.file_writer(str(path), _signal(FRAMES[0], 0.02, "nm"))  # type: ignore[attr-defined]
    if path.is_dir():  # HyperSpy writes a folder or, asked for, one zip file
        packed = tmp_path / "packed.zspy"
        with zipfile.ZipFile(packed, "w") as archive:
            for part in sorted(path.rglob("*")):
                if part.is_file():
                    archive.write(part, part.relative_to(path).as_posix())
        path = packed
    opened = io.open(path)
    np.testing.assert_array_equal(np.asarray(opened.data[...]), FRAMES[0])
    if writer is zspy:
        assert opened.calibration.pixel_nm == pytest.approx((0.02, 0.02))


def test_a_single_picture_is_an_image(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (20, 30)).astype("u1")
    imageio.imwrite(tmp_path / "a.png", picture)
    opened = io.open(tmp_path / "a.png")
    assert (opened.kind, opened.shape) == ("image", (20, 30))
    np.testing.assert_array_equal(np.asarray(opened.data[...]), picture)
    assert io.open(tmp_path / "a.png", kind="pattern").shape == (1, 1, 20, 30)


def test_noise_that_is_clipped_at_zero_makes_no_dead_pixels() -> None:
    rng = np.random.default_rng(1)
    clean = 60 + 40 * np.sin(np.arange(128) / 3)[:, None] * np.sin(np.arange(128) / 3)
    noisy = np.clip(clean + rng.normal(0, 30, clean.shape), 0, 255).astype("u1")
    assert find_missing(noisy[None], diffraction=False).pixels is None
    counted = rng.poisson(200, (128, 128)).astype("u2")
    counted[40, 50] = 0
    pixels = find_missing(counted[None], diffraction=False).pixels
    assert pixels is not None and np.argwhere(pixels).tolist() == [[40, 50]]
