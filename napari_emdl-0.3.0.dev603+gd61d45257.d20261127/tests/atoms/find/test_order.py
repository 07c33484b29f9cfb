"""Spots of crystals repeat, those of text and noise do not."""

import numpy as np
import pytest

from napari_emdl.atoms.find.order import LEAST_SPOTS, NO_LATTICE, ORDERLY, Order, lattice_order, lattice_share, order_of

RNG = np.random.default_rng(5)


def lattice(a, b, basis=((0, 0),), n=9, turn=0.3):
    i, j = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    p = (np.c_[i.ravel(), j.ravel()][:, None] + np.array(basis)[None]).reshape(-1, 2) @ np.array([a, b])
    c, s = np.cos(turn), np.sin(turn)
    return p @ np.array([[c, s], [-s, c]])


HONEYCOMB = ((1.0, 0.0), (-0.5, 0.866)), ((1 / 3, 2 / 3), (2 / 3, 1 / 3))
CRYSTALS = {
    "square": lattice((1, 0), (0, 1)),
    "hexagonal": lattice((1, 0), (-0.5, 0.866)),
    "honeycomb": lattice(*HONEYCOMB[0], HONEYCOMB[1]),
    "dumbbells": lattice((4.0, 0), (0, 5.65), ((0, 0), (0.5, 0.5), (0.25, 0), (0.75, 0.5))),
}


def hard_core(count, side, least):
    """Random points that keep apart, as maxima of a map do."""
    kept = []
    while len(kept) < count:
        p = RNG.uniform(0, side, 2)
        if all(np.hypot(*(p - q)) > least for q in kept):
            kept.append(p)
    return np.array(kept)


@pytest.mark.parametrize("name", CRYSTALS)
def test_crystals_have_order_even_with_holes_and_shaken(name):
    p = CRYSTALS[name]
    spacing = np.sort(np.linalg.norm(p[0] - p[1:], axis=1))[0]
    p = p + RNG.normal(0, 0.04 * spacing, p.shape)
    p = p[RNG.random(len(p)) > 0.15]
    order = order_of([(p, np.ones(len(p)))], 0.5)
    assert order.value > 0.25 and not order.none and not order.little


def test_two_turned_grains_have_order():
    p = np.concatenate([lattice((1, 0), (0, 1), n=7), lattice((1, 0), (0, 1), n=7, turn=0.8) + np.array([20, 0])])
    assert lattice_order(p, np.ones(len(p)), 0.5) > 0.5


@pytest.mark.parametrize("count", [40, 150])
def test_random_spots_have_none(count):
    p = hard_core(count, np.sqrt(2.2 * count), 1.0)
    order = order_of([(p, np.ones(count))], 0.5)
    assert order.none and abs(order.value) < 0.1


def test_few_spots_are_not_judged():
    p = hard_core(LEAST_SPOTS - 1, 9, 1.0)
    assert not order_of([(p, np.ones(len(p)))], 0.5).none
    assert np.isnan(order_of([(p[:5], np.ones(5))], 0.5).value)


def test_a_lattice_of_which_few_columns_pass_is_seen_by_its_candidates():
    p = lattice((1, 0), (0, 1), n=11)
    score = np.where(RNG.random(len(p)) < 0.35, 0.9, 0.3)
    assert lattice_order(p, score, 0.5) > 0.5


def test_the_limit_grows_with_the_number():
    assert not Order(0.09, 30).none and Order(0.09, 200).none and Order(0.09, 30).little


def letters(lines=14, width=40, seed=1):
    """Strokes of letters: evenly spaced lines, strokes at multiples of a stem's width that differ from letter to letter."""
    rng = np.random.default_rng(seed)
    points = []
    for line in range(lines):
        at = rng.uniform(0, 1)
        while at < width:
            points += [(2.5 * line + rng.normal(0, 0.05), at), (2.5 * line + rng.choice([0.0, 0.6]), at + 0.5)]
            at += rng.choice([1.0, 1.25, 1.5, 1.7, 2.1])
    return np.array(points)


def test_letters_repeat_along_lines_and_form_no_lattice():
    p = letters()
    assert lattice_order(p, np.ones(len(p)), 0.5) < ORDERLY
    assert lattice_share([(p, np.ones(len(p)))], 0.5) < NO_LATTICE


@pytest.mark.parametrize("name", CRYSTALS)
def test_crystals_are_lattices_even_with_holes_and_shaken(name):
    p = np.concatenate([CRYSTALS[name], CRYSTALS[name] @ np.array([[0.8, 0.6], [-0.6, 0.8]]) + (60, 0)])
    spacing = np.sort(np.linalg.norm(p[0] - p[1:], axis=1))[0]
    p = p + RNG.normal(0, 0.04 * spacing, p.shape)
    p = p[RNG.random(len(p)) > 0.1]
    score = np.ones(len(p))
    assert lattice_order(p, score, 0.5) > ORDERLY or lattice_share([(p, score)], 0.5) > NO_LATTICE


def test_small_particles_are_not_judged_by_their_surroundings():
    assert np.isnan(lattice_share([(letters(3, 12), np.ones(len(letters(3, 12))))], 0.5))
