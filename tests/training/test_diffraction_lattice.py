"""Covariances of the refiner and the loss on a pattern's strain."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from napari_emdl.training.diffraction.crops import CROP_PX  # noqa: E402
from napari_emdl.training.diffraction.lattice_loss import Lattices, strain_errors, strain_loss  # noqa: E402
from napari_emdl.training.diffraction.networks import (  # noqa: E402
    OUTPUTS,
    SCALARS,
    DiskRefiner,
    error_ellipse,
    precision,
    surroundings,
)
from napari_emdl.training.diffraction.strainfit import fit_basis, strain_error  # noqa: E402
from napari_emdl.training.diffraction.weights import load_weights, save_weights  # noqa: E402

BASIS = np.array([[21.0, 2.0], [-3.0, 24.0]])
HK = np.array([(h, k) for h in range(-2, 3) for k in range(-2, 3)], float)


def lattices(position: np.ndarray, weight: np.ndarray | None = None) -> Lattices:
    """One pattern whose disks are measured at `position`, with canonical pixels of 1.5 detector pixels."""
    on = lambda x: torch.tensor(np.asarray(x)[None], dtype=torch.float32)  # noqa: E731
    truth = 128 + HK @ BASIS
    return Lattices(
        on(HK), on(truth), on(position), on(np.ones(len(HK)) if weight is None else weight), on(BASIS), torch.tensor([1.5])
    )


def test_error_ellipse_is_the_inverse_of_the_precision():
    out = 0.4 * torch.randn(50, OUTPUTS, dtype=torch.float64)
    row, col, rho = error_ellipse(out)
    covariance = torch.stack([torch.stack([row**2, rho * row * col], -1), torch.stack([rho * row * col, col**2], -1)], -2)
    torch.testing.assert_close(covariance @ precision(out), torch.eye(2).expand(50, 2, 2).double(), rtol=1e-3, atol=1e-3)
    assert bool((rho.abs() < 1).all())
    torch.testing.assert_close(torch.linalg.det(covariance), torch.exp(4 * out[:, 2]), rtol=1e-3, atol=1e-5)


def test_without_anisotropy_the_ellipse_is_a_circle_of_sigma():
    out = torch.zeros(4, OUTPUTS)
    out[:, 2] = torch.tensor([-3.0, -1.0, 0.0, 1.0])
    row, col, rho = error_ellipse(out)
    torch.testing.assert_close(row, torch.exp(out[:, 2]), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(row, col)
    assert float(rho.abs().max()) == 0


def test_an_older_refiner_grows_into_the_same_function(tmp_path):
    torch.manual_seed(0)
    model = DiskRefiner((4, 8, 8), (1, 1), 16).eval()
    save_weights(model, tmp_path)
    with np.load(tmp_path / "weights.npz") as z:
        old = {k: z[k] for k in z.files}
    # As a refiner was before it knew directions: three scalars, four outputs.
    old["dense.weight"] = old["dense.weight"][:, : 3 - SCALARS]
    old["head.weight"], old["head.bias"] = old["head.weight"][:4], old["head.bias"][:4]
    np.savez(tmp_path / "weights.npz", **old)
    grown = DiskRefiner((4, 8, 8), (1, 1), 16).eval()
    load_weights(grown, tmp_path)
    images, scalars = torch.randn(3, 4, CROP_PX, CROP_PX), torch.randn(3, SCALARS)
    unknown = torch.cat([scalars[:, :3], torch.zeros(3, SCALARS - 3)], 1)
    torch.testing.assert_close(grown.raw(images, scalars), grown.raw(images, unknown))
    assert float(grown.raw(images, scalars)[:, 4:].detach().abs().max()) == 0
    with torch.no_grad():
        model.head.weight[4:], model.head.bias[4:], model.dense.weight[:, 3 - SCALARS :] = 0, 0, 0
    torch.testing.assert_close(grown.raw(images, scalars), model.raw(images, scalars), rtol=5e-3, atol=5e-3)


def test_surroundings_point_to_the_direct_beam():
    position = torch.tensor([[100.0, 128.0], [128.0, 180.0], [128.0, 128.0]])
    beam = torch.full((3, 2), 128.0)
    around = surroundings(position, beam, torch.tensor(6.0), torch.tensor([1.0, 1.0, 4.0]))
    assert float(around[0, 0]) > 0.9 and float(around[0, 1]) == pytest.approx(0, abs=1e-6)
    assert float(around[1, 1]) < -0.9
    assert float(around[2, :2].abs().max()) == 0
    assert bool((around[:2, 2] > around[2, 2]).all()) and float(around[2, 3]) > float(around[0, 3])


def test_strain_errors_are_those_of_the_lattice_fit():
    rng = np.random.default_rng(2)
    position = 128 + HK @ BASIS + rng.normal(0, 0.1, HK.shape)
    errors, fitted = strain_errors(lattices(position), torch.zeros(1, 25, 2), torch.eye(2).expand(1, 25, 2, 2))
    basis = np.linalg.lstsq(np.c_[np.ones(25), HK], position, rcond=None)[0][1:]
    np.testing.assert_allclose(errors[0].numpy(), strain_error(BASIS, basis), rtol=0.03, atol=2e-5)
    assert bool(fitted[0])


def test_shared_breathing_costs_more_than_the_same_noise():
    truth = 128 + HK @ BASIS
    outward = 0.1 * (truth - 128) / np.maximum(np.linalg.norm(truth - 128, axis=1, keepdims=True), 1e-9)
    shuffled = outward[np.random.default_rng(0).permutation(25)]
    unit = torch.eye(2).expand(1, 25, 2, 2)
    losses = [float(strain_loss(lattices(truth + d), torch.zeros(1, 25, 2), unit)[0]) for d in (outward, shuffled)]
    assert losses[0] > losses[1] + np.log(2)


def test_gradient_pulls_the_offsets_against_the_breathing():
    truth = 128 + HK @ BASIS
    offset = torch.zeros(1, 25, 2, requires_grad=True)
    loss, median = strain_loss(lattices(128 + 1.002 * (truth - 128)), offset, torch.eye(2).expand(1, 25, 2, 2))
    loss.backward()
    assert offset.grad is not None
    inward = -(offset.grad[0].numpy() * (truth - 128)).sum()
    assert inward < 0 and median == pytest.approx(0.2 * np.sqrt(2 / 3), rel=0.02)


def test_the_loss_is_computed_in_single_precision():
    from napari_emdl.training.diffraction.config import TrainConfig
    from napari_emdl.training.diffraction.tasks import RefinerBatch, RefinerTask

    class Still(DiskRefiner):
        def raw(self, images, scalars):
            return torch.zeros(25, OUTPUTS) + 0.003 * torch.arange(OUTPUTS)

    task = RefinerTask(TrainConfig(network="refiner", library=[], output="", pattern_weight=1.0))
    data = lattices(128 + 1.001 * HK @ BASIS)
    batch = RefinerBatch(torch.empty(0), torch.empty(0), torch.randn(25, 2), torch.ones(25), data)
    exact, _ = task.loss(Still((4, 8, 8), (1, 1), 16), batch)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, _ = task.loss(Still((4, 8, 8), (1, 1), 16), batch)
    torch.testing.assert_close(mixed, exact, rtol=1e-6, atol=1e-6)


def test_patterns_without_a_lattice_do_not_count():
    line = np.where(HK[:, 0] == 0, 1.0, 0.0)
    truth = 128 + HK @ BASIS
    for weight in (line, np.zeros(25)):
        data = dataclasses.replace(lattices(truth + 1.0, weight))
        loss, _ = strain_loss(data, torch.zeros(1, 25, 2), torch.eye(2).expand(1, 25, 2, 2))
        assert float(loss) == 0
    row = torch.tensor([[[30.0, 4.0], [0.0, 0.0]]])  # the reflections of a systematic row
    loss, _ = strain_loss(
        dataclasses.replace(lattices(truth + 1.0), basis_px=row),
        offset := torch.zeros(1, 25, 2).requires_grad_(),
        torch.eye(2).expand(1, 25, 2, 2),
    )
    loss.backward()
    assert float(loss) == 0 and bool((offset.grad == 0).all())


def test_the_fit_uses_the_ellipses():
    rng = np.random.default_rng(5)
    row = np.where(rng.random(25) < 0.5, 0.02, 0.6)
    col = np.where(row > 0.1, 0.02, 0.6)
    position = 128 + HK @ BASIS + rng.normal(size=HK.shape) * np.stack([row, col], 1)
    ellipse = np.stack([row, col, np.zeros(25)], 1)
    round_fit = fit_basis(HK, position, np.sqrt(0.5 * (row**2 + col**2)))
    full_fit = fit_basis(HK, position, row, ellipse=ellipse)
    assert round_fit is not None and full_fit is not None
    assert np.abs(strain_error(BASIS, full_fit)).max() < 0.3 * np.abs(strain_error(BASIS, round_fit)).max()


def test_the_finder_reads_covariances_and_tells_the_direct_beam(tmp_path):
    pytest.importorskip("onnxruntime")
    from napari_emdl.base.params import DiskParams, RunParams
    from napari_emdl.diffraction.find.network import ELLIPSE_FIELDS, NetworkFinder
    from napari_emdl.diffraction.find.probe import synthetic_probe
    from napari_emdl.training.diffraction.config import TrainConfig
    from napari_emdl.training.diffraction.export import describe, example_inputs, export_folder

    torch.manual_seed(1)
    model = DiskRefiner((4, 8, 8), (1, 1), 16).eval()
    with torch.no_grad():
        model.head.bias[2:] = torch.tensor([-1.5, 3.0, 0.4, -0.3])
    config = TrainConfig(network="refiner", library=[], output="")
    kind, name, about, emdl = describe(config, model, {}, 1)
    folder = export_folder(model, kind, tmp_path / "refiner", emdl, name, about)
    patterns = example_inputs("disk_refiner")["pattern"]
    params = DiskParams(method="light", model=str(folder))
    finder = NetworkFinder(synthetic_probe(6.0, (256, 256)), params, (256, 256), RunParams(device="cpu"))
    table = finder.find(patterns)
    row, col, rho = (table.column(n) for n in ELLIPSE_FIELDS)
    assert len(row) > 5
    np.testing.assert_allclose(np.sqrt(0.5 * (row**2 + col**2)), table.column("sigma_px"), rtol=1e-3)
    assert (row > col).all() and (np.abs(rho) < 1).all() and (rho < 0).any()
    beam = torch.tensor(finder._beam(patterns), dtype=torch.float32)
    assert float((beam - 128.3).abs().max()) < 3
    empty = finder.find(np.zeros((0, 256, 256), np.float32))
    assert set(ELLIPSE_FIELDS) <= set(empty.fields)
