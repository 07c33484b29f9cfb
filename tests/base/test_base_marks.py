"""What exports draw into patterns, and what they leave around them, is told from disks, beams and backgrounds."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from napari_emdl.base.marks import burned_in
from napari_emdl.base.outerfield import outside_field
from napari_emdl.base.signals import in_memory

N = 192
ROW, COL = np.mgrid[:N, :N]
CENTRE = np.array([97.0, 93.0])


def expected(radius_px: float = 6.0, ground: float = 6.0) -> NDArray[np.float64]:
    """Disks on a square lattice, the direct beam far brighter, over a halo."""
    away = np.hypot(ROW - CENTRE[0], COL - CENTRE[1])
    image = ground * (0.5 + 4 / (1 + np.square(away / 40)))
    for h in range(-2, 3):
        for k in range(-2, 3):
            place = CENTRE + 24 * np.array([h, k]) + np.array([2 * k, -2 * h])
            image = image + (900 if h == k == 0 else 60) * (np.hypot(ROW - place[0], COL - place[1]) < radius_px)
    return image


def counts(seed: int = 1, **how: float) -> NDArray[np.float32]:
    return np.random.default_rng(seed).poisson(expected(**how)).astype(np.float32)


def export(pattern: NDArray[np.float32], white: float = 99.0) -> NDArray[np.uint8]:
    shown = np.log1p(pattern)
    return (255 * np.clip(shown / np.percentile(shown, white), 0, 1)).astype(np.uint8)


def jpeg(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=80)
    return np.asarray(Image.open(file))


def drawn(picture: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """With a scale bar, letters and an arrow, and where they are."""
    image, where = Image.fromarray(picture), Image.fromarray(np.zeros(picture.shape, np.uint8))
    for canvas in (image, where):
        draw = ImageDraw.Draw(canvas)
        draw.rectangle((12, 176, 54, 180), fill=255)
        draw.text((16, 160), "5 1/nm", fill=255)
        draw.line((150, 20, 176, 34), fill=255, width=2)
        draw.polygon([(183, 38), (173, 37), (177, 29)], fill=255)
    return np.asarray(image), np.asarray(where) > 0


@pytest.mark.parametrize("compressed", [False, True])
def test_bar_letters_and_arrow_are_told(compressed):
    picture, where = drawn(export(counts(), white=99.95))
    marks = burned_in(jpeg(picture) if compressed else picture)
    assert marks[where].mean() > 0.9
    assert marks.sum() < 3.5 * where.sum()  # them and their soft edges


@pytest.mark.parametrize("white", [99.95, 99.0, 95.0])
def test_saturated_disks_are_none(white):
    assert not burned_in(export(counts(), white)).any()
    assert not burned_in(jpeg(export(counts(), white))).any()


def test_saturated_rings_are_none():
    hollow = np.random.default_rng(1).poisson(60 * (expected(7.0) - expected(5.0)) + expected() / 10)
    assert not burned_in(export(hollow.astype(np.float32), 97)).any()


def turned(pattern: NDArray[np.float32], fill: float) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    out = ndimage.rotate(pattern, 20, reshape=False, order=1, cval=np.nan)
    return np.where(np.isnan(out), fill, out), np.isnan(out)


@pytest.mark.parametrize("fill", [0.0, 2000.0, np.nan])
def test_corners_of_a_turned_pattern_are_told(fill):
    picture, corners = turned(counts(), fill)
    found = outside_field(picture)
    assert found[corners].mean() > 0.97 and (found & ~corners).mean() < 0.03


def test_the_mask_of_a_round_detector_and_a_data_bar_are_told():
    beyond = np.hypot(ROW - N / 2, COL - N / 2) > 80
    found = outside_field(np.where(beyond, 0, counts(ground=0.5)))
    assert found[beyond].mean() > 0.97 and (found & ~beyond).mean() < 0.03
    barred = Image.fromarray(np.concatenate([export(counts()), np.zeros((24, N), np.uint8)]))
    ImageDraw.Draw(barred).text((10, N + 5), "200 kV  5 1/nm", fill=255)
    picture = np.asarray(barred)
    found = outside_field(picture, marks=burned_in(picture))
    assert found[N:].all() and not found[: N - 1].any()


@pytest.mark.parametrize("kind", ["empty corners", "no background", "threshold", "few electrons"])
def test_what_has_no_counts_is_not_therefore_outside(kind):
    random = np.random.default_rng(3)
    pattern = {
        "empty corners": random.poisson(np.exp(-np.square((ROW - 97) / 45) - np.square((COL - 93) / 45))),
        "no background": np.round(expected(ground=0.0)),
        "threshold": np.maximum(counts() - 12, 0),
        "few electrons": random.poisson(expected() / 600),
    }[kind]
    assert not outside_field(pattern.astype(np.float32)).any()


def test_a_signal_says_what_was_left_out():
    picture, where = drawn(export(counts(), white=99.95))
    facts = in_memory(picture[None, None], "datacube").missing_facts
    assert facts.covered is not None and facts.covered[where].mean() > 0.9
    assert "burned in" in facts.found[0]
    assert in_memory(export(counts())[None, None], "datacube").missing_facts.covered is None
    # what changes over a scan is no mark
    scan = np.stack([picture, export(counts(2))])[None]
    assert in_memory(scan, "datacube").missing_facts.covered is None
