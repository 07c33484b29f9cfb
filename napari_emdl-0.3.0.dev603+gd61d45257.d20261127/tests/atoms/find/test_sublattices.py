"""Splitting a honeycomb into sublattices, and labelling them as a whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_emdl.atoms.find.sublattices import SublatticeStep, assign_species, species_mass, two_colour
from napari_emdl.base.errors import ModelError
from napari_emdl.models.registry import find_model

BOND = 18.2


def honeycomb(side_px: float, turn_rad: float, strain: float = 0.0):
    """Points (n, 2) and their sublattice."""
    a = BOND * np.sqrt(3)
    cell = np.array([[a, 0], [-a / 2, a * np.sqrt(3) / 2]])
    i, j = (x.ravel() for x in np.meshgrid(np.arange(-40, 41), np.arange(-40, 41)))
    xy = np.concatenate([(np.c_[i, j] + f) @ cell for f in ([1 / 3, 2 / 3], [2 / 3, 1 / 3])])
    kind = np.repeat([0, 1], len(i))
    c, s = np.cos(turn_rad), np.sin(turn_rad)
    xy = xy @ np.array([[1 + strain, 0.5 * strain], [0, 1 - strain]]) @ np.array([[c, -s], [s, c]]) + side_px / 2
    inside = np.all((xy > 0) & (xy < side_px), axis=1)
    return xy[inside], kind[inside]


def agreement(colour, kind):
    """Share of columns whose colour is their sublattice, up to a swap of both."""
    right = np.mean(colour == kind)
    return max(right, 1 - right)


@pytest.mark.parametrize("turn", [0.0, 0.3, 1.4])
def test_flawed_strained_honeycomb_is_split(turn):
    rng = np.random.default_rng(int(10 * turn))
    xy, kind = honeycomb(380, turn, 0.03)
    xy = xy + rng.normal(0, 0.8, xy.shape)
    keep = rng.random(len(xy)) > 0.08
    xy, kind = xy[keep], kind[keep]
    false = rng.uniform(0, 380, (6, 2))
    colour, piece = two_colour(np.concatenate([xy, false]))
    split = colour[: len(xy)]
    assert np.mean(split >= 0) > 0.85
    main = (split >= 0) & (piece[: len(xy)] == np.bincount(piece[piece >= 0]).argmax())
    assert main.sum() > 0.8 * len(xy)
    assert agreement(split[main], kind[main]) > 0.995


def test_mirrored_grains_are_labelled_apart():
    one, kind = honeycomb(300, 0.2)
    other = 2 * one.max(0) * [0, 1] + one * [1, -1] + [0, 2.2 * BOND]
    points = np.concatenate([one, other])
    kinds = np.concatenate([kind, 1 - kind])
    _, piece = two_colour(points)
    assert piece.max() == 1
    likelihood = np.where(kinds[:, None] == 0, [0.6, 0.35, 0.05], [0.4, 0.5, 0.1])
    species, _ = assign_species(points, likelihood, [[0], [1, 2]], np.ones(len(points), bool))
    labelled = piece >= 0
    assert np.array_equal(species[labelled], kinds[labelled])


def test_many_weak_votes_beat_noise_and_singles_stay_singles():
    rng = np.random.default_rng(5)
    xy, kind = honeycomb(380, 0.7)
    single = (kind == 1) & (rng.random(len(xy)) < 0.1)
    lean = np.where(kind == 0, 0.4, -0.4) + rng.normal(0, 2, len(xy))
    metal = 1 / (1 + np.exp(-lean))
    likelihood = np.stack([metal, (1 - metal) * np.where(single, 0.2, 0.9), (1 - metal) * np.where(single, 0.8, 0.1)], 1)
    assert np.mean((likelihood.argmax(1) == 0) == (kind == 0)) < 0.75, "one by one they are often wrong"
    voters = rng.random(len(xy)) < 0.97
    species, evidence = assign_species(xy, likelihood, [[0], [1, 2]], voters)
    labelled = np.isfinite(evidence)
    assert labelled.mean() > 0.85 and not labelled[~voters].any()
    assert np.array_equal(species[labelled], np.where(kind == 0, 0, np.where(single, 2, 1))[labelled])
    assert np.array_equal(species[~labelled], likelihood.argmax(1)[~labelled])


def test_without_a_lattice_nothing_changes():
    points = np.random.default_rng(0).uniform(0, 380, (60, 2))
    likelihood = np.random.default_rng(1).dirichlet([1, 1, 1], 60)
    species, evidence = assign_species(points, likelihood, [[0], [1, 2]], np.ones(60, bool))
    free = np.isnan(evidence)
    assert free.mean() > 0.6 and np.array_equal(species[free], likelihood.argmax(1)[free])
    none = assign_species(points[:0], likelihood[:0], [[0], [1, 2]], np.zeros(0, bool))
    assert len(none[0]) == len(none[1]) == 0


def test_factors_and_mass_of_species():
    logit = np.full((3, 40, 40), -9.0)
    logit[1, 18:23, 8:13] = 1.0
    mass = species_mass(logit, np.array([[40.5, 20.5], [70.0, 70.0]]), 2)
    assert mass.shape == (2, 3) and mass[0, 1] == pytest.approx(1 / (1 + np.exp(-1)), rel=1e-3) and mass[1, 1] < 0.01
    step = SublatticeStep(("Mo", "S2", "S1"), [["Mo"], ["S2", "S1"]], factors={"S1": 3.0})
    xy, kind = honeycomb(380, 0.1)
    likelihood = np.where(kind[:, None] == 0, [0.8, 0.15, 0.05], [0.1, 0.5, 0.3])
    species, evidence = step(xy, likelihood, np.ones(len(xy), bool))
    assert set(species[(kind == 1) & np.isfinite(evidence)]) == {2}


def test_card_must_split_its_species_in_two():
    model = find_model("columns_mos2_focal")
    extra = {"sublattices": {"groups": [["Mo"], ["S2"]]}}
    config = model.card.config.model_copy(update={"emdl": model.card.emdl.model_copy(update=extra)})
    with pytest.raises(ModelError, match="split its species in two"):
        SublatticeStep.of(replace(model, card=model.card.model_copy(update={"config": config})))
    assert SublatticeStep.of(find_model("columns")) is None
