"""The scale network: targets, samples, training, calibration, ONNX equal to torch; scans that weights are judged on."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from napari_emdl.bench.cases import load_case  # noqa: E402
from napari_emdl.diffraction.find.scaleview import LEVELS, RADII_PX  # noqa: E402
from napari_emdl.models.registry import load_model  # noqa: E402
from napari_emdl.models.session import Session  # noqa: E402
from napari_emdl.samples.nothing import KINDS  # noqa: E402
from napari_emdl.training.diffraction import scalenet  # noqa: E402
from napari_emdl.training.diffraction.config import LoopConfig, ScaleModel, TrainConfig  # noqa: E402
from napari_emdl.training.diffraction.crystals import catalogue  # noqa: E402
from napari_emdl.training.diffraction.export import describe, example_inputs, export_folder  # noqa: E402
from napari_emdl.training.diffraction.library import build, read_library  # noqa: E402
from napari_emdl.training.diffraction.scans import make_scans  # noqa: E402
from napari_emdl.training.diffraction.train import Trainer  # noqa: E402


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("beams") / "beams.h5"
    build(path, 6, seed=4, crystals=[c for c in catalogue(30) if len(c.symbols) < 4][:6])
    return path


def config_of(folder, nothing: float = 0.3) -> TrainConfig:
    loop = LoopConfig(steps=100, patterns_per_step=4, warmup_steps=1, validation_patterns=8, bf16=False)
    small = ScaleModel(channels=(4, 6), hidden=12, nothing=nothing)
    return TrainConfig(network="scale", library=[], output=str(folder), loop=loop, scale=small)


def test_the_target_is_the_class_of_the_radius():
    for radius in (1.0, 4.4, 30.0):
        target = scalenet.class_target(radius)
        assert target.sum() == pytest.approx(1, abs=1e-5)
        assert scalenet.likeliest_radius(target) == pytest.approx(radius, rel=0.03)


def test_kinds_that_are_held_back_are_never_drawn(tmp_path, monkeypatch):
    task, seen = scalenet.ScaleTask(config_of(tmp_path, nothing=0.999)), set()
    for kind in KINDS:
        monkeypatch.setitem(KINDS, kind, lambda rng, kind=kind: (seen.add(kind), np.ones((256, 256)))[1])
    for step in range(15):
        task.batch([], np.random.default_rng(step), torch.Generator())
    assert seen and not seen & set(scalenet.HELD_KINDS)


def test_framing_keeps_radius_and_size_together():
    y, x = np.mgrid[:256, :256]
    disk = (np.hypot(y - 128, x - 128) < 10).astype(np.float32) * 100
    sizes = set()
    for seed in range(60):
        framed = scalenet._framed(scalenet._Sample(disk, 10.0, 20), np.random.default_rng(seed))
        area = (framed.image > 50).sum()
        assert np.sqrt(area / np.pi) == pytest.approx(framed.radius_px, rel=0.08)
        sizes.add(framed.radius_px)
    assert sizes == {5.0, 10.0, 20.0}


def test_training_steps_lower_the_loss_on_one_batch(library, tmp_path):
    runs = read_library([library])
    trainer = Trainer(config_of(tmp_path), runs, runs)
    losses = [trainer.train_step(step=0)["loss"] for _ in range(25)]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def test_calibration_and_export_equal_torch(library, tmp_path):
    config, runs = config_of(tmp_path), read_library([library])
    torch.manual_seed(0)
    model = scalenet.ScaleTask(config).build().eval()
    metrics = scalenet.calibrate_scale(model, config, runs, count=8)
    assert {"within_tenth", "crystal_seen", "held_nothing_seen"} <= set(metrics)
    assert float(model.temperature[0]) == pytest.approx(metrics["radius_temperature"], abs=1e-3)
    kind, name, about, emdl = describe(config, model, metrics, 3)
    made = export_folder(model, kind, tmp_path / "made", emdl, name, about)
    session = Session(load_model(made), "cpu", 1)
    session.test()
    feeds = {key: np.concatenate([value[:1]] * 3) for key, value in example_inputs("disk_scale", seed=5).items()}
    with torch.no_grad():
        wanted = model(*(torch.from_numpy(feeds[f"level{k}"]) for k in range(LEVELS)))
    found = session.run(feeds)
    assert found["probability"].shape == (3, len(RADII_PX))
    np.testing.assert_allclose(found["probability"].sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(found["probability"], wanted[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(found["crystal"], wanted[1].numpy(), atol=1e-5)


def test_scans_have_strain_and_wedges_have_none(library, tmp_path):
    made = make_scans(tmp_path, read_library([library]), scans=1, wedges=2, positions=3, seed=2)
    kinds = {prefix.name.rsplit("_", 1)[0] for prefix in made}
    assert kinds <= {"scan", "wedge_zone", "wedge_tilted"} and len(made) >= 1
    for prefix in made:
        case = load_case(prefix)
        assert case.patterns.shape == (3, 256, 256)
        away = np.abs(case.deformation - case.deformation[0]).max()
        assert away > 1e-3 if prefix.name.startswith("scan") else away < 1e-9
