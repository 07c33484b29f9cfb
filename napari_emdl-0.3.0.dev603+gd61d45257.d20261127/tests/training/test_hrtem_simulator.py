"""The simulator against abTEM, and its truth against itself."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: train)")

from napari_emdl.atoms.find.normalise import local_normalise  # noqa: E402
from napari_emdl.training.atoms.conditions import SIZE, encode  # noqa: E402
from napari_emdl.training.atoms.config import Imaging  # noqa: E402
from napari_emdl.training.atoms.imaging import Detector, Microscope, image_contrast, image_intensity, record  # noqa: E402
from napari_emdl.training.atoms.labels import make_targets  # noqa: E402
from napari_emdl.training.atoms.lattices import BOX_A, WEAK, Structure  # noqa: E402
from napari_emdl.training.atoms.multislice import Multislice, wave_to_coefficients  # noqa: E402
from napari_emdl.training.atoms.sampling import Sampler, torch_normalise  # noqa: E402
from napari_emdl.training.atoms.specimens import random_structure  # noqa: E402
from napari_emdl.training.atoms.structures import CarbonBank, amorphous_carbon, metal_particle  # noqa: E402
from napari_emdl.training.atoms.waves import SHARD, Mixture, draw_structure, generate, held_out, load, simulate  # noqa: E402

KINDS = ("metal", "oxide", "monolayer", "graphene")


@pytest.fixture(scope="module")
def carbon() -> CarbonBank:
    return CarbonBank(np.random.default_rng(0), 1)


@pytest.fixture(scope="module")
def waves(carbon):
    rng = np.random.default_rng(1)
    solver = Multislice(grid=240)
    return simulate([(random_structure(rng, carbon, {k: 1.0}), 300.0, 0.08) for k in KINDS], solver)


@pytest.mark.referee
def test_exit_wave_and_image_agree_with_abtem(carbon):
    abtem = pytest.importorskip("abtem", reason="abTEM is not installed")
    ase = pytest.importorskip("ase", reason="ase is not installed")
    from abtem.parametrizations import LobatoParametrization

    structure = metal_particle(np.random.default_rng(3), carbon, ["Cu"], "110", carbon_A=10.0)
    grid, slice_A, u = 448, 2.5, 0.09
    depth = int(np.ceil(structure.xyz_A[:, 2].max() / slice_A)) * slice_A
    atoms = ase.Atoms(structure.symbols, structure.xyz_A, cell=[BOX_A, BOX_A, depth], pbc=True)
    lobato = LobatoParametrization(sigmas={"Cu": u, "C": u})
    with abtem.config.set({"diagnostics.progress_bar": False}):
        potential = abtem.Potential(atoms, gpts=grid, slice_thickness=slice_A, projection="infinite", parametrization=lobato)
        theirs = abtem.PlaneWave(energy=300e3).multislice(potential).compute()
        ctf = abtem.CTF(energy=300e3, defocus=-60.0, Cs=-5e5, focal_spread=30.0, astigmatism=25.0, astigmatism_angle=0.5)
        image = np.abs(theirs.apply_ctf(ctf).compute().array) ** 2
    ours = Multislice(grid=grid, slice_A=slice_A).exit_waves([structure], 300.0, u)

    a = wave_to_coefficients(torch.as_tensor(theirs.array[None].astype(np.complex64)))
    b = wave_to_coefficients(ours)
    assert torch.linalg.norm(a - b) < 0.01 * torch.linalg.norm(a)
    scope = Microscope.single(
        energy_keV=300, C10_A=60, Cs_A=-5e5, focal_spread_A=30, C12_A=25.0, phi12_rad=0.5
    )  # abTEM's defocus is -C10
    mine = image_intensity(b, scope, BOX_A, BOX_A / grid, (grid, grid))[0].numpy()
    assert np.sqrt(np.mean((mine - image) ** 2)) < 0.01 * image.mean()
    assert image.std() > 0.1, "the specimen has contrast, so that agreement says something"


@pytest.mark.parametrize("kind", KINDS)
def test_columns_are_the_mean_of_their_atoms(kind, carbon):
    s = random_structure(np.random.default_rng(7), carbon, {kind: 1.0})
    assert len(s.column_A) == len(s.column_class) == len(s.column_atoms) == len(s.column_surface) > 20
    assert np.all((s.xyz_A[:, :2] >= 0) & (s.xyz_A[:, :2] <= BOX_A)) and s.xyz_A[:, 2].min() == 0
    heavy = s.xyz_A[np.array(s.symbols) != "C"] if kind != "graphene" else s.xyz_A
    for xy, n in zip(s.column_A[:40], s.column_atoms[:40], strict=True):
        near = (heavy[:, :2] - xy + BOX_A / 2) % BOX_A - BOX_A / 2
        assert np.sum(np.hypot(*near.T) < 1.6) >= n


def test_carbon_film_keeps_density_and_distance():
    from scipy.spatial import cKDTree

    xyz = amorphous_carbon(np.random.default_rng(2), 12.0)
    assert 0.085 < len(xyz) / (BOX_A**2 * 12) < 0.105
    near = cKDTree(xyz, boxsize=[BOX_A, BOX_A, 1e4]).query(xyz, k=2)[0][:, 1]
    assert np.mean(near < 1.3) < 0.02


def test_single_atom_is_white_in_overfocus_and_dark_in_underfocus_with_negative_cs():
    s = Structure(
        ["Au"], np.array([[20.0, 24.0, 1.0]]), np.array([[20.0, 24.0]]), np.zeros(1, int), np.ones(1, int), np.ones(1, bool)
    )
    c = wave_to_coefficients(Multislice(grid=240).exit_waves([s], 300.0))
    for c10, sign in ((80.0, 1), (-50.0, -1)):
        scope = Microscope.single(energy_keV=300, C10_A=c10, Cs_A=-3e5, focal_spread_A=25)
        image = image_intensity(c, scope, BOX_A, 0.1, (448, 448))[0].numpy()
        assert sign * (image[200, 240] - 1) > 0.05
        assert sign * image_contrast(image, np.array([[200.0, 240.0]]), 0.1, np.random.default_rng(0)) > 0.35
        peak = np.unravel_index(np.argmax(sign * image), image.shape)
        assert peak == (200, 240)


def test_any_sampling_and_origin_shows_the_same_specimen(waves):
    scope = Microscope.single(energy_keV=300, C10_A=80, Cs_A=-3e5, focal_spread_A=25)
    c = waves.coefficients(np.array([0]))
    whole = image_intensity(c, scope, BOX_A, 0.1, (448, 448))[0]
    part = image_intensity(c, scope, BOX_A, 0.2, (50, 60), torch.tensor([[7.0, 11.0]]))[0]
    assert torch.allclose(part, whole[70:170:2, 110:230:2], atol=2e-4)


def test_dose_sets_mean_and_noise():
    flat = torch.ones(1, 256, 256)
    counts = record(flat, 0.1, Detector.ideal(torch.tensor([500.0])), torch.Generator().manual_seed(1))
    assert abs(counts.mean() - 5) < 0.05 and abs(counts.var() - 5) < 0.2
    again = record(flat, 0.1, Detector.ideal(torch.tensor([500.0])), torch.Generator().manual_seed(1))
    assert torch.equal(counts, again)


def test_labels_sit_on_columns_and_offsets_point_to_them(waves):
    batch = Sampler(waves, Imaging(), 128, 1, 3, True).batch(4)
    t = make_targets(batch.columns, (128, 128), batch.sampling_A, 0.38, 1)
    for k, (xy, cls) in enumerate(batch.columns):
        for row, col in xy[(cls != WEAK) & np.all((xy > 3) & (xy < 124), axis=1)]:
            i, j = round((row - 0.5) / 2), round((col - 0.5) / 2)
            assert t.heat[k, 0, i, j] > 0.5
            if t.heat[k, 0, i, j] > 0.8:
                found = 2 * np.array([i, j]) + 0.5 + t.offset[k, :, i, j].numpy()
                assert np.hypot(*(found - [row, col])) < 1e-3


def test_batch_is_repeatable_and_tells_what_it_knows(waves):
    a, b = (Sampler(waves, Imaging(), 128, 1, 5, True).batch(6) for _ in range(2))
    assert torch.equal(a.image, b.image) and torch.equal(a.conditions, b.conditions)
    assert a.conditions.shape == (6, SIZE)
    for told, truth in zip(a.conditions, a.contrast, strict=True):
        assert told[:2].sum() == 0 or told[0 if truth > 0 else 1] == 1


def test_normalisation_is_the_same_in_training_and_in_use():
    x = np.random.default_rng(0).poisson(np.linspace(2, 30, 192), (192, 192)).astype(np.float32)
    ours = local_normalise(x, 0.09)
    assert np.allclose(torch_normalise(torch.as_tensor(x)[None, None], torch.tensor([0.09]))[0, 0], ours, atol=1e-4)
    assert np.allclose(local_normalise(37 * x + 11, 0.09), ours, atol=1e-3), "gain and offset drop out"
    assert not local_normalise(np.full((64, 48), 7), 0.1).any()


def test_held_out_kind_is_never_trained_on_and_shards_resume(tmp_path, carbon, monkeypatch):
    rng = np.random.default_rng(0)
    drawn = [draw_structure(rng, carbon, Mixture({"metal": 1.0}), "train")[0] for _ in range(80)]
    assert not any(held_out(s) for s in drawn)
    monkeypatch.setattr("napari_emdl.training.atoms.waves.SHARD", 2)
    generate(tmp_path, 4, "train", 1, Mixture({"graphene": 1.0}))
    first = load(tmp_path, "train")
    (tmp_path / "train_0001.npz").unlink()
    generate(tmp_path, 4, "train", 1, Mixture({"graphene": 1.0}))
    again = load(tmp_path, "train")
    assert len(first) == 4 and np.array_equal(first.half, again.half) and np.array_equal(first.column_A, again.column_A)
    generate(tmp_path, 2, "val", 1, Mixture({"graphene": 1.0}))
    assert not np.array_equal(load(tmp_path, "val").half, first.half[:2])
    assert SHARD > 2


def test_conditions_name_what_is_wrong():
    assert not encode().any()
    assert encode("bright", sampling_A=0.1, zone="110").sum() == 4
    with pytest.raises(ValueError, match="unknown imaging condition"):
        encode("dark", defocus=3)
    with pytest.raises(ValueError, match="contrast must be"):
        encode("white")
