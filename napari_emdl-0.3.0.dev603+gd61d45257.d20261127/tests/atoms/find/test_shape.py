"""Round spots and ridges are told apart."""

import numpy as np
import pytest

from napari_emdl.atoms.find.shape import roundness

ROW, COL = np.indices((200, 200)) * 0.1


def test_columns_are_round_under_noise():
    wave = np.cos(2 * np.pi * ROW / 2.0) + np.cos(2 * np.pi * COL / 2.5)
    image = np.random.default_rng(0).poisson(30 + 5 * wave)
    points = np.stack(np.meshgrid(np.arange(2, 18, 2.0), np.arange(2.5, 18, 2.5), indexing="ij"), -1).reshape(-1, 2) / 0.1
    assert 0.4 < roundness(image, points, 0.1) <= 1


@pytest.mark.parametrize("turn", [0.0, 0.5])
def test_ridges_are_not(turn):
    image = 30 + 5 * np.cos(2 * np.pi * (ROW * np.cos(turn) + COL * np.sin(turn)) / 2.0)
    along = np.arange(4, 14, 0.9)
    points = (
        np.stack([10 * np.cos(turn) - (along - 9) * np.sin(turn), 10 * np.sin(turn) + (along - 9) * np.cos(turn)], -1) / 0.1
    )
    assert abs(roundness(image, points, 0.1)) < 0.06


def test_nothing_has_no_shape():
    assert np.isnan(roundness(np.zeros((20, 20)), np.zeros((0, 2)), 0.1))
