"""Dark references subtracted too much: negative values are noise there, and no holes."""

from __future__ import annotations

import numpy as np

import napari_emdl as emdl
from helpers.disks_made import G, lattice_points, pattern
from napari_emdl.diffraction.find.patterns import count_defects, fill_missing, noise_depth


def test_only_negative_values_of_much_of_a_pattern_are_noise():
    random = np.random.default_rng(0)
    noise = random.normal(-10, 5, (3, 64, 64))
    assert 20 < noise_depth(noise) < 30
    assert noise_depth(np.rint(noise).astype(np.int16)) > 20
    code = np.where(random.random((3, 64, 64)) < 0.2, -1.0, 5.0)
    assert noise_depth(code) == 0
    few = np.full((3, 64, 64), 5.0)
    few[:, 3, :8] = -random.random(8)
    assert noise_depth(few) == 0
    raised = fill_missing(noise.astype(np.float32))
    assert raised.min() >= 0
    assert np.ptp(raised - noise, axis=None) < 12  # one level for all pixels, but the deepest
    assert count_defects(noise)["n_raised"] == 3
    assert count_defects(noise)["n_cleaned"] == 0
    assert count_defects(noise - 100)["n_empty"] == 0
    assert count_defects(np.rint(noise - 60).astype(np.int8))["n_empty"] == 0


def test_strain_of_over_subtracted_patterns():
    random = np.random.default_rng(5)
    cube = np.empty((2, 6, 128, 128), np.float32)
    for col in range(6):
        g = G @ np.linalg.inv(np.eye(2) * (1.02 if col >= 3 else 1.0))
        place, _ = lattice_points(g, np.array([64.0, 64.0]), (128, 128))
        cube[:, col] = 10 * random.poisson(pattern(place, (128, 128), height=25.0, background=0.0), (2, 128, 128))
    cube += random.normal(-10, 5, cube.shape).astype(np.float32)
    disks = emdl.find_disks(cube, method="template")
    assert "over-subtracted" in disks.attrs["note"]
    strain = emdl.fit_strain(disks, reference=(0, 2, 0, 3))
    assert strain.mask.all()
    assert abs(np.mean(strain.exx[:, 3:]) - 0.02) < 0.001
    assert np.sqrt(np.mean(strain.exx[:, :3] ** 2)) < 0.0015
