"""Particle and support, twins, grains: each with its own lattice and sites."""

from __future__ import annotations

import numpy as np

from napari_emdl.atoms.lattices import find_lattices, surface_sites

PIXEL_A = 0.1


def grid(a, b, turn_deg, reach=12):
    i, j = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1), indexing="ij")
    points = (i[..., None] * np.array(a, float) + j[..., None] * np.array(b, float)).reshape(-1, 2)
    c, s = np.cos(np.deg2rad(turn_deg)), np.sin(np.deg2rad(turn_deg))
    return points @ np.array([[c, -s], [s, c]]).T


def particle_on_support(seed=0):
    """A particle of 2.4 Å spacing above a support of 3.1 x 2.7 Å, turned against each other, with 10 pm of noise."""
    particle = grid((0, 24.0), (20.8, 12.0), 11)
    particle = particle[(np.hypot(*particle.T) < 110) & (particle[:, 0] < 60)] + (200, 250)
    support = grid((0, 31.0), (27.0, 0), -4)
    support = support[(support[:, 0] > 75) & (support[:, 0] < 180) & (np.abs(support[:, 1]) < 180)] + (200, 250)
    points = np.concatenate([particle, support])
    return points + np.random.default_rng(seed).normal(0, 1.0, points.shape), np.repeat([0, 1], [len(particle), len(support)])


def test_particle_and_support_have_a_lattice_each():
    points, truth = particle_on_support()
    lattices, crystal = find_lattices(points, np.ones(len(points)), PIXEL_A)
    assert len(lattices) == 2
    name = {number: truth[crystal == number][0] for number in (0, 1)}
    assert sorted(name.values()) == [0, 1]
    assert np.mean([name.get(int(c)) == t for c, t in zip(crystal, truth, strict=True)]) > 0.97
    spacing = {name[k]: lattice.spacing_px for k, lattice in enumerate(lattices)}
    assert abs(spacing[0] - 24.0) < 0.3 and abs(spacing[1] - 27.0) < 0.3


def test_no_empty_site_stands_in_another_crystal():
    points, _ = particle_on_support()
    lattices, crystal = find_lattices(points, np.ones(len(points)), PIXEL_A)
    extra, owner = surface_sites(points, crystal, lattices)
    assert len(extra) and set(owner) == {0, 1}
    apart = np.hypot(*(extra[:, None] - points[None]).transpose(2, 0, 1)).min(1)
    assert apart.min() > 0.45 * 24
    between = np.hypot(*(extra[:, None] - extra[None]).transpose(2, 0, 1))
    np.fill_diagonal(between, np.inf)
    assert between.min() > 0.45 * 24


def test_a_twin_shares_its_boundary_once():
    upper = grid((0, 24.0), (20.0, 8.0), 0)
    upper = upper[(upper[:, 0] <= 1) & (upper[:, 0] > -110) & (np.abs(upper[:, 1]) < 120)]
    lower = upper * (-1, 1)
    points = np.concatenate([upper, lower[lower[:, 0] > 1]]) + 200
    lattices, crystal = find_lattices(points, np.ones(len(points)), PIXEL_A)
    assert len(lattices) == 2
    assert (crystal >= 0).all()
    above, below = points[:, 0] < 195, points[:, 0] > 205
    assert (crystal[above] == crystal[above][0]).all() and (crystal[below] == 1 - crystal[above][0]).all()


def test_film_grains_are_no_second_crystal():
    points, truth = particle_on_support()
    particle = points[truth == 0]
    grains = np.random.default_rng(2).uniform(0, 450, (120, 2))
    grains = grains[np.hypot(*(grains[:, None] - particle[None]).transpose(2, 0, 1)).min(1) > 20]
    every = np.concatenate([particle, grains])
    lattices, crystal = find_lattices(every, np.r_[np.ones(len(particle)), np.full(len(grains), 0.3)], PIXEL_A)
    assert len(lattices) == 1
    assert (crystal[: len(particle)] == 0).all()


def test_the_columns_of_one_cell_are_one_crystal():
    cell = grid((0, 55.0), (39.0, 0), 7, reach=4)
    points = np.concatenate([cell, cell + np.array([10.0, 14.0])]) + 250
    lattices, crystal = find_lattices(points, np.ones(len(points)), PIXEL_A)
    assert len(lattices) == 1
    assert abs(lattices[0].spacing_px - 39) < 0.5
    assert (crystal == 0).all()
