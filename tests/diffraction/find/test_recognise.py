"""Patterns and images of atoms are told apart where nothing says what a picture is."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emdl.base.signals import Calibration, in_memory
from napari_emdl.diffraction.find.recognise import kind_of_picture, look_at
from napari_emdl.samples.atoms import blinking_movie
from napari_emdl.samples.diffraction import strained_datacube
from napari_emdl.samples.nothing import patterns_of


@pytest.fixture(scope="module")
def pattern() -> np.ndarray:
    return np.asarray(strained_datacube((1, 1), (128, 128))[0].data)[0, 0].astype(float)


@pytest.mark.parametrize("bent", ["as it is", "logarithm", "square root", "8 bit"])
def test_a_pattern_is_one_however_it_was_exported(pattern, bent):
    shown = {
        "as it is": pattern,
        "logarithm": np.log1p(pattern),
        "square root": np.sqrt(pattern),
        "8 bit": np.clip(255 * pattern / np.quantile(pattern, 0.999), 0, 255).astype(np.uint8),
    }[bent]
    assert look_at(shown).kind == "pattern"


@pytest.mark.parametrize("sign", [1, -1])
def test_an_image_of_atoms_is_one(sign):
    frame = sign * np.asarray(blinking_movie((1, 192, 192), seed=3)[0].data)[0].astype(float)
    assert look_at(frame).kind == "image"


@pytest.mark.parametrize("kind", ["vacuum", "halo", "one spot", "powder rings", "noise", "dead detector", "picture"])
def test_what_is_no_crystals_pattern_is_never_called_one(kind):
    assert all(look_at(image).kind != "pattern" for image in patterns_of(kind, 4, seed=11))


def test_missing_pixels_and_small_pictures(pattern):
    holed = pattern.copy()
    holed[30:34] = np.nan
    assert kind_of_picture(in_memory(holed[None, None], "datacube", Calibration())) == "pattern"
    assert kind_of_picture(in_memory(np.full((64, 64), np.nan, np.float32), "image")) == ""
    assert kind_of_picture(in_memory(np.eye(16, dtype=np.float32), "image")) == ""
