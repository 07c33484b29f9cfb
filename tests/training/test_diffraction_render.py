"""Rendered patterns: their truth is exact, and the artefacts are what they say."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from napari_emdl.training.diffraction.crystals import catalogue, load_crystals  # noqa: E402
from napari_emdl.training.diffraction.evaluate import _plain_scene  # noqa: E402
from napari_emdl.training.diffraction.library import Run, build, draw_run, read_library  # noqa: E402
from napari_emdl.training.diffraction.probes import known_probe  # noqa: E402
from napari_emdl.training.diffraction.proposals import assign, draw_proposals  # noqa: E402
from napari_emdl.training.diffraction.proposer_task import target_map  # noqa: E402
from napari_emdl.training.diffraction.render import draw_pattern, render  # noqa: E402
from napari_emdl.training.diffraction.scene import RenderConfig, Stop, draw_scene  # noqa: E402

CONFIG = RenderConfig()


def flat_run(spacing_invA: float = 0.45, k_max: float = 0.09) -> Run:
    """Kinematical disks of uniform brightness on a square lattice."""
    hk = np.array([(h, k) for h in range(-3, 4) for k in range(-3, 4)])
    g = hk * spacing_invA
    height = np.exp(-0.4 * np.linalg.norm(hk, axis=1))
    amplitude = np.zeros((1, len(hk), 5, 5, 2), np.float16)
    amplitude[..., 0] = height[None, :, None, None]
    meta = {"k_max_invA": k_max * 1.06, "tilt_invA": [0.0, 0.0], "thickness_A": [1e-6], "energy_keV": 200.0, "tilt_mrad": 0.0}
    return Run(amplitude, g.astype(np.float32), hk, height, meta)


def scene(**changes):
    plain = _plain_scene(0, 0.085, 1e6, np.random.default_rng(3))
    return dataclasses.replace(plain, halo=(0.0, 30.0, 0.5), flat_fraction=0.0, edge_px=1.0, **changes)


@pytest.fixture(scope="module")
def runs():
    crystals = catalogue(60)
    made = []
    for i in range(4):
        beams, meta = draw_run(crystals[i], np.random.default_rng(i))
        values = torch.view_as_real(beams.amplitude).numpy().astype(np.float16)
        made.append(Run(values, beams.g_invA.astype(np.float32), beams.hk, beams.v_V, meta))
    return made


@pytest.mark.parametrize("rotation", [0.0, 0.7])
@pytest.mark.parametrize("psf", [0.0, 0.7])
def test_centre_of_mass_is_the_stated_centre(rotation, psf):
    pattern = render(flat_run(), scene(rotation_rad=rotation, psf_sigma_px=psf), CONFIG, noise=False)
    image = pattern.counts.numpy().astype(float)
    checked = 0
    for centre in pattern.centre_px.numpy():
        r0, c0 = np.round(centre).astype(int)
        if min(r0, c0) < 14 or max(r0, c0) > 241:
            continue
        part = image[r0 - 12 : r0 + 13, c0 - 12 : c0 + 13]
        y, x = np.mgrid[r0 - 12 : r0 + 13, c0 - 12 : c0 + 13]
        assert (part * y).sum() / part.sum() == pytest.approx(centre[0], abs=0.02)
        assert (part * x).sum() / part.sum() == pytest.approx(centre[1], abs=0.02)
        checked += 1
    assert checked >= 20


def test_disks_lie_on_the_strained_lattice():
    pattern = render(flat_run(), scene(), CONFIG, noise=False)
    expected = pattern.origin_px + pattern.hk @ pattern.basis_px
    np.testing.assert_allclose(pattern.centre_px.numpy(), expected, atol=1e-3)
    s = scene()
    unstrained = render(flat_run(), dataclasses.replace(s, deformation=np.eye(2)), CONFIG, noise=False)
    turn = unstrained.basis_px
    # A disk lies at g inv(F): real space stretched by F.
    swap = np.array([[0, 1], [1, 0]])
    xy = np.linalg.inv(turn @ swap) @ (pattern.basis_px @ swap)
    c, sn = np.cos(s.rotation_rad), np.sin(s.rotation_rad)
    rotation = np.array([[c, -sn], [sn, c]])
    np.testing.assert_allclose(xy, rotation @ np.linalg.inv(s.deformation) @ rotation.T, atol=2e-4)


def test_dose_and_counts_of_disks():
    pattern = render(flat_run(), scene(dose_e=2e5), CONFIG, noise=False)
    height2 = np.asarray(flat_run().v_V) ** 2
    assert float(pattern.counts.sum()) == pytest.approx(2e5 * height2.sum(), rel=0.02)
    inside = ((pattern.centre_px > 12) & (pattern.centre_px < 243)).all(1)
    central = pattern.own_counts[inside].max()
    assert float(central) == pytest.approx(2e5, rel=0.02)


def test_overlapping_disks_interfere():
    close = flat_run(spacing_invA=0.1)
    coherent = render(close, scene(probe_shift_A=np.array([3.0, 0.0])), CONFIG, noise=False).counts
    apart = render(close, scene(coherence=0.0), CONFIG, noise=False).counts
    assert float((coherent - apart).abs().max()) > 0.3 * float(apart.max())


def test_snr_falls_with_the_dose():
    high = render(flat_run(), scene(dose_e=1e6), CONFIG, noise=False)
    low = render(flat_run(), scene(dose_e=1e4), CONFIG, noise=False)
    assert bool((low.snr <= high.snr + 1e-6).all())
    assert float(low.visibility.min()) >= 0 and float(high.visibility.max()) <= 1


def test_beam_stop_hides_the_central_disk():
    pattern = render(flat_run(), scene(stop=Stop("disk", 1.6)), CONFIG, noise=False)
    centre = int(np.flatnonzero((pattern.hk == 0).all(1))[0])
    assert float(pattern.visibility[centre]) < 0.05
    assert float(pattern.counts[128, 128]) == 0


def test_same_seed_same_pattern_and_others_differ(runs):
    draw = lambda seed: draw_pattern(runs, CONFIG, np.random.default_rng(seed), torch.Generator().manual_seed(seed))  # noqa: E731
    a, b, c = draw(1), draw(1), draw(2)
    assert torch.equal(a.counts, b.counts) and torch.equal(a.probe, b.probe)
    assert not torch.equal(a.counts, c.counts)
    assert bool(torch.isfinite(a.counts).all())
    assert 0.9 * a.radius_px < float(np.sqrt((a.probe > 0.4 * a.probe.max()).sum() / np.pi)) < 1.15 * a.radius_px


def test_target_map_peaks_at_visible_disks():
    pattern = render(flat_run(), scene(), CONFIG, noise=False)
    target = target_map(pattern)
    centre = pattern.centre_px[((pattern.centre_px > 5) & (pattern.centre_px < 250)).all(1)]
    values = target[centre[:, 0].round().long(), centre[:, 1].round().long()]
    assert float(values.min()) > 0.85
    assert float(target.sum()) < 2 * np.pi * 1.5**2 * len(pattern.centre_px)


def test_proposals_know_their_disk(runs):
    rng = np.random.default_rng(0)
    pattern = draw_pattern(runs, CONFIG, rng, torch.Generator().manual_seed(0))
    proposals = draw_proposals(pattern, 40, rng)
    near = proposals.visible > 0
    gap = (proposals.target_px - proposals.position_px).norm(dim=1)
    assert near.any() and (~near).any()
    assert float(gap[near].max()) < 0.76 * pattern.radius_px
    target, visible = assign(np.array([[1.0, 1.0]]), np.array([[100.0, 100.0]]), np.array([1.0]), 6.0)
    assert visible[0] == 0 and np.array_equal(target[0], [1.0, 1.0])


def test_soft_probes_fall_off_over_a_part_of_their_radius(runs):
    rng = np.random.default_rng(3)
    for share, expected in ((0.0, 0.0), (1.0, 1.0)):
        config = CONFIG.model_copy(update={"probability_soft": share, "radius_px": (12.0, 16.0)})
        drawn = [draw_scene(runs[i % len(runs)], config, rng) for i in range(60)]
        edges = np.array([s.edge_px * s.sampling_invA / s.semiangle_invA for s in drawn if s is not None])
        assert len(edges) > 5
        assert np.mean((edges >= 0.25) & (edges <= 1.0)) == expected


def test_known_probes_are_mostly_the_measured_one(runs):
    pattern = draw_pattern(runs, CONFIG, np.random.default_rng(1), torch.Generator().manual_seed(1))
    rng = np.random.default_rng(5)
    n = pattern.probe.shape[-1]
    measured = sharp = 0
    areas = []
    for _ in range(300):
        probe = known_probe(pattern, rng)
        assert probe.shape == pattern.probe.shape and torch.isfinite(probe).all() and float(probe.min()) >= 0
        measured += torch.equal(probe, pattern.probe)
        if float(probe.max()) <= 1:
            sharp += 1
            areas.append(float(probe.sum()) / (np.pi * pattern.radius_px**2))
            assert float((probe * torch.arange(n)).sum() / probe.sum()) == pytest.approx(n // 2, abs=1e-3)
    # Only the radius is known of these, and that to a few per cent.
    assert np.mean(areas) == pytest.approx(1.0, abs=0.08) and 0.03 < np.std(areas) < 0.2
    assert 0.65 < measured / 300 < 0.85
    assert 0.05 < sharp / 300 < 0.16


def test_library_is_read_back_by_split_and_continued(tmp_path):
    path = tmp_path / "beams.h5"
    crystals = catalogue(12)
    build(path, 3, seed=4, crystals=crystals)
    first = read_library([path])
    build(path, 6, seed=4, crystals=crystals)
    runs = read_library([path])
    assert len(first) == 3 and len(runs) == 6
    assert np.array_equal(first[2].amplitude, runs[2].amplitude)
    both = [read_library([path], validation=v) for v in (True, False)]
    assert len(both[0]) + len(both[1]) == 6


def test_library_goes_on_after_a_kill(tmp_path):
    path, own = tmp_path / "beams.h5", tmp_path / "own.yaml"
    own.write_text("- {name: Fe, centring: I, lengths_A: [2.87, 2.87, 2.87], sites: {Fe: [[0, 0, 0]]}}\n")  # quickly simulated
    command = [sys.executable, "-m", "napari_emdl.training.diffraction.library", str(path), "--runs", "500", "--seed", "4"]
    command += ["--crystals", str(own)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("25 runs")
        process.send_signal(signal.SIGKILL)
    assert len(read_library([path])) == 25
    build(path, 26, seed=4, crystals=load_crystals(own))
    assert len(read_library([path])) == 26
