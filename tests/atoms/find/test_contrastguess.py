"""The contrast network tells bright from dark columns whatever camera and export, and says what it decided from."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emdl.atoms.find.columns import find_columns
from napari_emdl.atoms.find.contrastguess import LEAST_PX, Part, guess_contrast
from napari_emdl.atoms.find.contrastview import RINGS, VIEW_A, view_of
from napari_emdl.base.signals import in_memory
from napari_emdl.models.registry import find_model

PIXEL_A = 0.1


def crystal(sign: float, seed: int = 0, size: int = 400, counts: float = 60.0) -> np.ndarray:
    """Columns of a particle on [110] (4.08 A), bright or dark, on a film with its grain and with vacuum beside it."""
    rng = np.random.default_rng(seed)
    y, x = (np.mgrid[:size, :size] - size / 2) * PIXEL_A
    image = np.zeros((size, size))
    turn = np.array([[0.92, -0.39], [0.39, 0.92]])
    for i in range(-9, 10):
        for j in range(-12, 13):
            for half in (0.0, 0.5):
                r, c = turn @ ((i + half) * 4.08, (j + half) * 2.885)
                if np.hypot(r, c) < 16:
                    image += np.exp(-((y - r) ** 2 + (x - c) ** 2) / (2 * 0.42**2))
    return rng.poisson(counts * np.maximum(1 + sign * 0.5 * image, 0.05)).astype(np.float32)


def guess(image: np.ndarray, box: tuple[int, int, int, int] | None = None):
    rows, cols = image.shape
    return guess_contrast(image[None, None], [Part(0, box or (0, rows, 0, cols))], (0, 0), PIXEL_A)


@pytest.mark.parametrize("sign, contrast", [(1.0, "bright"), (-1.0, "dark")])
def test_bright_and_dark_are_told_apart_in_every_export(sign, contrast):
    image = crystal(sign)
    low, high = np.percentile(image, (1, 99))
    shown = np.round(255 * np.clip((image - low) / (high - low), 0, 1))
    for export in (image, 3e4 * image - 1e6, shown, shown**0.7):
        found = guess(export.astype(np.float32))
        assert found is not None and (found.logit > 0) == (contrast == "bright")


def test_the_view_does_not_change_with_gain_and_offset():
    image = crystal(1.0, size=160)
    view, spectrum = view_of(image, VIEW_A)
    other, same = view_of(7.0 * image + 300.0, VIEW_A)
    assert view.shape == (2, 160, 160) and spectrum.shape == (RINGS,)
    assert np.abs(view - other).max() < 1e-3 and np.abs(spectrum - same).max() < 1e-3
    assert np.abs(view[1]).max() <= 1 and view[1].mean() == pytest.approx(0, abs=1e-3)


def test_what_is_hidden_counts_for_nothing():
    image = crystal(1.0, size=160)
    hidden = np.zeros(image.shape, bool)
    hidden[:40] = True
    a, b = image.copy(), image.copy()
    a[hidden], b[hidden] = np.median(image), 5 * image.max()
    (one, _), (two, _) = (view_of(x, VIEW_A, hidden) for x in (a, b))
    assert np.array_equal(one[1][~hidden], two[1][~hidden]) and not one[:, hidden].any()


def test_blank_and_tiny_parts_are_not_asked():
    image = crystal(1.0, size=200)
    small = int(0.9 * LEAST_PX * VIEW_A / PIXEL_A)
    assert guess(np.full((200, 200), 7.0, np.float32)) is None
    assert guess(image, (0, small, 0, small)) is None
    assert guess_contrast(image[None, None], [], (0, 0), PIXEL_A) is None


def test_neighbours_make_a_faint_contrast_clearer():
    truth = crystal(-1.0, counts=1e4) / 1e4
    rng = np.random.default_rng(4)
    frames = rng.poisson(0.5 * truth, (9, *truth.shape)).astype(np.float32)
    stack = np.stack([frames[0], frames[1:3].mean(0), frames[3:].mean(0)])[None]
    part = [Part(0, (0, 400, 0, 400))]
    several = guess_contrast(stack, part, (2, 6), PIXEL_A)
    assert several is not None and several.logit < 0


@pytest.mark.parametrize("model, who", [(None, "column network"), ("log", "contrast network")])
@pytest.mark.parametrize("sign, contrast", [(1.0, "bright"), (-1.0, "dark")])
def test_columns_are_found_at_the_contrast_that_was_decided_and_say_from_what(sign, contrast, model, who):
    movie = in_memory(crystal(sign), "image")
    table = find_columns(movie, pixel_size_A=PIXEL_A, model=model)
    evidence = table.attrs["contrast_evidence"]
    assert table.attrs["contrast"] == contrast and table.attrs["contrast_confidence"] > 0.9
    assert (evidence["bright"] > 0.5) == (contrast == "bright") and evidence["frames"] == 1
    assert evidence["decided_by"] == who
    assert evidence.get("model_sha256") == (find_model("contrast", "contrast").sha256 if model else None)
    assert table.attrs["provenance"]["contrast_evidence"] == evidence
    told = find_columns(movie, pixel_size_A=PIXEL_A, model=model, contrast=contrast)
    assert not told.attrs["contrast_evidence"] and told.attrs["contrast_confidence"] is None


def test_a_doubtful_contrast_of_log_is_said():
    noise = np.random.default_rng(0).poisson(9, (200, 200)).astype(np.float32)
    table = find_columns(in_memory(noise, "image"), pixel_size_A=PIXEL_A, model="log")
    assert table.attrs["contrast_confidence"] < 0.985 and "the contrast is unsure" in table.attrs["note"]
