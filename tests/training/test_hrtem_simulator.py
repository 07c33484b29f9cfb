"""The simulator against abTEM, and its truth against itself."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from napari_emdl.training.hrtem.multislice import Multislice, wave_to_coefficients  # noqa: E402
from napari_emdl.training.hrtem.structures import BOX_A, CarbonBank, metal_particle  # noqa: E402


def test_exit_wave_and_image_agree_with_abtem():
    abtem = pytest.importorskip("abtem", reason="abTEM is not installed")
    ase = pytest.importorskip("ase", reason="ase is not installed")
    rng = np.random.default_rng(3)
    structure = metal_particle(rng, CarbonBank(rng, 1), ["Au"], "110", carbon_A=10.0)
    grid, slice_A = 320, 2.5
    n = int(np.ceil(structure.xyz_A[:, 2].max() / slice_A))
    atoms = ase.Atoms(structure.symbols, structure.xyz_A, cell=[BOX_A, BOX_A, n * slice_A], pbc=True)
    potential = abtem.Potential(atoms, gpts=grid, slice_thickness=slice_A, projection="infinite", parametrization="lobato")
    theirs = abtem.PlaneWave(energy=300e3).multislice(potential).compute()
    ours = Multislice(grid=grid, slice_A=slice_A).exit_waves([structure], 300.0, u_rms_A=0.0)[0].numpy()

    a, b = (np.asarray(wave_to_coefficients(torch.as_tensor(w)[None])[0]) for w in (theirs.array.astype(np.complex64), ours))
    a[72, 72] -= 1  # the scattered wave: the unscattered beam would flatter the agreement
    b[72, 72] -= 1
    assert np.linalg.norm(a - b) / np.linalg.norm(a) < 0.01
    blurred = theirs.apply_ctf(abtem.CTF(energy=300e3, defocus=-60.0, Cs=-5e5, focal_spread=30.0, semiangle_cutoff=31.5))
    image = np.abs(blurred.array) ** 2
    from napari_emdl.training.hrtem.imaging import Microscope, image_intensity

    scope = Microscope.single(energy_keV=300.0, C10_A=60.0, Cs_A=-5e5, focal_spread_A=30.0)
    mine = image_intensity(wave_to_coefficients(torch.as_tensor(ours)[None]), scope, BOX_A, BOX_A / grid, (grid, grid))[0].numpy()
    assert np.linalg.norm(mine - image) / np.linalg.norm(image - image.mean()) < 0.01
