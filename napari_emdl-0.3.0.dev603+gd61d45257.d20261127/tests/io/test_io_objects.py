"""Arrays and signals of other programs in memory open with their calibration, lazily."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import pytest

import napari_emdl as emdl
from napari_emdl.base.errors import EmdlError, OpenError

VALUES = np.random.default_rng(0).poisson(3, (4, 5, 32, 24)).astype(np.uint16)


def hyperspy_like(data, axes: list[tuple[str, float, str, bool]], title: str = "a scan") -> SimpleNamespace:
    """What of a HyperSpy signal is used, as HyperSpy 2 gives it (a test against HyperSpy itself stands below)."""
    described = {
        f"axis-{i}": {"name": name, "scale": scale, "units": units, "navigate": navigate, "size": size}
        for i, ((name, scale, units, navigate), size) in enumerate(zip(axes, data.shape, strict=True))
    }
    metadata = {"General": {"title": title}, "Acquisition_instrument": {"TEM": {"beam_energy": 200.0}}}
    return SimpleNamespace(
        data=data,
        axes_manager=SimpleNamespace(as_dictionary=lambda: described),
        metadata=SimpleNamespace(as_dictionary=lambda: metadata),
    )


SCAN = [("y", 2.0, "nm", True), ("x", 3.0, "nm", True), ("ky", 0.02, r"$\AA^{-1}$", False), ("kx", 0.03, "1/Å", False)]


def test_a_signal_of_hyperspy_keeps_order_and_units() -> None:
    cube = emdl.open(hyperspy_like(VALUES, SCAN))
    assert isinstance(cube, emdl.Datacube) and cube.name == "a scan" and cube.path == ""
    assert cube.calibration.pixel_nm == (2.0, 3.0) and cube.calibration.q_pixel_invA == (0.02, 0.03)
    assert cube.calibration.energy_keV == 200.0
    np.testing.assert_array_equal(cube.data[3, 1], VALUES[3, 1])
    frames = emdl.open(hyperspy_like(VALUES[0], [("time", 0.5, "s", True), *[(n, 0.01, "nm", False) for n in "yx"]]))
    assert frames.kind == "movie" and frames.calibration.frame_interval_s == 0.5 and frames.pixel_A == pytest.approx(0.1)


def test_hyperspy_itself() -> None:
    hs = pytest.importorskip("hyperspy.api", reason="HyperSpy is not installed")
    signal = hs.signals.Signal2D(VALUES)
    for i, (name, scale, units, _) in enumerate(SCAN):
        axis = signal.axes_manager._axes[i]
        axis.name, axis.scale, axis.units = name, scale, units
    for given in (signal, signal.as_lazy()):
        cube = emdl.open(given)
        assert cube.calibration.pixel_nm == (2.0, 3.0) and cube.calibration.q_pixel_invA == (0.02, 0.03)
        np.testing.assert_array_equal(cube.data[2, 4], VALUES[2, 4])


def test_dask_arrays_stay_lazy() -> None:
    from dask import array, delayed

    read: list[int] = []

    @delayed
    def row(i: int) -> np.ndarray:
        read.append(i)
        return VALUES[i]

    lazy = array.stack([array.from_delayed(row(i), VALUES.shape[1:], VALUES.dtype) for i in range(4)])
    cube = emdl.open_datacube(lazy, q_pixel_invA=0.02)
    assert not read and cube.calibration.q_pixel_invA == (0.02, 0.02) and cube.calibration.source["q_pixel_invA"] == "user"
    np.testing.assert_array_equal(cube.patterns(5, 7), VALUES[1, :2])
    assert set(read) == {1}
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(emdl.open_datacube(VALUES))).data[0, 1], VALUES[0, 1])


def test_finders_take_them_as_they_are() -> None:
    from dask import array

    frames = np.random.default_rng(0).poisson(2, (1, 2, 64, 64)).astype(np.uint16)
    frames[..., 28:37, 28:37] += 400
    expected = emdl.find_disks(frames, method="template")
    for given in (array.from_array(frames, chunks=(1, 1, 64, 64)), hyperspy_like(frames, SCAN)):
        found = emdl.find_disks(given, method="template")
        np.testing.assert_array_equal(found.positions_px(), expected.positions_px())
    assert found.attrs["calibration"].pixel_nm == (2.0, 3.0)
    blobs = np.zeros((2, 64, 64), np.float32)
    blobs[:, 20:24, 30:34] = 50
    images = blobs + np.random.default_rng(1).normal(10, 1, blobs.shape)
    columns = emdl.find_columns(images, model="log", pixel_size_A=0.3, contrast="bright")
    assert columns.shape == (2,) and columns.source.kind == "movie"


def test_what_is_no_array_is_one_line() -> None:
    with pytest.raises(EmdlError, match="has 4 axes"):
        emdl.find_disks(VALUES[0])
    with pytest.raises(OpenError, match="complex64 values"):
        emdl.open_datacube(VALUES.astype(np.complex64))
    with pytest.raises(EmdlError, match="datacube"):
        emdl.find_columns(emdl.open_datacube(VALUES))
    with pytest.raises(OpenError, match="not an array"):
        emdl.open(hyperspy_like(SimpleNamespace(shape=(2, 2)), [("y", 1.0, "nm", False), ("x", 1.0, "nm", False)]))


@pytest.mark.referee
def test_a_datacube_of_py4dstem() -> None:
    py4DSTEM = pytest.importorskip("py4DSTEM")
    given = py4DSTEM.DataCube(VALUES, name="scan")
    unknown = emdl.open_datacube(given).calibration
    assert unknown.pixel_nm is None and unknown.q_pixel_invA is None and "qr_flip" not in unknown.source
    known = given.calibration
    known.set_R_pixel_size(2.0)
    known.set_R_pixel_units("nm")
    known.set_Q_pixel_size(0.02)
    known.set_Q_pixel_units("A^-1")
    known.set_QR_rotation(0.3)
    known.set_QR_flip(True)
    cube = emdl.open(given)
    assert isinstance(cube, emdl.Datacube) and cube.name == "scan"
    assert cube.calibration.pixel_nm == (2.0, 2.0) and cube.calibration.q_pixel_invA == (0.02, 0.02)
    assert cube.calibration.qr_rotation_rad == 0.3 and cube.calibration.qr_flip
    np.testing.assert_array_equal(cube.data[3, 1], VALUES[3, 1])
