"""What cameras, lenses and thick crystals do to rendered patterns, and many patterns at once."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from napari_emdl.diffraction.find import patterns as finder  # noqa: E402
from napari_emdl.diffraction.find.spectrum import probe_spectrum  # noqa: E402
from napari_emdl.training.diffraction.camera import estimate_gain  # noqa: E402
from napari_emdl.training.diffraction.crystals import EXCLUDED_FORMULAS, is_validation  # noqa: E402
from napari_emdl.training.diffraction.evaluate import _plain_scene  # noqa: E402
from napari_emdl.training.diffraction.library import Ranges, Run, make_run  # noqa: E402
from napari_emdl.training.diffraction.mapped import MAPPED_TYPES, draw_mapped, known_crystals, structure_type  # noqa: E402
from napari_emdl.training.diffraction.proposer_task import probe_spectra, target_map, target_maps  # noqa: E402
from napari_emdl.training.diffraction.render import draw_patterns, render, render_batch  # noqa: E402
from napari_emdl.training.diffraction.scene import Camera, Diffuse, Effects, RenderConfig, Stop, draw_scene  # noqa: E402

CONFIG = RenderConfig()
EVERYTHING = Effects(
    **dict.fromkeys(("tails", "rings", "kikuchi", "texture", "hollow", "flat", "saturation", "blooming"), 0.5),
    **dict.fromkeys(("bent", "dark", "gaps", "stop", "resampled"), 0.5),
)


def square_run(fall: float = 0.4) -> Run:
    """Kinematical disks of uniform brightness on a square lattice."""
    hk = np.array([(h, k) for h in range(-3, 4) for k in range(-3, 4)])
    height = np.exp(-fall * np.linalg.norm(hk, axis=1))
    amplitude = np.zeros((1, len(hk), 5, 5, 2), np.float16)
    amplitude[..., 0] = height[None, :, None, None]
    meta = {"k_max_invA": 0.0954, "tilt_invA": [0.0, 0.0], "thickness_A": [1e-6], "energy_keV": 200.0, "tilt_mrad": 0.0}
    return Run(amplitude, (hk * 0.45).astype(np.float32), hk, height, meta)


def scene(**changes):
    plain = _plain_scene(0, 0.085, 1e6, np.random.default_rng(3))
    return dataclasses.replace(plain, **{"halo": (0.0, 30.0, 0.5), "flat_fraction": 0.0, "edge_px": 1.0} | changes)


def expected(fall: float = 0.4, **changes):
    return render(square_run(fall), scene(**changes), CONFIG, noise=False)


@pytest.mark.parametrize("kind", ["lorentz", "exponential", "gauss"])
def test_tails_keep_the_dose_and_take_their_part_out_of_the_disks(kind):
    plain, tailed = expected(), expected(diffuse=Diffuse(tails=((kind, 0.4, 1.5),)))
    assert float(tailed.counts.sum()) == pytest.approx(float(plain.counts.sum()), rel=0.02)
    np.testing.assert_allclose(tailed.own_counts, 0.6 * plain.own_counts, rtol=1e-3)
    middle = plain.centre_px[(plain.hk == 0).all(1)][0].round().long()
    beside = tailed.counts[middle[0], middle[1] + 10] / tailed.counts[middle[0], middle[1]]
    assert 0.02 < float(beside) < 0.6
    assert bool((tailed.snr < plain.snr + 1e-3).all())


def test_width_of_gaussian_tails_is_in_disk_radii():
    alone = square_run()
    keep = (alone.hk == 0).all(1)
    run = Run(alone.amplitude[:, keep], np.zeros((1, 2), np.float32), np.array([[0, 0]]), alone.v_V[keep], alone.meta)
    # One beam spans no lattice, so the basis is made from a second one that is dark.
    dark = np.concatenate([run.amplitude, 0 * run.amplitude], 1)
    run = Run(dark, np.array([[0, 0], [0.3, 0.1]], np.float32), np.array([[0, 0], [1, 1]]), np.ones(2), run.meta)
    image = render(run, scene(diffuse=Diffuse(tails=(("gauss", 0.9, 2.0),))), CONFIG, noise=False).counts.numpy()
    y, x = np.mgrid[:256, :256] - 128.0
    radius = 0.085 / 0.014
    second_moment = (image * (y * y + x * x)).sum() / image.sum()
    assert second_moment == pytest.approx(radius**2 / 2 + 0.9 * 2 * (2.0 * radius) ** 2, rel=0.03)


def test_rings_have_their_part_of_the_dose_where_they_should():
    ring = expected(diffuse=Diffuse(rings=((0.3, 60.0, 4.0),)))
    plain = expected()
    rest = ring.counts - 0.7 * plain.counts
    y, x = np.mgrid[:256, :256] - 128.0
    distance = np.hypot(y, x)
    total = 1e6
    assert float(rest.sum()) == pytest.approx(0.3 * total, rel=0.02)
    assert float(rest.numpy()[np.abs(distance - 60) < 10].sum()) > 0.95 * 0.3 * total


def test_kikuchi_bands_follow_the_lattice():
    flat = {"flat_fraction": 0.5}
    bands = expected(diffuse=Diffuse(kikuchi=(0.5, 0.0, 0.0, 2.0)), **flat)
    background = (bands.counts - expected(**flat).counts).numpy()
    g = bands.basis_px[np.linalg.norm(bands.basis_px, axis=1).argmin()]
    inside, outside = 128 + 0.3 * g + 0.01, 128 + 1.3 * g
    value = lambda p: background[int(round(p[0])), int(round(p[1]))]  # noqa: E731
    assert value(inside) > value(outside) + 0.1


def test_bands_of_a_systematic_row_are_those_of_its_one_vector():
    run = square_run()
    row = run.hk[:, 1] == 0
    run = Run(run.amplitude[:, row], run.g_invA[row], run.hk[row], run.v_V[row], run.meta)
    plain, bands = (
        render(run, scene(diffuse=Diffuse(kikuchi=kikuchi), flat_fraction=0.5), CONFIG, noise=False)
        for kikuchi in ((0.0, 0.0, 0.0, 1.0), (0.5, 0.0, 0.0, 2.0))
    )
    assert not bands.basis_px[1].any()
    assert bool(torch.isfinite(bands.counts).all()) and float((bands.counts - plain.counts).abs().max()) > 0.1


def test_hollow_disks_are_empty_inside_and_so_is_their_probe():
    hollow = expected(hollow=(0.6, 0.0))
    middle = hollow.centre_px[(hollow.hk == 0).all(1)][0].round().long()
    assert float(hollow.counts[middle[0], middle[1]]) == 0
    assert float(hollow.counts[middle[0], middle[1] + 5]) > 1000
    assert float(hollow.probe[128, 128]) == 0 and float(hollow.probe[128, 133]) > 0


def test_evenness_takes_the_contrast_inside_disks_away():
    run = _real_run()
    base = _plain_scene(0, run.meta["k_max_invA"] / 1.06, 1e6, np.random.default_rng(0))
    flat = render(run, dataclasses.replace(base, evenness=1.0, coherence=0.0), CONFIG, noise=False)
    rich = render(run, dataclasses.replace(base, coherence=0.0), CONFIG, noise=False)
    np.testing.assert_allclose(flat.own_counts, rich.own_counts, rtol=0.02, atol=1.0)
    assert float((flat.counts - rich.counts).abs().max()) > 1


def _real_run() -> Run:
    from napari_emdl.training.diffraction.library import as_run

    return as_run(*make_run(1, 3))


def test_saturated_and_bloomed_counts_end_at_the_full_well():
    generator = torch.Generator().manual_seed(0)
    flooded = Camera(white=0.3, blooming=(0.5, 20.0, 0))
    cut = render(square_run(), scene(camera=Camera(white=0.3)), CONFIG, generator)
    bloomed = render(square_run(), scene(camera=flooded), CONFIG, torch.Generator().manual_seed(0))
    top = float(cut.counts.max())
    assert top == pytest.approx(0.3 * float(expected().counts.max()), rel=0.01)
    assert float(bloomed.counts.max()) == pytest.approx(top)
    assert float(bloomed.counts[:, 128].sum()) > 1.2 * float(cut.counts[:, 128].sum())
    assert float(bloomed.counts[128, :].sum()) < 1.1 * float(cut.counts[128, :].sum())


def test_exports_are_bent_and_rounded():
    camera = Camera(white=1.2, gamma=0.5, levels=255, unit=255.0)
    image = render(square_run(), scene(camera=camera), CONFIG, torch.Generator().manual_seed(0)).counts
    torch.testing.assert_close(image, image.round())
    assert float(image.max()) <= 255
    plain = expected().counts
    bright = plain > 500
    wanted = 255 * (plain[bright] / (1.2 * plain.max())).sqrt()
    assert float((image[bright] - wanted).abs().median()) < 3


def test_disks_below_a_grey_level_are_not_visible():
    fine = expected(1.2, camera=Camera(white=1.2, gamma=0.5, levels=65535, unit=65535.0), dose_e=1e8)
    coarse = expected(1.2, camera=Camera(white=1.2, levels=255, unit=255.0), dose_e=1e8)
    faint = fine.own_counts < 1e-3 * fine.own_counts.max()
    seen = (fine.own_counts > 0) & faint
    assert bool(seen.any())
    assert float(fine.visibility[seen].min()) > 0.9
    assert float(coarse.visibility[seen].min()) < 0.5
    assert bool((coarse.snr <= 1.001 * fine.snr + 1e-3).all())


def test_what_is_faint_on_a_strong_background_is_invisible_at_any_dose():
    many = expected(1.2, flat_fraction=0.9, dose_e=1e10)
    contrast = many.own_counts / (many.own_counts.max())
    assert float(many.visibility[contrast.argmax()]) > 0.9
    assert float(many.visibility.min()) < 0.1


def test_dark_left_over_lifts_and_dark_taken_too_much_cuts():
    mean = float(expected().counts.mean())
    for pedestal in (0.5, -0.5):
        image = render(square_run(), scene(camera=Camera(pedestal=pedestal)), CONFIG, torch.Generator().manual_seed(0)).counts
        assert float(image.median()) == pytest.approx(max(0.0, pedestal * mean), abs=0.05 * mean)
        assert float(image.min()) >= 0


def test_gaps_are_dead_lines_and_stops_hide_the_beam():
    generator = torch.Generator().manual_seed(0)
    image = render(square_run(), scene(camera=Camera(gaps=((0, 100, 4), (1, 200, 2)), pedestal=0.5)), CONFIG, generator).counts
    assert float(image[100:104].max()) == 0 and float(image[:, 200:202].max()) == 0
    assert float(image[99, :199].min()) > 0
    for shape in ("disk", "bar", "wedge", "square"):
        stopped = expected(stop=Stop(shape, 1.5, 0.7))
        direct = int(np.flatnonzero((stopped.hk == 0).all(1))[0])
        assert float(stopped.visibility[direct]) < 0.05 and float(stopped.counts[128, 128]) == 0
        assert float((stopped.visibility > 0.9).sum()) > 5
        leaking = expected(stop=Stop(shape, 1.5, 0.7, 0.02))
        assert float(leaking.counts[128, 128]) == pytest.approx(0.02 * float(expected().counts[128, 128]), rel=0.01)


def test_gain_is_estimated_as_the_program_does():
    rng = np.random.default_rng(0)
    images = [
        7.3 * rng.poisson(20, (128, 128)),
        rng.poisson(3, (128, 128)),
        np.zeros((128, 128)),
        0.01 * rng.poisson(2, (128, 128)),
    ]
    for image in images:
        got = estimate_gain(torch.tensor(image, dtype=torch.float32)[None], torch.tensor([False]))
        np.testing.assert_allclose(got, finder.estimate_gain(image[None].astype(np.float32)), rtol=1e-4)
    counts = rng.poisson(3, (1, 128, 128))
    whole = estimate_gain(torch.tensor(counts, dtype=torch.float32), torch.tensor([True]))
    np.testing.assert_allclose(whole, finder.estimate_gain(counts.astype(np.uint16)))


def test_many_at_once_are_the_same_as_one_by_one():
    runs = [square_run()] * 6
    rng = np.random.default_rng(4)
    config = RenderConfig(effects=EVERYTHING.model_copy(update={"texture": 0.0}), radius_px=(3.0, 14.0))
    scenes = []
    while len(scenes) < 6:
        drawn = draw_scene(runs[0], config, rng)
        if drawn is not None:
            scenes.append(dataclasses.replace(drawn, thickness_index=0))
    together = render_batch(runs, scenes, config, noise=False)
    for pattern, run, one in zip(together, runs, scenes, strict=True):
        alone = render(run, one, config, noise=False)
        torch.testing.assert_close(pattern.counts, alone.counts, rtol=1e-3, atol=1e-3 * float(alone.counts.max()))
        torch.testing.assert_close(pattern.probe, alone.probe, rtol=1e-3, atol=1e-3 * float(alone.probe.max()))
        torch.testing.assert_close(pattern.snr, alone.snr, rtol=0.02, atol=0.02)
        np.testing.assert_array_equal(pattern.hk, alone.hk)


def test_every_effect_gives_finite_patterns_and_a_seed_gives_them_again():
    runs = [square_run(), _real_run()]
    config = RenderConfig(effects=EVERYTHING, radius_px=(1.5, 16.0))
    draw = lambda: draw_patterns(runs, config, 12, np.random.default_rng(9), torch.Generator().manual_seed(9))  # noqa: E731
    first, again = draw(), draw()
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.counts, b.counts) and torch.equal(a.snr, b.snr)
        assert bool(torch.isfinite(a.counts).all()) and bool(torch.isfinite(a.snr).all())
    assert not torch.equal(first[0].counts, first[1].counts)


def test_targets_and_spectra_of_many_are_those_of_each():
    runs = [square_run()]
    patterns = draw_patterns(runs, CONFIG, 3, np.random.default_rng(1), torch.Generator().manual_seed(1))
    maps = target_maps(patterns)
    spectra = probe_spectra(torch.stack([p.probe for p in patterns]))
    for k, pattern in enumerate(patterns):
        torch.testing.assert_close(maps[k], target_map(pattern))
        re, im = probe_spectrum(pattern.probe.numpy())
        np.testing.assert_allclose(spectra[k].real, re, atol=1e-4)
        np.testing.assert_allclose(spectra[k].imag, im, atol=1e-4)


def test_half_of_a_library_is_on_zones_that_strain_is_mapped_in():
    rng = np.random.default_rng(0)
    drawn = [draw_mapped(rng) for _ in range(200)]
    assert {structure_type(c) for c, _ in drawn} == set(MAPPED_TYPES)
    assert not EXCLUDED_FORMULAS & {c.formula for c, _ in drawn}
    formulas = {c.formula for c in known_crystals()}
    assert {"Si", "Ge", "InP", "Au"} <= formulas and not EXCLUDED_FORMULAS & formulas
    assert 0 < sum(is_validation(c) for c in known_crystals()) < 0.3 * len(known_crystals())
    general, mapped = make_run(0, 5)[1], make_run(1, 5)[1]
    assert general["zone"] is None and mapped["zone"] is not None
    ranges = Ranges()
    for meta in (general, mapped):
        assert ranges.energy_keV[0] <= meta["energy_keV"] <= ranges.energy_keV[1]
        assert max(meta["thickness_A"]) <= 10 * ranges.thickness_nm[1] + 5
        assert meta["tilt_mrad"] <= ranges.tilt_mrad


def test_dark_counts_lie_under_a_beam_stop_and_not_in_a_gap():
    stopped = scene(stop=Stop("bar", 2.0, 0.3, 0.0), camera=Camera(pedestal=0.5, gaps=((0, 40, 3),)))
    counts = render(square_run(), stopped, CONFIG, torch.Generator().manual_seed(1)).counts
    row, col = (int(round(x)) for x in stopped.origin_px)
    assert float(counts[row, col]) > 0
    assert not counts[40:43].any()
