"""The shipped networks on simple patterns with known disks: any detector, bad pixels, batches, cancel, no inventions."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest

from napari_emdl.base.caveats import RANGE
from napari_emdl.base.errors import Cancelled, EmdlError
from napari_emdl.base.params import DiskParams, RunParams
from napari_emdl.diffraction.find.complete import worth_measuring
from napari_emdl.diffraction.find.disks import find_disks
from napari_emdl.diffraction.find.netmodels import glance_model
from napari_emdl.diffraction.find.network import NetworkFinder, located
from napari_emdl.diffraction.find.probe import synthetic_probe
from napari_emdl.diffraction.find.refine import Refiner
from napari_emdl.jobs.control import Control
from napari_emdl.models.registry import shipped_folder

pytestmark = pytest.mark.skipif(
    not all((shipped_folder() / name / "model.onnx").is_file() for name in ("fcunet", "disk_refiner", "disk_glance")),
    reason="the disk networks are not shipped yet",
)
RUN = RunParams(device="cpu", workers=2, batch=4)
Shape = tuple[int, int]


def sites(shape: Shape, spacing: float, centre: tuple[float, float], angle: float = 0.2, margin: float = 12.0) -> np.ndarray:
    """Square lattice around `centre` that lies on the detector."""
    index = np.stack(np.meshgrid(np.arange(-12, 13), np.arange(-12, 13), indexing="ij"), axis=-1).reshape(-1, 2)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    place = centre + index @ turn * spacing
    return place[np.all((place > margin) & (place < np.array(shape) - 1 - margin), axis=1)]


def pattern(shape: Shape, place: np.ndarray, radius: float, seed: int = 0, counts: float = 60.0) -> np.ndarray:
    """Poisson counts of disks that fade outwards, over a weak background."""
    row, col = np.mgrid[: shape[0], : shape[1]]
    centre = place[np.linalg.norm(place - place.mean(axis=0), axis=1).argmin()]
    image = np.full(shape, 0.3)
    for site in place:
        height = counts / (1 + np.square(np.linalg.norm(site - centre) / (9 * radius)))
        image += height * np.clip(radius + 0.5 - np.hypot(row - site[0], col - site[1]), 0, 1)
    return np.random.default_rng(seed).poisson(image).astype(np.uint16)


def matched(found: np.ndarray, place: np.ndarray, within: float) -> tuple[float, float, float]:
    """Precision, recall and rms error of found peaks."""
    if not len(found):
        return 0.0, 0.0, np.nan
    distance = np.hypot(place[:, None, 0] - found["row"], place[:, None, 1] - found["col"])
    hit = distance.min(axis=1) < within
    error = float(np.sqrt(np.mean(np.square(distance.min(axis=1)[hit])))) if hit.any() else np.nan
    return float((distance.min(axis=0) < within).mean()), float(hit.mean()), error


@pytest.fixture(scope="module")
def finder_of() -> Callable[..., NetworkFinder]:
    """Finders by method, radius and shape, made once."""
    made: dict[tuple, NetworkFinder] = {}

    def make(method: str, radius: float = 6.0, shape: Shape = (256, 256)) -> NetworkFinder:
        key = (method, radius, shape)
        if key not in made:
            made[key] = NetworkFinder(synthetic_probe(radius, shape), DiskParams(method=method), shape, RUN)  # type: ignore[arg-type]
        return made[key]

    return make


def sure(finder: NetworkFinder, images: np.ndarray, i: int = 0) -> np.ndarray:
    table = finder.find(images)
    return table.filter(min_score=finder.default_min_score).at(i)


@pytest.mark.parametrize(("method", "error_px"), [("fcunet", 0.25), ("light", 0.25), ("fcunet-plain", 1.2)])
def test_finds_what_is_there(finder_of: Callable[..., NetworkFinder], method: str, error_px: float) -> None:
    place = sites((256, 256), 31.4, (129.3, 126.6))
    finder = finder_of(method)
    precision, recall, rms = matched(sure(finder, pattern((256, 256), place, 6.0)[None]), place, 2.0)
    assert precision > (0.97 if method != "fcunet-plain" else 0.8) and recall > 0.9 and rms < error_px
    assert finder.info.method == method and finder.info.provider == "CPUExecutionProvider"
    assert len(finder.info.model_sha256) >= 64 and not finder.parallel


@pytest.mark.parametrize(
    ("shape", "radius", "spacing"),
    [
        ((192, 320), 5.0, 27.0),
        ((512, 512), 12.0, 63.0),
        ((128, 128), 3.5, 17.0),
        ((64, 64), 2.5, 11.0),
        ((600, 300), 11.0, 52.0),
    ],
)
def test_any_detector(finder_of: Callable[..., NetworkFinder], shape: Shape, radius: float, spacing: float) -> None:
    place = sites(shape, spacing, (shape[0] / 2 + 0.7, shape[1] / 2 - 1.2), margin=2 * radius)
    finder = finder_of("fcunet", radius, shape)
    precision, recall, rms = matched(sure(finder, pattern(shape, place, radius)[None]), place, 0.4 * radius)
    assert precision > 0.9 and recall > 0.85 and rms < 0.06 * radius + 0.1


def test_beam_far_from_the_middle(finder_of: Callable[..., NetworkFinder]) -> None:
    place = sites((256, 256), 31.4, (170.3, 90.6))
    row, col = np.mgrid[:256, :256]
    image = pattern((256, 256), place, 6.0) + 400 * (np.hypot(row - 170.3, col - 90.6) < 6)
    precision, recall, rms = matched(sure(finder_of("fcunet"), image.astype(np.uint16)[None]), place, 2.0)
    assert precision > 0.95 and recall > 0.9 and rms < 0.3


def test_every_pattern_counts_whatever_the_batch(finder_of: Callable[..., NetworkFinder]) -> None:
    """Seven patterns in batches of four: the last three are not lost, and each is as if it were alone."""
    place = sites((256, 256), 31.4, (128.0, 128.0))
    images = np.stack([pattern((256, 256), place + 0.3 * i, 6.0, seed=i) for i in range(7)])
    finder = finder_of("fcunet-plain")
    together = finder.find(images)
    assert np.all(np.diff(together.offset) > 10)
    for i in (0, 6):
        alone = finder.find(images[i : i + 1]).at(0)
        np.testing.assert_allclose(together.at(i)["row"], alone["row"], atol=1e-3)
        np.testing.assert_allclose(together.at(i)["score"], alone["score"], atol=1e-4)


def test_empty_saturated_and_damaged_patterns(finder_of: Callable[..., NetworkFinder]) -> None:
    place = sites((256, 256), 31.4, (128.0, 128.0))
    good = pattern((256, 256), place, 6.0).astype(np.float32)
    holes = good.copy()
    holes[40:44, 50:60] = np.nan
    holes[0, :] = -5
    holes[100, 100] = np.inf
    finder = finder_of("fcunet")
    table = finder.find(np.stack([good, np.zeros_like(good), holes, np.full_like(good, np.nan)]))
    assert table.attrs["n_empty"] == 2 and table.attrs["n_cleaned"] == 2
    counts = np.diff(table.filter(min_score=0.5).offset)
    assert counts[1] == 0 and counts[3] == 0
    assert matched(table.filter(min_score=0.5).at(2), place, 2.0)[1] > 0.9
    flat = finder.find(np.full((1, 256, 256), 65535, np.uint16))
    assert flat.attrs["n_saturated"] == 1 and np.all(np.isfinite(flat.column("row")))
    assert flat.filter(min_score=0.5).n_peaks <= 2


def test_nothing_is_invented_without_a_crystal(finder_of: Callable[..., NetworkFinder]) -> None:
    """An amorphous halo around the direct beam has one disk."""
    row, col = np.mgrid[:256, :256]
    distance = np.hypot(row - 128, col - 128)
    halo = 3 * np.exp(-np.square((distance - 55) / 25)) + 0.2 + 80 * np.clip(6.5 - distance, 0, 1)
    images = np.random.default_rng(3).poisson(np.stack([halo, halo])).astype(np.uint16)
    for method in ("fcunet", "light"):
        finder = finder_of(method)
        table = finder.find(images).filter(min_score=finder.default_min_score)
        assert np.all(np.diff(table.offset) <= 4)


def test_two_grains_keep_their_disks(finder_of: Callable[..., NetworkFinder]) -> None:
    first, second = sites((256, 256), 41.0, (128.0, 128.0)), sites((256, 256), 41.0, (128.0, 128.0), angle=0.75)
    apart = np.linalg.norm(second[:, None] - first[None], axis=-1).min(axis=1) > 16
    place = np.concatenate([first, second[apart]])
    _, recall, _ = matched(sure(finder_of("fcunet"), pattern((256, 256), place, 6.0)[None]), place, 2.0)
    assert recall > 0.85


def test_limits(finder_of: Callable[..., NetworkFinder]) -> None:
    place = sites((256, 256), 31.4, (128.0, 128.0))
    image = pattern((256, 256), place, 6.0)[None]
    params = DiskParams(method="light", max_disks=7, edge_px=60)
    table = NetworkFinder(synthetic_probe(6.0, (256, 256)), params, (256, 256), RUN).find(image)
    assert table.n_peaks == 7
    assert table.column("row").min() >= 60 and table.column("row").max() <= 195


def test_radius_outside_the_training_range_is_said() -> None:
    tiny = NetworkFinder(synthetic_probe(0.8, (256, 256)), DiskParams(method="light"), (256, 256), RUN)
    assert "check the result" in str(tiny.info.caveats.about(RANGE))
    place = sites((256, 256), 12.0, (128.0, 128.0))
    assert np.all(np.isfinite(tiny.find(pattern((256, 256), place, 0.8)[None]).column("row")))
    assert finder_note(6.0) == ""
    assert "disks of radius 60.0 px are outside what disk_refiner was trained on (2 to 40 px)" in finder_note(60.0)


def finder_note(radius: float) -> str:
    return str(NetworkFinder(synthetic_probe(radius, (256, 256)), DiskParams(method="light"), (256, 256), RUN).info.caveats)


def test_wrong_probe_and_wrong_patterns(finder_of: Callable[..., NetworkFinder]) -> None:
    with pytest.raises(EmdlError, match="the probe is"):
        NetworkFinder(synthetic_probe(6.0, (128, 128)), DiskParams(), (256, 256), RUN)
    with pytest.raises(EmdlError, match="expected"):
        finder_of("light").find(np.zeros((2, 100, 100)))
    with pytest.raises(EmdlError, match="is for disk-refiner, which the method 'fcunet-plain' does not use"):
        NetworkFinder(
            synthetic_probe(6.0, (256, 256)), DiskParams(method="fcunet-plain", model="disk_refiner"), (256, 256), RUN
        )
    with pytest.raises(EmdlError, match="no structure-factor image"):
        finder_of("light").structure_factor(np.zeros((256, 256)))


def test_structure_factor_image_lies_on_the_detector(finder_of: Callable[..., NetworkFinder]) -> None:
    place = sites((512, 512), 63.0, (257.0, 254.0), margin=24)
    finder = finder_of("fcunet", 12.0, (512, 512))
    image = finder.structure_factor(pattern((512, 512), place, 12.0))
    assert image.shape == (512, 512)
    row, col = np.rint(place).astype(int).T
    assert np.median(image[row, col]) > 5 * np.median(image) + 0.05


def test_cancelled_inside_a_batch(finder_of: Callable[..., NetworkFinder]) -> None:
    control = Control()
    control.cancel()
    with pytest.raises(Cancelled):
        finder_of("fcunet").find(np.ones((3, 256, 256)), control)


def test_finder_travels_to_a_cluster(finder_of: Callable[..., NetworkFinder]) -> None:
    place = sites((256, 256), 31.4, (128.0, 128.0))
    image = pattern((256, 256), place, 6.0)[None]
    finder = finder_of("fcunet")
    again = pickle.loads(pickle.dumps(finder))
    np.testing.assert_allclose(again.find(image).column("row"), finder.find(image).column("row"), atol=1e-3)


def test_find_disks_uses_the_networks() -> None:
    place = sites((256, 256), 31.4, (128.0, 128.0))
    cube = np.stack([pattern((256, 256), place, 6.0, seed=i) for i in range(3)])[None]
    table = find_disks(cube, probe=synthetic_probe(6.0, (256, 256)), method="light", device="cpu", run=RUN)
    assert table.shape == (1, 3)
    assert table.attrs["provenance"]["provider"] == "CPUExecutionProvider"
    assert table.attrs["provenance"]["model"]["model"] == "disk_glance + disk_refiner"
    assert matched(table.filter(min_score=table.attrs["default_min_score"])[0, 2], place, 2.0)[1] > 0.9


def test_a_disk_that_cannot_be_placed_is_no_find() -> None:
    sure, vague = located(np.array([0.1, 4.0]), 5.0)
    assert sure == pytest.approx(1.0, abs=1e-6)
    # the fraction of normal deviates of that spread that fall within 2 px
    offset = np.random.default_rng(0).normal(0, 4.0, (20000, 2))
    assert vague == pytest.approx(np.mean(np.hypot(*offset.T) < 2.0), abs=0.01)
    assert located(np.array([4.0]), 20.0)[0] > vague


@pytest.mark.parametrize("radius", [1.5, 5.0, 20.0])
def test_only_places_with_a_trace_of_a_disk_are_worth_measuring(radius):
    rng = np.random.default_rng(4)
    size = int(8 * radius) + 20
    y, x = np.mgrid[:size, :size]
    faint = np.full(2, size // 2)
    disk = np.hypot(y - faint[0], x - faint[1]) <= radius
    beside = np.hypot(y - faint[0], x - faint[1] - 2.1 * radius) <= radius
    empty = 0.5 + 40.0 * beside
    filled = empty + disk * 5 * np.sqrt(0.5 / disk.sum())  # five sigma of its background, next to a bright one
    hollow = empty - 0.4 * disk
    shares = []
    for expected in (filled, empty, hollow):
        patterns = rng.poisson(np.broadcast_to(expected, (80, size, size))).astype(np.float32)
        seen = worth_measuring(patterns, np.arange(80), np.broadcast_to(faint.astype(float), (80, 2)), radius)
        shares.append(seen.mean())
    assert shares[0] > 0.97
    assert shares[1] < 0.8
    assert shares[2] < 0.1
    assert worth_measuring(patterns, np.zeros(0, np.intp), np.zeros((0, 2)), radius).shape == (0,)


def test_a_glance_spares_the_refiner_what_shows_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: dict[str, int] = {}
    measure = Refiner.measure

    def counted(self: Refiner, patterns, found, beam_px, control):
        looked[self.session.model.name] = looked.get(self.session.model.name, 0) + len(found.which)
        return measure(self, patterns, found, beam_px, control)

    monkeypatch.setattr(Refiner, "measure", counted)
    place = sites((256, 256), 31.4, (128.0, 128.0))
    images = np.stack([pattern((256, 256), place, 6.0, seed=i, counts=4.0) for i in range(2)])
    probe = synthetic_probe(6.0, (256, 256))
    tables = {}
    for passes in (0, 2):  # who says how many passes the refiner takes gets them
        looked.clear()
        tables[passes] = NetworkFinder(probe, DiskParams(method="light", refine_passes=passes), (256, 256), RUN).find(images)
        counts = looked.copy()
        if passes == 0:
            assert set(counts) == {"disk_glance", "disk_refiner"}
            spared = counts["disk_refiner"]
    assert set(looked) == {"disk_refiner"} and spared < 0.8 * looked["disk_refiner"]
    for i in range(2):
        glanced, other = (table.filter(min_score=0.5)[i] for table in (tables[0], tables[2]))
        assert len(glanced) >= len(other) - 2
        precision, recall, error = matched(glanced, place, 2.0)
        assert precision > 0.95 and recall > 0.95 and error < 1.1 * matched(other, place, 2.0)[2]


@pytest.mark.parametrize(("spacing", "glanced"), [(31.4, True), (17.0, False)])
def test_nobody_glances_at_disks_that_overlap(monkeypatch: pytest.MonkeyPatch, spacing: float, glanced: bool) -> None:
    looked = []
    measure = Refiner.measure
    monkeypatch.setattr(
        Refiner, "measure", lambda self, *a, **k: (looked.append(self.session.model.name), measure(self, *a, **k))[1]
    )
    image = pattern((256, 256), sites((256, 256), spacing, (128.0, 128.0), margin=60.0), 10.0, counts=20.0)
    table = NetworkFinder(synthetic_probe(10.0, (256, 256)), DiskParams(method="fcunet"), (256, 256), RUN).find(image[None])
    assert len(table.filter(min_score=0.5)[0]) > 15 and ("disk_glance" in looked) is glanced


def test_a_refiner_of_the_user_looks_at_every_candidate() -> None:
    assert glance_model(DiskParams(method="light")).name == "disk_glance"
    assert glance_model(DiskParams(method="fcunet-plain")) is None
    assert glance_model(DiskParams(method="light", refine_passes=3)) is None
    assert glance_model(DiskParams(method="light", model=str(shipped_folder() / "disk_refiner"))) is None


def test_refiner_is_given_the_probe_and_one_without_still_works(monkeypatch):
    probe = synthetic_probe(5.0, (96, 96))
    finder = NetworkFinder(probe, DiskParams(method="light"), (96, 96), RunParams(device="cpu"))
    image = finder._looks.refiner.session._constants["probe"].numpy()
    np.testing.assert_array_equal(image, probe.image)
    monkeypatch.setattr("napari_emdl.models.session.Session.set_constant", lambda self, name, value: None)
    bare = NetworkFinder(probe, DiskParams(method="light"), (96, 96), RunParams(device="cpu"))
    assert "probe" not in bare._looks.refiner.session._constants
    needed, more = ("pattern", "pattern_index", "position_px", "radius_px"), ("probe", "beam_px")
    bare._looks.refiner.session.inputs.pop("probe")
    bare._looks.refiner.session.require(needed, ("measured",), optional=more)
    with pytest.raises(EmdlError, match="needs inputs"):
        finder._looks.refiner.session.require(needed, ("measured",), optional=("beam_px",))
