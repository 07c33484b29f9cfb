"""Scores of disks that do not lie on their pattern's lattice."""

from __future__ import annotations

import numpy as np

from napari_emdl.diffraction.find.candidates import Found, off_lattice


def test_strays_fall_and_another_grain_stays():
    which = np.repeat([0, 1], 20)
    strange = np.zeros(40, bool)
    strange[[3, 20, 21, 22, 23, 24, 25]] = True  # one stray in the first pattern, six of twenty in the second
    score = np.full(40, 0.98)
    score[25] = 0.7
    found = Found(which, np.zeros((40, 2)), np.ones(40), score, np.ones(40), np.ones(40))
    lowered = off_lattice(found, strange, score >= 0.6)
    np.testing.assert_array_equal(lowered[~strange], score[~strange])
    assert lowered[3] < 0.5 and (lowered[20:25] > 0.5).all() and lowered[25] < 0.5


def test_no_disks():
    none = Found(*(np.zeros(shape) for shape in (0, (0, 2), 0, 0, 0, 0)))
    none.which = none.which.astype(int)
    assert off_lattice(none, np.zeros(0, bool), np.zeros(0, bool)).shape == (0,)
