"""Training step, exact resume, export and fine-tuning of column networks, with the smallest networks that do it."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: train)")

from napari_emdl.models.card import read_card  # noqa: E402
from napari_emdl.training.atoms.conditions import SIZE, encode  # noqa: E402
from napari_emdl.training.atoms.config import ColumnsConfig, Imaging, read_config  # noqa: E402
from napari_emdl.training.atoms.evaluate import REGIMES, Score, TestImage, log_candidates, regime_images  # noqa: E402
from napari_emdl.training.atoms.export import OUTPUTS, export_model, load_checkpoint, load_weights  # noqa: E402
from napari_emdl.training.atoms.finetune import finetune, join, settle_contrast  # noqa: E402
from napari_emdl.training.atoms.labels import column_loss, make_targets  # noqa: E402
from napari_emdl.training.atoms.multislice import Multislice  # noqa: E402
from napari_emdl.training.atoms.network import ColumnNet, PublishedNet  # noqa: E402
from napari_emdl.training.atoms.peaks import EMPTY_LOGIT, ExportedNet, candidates  # noqa: E402
from napari_emdl.training.atoms.structures import CarbonBank, metal_particle  # noqa: E402
from napari_emdl.training.atoms.train import Trainer, run  # noqa: E402
from napari_emdl.training.atoms.waves import simulate  # noqa: E402

SMALL = ColumnsConfig(
    widths=[16, 16, 16, 16], crop_px=64, batch=2, steps=4, minutes=None, bf16=False, device="cpu", warmup_steps=2,
    imaging=Imaging(dose_e_per_A2=(300, 3000), contrast="dark", C12_A=(0, 5), sampling_A=(0.09, 0.11)),
)  # fmt: skip


@pytest.fixture(scope="module")
def waves():
    rng = np.random.default_rng(1)
    carbon = CarbonBank(rng, 1, 12.0)
    solver = Multislice(grid=180)
    made = [(metal_particle(rng, carbon, ["Cu"], "110", carbon_A=6.0, thickness_A=(8, 12)), 300.0, 0.08) for _ in range(3)]
    return simulate(made, solver)


def test_shipped_configurations_are_valid():
    from importlib.resources import files

    folder = files("napari_emdl.training").joinpath("configs")
    for file, name, species in (
        ("columns", "columns", 1), ("columns_continued", "columns", 1), ("columns_mos2_focal", "columns_mos2_focal", 3),
        ("columns_sheets", "columns", 1), ("columns_taught", "columns", 1), ("columns_taught_on", "columns_scanned", 1),
    ):  # fmt: skip
        config = read_config(str(folder.joinpath(f"{file}.yaml")))
        assert config.name == name and len(config.species) == species
    with pytest.raises(ValueError, match="multiple of 16"):
        ColumnsConfig(crop_px=100)


def test_resumed_training_goes_on_as_if_it_had_not_stopped(waves, tmp_path):
    straight = Trainer.new(SMALL, waves)
    losses = [straight.train_step()["loss"] for _ in range(4)]
    assert all(np.isfinite(losses))
    first = Trainer.new(SMALL, waves)
    run(first, tmp_path, cancel=lambda: first.step == 2)
    assert first.step == 2
    second = Trainer.new(SMALL, waves)
    second.restore(torch.load(tmp_path / "checkpoint.pt", weights_only=False))
    assert run(second, tmp_path) and second.step == 4
    for name, value in straight.net.state_dict().items():
        assert torch.equal(value, second.net.state_dict()[name]), name
    for name, value in straight.average.state_dict().items():
        assert torch.equal(value, second.average.state_dict()[name]), name


@pytest.mark.parametrize(("teaches", "taught"), [("hrtem", 0), ("scanned", 1), ("scanned_dark", 1)])
def test_a_taught_network_learns_the_teachers_map_in_the_images_that_it_teaches(waves, teaches, taught):
    config = SMALL.model_copy(update={"teacher_share": 1.0, "teaches": [teaches]})
    teacher = Trainer.new(config.model_copy(update={"seed": 5}), waves).net
    trainer = Trainer.new(config, waves, teacher=teacher)
    batch = trainer.sampler.batch(2)
    batch.dose_e_per_A2[1], batch.contrast[1] = np.nan, -1  # as of a scanned image
    targets = make_targets(batch.columns, (64, 64), batch.sampling_A, 0.38, 1)
    truth = targets.heat.clone()
    trainer._taught(targets, batch.image, batch)
    with torch.no_grad():
        told = torch.sigmoid(teacher.eval()(batch.image, batch.conditions)["logit"])
    assert torch.allclose(targets.taught[taught], told[taught], atol=1e-5)
    assert torch.equal(targets.taught[1 - taught], truth[1 - taught])
    assert torch.equal(targets.heat, truth)  # positions are learned from the truth
    right = {"logit": torch.logit(targets.taught.clamp(1e-6, 1 - 1e-6)), "offset": targets.offset}
    loss = column_loss({**right, "log_sigma": torch.zeros(2, 1, 32, 32)}, targets)[1]["map"]
    assert abs(loss) < 1e-4


def test_network_learns_to_find_columns_in_clean_images(waves):
    config = SMALL.model_copy(update={"steps": 60, "learning_rate": 4e-3, "warmup_steps": 5, "batch": 4})
    trainer = Trainer.new(config, waves)
    losses = [trainer.train_step()["map"] for _ in range(60)]
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:5])


@pytest.mark.parametrize("net", [ColumnNet(widths=(16, 16, 16, 16)), PublishedNet(widths=(8, 8, 8, 8))])
def test_outputs_have_the_map_size_at_any_image_size(net):
    out = net.eval()(torch.zeros(2, 1, 48, 80), torch.zeros(2, SIZE))
    assert out["logit"].shape == (2, 1, 24, 40) and out["offset"].shape == (2, 2, 24, 40)


def test_conditions_reach_the_network(waves):
    trainer = Trainer.new(SMALL, waves)
    for _ in range(4):
        trainer.train_step()
    x = torch.randn(1, 1, 64, 64)
    told = [torch.as_tensor(encode(c))[None] for c in ("bright", "dark")]
    with torch.no_grad():
        a, b = (trainer.net.eval()(x, t)["logit"] for t in told)
    assert not torch.allclose(a, b)


def test_candidates_sit_on_columns_and_score_their_probability():
    columns = np.array([[20.75, 30.0], [50.0, 12.25], [50.0, 40.0]])
    t = make_targets([(columns, np.array([0, 1, 0]))], (64, 64), np.array([0.1]), 0.38, 2)
    heat = t.heat.clone()
    heat[:, 0, :, 16:][:, 16:] *= 0.5  # the third column is only half sure
    out = {"logit": torch.logit(heat.clamp(1e-6, 1 - 1e-6)), "offset": t.offset, "log_sigma": torch.zeros(1, 1, 32, 32)}
    told = torch.as_tensor(encode("bright", sampling_A=0.1))[None]
    found = candidates(out, told, 0.38, 2000)[0]
    best = found[:3][torch.argsort(found[:3, 0] * 100 + found[:3, 1])]
    assert np.allclose(best[:, :2], columns, atol=1e-3)
    assert np.allclose(best[:, 2], [1, 1, 0.5], atol=0.06) and best[:, 4].tolist() == [0, 1, 0]
    assert found[3, 2] < 0.01
    assert torch.all(found[-1, :5] == 0) and found[-1, 5] == EMPTY_LOGIT


def test_atoms_of_graphene_are_candidates_each_even_where_one_is_faint():
    # in a measured honeycomb every second atom was lost between map and candidates
    pixel_A, rng = 0.125, np.random.default_rng(3)
    for turn in rng.uniform(0, np.pi, 6):
        step = 1.42 / pixel_A * np.array([np.cos(turn), np.sin(turn)])
        columns = np.array([32.0, 32.0]) + np.array([[0.0], [1.0]]) * step
        parts = [make_targets([(c[None], np.zeros(1, int))], (96, 96), np.array([pixel_A]), 0.38, 1) for c in columns]
        heat = torch.maximum(0.9 * parts[0].heat, 0.55 * parts[1].heat)
        offset = torch.where(parts[0].heat > parts[1].heat, parts[0].offset, parts[1].offset)
        out = {"logit": torch.logit(heat.clamp(1e-6, 1 - 1e-6)), "offset": offset, "log_sigma": torch.zeros(1, 1, 48, 48)}
        found = candidates(out, torch.as_tensor(encode("bright", sampling_A=pixel_A))[None], 0.38, 50)[0].numpy()
        passing = found[found[:, 2] > 0.3]
        assert len(passing) == 2 and np.allclose(passing[:, :2], columns, atol=0.5)


def test_onnx_equals_torch_and_carries_its_card(waves, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx", reason="onnx is not installed (extra: train)")
    trainer = Trainer.new(SMALL, waves)
    run(trainer, tmp_path / "training")
    net, config, _ = load_checkpoint(tmp_path / "training" / "checkpoint.pt")
    example = (np.random.default_rng(0).normal(size=(1, 1, 64, 64)).astype(np.float32), encode("dark")[None])
    export_model(net, config, tmp_path / "model", example, "test")
    session = ort.InferenceSession(str(tmp_path / "model/model.onnx"), providers=["CPUExecutionProvider"])
    rounded, _ = load_weights(tmp_path / "model/weights.npz")
    for shape in ((1, 1, 64, 64), (3, 1, 96, 48)):
        x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
        told = np.random.default_rng(2).random((shape[0], SIZE)).astype(np.float32)
        with torch.no_grad():
            theirs = ExportedNet(rounded)(torch.as_tensor(x), torch.as_tensor(told))
        for name, a, b in zip(OUTPUTS, session.run(list(OUTPUTS), {"image": x, "conditions": told}), theirs, strict=True):
            assert np.allclose(a, b, atol=2e-4), name

    card = read_card(tmp_path / "model")
    assert card.emdl.task == "columns" and card.emdl.species == ["column"] and card.emdl.pixel_A == 0.1


def test_scores_count_matches_once_and_leave_weak_columns_out():
    test = TestImage(
        np.zeros((64, 64)),
        0.1,
        "dark",
        np.array([[10.0, 10], [30, 30], [50, 50]]),
        np.array([0, 0, 3]),
        np.array([True, False, False]),
    )
    score = Score()
    score.add(np.array([[10.0, 11], [10, 12], [50, 50.5]]), test)
    assert (score.tp, score.fp, score.fn, score.surface_tp, score.surface) == (1, 1, 1, 1, 1)
    assert score.summary()["rms_pm"] == pytest.approx(100 * 0.1 / np.sqrt(2))


def test_classical_finder_finds_dark_columns_in_a_held_image(waves):
    images = regime_images(waves, REGIMES[4], 1)
    assert images, "thin copper is dark in underfocus"
    found = log_candidates(images[0].image, 0.55 / images[0].sampling_A, "dark")
    score = Score()
    score.add(found[found[:, 2] > 3, :2], images[0])
    assert score.summary()["recall"] > 0.7


def test_fine_tune_writes_a_model_with_its_comparison(waves, tmp_path, monkeypatch):
    pytest.importorskip("onnx", reason="onnx is not installed (extra: train)")
    base = Trainer.new(SMALL, waves)
    export_model(base.average, SMALL, tmp_path / "base", (np.zeros((1, 1, 64, 64), np.float32), encode()[None]), "base")
    monkeypatch.setattr("napari_emdl.training.atoms.finetune._simulate_for", lambda *a: join([waves, waves]))
    said: list[float] = []
    wanted = {"contrast": "dark", "elements": ["Cu"], "zone": "110", "dose_e_per_A2": (80, 200), "C12_A": (0, 10)}
    report = finetune(tmp_path / "base", wanted, tmp_path / "mine", 0.06, lambda share, text: said.append(share))
    assert report is not None and {"original", "tuned", "better"} <= set(report)
    assert said[-1] == 1.0 and sorted(said) == said

    card = read_card(tmp_path / "mine")
    assert card.name == "mine" and "held-out" in next(iter(card.emdl.metrics))
    assert finetune(tmp_path / "base", wanted, tmp_path / "none", 0.06, cancel=lambda: True) is None
    assert not (tmp_path / "none/rdf.yaml").exists()


@pytest.fixture
def base_model(waves, tmp_path, monkeypatch):
    """A small network to tune, a folder of its own for the user's models, and specimens that need no simulation."""
    pytest.importorskip("onnx", reason="onnx is not installed (extra: train)")
    net = Trainer.new(SMALL, waves).average
    export_model(net, SMALL, tmp_path / "base", (np.zeros((1, 1, 64, 64), np.float32), encode()[None]), "base")
    monkeypatch.setattr("napari_emdl.training.atoms.finetune._simulate_for", lambda *a: join([waves, waves]))
    monkeypatch.setattr("napari_emdl.models.registry.user_folder", lambda: tmp_path / "models")
    return tmp_path / "base"


def test_tuning_from_the_command_line_adds_a_model_and_says_what_it_is_worth(base_model, tmp_path, capsys):
    from napari_emdl.cli import main
    from napari_emdl.models.registry import list_models

    command = ["train", "columns", "--from", str(base_model), "--name", "mine", "--minutes", "0.05", "--conditions"]
    assert main([*command, "contrast=dark elements=Cu,Au zone=110 dose_e_per_A2=80:200 sampling_A=0.1"]) == 0
    said = capsys.readouterr().out
    assert "original: precision" in said and "tuned: precision" in said and "the original on simulated images" in said
    mine = next(entry for entry in list_models("columns") if entry.name == "mine")
    assert mine.source == "user" and not mine.problem and mine.folder == tmp_path / "models/mine"
    told = read_card(mine.folder).emdl.model_extra["training"]["conditions"]
    assert told["elements"] == ["Cu", "Au"] and told["zone"] == "110" and told["sampling_A"] == [0.1, 0.1]
    assert not (mine.folder / "training").exists() and [p.name for p in mine.folder.parent.iterdir()] == ["mine"]


def test_conditions_that_cannot_be_are_one_line(base_model, tmp_path, capsys):
    from napari_emdl.cli import main

    command = ["train", "columns", "--from", str(base_model), "--name", "mine", "--conditions"]
    for condition, line in {
        "elements=Xx": "no such metal: Xx",
        "dose=50": "no such condition: dose",
        "C10_A=80:20": "runs backwards",
        "dose_e_per_A2=0:20": "more than zero",
        "contrast=grey": "'bright' or 'dark'",
    }.items():
        assert main([*command, condition]) == 1
        err = capsys.readouterr().err
        assert line in err and err.count("\n") == 1
    assert not any((tmp_path / "models").glob("*"))


def test_a_network_tuned_to_one_contrast_always_tells_it():
    net = ColumnNet(widths=(16, 16, 16, 16)).eval()
    settle_contrast(net, "dark")
    with torch.no_grad():
        contrast = ExportedNet(net)(torch.randn(2, 1, 64, 64), torch.zeros(2, SIZE))[-1]
    assert torch.all(contrast < -5)
