"""The contrast network: views of mixed batches, a training step, resume, judging, calibration and export."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: train)")
pytest.importorskip("onnx")

from napari_emdl.atoms.find.contrastview import RINGS  # noqa: E402
from napari_emdl.models.registry import load_model  # noqa: E402
from napari_emdl.models.session import Session  # noqa: E402
from napari_emdl.training.atoms import contrastnet, ship_contrast  # noqa: E402
from napari_emdl.training.atoms.config import ColumnsConfig, Imaging  # noqa: E402
from napari_emdl.training.atoms.mixture import Bank  # noqa: E402
from napari_emdl.training.atoms.multislice import Multislice  # noqa: E402
from napari_emdl.training.atoms.specimens import blinking_pair, other_crystal  # noqa: E402
from napari_emdl.training.atoms.structures import CarbonBank  # noqa: E402
from napari_emdl.training.atoms.waves import simulate  # noqa: E402


@pytest.fixture(scope="module")
def bank():
    rng = np.random.default_rng(3)
    carbon, solver = CarbonBank(rng, 1, 12.0), Multislice(grid=180)
    single, pairs = [other_crystal(rng, carbon)], list(blinking_pair(rng, carbon))
    made = [simulate([(s, 300.0, 0.08) for s in part], solver) for part in (single, pairs)]
    return Bank([made[0]], made[1])


@pytest.fixture
def config(bank, monkeypatch, tmp_path):
    monkeypatch.setattr(contrastnet, "load_bank", lambda *_: bank)
    columns = ColumnsConfig(neighbours=True, imaging=Imaging(native_sampling_A=(0.1, 0.15), nominal_sampling_A=0.125))
    return contrastnet.ContrastConfig(
        columns=columns, channels=(4, 6, 8), attention=2, hidden=12, sides_px=(96, 128), batch=8, out=str(tmp_path / "run")
    )


def test_batches_hold_views_of_fresh_and_of_earlier_samples(config):
    sampler = contrastnet.ContrastSampler(config, "train", 5)
    batches = [sampler.batch() for _ in range(6)]
    assert {b.view.shape[-1] for b in batches} == {48, 64}
    for b in batches:
        assert len(b.view) == len(b.spectrum) == len(b.bright) == len(b.stem) and b.view.shape[1] == 2
        assert b.spectrum.shape[1] == RINGS and torch.isfinite(b.view).all() and torch.isfinite(b.spectrum).all()
        assert set(np.unique(b.bright[torch.isfinite(b.bright)])) <= {0.0, 1.0}


def test_frames_are_averaged_by_their_number():
    channels = np.stack([np.full((2, 2), v) for v in (1.0, 4.0, 10.0)])
    assert contrastnet.merged(channels, np.array([1.0, 2.0, 6.0]))[0, 0] == pytest.approx((1 + 8 + 60) / 9)
    assert contrastnet.merged(channels, np.array([1.0, 0.0, 0.0]))[0, 0] == 1


def test_training_goes_on_from_its_checkpoint(config):
    first = contrastnet.ContrastTrainer(config)
    first.out.mkdir(parents=True)
    first.train_step()
    first.save()
    second = contrastnet.ContrastTrainer(config)
    second.load()
    assert second.step == 1 and second.images == first.images
    for a, b in zip(first.net.state_dict().values(), second.net.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    terms = second.train_step()
    assert np.isfinite(terms["loss"]) and 0 <= terms["kind"] <= 1


def test_calibration_finds_the_odds_and_where_they_are_sure():
    rng = np.random.default_rng(0)
    held = []
    for k in range(600):
        sign = 1 if k % 2 else -1
        network, columns = sign * 2.0 + rng.normal(0, 1.2), sign * 0.3 + rng.normal(0, 2)
        kind, stem = ("stem", 4.0) if k % 3 == 0 else ("single", -1.0)
        held.append(ship_contrast.Held(kind, sign, 50.0, 30.0, network, columns, stem, 0.9))
    rule = ship_contrast.fit_decision(held)
    odds = 2 * 2.0 / 1.2**2  # the logarithm of those of two normal distributions, for a logit of 1
    assert rule["weight"] == pytest.approx(odds, abs=0.6) and abs(rule["offset"]) < 0.5
    logit = np.array([rule["weight"] * h.network + rule["offset"] for h in held])
    certain = 1 / (1 + np.exp(-np.abs(logit))) >= rule["sure"]
    assert 0.8 <= rule["sure"] < 0.999 and certain.mean() > 0.2
    table = ship_contrast.table(held, lambda h: h.network, 0.9)
    assert table["all"]["images"] == 600 and table["all"]["right"] > 0.8 and table["stem"]["images"] == 200


def test_the_judge_goes_the_programs_way_and_the_export_is_the_network(config, tmp_path):
    net = contrastnet.ContrastNet(config.channels, config.attention, config.hidden).eval()
    folder = tmp_path / "contrast"
    ship_contrast.export_contrast(net, config, folder, decision=ship_contrast.UNFITTED)
    session = Session(load_model(folder), "cpu", 1)
    assert session.test() < 1e-4
    view, spectrum = torch.randn(1, 2, 40, 64), torch.randn(1, RINGS)
    out = session.run({"view": view.numpy(), "spectrum": spectrum.numpy()})["logits"]
    assert np.allclose(out, net(view, spectrum).detach().numpy(), atol=1e-4)
    drawn = ship_contrast.draw(config.model_copy(update={"sides_px": (192, 320)}), "val", 3, 1)
    held = ship_contrast.judge(drawn, session)
    assert held and {h.kind for h in held} <= {"movie", "single", "stem"}
    assert all(np.isfinite((h.network, h.columns, h.stem)).all() and 0 <= h.f1 <= 1 for h in held)
    metrics = ship_contrast.write_judged(net, config, tmp_path / "shipped", held, held, steps=1)
    assert metrics["contrast"]["all"]["images"] == len(held)
    assert load_model(tmp_path / "shipped").card.emdl.metrics["contrast"]["all"]["images"] == len(held)


def test_the_shipped_configuration_is_valid():
    from importlib.resources import files

    config = contrastnet.read_config(str(files("napari_emdl.training") / "configs" / "contrast.yaml"))
    assert sum(config.shares.values()) == pytest.approx(1) and config.columns.neighbours
