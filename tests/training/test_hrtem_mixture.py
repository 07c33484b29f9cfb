"""Mixed training of column networks: incoherent images, movies, negatives, and a start from a network for single images."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: train)")

from scipy.ndimage import gaussian_filter  # noqa: E402
from scipy.spatial import cKDTree  # noqa: E402

from napari_emdl.atoms.find.expected import always  # noqa: E402
from napari_emdl.training.atoms.conditions import FULL_SIZE, SIZE, encode, encode_full  # noqa: E402
from napari_emdl.training.atoms.config import ColumnsConfig, Imaging, Mix, read_config  # noqa: E402
from napari_emdl.training.atoms.degrade import filmlike, with_border  # noqa: E402
from napari_emdl.training.atoms.held import f1_at, greedy, judge, summary  # noqa: E402
from napari_emdl.training.atoms.incoherent import random_scene, render  # noqa: E402
from napari_emdl.training.atoms.lattices import COLUMN, RING, WEAK  # noqa: E402
from napari_emdl.training.atoms.mixture import KINDS, Bank, MixedSampler  # noqa: E402
from napari_emdl.training.atoms.multislice import Multislice  # noqa: E402
from napari_emdl.training.atoms.negatives import negative  # noqa: E402
from napari_emdl.training.atoms.network import ColumnNet  # noqa: E402
from napari_emdl.training.atoms.sheets import one_element  # noqa: E402
from napari_emdl.training.atoms.specimens import blinking_pair, graphene_rings, other_crystal  # noqa: E402
from napari_emdl.training.atoms.structures import CarbonBank  # noqa: E402
from napari_emdl.training.atoms.train import Trainer, adapted  # noqa: E402
from napari_emdl.training.atoms.waves import simulate  # noqa: E402

CONFIG = ColumnsConfig(
    neighbours=True, contrast_weight=0.3, widths=[16, 16, 16, 16], crop_px=96, batch=4, steps=3, minutes=None, bf16=False,
    device="cpu", warmup_steps=1, imaging=Imaging(native_sampling_A=(0.1, 0.15), nominal_sampling_A=0.125),
    mix=Mix(movie=0.25, single=0.25, stem=0.25, negative=0.25),
)  # fmt: skip


@pytest.fixture(scope="module")
def bank():
    rng = np.random.default_rng(3)
    carbon, solver = CarbonBank(rng, 1, 12.0), Multislice(grid=180)
    pairs = [s for _ in range(2) for s in blinking_pair(rng, carbon)]
    single = [other_crystal(rng, carbon), graphene_rings(rng)]
    made = [simulate([(s, 300.0, 0.08) for s in part], solver) for part in (single, pairs)]
    return Bank([made[0]], made[1])


def test_blinking_pairs_differ_by_their_blinking_columns():
    rng = np.random.default_rng(5)
    with_all, without = blinking_pair(rng, CarbonBank(rng, 1, 12.0))
    gone = with_all.meta["blinking"]
    assert len(gone) > 3 and with_all.column_surface[gone].all()
    assert np.array_equal(np.delete(with_all.column_A, gone, axis=0), without.column_A)
    missing = len(with_all.symbols) - len(without.symbols)
    assert 0.8 * with_all.column_atoms[gone].sum() <= missing <= 1.2 * with_all.column_atoms[gone].sum()


def test_graphene_atoms_surround_their_rings():
    s = graphene_rings(np.random.default_rng(2))
    atoms, rings = s.column_A[s.column_class == COLUMN], s.column_A[s.column_class == RING]
    middle = np.all(np.abs(rings - 22.4) < 12, axis=1)
    distance = np.linalg.norm(rings[middle][:, None] - atoms[None], axis=2)
    assert len(rings) > 100 and np.median(distance.min(1)) == pytest.approx(1.42, abs=0.1)
    assert np.isin((distance < 2.1).sum(1), (4, 5, 6, 7, 8)).mean() > 0.95


@pytest.mark.parametrize(("detector", "sign"), [("haadf", 1), ("abf", -1), ("phase", 1)])
def test_incoherent_columns_have_the_contrast_of_their_detector_where_they_are(detector, sign):
    contrast = []
    for seed in range(12):
        made = render(np.random.default_rng(seed), 160, 0.12, detector=detector)
        image = gaussian_filter(made.image[0].numpy(), 2.0)
        p = np.round(made.column_px[made.column_class == COLUMN]).astype(int)
        p = p[np.all((p > 8) & (p < 151), axis=1)]
        if len(p) > 5:
            ring = [image[p[:, 0] + dr, p[:, 1] + dc] for dr, dc in ((0, 7), (7, 0), (0, -7), (-7, 0))]
            contrast.append(sign * np.mean(image[p[:, 0], p[:, 1]] - np.mean(ring, 0)) / image.std())
    assert len(contrast) > 6 and np.mean(np.array(contrast) > 0) > 0.85 and np.median(contrast) > 0.2


def test_sheets_are_honeycombs_and_dirt_hides_their_columns():
    xy, _ = one_element(np.random.default_rng(4), 40.0, 3.86)
    distance, _ = cKDTree(xy).query(xy[np.max(np.abs(xy), axis=1) < 14], k=5)
    assert np.allclose(np.median(distance[:, 1:4], axis=0), 3.86 / 3**0.5, atol=0.12) and np.median(distance[:, 4]) > 3.5
    kinds = [render(np.random.default_rng(s), 160, 0.1, sheet=True).column_class for s in range(8)]
    assert all(np.sum(k == COLUMN) > 20 for k in kinds) and any(np.any(k == WEAK) for k in kinds)


def test_weak_columns_are_told_apart_from_the_rest():
    kinds = np.concatenate([render(np.random.default_rng(s), 128, 0.15).column_class for s in range(30)])
    assert 0 < (kinds == WEAK).mean() < 0.5
    heights = random_scene(np.random.default_rng(1), 24.0).height
    assert np.all(heights >= 0)


def test_negatives_hold_their_frames():
    x = negative(np.random.default_rng(0), 96, 0.1, (1, 2, 0))
    assert x.shape == (3, 96, 96) and np.isfinite(x).all() and not x[2].any()


def test_filmlike_images_have_few_levels_and_borders_one():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 64, 64)).astype(np.float32)
    assert len(np.unique(filmlike(rng, x, (1, 2)))) <= 256
    y, hidden = with_border(rng, x)
    assert hidden.any() and not hidden.all() and np.ptp(y[0][hidden]) == 0 and np.array_equal(y[:, ~hidden], x[:, ~hidden])


def test_every_kind_of_sample(bank):
    sampler = MixedSampler(bank, CONFIG, 1)
    b = sampler.batch(8, tuple(k for k in KINDS for _ in range(2)))
    assert b.image.shape == (8, 3, 96, 96) and b.conditions.shape == (8, FULL_SIZE)
    assert torch.isfinite(b.image).all() and len(b.columns) == len(b.surface) == 8
    movie, single, negative_ = b.image[:2], b.image[2:4], b.columns[6:]
    assert movie[:, 1].abs().amax((1, 2)).min() > 0 and not single[:, 1:].any()
    assert (b.conditions[:2, -2] > 0).all() and not b.conditions[2:4, -2:].any()
    assert all(len(p) == 0 for p, _ in negative_) and all(len(p) > 0 for p, _ in b.columns[:2])


def test_truth_of_a_movie_is_that_of_the_middle_frame(bank):
    sampler = MixedSampler(bank, CONFIG, 2)
    first = int(bank.first[0])
    all_columns = len(bank.pairs.columns(first)[0])
    blinking = len(bank.pairs.meta[first]["blinking"])
    seen = set()
    for _ in range(6):
        states, near, far = sampler._states(blinking, (2, 6))
        assert set(np.unique(states)) <= {0.0, 1.0} and set(np.unique(near)) <= {0, 0.5, 1}
        assert np.all((far * 6) % 1 < 1e-9)
        seen.add(float(states.sum()))
    assert len(seen) > 1 and max(seen) <= blinking < all_columns


def test_start_from_a_network_for_single_images_is_the_same_function():
    old = ColumnNet(1, 1, (16, 16, 16, 16)).eval()
    new = ColumnNet(3, 1, (16, 16, 16, 16), conditions=FULL_SIZE).eval()
    new.load_state_dict(adapted(old.state_dict(), new, neighbours=True))
    x = torch.randn(2, 3, 64, 64)
    told = encode_full("dark", None, "stem", (2, 6), sampling_A=0.12)
    with torch.no_grad():
        one = old(x[:, :1], torch.as_tensor(encode("dark", sampling_A=0.12))[None].expand(2, -1))
        two = new(x, torch.as_tensor(told)[None].expand(2, -1))
    for name in one:
        assert torch.allclose(one[name], two[name], atol=1e-5), name


def test_conditions_of_mode_and_frames_stand_behind_the_others():
    told = encode_full("bright", None, "stem", (1, 3), sampling_A=0.1)
    assert told.shape == (FULL_SIZE,) and np.array_equal(told[:SIZE], encode("bright", sampling_A=0.1))
    assert told[SIZE:].tolist() == [0, 1, 0.5, 0.5]
    with pytest.raises(ValueError, match="mode must be"):
        encode_full(mode="sem")


def test_training_step_also_teaches_the_contrast(bank):
    told_none = CONFIG.imaging.model_copy(update={"contrast_unknown": 1.0})
    trainer = Trainer.new(CONFIG.model_copy(update={"imaging": told_none}), bank)
    before = trainer.net.contrast_probe.out.weight.clone()
    for _ in range(4):
        terms = trainer.train_step()
    assert np.isfinite(terms["loss"]) and not torch.equal(before, trainer.net.contrast_probe.out.weight)


def test_held_out_scores_count_what_is_right(bank):
    truth = np.array([[10.0, 10.0], [20.0, 20.0]])
    match = greedy(np.array([[10.2, 10.0], [10.0, 10.4], [40.0, 40.0], [30.0, 30.0]]), truth, np.array([[30.0, 30.0]]), 2.0)
    assert match[:, 0].tolist() == [1, 0, 0, -1]
    net = ColumnNet(3, 1, (16, 16, 16, 16), conditions=FULL_SIZE).eval()
    images = judge(net, MixedSampler(bank, CONFIG, 3), ("single", "stem", "negative"), 2)
    assert [i.kind for i in images] == ["single", "stem", "negative"] * 2
    table = summary(images, 0.5, always(0.5))
    assert table["f1"] == table["f1_default"] == f1_at(images, 0.5) and 0 <= table["f1"] <= table["f1_best"]


def test_shipped_mixed_configuration_is_valid():
    from importlib.resources import files

    config = read_config(str(files("napari_emdl.training").joinpath("configs").joinpath("columns_mixed.yaml")))
    assert config.neighbours and config.channels == 3 and config.conditions == FULL_SIZE and len(config.mix.others) == 2


def test_tuning_keeps_to_single_images_of_the_session(bank, monkeypatch, tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed (extra: train)")
    from napari_emdl.training.atoms.export import export_model, load_weights
    from napari_emdl.training.atoms.finetune import finetune

    monkeypatch.setattr("napari_emdl.training.atoms.finetune._simulate_for", lambda *a: bank.single[0])
    net = ColumnNet(3, 1, (16, 16, 16, 16), conditions=FULL_SIZE)
    example = (np.zeros((1, 3, 64, 64), np.float32), encode_full("dark")[None])
    export_model(net, CONFIG, tmp_path / "base", example, "test")
    wanted = {"contrast": "dark", "sampling_A": (0.11, 0.12), "dose_e_per_A2": (500, 900)}
    report = finetune(tmp_path / "base", wanted, tmp_path / "mine", 0.05)
    assert report is not None and {"original", "tuned"} <= set(report)
    _, config = load_weights(tmp_path / "mine" / "weights.npz")
    assert config.neighbours and config.mix.movie == config.mix.stem == 0 and config.imaging.native_sampling_A == (0.11, 0.12)


def test_mixed_network_finds_columns_through_the_finder(bank, tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed (extra: train)")
    from napari_emdl.atoms.find.columns import find_columns
    from napari_emdl.base.signals import in_memory
    from napari_emdl.training.atoms.export import export_model

    net = ColumnNet(3, 1, (16, 16, 16, 16), conditions=FULL_SIZE)
    example = (np.zeros((1, 3, 64, 64), np.float32), encode_full("dark")[None])
    export_model(net, CONFIG, tmp_path / "model", example, "test")
    frames = np.random.default_rng(0).poisson(20, (12, 96, 100)).astype(np.uint16)
    movie = in_memory(frames, "movie")
    for count, used in ((1, 1), (5, 5), ("9", 9)):
        table = find_columns(
            movie, model=str(tmp_path / "model"), frames=count, contrast="bright", pixel_size_A=0.12, device="cpu"
        )
        assert table.shape == (12,) and table.attrs["frames"] == used
