from __future__ import annotations

import numpy as np
import pytest

import napari_emdl as emdl
from helpers.disks_made import G, lattice_points, pattern
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import DiskParams, ProbeParams, RunParams
from napari_emdl.base.signals import in_memory
from napari_emdl.diffraction.find.maxima import local_maxima, strongest, thin
from napari_emdl.diffraction.find.patterns import bin_patterns, estimate_gain, fill_missing
from napari_emdl.diffraction.find.probe import make_probe, measure_probe, probe_from_image, synthetic_probe
from napari_emdl.diffraction.find.template import TemplateFinder

SHAPE = (160, 192)
ORIGIN = np.array([80.3, 95.6])


def finder(**template: object) -> TemplateFinder:
    top = {k: template.pop(k) for k in list(template) if k in DiskParams.model_fields}
    params = DiskParams(method="template", template=template, **top)
    return TemplateFinder(synthetic_probe(5.0, SHAPE, 0.6), params, SHAPE)


def noisy(n: int = 1, seed: int = 0, **kw: float) -> tuple[np.ndarray, np.ndarray]:
    place, _ = lattice_points(G, ORIGIN, SHAPE)
    expected = pattern(place, SHAPE, **kw)
    return np.random.default_rng(seed).poisson(expected, (n, *SHAPE)).astype(np.uint16), place


def match(peaks: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Distance of every true place from the nearest peak."""
    found = np.stack([peaks["row"], peaks["col"]], axis=1)
    return np.linalg.norm(place[:, None] - found[None], axis=2).min(axis=1) if len(found) else np.full(len(place), np.inf)


def seen(table):
    return table.filter(min_score=5)


def test_finds_every_disk_and_no_other_on_a_non_square_detector():
    images, place = noisy(4)
    table = seen(finder().find(images))
    assert table.shape == (4,)
    for peaks in table:
        assert len(peaks) == len(place)
        assert match(peaks, place).max() < 0.4
    assert all(table.column(name).dtype == np.float32 for name in table.fields)


def test_sigma_tells_the_error():
    images, place = noisy(24)
    table = seen(finder().find(images))
    z = []
    for peaks in table:
        found = np.stack([peaks["row"], peaks["col"]], axis=1)
        nearest = np.linalg.norm(place[:, None] - found[None], axis=2).argmin(axis=1)
        z.append((found[nearest] - place) / peaks["sigma_px"][nearest, None])
    spread = np.median(np.abs(np.concatenate(z))) / 0.6745
    # the factor from structured disks makes it cautious on uniform ones
    assert 0.4 < spread < 1.3


@pytest.mark.parametrize("kernel", ["flat", "gaussian", "sigmoid", "auto"])
@pytest.mark.parametrize("correlation", ["cross", "phase", "hybrid"])
def test_kernels_and_correlations_find_the_disks(kernel, correlation):
    images, place = noisy(1)
    peaks = seen(finder(kernel=kernel, correlation=correlation).find(images))[0]
    # pure phase correlation weighs all frequencies alike, so noise costs it some weak disks
    assert (match(peaks, place) < 0.6).mean() > (0.8 if correlation == "phase" else 0.95)


@pytest.mark.parametrize(("subpixel", "limit"), [("none", 0.9), ("parabola", 0.6), ("dft", 0.25), ("fit", 0.25)])
def test_subpixel_methods(subpixel, limit):
    images, place = noisy(1, height=400.0)
    peaks = seen(finder(subpixel=subpixel).find(images))[0]
    assert np.sqrt(np.mean(match(peaks, place) ** 2)) < limit


def test_fit_is_right_where_the_inside_of_the_disks_is_not_uniform():
    place, _ = lattice_points(G, ORIGIN, SHAPE)
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    image = np.full(SHAPE, 2.0)
    for r, c in place:
        inside = np.hypot(rows - r, cols - c) < 5
        image += 200 * inside * np.clip(1 + 0.16 * (rows - r), 0, None)
    images = np.random.default_rng(0).poisson(image, (1, *SHAPE))
    rms = {how: np.sqrt(np.mean(match(seen(finder(subpixel=how).find(images))[0], place) ** 2)) for how in ("dft", "fit")}
    assert rms["fit"] < 0.6 * rms["dft"]


def test_score_is_the_significance_and_scales_with_the_root_of_the_dose():
    low, _ = noisy(1, height=4.0, background=1.0)
    high, _ = noisy(1, height=64.0, background=16.0)
    score = [np.median(finder().find(image).column("score")) for image in (low, high)]
    assert score[1] / score[0] == pytest.approx(4, rel=0.25)
    noise = np.random.default_rng(0).poisson(3.0, (20, *SHAPE)).astype(np.uint16)
    assert seen(finder().find(noise)).n_peaks <= 4


def test_result_does_not_depend_on_the_blocks():
    images, _ = noisy(13)
    whole = finder().find(images)
    parts = [finder().find(images[i : i + 5]) for i in (0, 5, 10)]
    # float32 matrix products round differently with their size, nothing else may differ
    assert np.allclose(np.concatenate([p.column("row") for p in parts]), whole.column("row"), atol=1e-3)
    cube = in_memory(images.reshape(1, 13, *SHAPE), "datacube")
    job = emdl.find_disks(cube, probe=synthetic_probe(5.0, SHAPE, 0.6), method="template", run=RunParams(workers=2))
    assert job.shape == (1, 13)
    assert np.allclose(job.column("col"), whole.column("col"), atol=1e-3)


def test_float_units_of_the_detector_do_not_matter():
    images, place = noisy(1, height=200.0, background=20.0)
    counts = seen(finder().find(images))[0]
    scaled = seen(finder().find((images * 0.0037).astype(np.float32)))[0]
    assert len(counts) == len(scaled) == len(place)
    assert np.allclose(np.sort(counts["row"]), np.sort(scaled["row"]), atol=0.05)
    assert np.median(scaled["score"]) == pytest.approx(np.median(counts["score"]), rel=0.25)


def test_gain_of_counts_is_one_and_of_scaled_counts_the_scale():
    images = np.random.default_rng(0).poisson(30.0, (2, 128, 128))
    assert np.allclose(estimate_gain(images.astype(np.uint16)), 1)
    assert np.allclose(estimate_gain(images * 7.0), 7, rtol=0.15)


def test_empty_and_constant_patterns_give_no_disks():
    images = np.zeros((3, *SHAPE), np.uint16)
    images[1] = 7
    assert finder().find(images).n_peaks == 0
    assert finder().find(images[:0]).shape == (0,)


def test_bad_patterns_are_counted_and_said():
    images = np.zeros((1, 4, *SHAPE), np.float32)
    images[0, 1], images[0, 2, 5, 5], images[0, 3] = 7, -1, np.nan
    table = emdl.find_disks(images, probe=synthetic_probe(5.0, SHAPE, 0.6), method="template")
    nothing, *rest = table.attrs["note"].split("; ", 2)
    assert nothing.startswith("no disk was found") and rest[-1] == (
        "2 patterns with missing or negative values, which were filled in; 3 patterns without any counts"
    )
    full = emdl.find_disks(np.full((1, 1, *SHAPE), 255, np.uint8), probe=synthetic_probe(5.0, SHAPE, 0.6), method="template")
    assert "1 pattern with saturated pixels" in full.attrs["note"]


def test_missing_values_are_filled_and_make_no_disk():
    images, place = noisy(1)
    data = images.astype(np.float32)
    data[0, 40:60, :20] = np.nan
    data[0, 100, 100] = np.inf
    data[0, 120, 20:30] = -5
    table = seen(finder().find(data))
    far = ~((place[:, 0] < 70) & (place[:, 1] < 30))
    assert match(table[0], place[far]).max() < 0.6
    assert np.isfinite(np.stack([table.column(f) for f in table.fields])).all()
    assert len(table[0]) <= len(place)
    assert finder().find(np.full((1, *SHAPE), np.nan)).n_peaks == 0
    assert np.isfinite(fill_missing(data)).all()


def test_hot_and_dead_pixels_make_no_disk_and_move_none():
    images, place = noisy(1)
    clean = seen(finder().find(images))[0]
    random = np.random.default_rng(3)
    spoilt = images.copy()
    r, c = random.integers(0, SHAPE[0], 40), random.integers(0, SHAPE[1], 40)
    spoilt[0, r[:20], c[:20]] = 20000
    spoilt[0, r[20:], c[20:]] = 0
    peaks = seen(finder().find(spoilt))[0]
    assert match(peaks, place).max() < 0.6
    assert len(peaks) <= len(clean) + 1


def test_saturated_central_disk_is_found_in_its_middle():
    images, place = noisy(1, height=100.0)
    clipped = np.minimum(images, 250)
    central = place[np.linalg.norm(place - ORIGIN, axis=1).argmin()]
    assert match(seen(finder().find(clipped))[0], central[None]).max() < 0.3


def test_limits_on_spacing_edge_and_number():
    images, _ = noisy(1)
    few = finder(max_disks=5).find(images)[0]
    everything = finder().find(images)[0]
    assert len(few) == 5
    assert np.allclose(few["score"], everything["score"][:5])
    edge = finder(edge_px=30.0).find(images)[0]
    assert len(edge) and edge["row"].min() >= 30 and edge["col"].max() <= SHAPE[1] - 31
    wide = finder(min_spacing_px=40.0).find(images)[0]
    p = np.stack([wide["row"], wide["col"]], axis=1)
    gap = np.linalg.norm(p[:, None] - p[None], axis=2)[np.triu_indices(len(p), 1)]
    assert gap.min() > 40


def test_propose_gives_many_candidates_near_the_disks():
    images, place = noisy(2)
    table = finder().propose(images)
    for peaks in table:
        assert match(peaks, place).max() < 1.5


def test_thin_keeps_the_strongest_of_each_neighbourhood():
    row, col, score = np.array([0.0, 1.0, 2.0, 9.0, 0.0]), np.zeros(5), np.array([3.0, 2.0, 2.5, 1.0, 0.5])
    which = np.array([0, 0, 0, 0, 1])
    # 0 takes out 1; 2 is out of 0's reach and stays; another pattern is not a neighbour
    assert thin(which, row, col, score, 1.5).tolist() == [True, False, True, True, True]
    assert strongest(which, score, 2).tolist() == [True, False, True, False, True]


def test_binning_and_maxima():
    data = np.arange(2 * 5 * 7, dtype=np.uint16).reshape(2, 5, 7)
    assert np.array_equal(bin_patterns(data, 2), data[:, :4, :6].reshape(2, 2, 2, 3, 2).sum(axis=(2, 4)))
    maps = np.zeros((1, 5, 5), np.float32)
    maps[0, 2, 2] = maps[0, 2, 3] = 4
    which, r, c, value = local_maxima(maps, 1)
    assert (which.tolist(), r.tolist(), c.tolist(), value.tolist()) == ([0], [2], [2], [4.0])


def test_wrong_shapes_are_one_clear_line():
    with pytest.raises(EmdlError, match="detector"):
        probe_from_image(np.ones((64, 64)), SHAPE)
    with pytest.raises(EmdlError, match="only single pixels"):
        probe_from_image(np.pad([[1e5]], 64), (129, 129))
    with pytest.raises(EmdlError, match="patterns have shape"):
        finder().find(np.zeros((2, 64, 64)))
    with pytest.raises(EmdlError, match="4 axes"):
        emdl.find_disks(np.zeros((3, 64, 64)), method="template")
    with pytest.raises(EmdlError, match="there is no parameter"):
        emdl.find_disks(np.zeros((1, 1, 64, 64)), method="template", threshold=3)
    nothing = emdl.find_disks(np.zeros((1, 1, 64, 64)), method="template")
    assert nothing.n_peaks == 0 and "the patterns are empty" in nothing.attrs["note"]


def test_probe_is_centred_and_measured_from_image_region_and_data(tmp_path):
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    vacuum = 500.0 * (np.hypot(rows - 70.4, cols - 101.2) < 6.3) + 1
    probe = probe_from_image(vacuum, SHAPE)
    assert probe.radius_px == pytest.approx(6.3, abs=0.15)
    weight = probe.image / probe.image.sum()
    assert (weight * rows).sum() == pytest.approx(SHAPE[0] // 2, abs=0.1)
    assert (weight * cols).sum() == pytest.approx(SHAPE[1] // 2, abs=0.1)
    images, _ = noisy(6)
    cube = in_memory(images.reshape(2, 3, *SHAPE), "datacube")
    assert measure_probe(cube).radius_px == pytest.approx(5.0, abs=0.3)
    assert make_probe(cube, ProbeParams(region=(0, 1, 0, 2)), SHAPE).source == "vacuum region"
    np.save(tmp_path / "probe.npy", vacuum)
    assert make_probe(None, ProbeParams(file=str(tmp_path / "probe.npy")), SHAPE).source == "file"
    assert make_probe(None, ProbeParams(radius_px=4.0), SHAPE).radius_px == 4.0
    with pytest.raises(EmdlError, match="does not exist"):
        make_probe(None, ProbeParams(file=str(tmp_path / "none.npy")), SHAPE)
    with pytest.raises(EmdlError, match="does not lie"):
        make_probe(cube, ProbeParams(region=(0, 5, 0, 2)), SHAPE)
    with pytest.raises(EmdlError, match="does not fit"):
        synthetic_probe(100.0, SHAPE)


@pytest.mark.parametrize("radius_px", [4.7, 5.0, 5.4])
def test_a_guessed_probe_does_not_shift_disks(radius_px: float) -> None:
    """The edge is unknown with a typed radius: sharp disks must stay where they are all the same."""
    images, place = noisy(4)
    table = seen(TemplateFinder(synthetic_probe(radius_px, SHAPE), DiskParams(method="template"), SHAPE).find(images))
    for peaks in table:
        assert np.median(match(peaks, place)) < 0.1
