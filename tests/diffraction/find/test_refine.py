"""The refiner at work: further passes only where a pass still moved a disk, and blocks computed side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
from tests.helpers.disks_made import G, lattice_points, pattern

from napari_emdl.base.params import DiskParams, RunParams
from napari_emdl.diffraction.find.candidates import Found
from napari_emdl.diffraction.find.network import NetworkFinder
from napari_emdl.diffraction.find.patterns import complete, count_defects
from napari_emdl.diffraction.find.probe import synthetic_probe
from napari_emdl.diffraction.find.refine import DISKS_PER_CALL, Refiner
from napari_emdl.models.devices import CPU_PROVIDER


class _Stub:
    """In place of a session: every disk lies at the next whole pixel, with a sigma of 0.1 px."""

    inputs, outputs, provider = {"pattern": None}, ["measured"], CPU_PROVIDER

    def __init__(self) -> None:
        self.asked: list[int] = []

    def require(self, *_args: Any, **_more: Any) -> None:
        """Any refiner will do."""

    def run(self, feeds: dict[str, Any], _outputs: Any, _control: Any = None) -> dict[str, np.ndarray]:
        position = np.asarray(feeds["position_px"])
        self.asked.append(len(position))
        rest = np.tile([0.1, 0.9, 100.0], (len(position), 1))
        return {"measured": np.c_[np.rint(position), rest]}

    def in_batches(self, total: int, batch: int, call: Any) -> None:
        for start in range(0, total, batch):
            call(start, min(start + batch, total))


def _found(position: np.ndarray) -> Found:
    n = len(position)
    return Found(np.zeros(n, np.intp), position, np.full(n, 0.5), np.ones(n), np.ones(n), np.ones(n))


def test_only_disks_that_moved_are_measured_again() -> None:
    session = _Stub()
    refiner = Refiner(session, synthetic_probe(5.0, (64, 64)))  # type: ignore[arg-type]
    image = np.ones((1, 64, 64), np.float32)
    start = np.array([[20.0, 20.0], [30.01, 30.0], [40.3, 40.0], [50.0, 50.4]])
    once = refiner.measure(image, _found(start), None, None)
    np.testing.assert_allclose(once.moved, [0, 0.01, 0.3, 0.4], atol=1e-9)
    twice = refiner.again(image, once, 1, 0.5, None, None)
    assert session.asked == [4, 2]
    np.testing.assert_array_equal(twice.position, np.rint(start))
    np.testing.assert_array_equal(twice.moved, 0)
    assert refiner.again(image, twice, 3, 0.5, None, None) is twice  # nothing is left to do
    refiner.again(image, twice, 2, 0.0, None, None)  # overlapping disks: all of them, each time
    assert session.asked == [4, 2, 4, 4]


def test_calls_fit_the_cache() -> None:
    session = _Stub()
    refiner = Refiner(session, synthetic_probe(5.0, (64, 64)))  # type: ignore[arg-type]
    many = _found(np.tile([[30.2, 30.0]], (3 * DISKS_PER_CALL["cpu"] // 2, 1)))
    assert len(refiner.measure(np.ones((1, 64, 64), np.float32), many, None, None).which) == len(many.which)
    assert session.asked == [DISKS_PER_CALL["cpu"], DISKS_PER_CALL["cpu"] // 2]


def test_one_call_uses_all_cores_and_many_share_them() -> None:
    shape = (256, 256)
    probe = synthetic_probe(5.0, shape)
    run = RunParams(device="cpu", workers=2)
    alone = NetworkFinder(probe, DiskParams(method="light"), shape, run)
    shared = NetworkFinder(probe, DiskParams(method="light"), shape, run, calls=2)
    assert not alone.parallel and [session.threads for session in alone._sessions] == [2, 2]
    assert shared.parallel and [session.threads for session in shared._sessions] == [1, 1]
    place, _ = lattice_points(G, np.array([128.0, 128.0]), shape)
    images = np.random.default_rng(0).poisson(pattern(place, shape), (2, *shape)).astype(np.uint16)
    one, other = alone.find(images), shared.find(images)
    assert one.n_peaks == other.n_peaks > 100
    np.testing.assert_allclose(one.positions_px(), other.positions_px(), atol=1e-3)


def test_extremes_tell_that_nothing_is_missing() -> None:
    counts = np.random.default_rng(1).poisson(3.0, (3, 32, 32))
    for kind in (np.uint8, np.uint16, np.int16, np.float32):
        data = counts.astype(kind)
        data[1] = 0
        assert complete(data) and count_defects(data)["n_empty"] == 1
    for kind, value in (
        (np.uint16, 65535),
        (np.uint8, 255),
        (np.int16, -1),
        (np.float32, np.nan),
        (np.float32, -1),
        (np.float32, np.inf),
    ):
        data = counts.astype(kind)
        data[2, 5, 5] = value
        assert not complete(data), kind
