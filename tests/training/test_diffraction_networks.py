"""Networks of the disk training: exact transforms and crops, training, resume, and ONNX graphs equal to torch."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from napari_emdl.base.errors import EmdlError  # noqa: E402
from napari_emdl.diffraction.find.spectrum import probe_spectrum  # noqa: E402
from napari_emdl.training.diffraction.calibrate import reliability, temperature_of  # noqa: E402
from napari_emdl.training.diffraction.config import FcunetModel, LoopConfig, RefinerModel, TrainConfig, load_config  # noqa: E402
from napari_emdl.training.diffraction.crops import CROP_PX, canonical_crops  # noqa: E402
from napari_emdl.training.diffraction.crystals import catalogue  # noqa: E402
from napari_emdl.training.diffraction.evaluate import select  # noqa: E402
from napari_emdl.training.diffraction.export import describe, example_inputs, export_folder, load_trained  # noqa: E402
from napari_emdl.training.diffraction.fcunet import BAND, FCUNet, peaks  # noqa: E402
from napari_emdl.training.diffraction.library import build, read_library  # noqa: E402
from napari_emdl.training.diffraction.networks import SCALARS, DiskRefiner  # noqa: E402
from napari_emdl.training.diffraction.strainfit import fit_basis, strain_error  # noqa: E402
from napari_emdl.training.diffraction.train import Trainer, plot_curves, train_fcunet, train_refiner  # noqa: E402
from napari_emdl.training.diffraction.weights import load_weights, save_weights  # noqa: E402


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("beams") / "beams.h5"
    build(path, 6, seed=4, crystals=[c for c in catalogue(30) if len(c.symbols) < 4][:6])
    return path


def _config(library, folder, network, steps=4) -> TrainConfig:
    return TrainConfig(
        network=network,
        library=[str(library)],
        output=str(folder),
        loop=LoopConfig(
            steps=steps,
            patterns_per_step=1,
            warmup_steps=1,
            validate_every=1000,
            checkpoint_every=1000,
            validation_patterns=2,
            bf16=False,
        ),
        refiner=RefinerModel(widths=(4, 8, 8), blocks=(1, 1), hidden=16),
        fcunet=FcunetModel(channels=(2, 3), real_channels=4),
        proposals_per_pattern=12,
        own_proposals=(0.5,),
        pattern_weight=1.0,
    )


def _trainer(library, folder, network, **options) -> Trainer:
    runs = read_library([library])
    return Trainer(_config(library, folder, network, **options), runs, runs)


def test_crops_are_means_over_boxes():
    y, x = torch.meshgrid(torch.arange(80.0), torch.arange(90.0), indexing="ij")
    plane = torch.stack([torch.ones(80, 90), 3 * y + 2 * x])
    position = torch.tensor([[40.3, 41.7], [38.0, 45.0]])
    for radius in (3.0, 7.0, 11.0):
        crop, valid = canonical_crops(plane, torch.tensor([1, 1]), position, torch.tensor(radius))
        assert crop.shape == (2, CROP_PX, CROP_PX)
        middle = slice(CROP_PX // 2 - 4, CROP_PX // 2 + 4)
        mean = crop[:, middle, middle].mean((1, 2))
        np.testing.assert_allclose(mean, 3 * position[:, 0] + 2 * position[:, 1], atol=0.15)
        flat, _ = canonical_crops(plane, torch.tensor([0, 0]), position, torch.tensor(radius))
        np.testing.assert_allclose(flat[valid > 0.1], 1.0, atol=1e-5)


def test_crops_conserve_the_counts_of_a_disk():
    y, x = np.mgrid[:200, :200]
    for radius in (4.0, 9.0, 25.0):
        disk = np.clip(radius + 0.5 - np.hypot(y - 97.2, x - 101.6), 0, 1).astype(np.float32)
        at = (torch.zeros(1, dtype=torch.int64), torch.tensor([[97.2, 101.6]]), torch.tensor(radius))
        crop, _ = canonical_crops(torch.from_numpy(disk)[None], *at)
        assert float(crop.sum()) * (radius / 7) ** 2 == pytest.approx(disk.sum(), rel=5e-3)


def test_coarse_crops_show_the_same_field():
    y, x = torch.meshgrid(torch.arange(90.0), torch.arange(90.0), indexing="ij")
    wave = torch.sin(y / 9)[None] + torch.cos(x / 7)[None] + 3
    at = (torch.zeros(1, dtype=torch.int64), torch.tensor([[44.3, 45.1]]), torch.tensor(9.0))
    fine, _ = canonical_crops(wave, *at)
    coarse, valid = canonical_crops(wave, *at, crop_px=16)
    assert coarse.shape == (1, 16, 16) and float(valid.min()) > 0.99
    np.testing.assert_allclose(coarse[0], fine[0].reshape(16, 2, 16, 2).mean((1, 3)), atol=0.01)


def test_crops_outside_the_detector_are_not_valid():
    crop, valid = canonical_crops(
        torch.ones(1, 64, 64), torch.zeros(1, dtype=torch.int64), torch.tensor([[0.0, 32.0]]), torch.tensor(6.0)
    )
    assert float(valid[0, 0].max()) == 0 and float(valid[0, -1].min()) > 0.99
    assert float(crop[valid > 0.1].max()) == pytest.approx(1.0, abs=1e-5)


def test_probe_spectrum_is_conjugate_and_centred():
    y, x = np.mgrid[:256, :256]
    probe = np.clip(6.5 - np.hypot(y - 128, x - 128), 0, 1)
    re, im = probe_spectrum(7 * probe)
    assert re.shape == (256, 256) and re.dtype == np.float32
    assert re[128, 128] == pytest.approx(1.0)
    assert np.abs(im).max() < 1e-6
    moved = np.roll(probe, 3, axis=0)
    shifted = probe_spectrum(moved)
    frequency = np.arange(-128, 128) / 256
    expected = (re + 1j * im) * np.exp(2j * np.pi * 3 * frequency)[:, None]
    np.testing.assert_allclose(shifted[0] + 1j * shifted[1], expected, atol=1e-5)


@pytest.mark.parametrize("bad", [np.zeros((256, 256)), np.ones((128, 128)), np.full((256, 256), np.nan)])
def test_bad_probe_is_one_line(bad):
    with pytest.raises(EmdlError) as caught:
        probe_spectrum(bad)
    assert "\n" not in str(caught.value)


def test_fourier_matrices_are_the_transform():
    net = FCUNet((2, 3), 1, 4)
    torch.nn.init.zeros_(net.log_gain)
    rng = np.random.default_rng(0)
    pattern = rng.poisson(3.0, (1, 256, 256)).astype(np.float32)
    ones, zeros = np.ones((256, 256), np.float32), np.zeros((256, 256), np.float32)
    with torch.no_grad():
        mine = net.correlation(*(torch.from_numpy(v) for v in (pattern, ones, zeros)))[0].numpy()
        stable = np.log1p(2 * (np.sqrt(pattern[0] + 0.375) - np.sqrt(0.375)))
        spectrum = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(stable)))[64:192, 64:192]
        spectrum /= np.sqrt(np.mean(np.abs(spectrum) ** 2))
        np.testing.assert_allclose(mine[0] + 1j * mine[1], spectrum, atol=2e-3 * np.abs(spectrum).max())
        point = torch.zeros(1, 2, BAND, BAND)
        u, v = np.meshgrid(np.arange(-64, 64), np.arange(-64, 64), indexing="ij")
        wave = np.exp(-2j * np.pi * (u * (150.5 - 128) + v * (90.5 - 128)) / 256)
        point[0, 0], point[0, 1] = torch.from_numpy(wave.real), torch.from_numpy(wave.imag)
        image = net.inverse(point)[0, 0].numpy()
    # Pixel j of the coarse grid lies at 2 j + 0.5 of the fine one.
    assert np.unravel_index(image.argmax(), image.shape) == (75, 45)


def test_peaks_have_sub_pixel_positions():
    y, x = np.mgrid[:64, :64]
    truth = np.array([[20.3, 30.6], [45.0, 12.25]])
    image = sum(h * np.exp(-0.5 * ((y - r) ** 2 + (x - c) ** 2) / 1.3**2) for h, (r, c) in zip((0.9, 0.5), truth, strict=True))
    pattern = torch.full((1, 64, 64), 2.0)
    found = peaks(torch.from_numpy(image.astype(np.float32))[None], pattern, 8)[0].numpy()
    np.testing.assert_allclose(found[:2, :2], truth, atol=0.12)
    assert np.all(np.diff(found[:, 2]) <= 0)
    np.testing.assert_allclose(found[:2, 3], 50.0)


@pytest.mark.parametrize("network", ["refiner", "fcunet"])
def test_training_lowers_the_loss_of_a_fixed_batch(library, tmp_path, network):
    trainer = _trainer(library, tmp_path, network, steps=100)
    trainer.config = trainer.config.model_copy(update={"own_proposals": ()})
    losses = [trainer.train_step(step=0)["loss"] for _ in range(12)]
    assert np.mean(losses[-3:]) < 0.9 * losses[0] or losses[-1] < losses[0] - 0.3


@pytest.mark.parametrize("network", ["refiner", "fcunet"])
def test_resumed_training_continues_identically(library, tmp_path, network):
    whole = _trainer(library, tmp_path / "whole", network)
    for _ in range(4):
        whole.train_step()
    first = _trainer(library, tmp_path / "cut", network)
    for _ in range(2):
        first.train_step()
    first.save()
    second = _trainer(library, tmp_path / "cut", network)
    assert second.load()
    for _ in range(2):
        second.train_step()
    for a, b in zip(whole.model.state_dict().values(), second.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(whole.ema.state_dict().values(), second.ema.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("network", ["refiner", "fcunet"])
def test_training_starts_from_the_weights_of_a_model_folder(library, tmp_path, network):
    first = _trainer(library, tmp_path / "first", network)
    first.train_step()
    save_weights(first.ema, tmp_path)
    config = _config(library, tmp_path / "second", network).model_copy(update={"start_from": str(tmp_path)})
    runs = read_library([library])
    second = Trainer(config, runs, runs)
    for name, value in second.model.state_dict().items():
        torch.testing.assert_close(value, first.ema.state_dict()[name], rtol=1e-3, atol=1e-4)
    for bad, message in ((tmp_path / "second", "no weights.npz"), (tmp_path, "do not fit")):
        other = config.model_copy(update={"start_from": str(bad), "refiner": RefinerModel(), "fcunet": FcunetModel()})
        with pytest.raises(EmdlError, match=message):
            Trainer(other, runs, runs)


@pytest.mark.parametrize(
    "network, folder, stage", [("refiner", "disk_refiner", "_glanced"), ("fcunet", "fcunet", "_continued")]
)
def test_shipped_configurations_are_those_of_the_card(network, folder, stage):
    configs = files("napari_emdl.training").joinpath("configs")
    whole, last = (load_config(str(configs.joinpath(f"{network}{name}.yaml"))) for name in ("", stage))
    card = yaml.safe_load(files("napari_emdl.models").joinpath("shipped", folder, "rdf.yaml").read_text())
    recipe = card["config"]["emdl"]["training"]["recipe"]
    assert last.start_from and not whole.start_from
    fields = {key: recipe[key] for key in recipe}
    seen = TrainConfig.model_validate({"network": network, "library": [], "output": "", **fields})
    assert seen.model_dump(include=set(recipe)) == last.model_dump(include=set(recipe))
    assert getattr(whole, network) == getattr(last, network)


def test_the_glance_was_trained_as_its_configuration_says():
    config = load_config(str(files("napari_emdl.training").joinpath("configs", "glance.yaml")))
    card = yaml.safe_load(files("napari_emdl.models").joinpath("shipped", "disk_glance", "rdf.yaml").read_text())
    recipe = card["config"]["emdl"]["training"]["recipe"]
    assert config.model_dump(mode="json", include=set(recipe)) == recipe
    assert card["config"]["emdl"]["training"]["steps"] == config.loop.steps


def test_proposals_of_a_refiner_may_be_where_a_glance_puts_them(library, tmp_path):
    small = DiskRefiner((4, 8, 8), (1, 1), 16, crop_px=16).eval()
    torch.nn.init.zeros_(small.head.weight)
    with torch.no_grad():
        small.head.bias.copy_(torch.tensor([0.5, 0.0, 0.0, 0.0, 0.0, 0.0]))  # moves everything down by 2 of its own pixels
    config = _config(library, tmp_path / "glance", "refiner")
    config = config.model_copy(update={"refiner": config.refiner.model_copy(update={"crop_px": 16})})
    kind, name, about, emdl = describe(config, small, {}, 1)
    assert emdl["canonical_radius_px"] == 3.5
    export_folder(small, kind, tmp_path / "small", emdl, name, about)
    runs = read_library([library])
    plain = _config(library, tmp_path / "a", "refiner").model_copy(update={"own_proposals": ()})
    shifts = []
    for glance in (None, str(tmp_path / "small")):
        task = Trainer(plain.model_copy(update={"glance": glance}), runs, runs).task
        batch = task.batch(runs, np.random.default_rng(5), torch.Generator().manual_seed(5))
        shifts.append(batch.lattices.start_px[0, :, 0] / batch.lattices.scale[0])
    moved = shifts[1] - shifts[0]
    np.testing.assert_allclose(moved[:10], 4.0, atol=1e-3)  # its pixels are twice as large
    np.testing.assert_allclose(moved[10:], 0.0, atol=1e-6)


def test_added_residual_blocks_begin_as_the_identity(library, tmp_path):
    first = _trainer(library, tmp_path / "first", "refiner")
    first.train_step()
    save_weights(first.ema, tmp_path)
    same, deeper = DiskRefiner((4, 8, 8), (1, 1), 16), DiskRefiner((4, 8, 8), (1, 2), 16)
    for model in (same, deeper):
        load_weights(model, tmp_path)
        model.eval()
    images, scalars = torch.randn(3, 4, CROP_PX, CROP_PX), torch.randn(3, SCALARS)
    torch.testing.assert_close(deeper.raw(images, scalars), same.raw(images, scalars))
    deeper.train()
    deeper.raw(images, scalars).sum().backward()
    added = deeper.body[-1]
    assert added.norm2.weight.grad.abs().sum() > 0


def test_entry_writes_curves_and_checkpoint(library, tmp_path):
    config = _config(library, tmp_path / "run", "refiner", steps=2).model_dump(mode="json")
    path = tmp_path / "refiner.yaml"
    path.write_text(yaml.safe_dump(config))
    trainer = train_refiner(path)
    assert trainer.step == 2
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"checkpoint.pt", "loss.csv", "validation.csv"}
    plot_curves(tmp_path / "run", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert train_refiner(path).step == 2
    with pytest.raises(EmdlError, match="refiner"):
        train_fcunet(path)
    assert isinstance(load_trained(load_config(path)), DiskRefiner)


@pytest.mark.parametrize("kind", ["fcunet", "disk_refiner"])
def test_onnx_equals_torch(tmp_path, kind):
    ort = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model = (FCUNet((2, 3), 1, 4) if kind == "fcunet" else DiskRefiner((4, 8, 8), (1, 1), 16)).eval()
    config = TrainConfig(network="fcunet", library=[], output=str(tmp_path / "run"))
    reliability = [{"sigma_px": x, "error_68_px": 1.1 * x, "error_rms_px": 1.3 * x} for x in (0.02, 0.05, 0.2)]
    _, name, about, emdl = describe(config, model, {"sigma_reliability": reliability} if kind == "disk_refiner" else {}, 3)
    folder = export_folder(model, kind, tmp_path / kind, emdl, name, about)
    session = ort.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    for change in (False, True):
        inputs = example_inputs(kind, seed=int(change))
        if change:
            inputs["pattern"] = inputs["pattern"][:1].copy()
            if kind == "disk_refiner":
                inputs |= {"pattern": inputs["pattern"][:, 30:, :190].copy(), "radius_px": np.array(11.4, np.float32)}
                inputs |= {"probe": inputs["probe"][20:-20, 31:].copy()}
                inputs |= {"position_px": inputs["position_px"][:5], "pattern_index": np.zeros(5, np.int64)}
                inputs |= {"beam_px": inputs["beam_px"][:1] + 3}
        got = session.run(None, inputs)
        with torch.no_grad():
            out = model(*(torch.from_numpy(np.asarray(v)) for v in inputs.values()))
        want = [t.numpy() for t in (out if isinstance(out, tuple) else (out,))]
        np.testing.assert_allclose(got[0], want[0], rtol=1e-3, atol=2e-3)
        if kind == "disk_refiner":
            assert [o.name for o in session.get_outputs()] == ["measured", "covariance"]
            np.testing.assert_allclose(got[1], want[1], rtol=1e-3, atol=2e-3)
        if kind == "fcunet":
            # Candidates of nearly equal score may swap places: compare scores in order, places as a set.
            np.testing.assert_allclose(got[1][..., 2], want[1][..., 2], atol=1e-4)
            for mine, theirs in zip(got[1], want[1], strict=True):
                near = np.abs(mine[:, None, :2] - theirs[None, :, :2]).max(-1).min(1)
                assert np.mean(near < 0.01) > 0.95
    card = yaml.safe_load((folder / "rdf.yaml").read_text())
    assert card["config"]["emdl"]["kind"] == kind
    files = {"model.onnx", "rdf.yaml", "test_input.npz", "test_output.npz", "weights.npz"}
    assert {p.name for p in folder.iterdir()} == files | set(card.get("covers", []))
    assert ("covers" in card) == (kind == "disk_refiner")


def test_wrong_configuration_is_one_line(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("network: refiner\nlibrary: [a.h5]\noutput: x\nstepz: 3\n")
    with pytest.raises(EmdlError, match="stepz") as caught:
        load_config(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(EmdlError, match="cannot read"):
        load_config(tmp_path / "absent.yaml")


def test_sigma_temperature_and_reliability():
    rng = np.random.default_rng(0)
    sigma = rng.uniform(0.05, 0.5, 4000)
    errors = 1.7 * sigma[:, None] * rng.normal(size=(4000, 2))
    assert temperature_of(errors, sigma) == pytest.approx(1.7, rel=0.04)
    for row in reliability(errors, 1.7 * sigma):
        assert row["error_68_px"] == pytest.approx(row["sigma_px"], rel=0.12)


def test_strain_fit_recovers_strain_and_ignores_an_outlier():
    hk = np.array([(h, k) for h in range(-2, 3) for k in range(-2, 3)])
    basis = np.array([[20.0, 1.0], [-2.0, 24.0]])
    deformation = np.array([[1.02, 0.005], [0.005, 0.99]])
    strained = basis @ np.linalg.inv(deformation)
    position = 128 + hk @ strained
    position[3] += 3.0
    fitted = fit_basis(hk, position, np.full(len(hk), 0.05))
    assert fitted is not None
    assert np.abs(strain_error(strained, fitted)).max() < 1e-4
    assert fit_basis(hk[:3], position[:3], np.ones(3)) is None
    assert fit_basis(hk[:5] * [1, 0] + [0, 1], position[:5], np.ones(5)) is None


def test_select_keeps_one_disk_a_place_inside_the_detector():
    measured = np.array([[50, 50, 0.1, 0.9, 1], [51, 50, 0.5, 0.9, 1], [3, 50, 0.1, 0.9, 1], [90, 90, 0.1, 0.2, 1]], np.float32)
    assert select(measured, 6.0, 256, 0.5)[:, 0].tolist() == [50.0]


@pytest.mark.parametrize("name", ["fcunet", "disk_refiner"])
def test_shipped_folder_is_whole(name):
    ort = pytest.importorskip("onnxruntime")
    folder = files("napari_emdl.models").joinpath("shipped", name)
    card = yaml.safe_load(folder.joinpath("rdf.yaml").read_text("utf-8"))
    assert card["weights"]["onnx"]["sha256"] == hashlib.sha256(folder.joinpath("model.onnx").read_bytes()).hexdigest()
    assert sum(p.stat().st_size for p in folder.iterdir()) < 16 * 2**20
    emdl = card["config"]["emdl"]
    assert emdl["kind"] == name and emdl["limits"] and emdl["training"]["patterns_seen"] > 10_000
    session = ort.InferenceSession(str(folder.joinpath("model.onnx")), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == [t["id"] for t in card["inputs"]]
    with np.load(folder.joinpath("test_input.npz")) as inputs, np.load(folder.joinpath("test_output.npz")) as outputs:
        got = session.run(list(outputs), dict(inputs))
        np.testing.assert_allclose(got[0], outputs[next(iter(outputs))], rtol=2e-3, atol=5e-3)
        model = (FCUNet if name == "fcunet" else DiskRefiner)(**_sizes(emdl["training"]["recipe"], name)).eval()
        load_weights(model, Path(str(folder)))
        with torch.no_grad():
            again = model(*(torch.from_numpy(inputs[k]) for k in inputs))
        first = again[0] if isinstance(again, tuple) else again
        # the weights are kept in half precision, the shipped graph computes in 8 bit
        off = np.abs(first.numpy() - got[0]) / (1 + np.abs(got[0]))
        assert np.quantile(off, 0.95) < 0.02 and off.max() < 0.25


def _sizes(recipe: dict, name: str) -> dict:
    sizes = recipe["fcunet" if name == "fcunet" else "refiner"]
    return {key: tuple(value) if isinstance(value, list) else value for key, value in sizes.items()}
