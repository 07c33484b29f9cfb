"""What exports burn into images is set aside; what is image stays, also where it is cut off at the end of the range."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from napari_emdl.atoms.find.clean import cleaned, empty_border
from napari_emdl.atoms.find.marks import burned_in

SIDE = 240


def lattice(clip=0.1, noise=12.0, seed=0):
    """(rows, cols) uint8, columns on a film."""
    r, c = np.mgrid[:SIDE, :SIDE]
    image = 100 + 90 * np.cos(2 * np.pi * r / 22) * np.cos(2 * np.pi * c / 20)
    image += np.random.default_rng(seed).normal(0, noise, image.shape)
    low, high = np.percentile(image, [clip, 100 - clip])
    return np.round(np.clip((image - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def drawn(image, value, box=None):
    """The image with a scale bar and its label, and where these are."""
    out, where = Image.fromarray(image), Image.new("L", image.shape[::-1])
    font = ImageFont.load_default(26)
    for to, ink, paper in ((out, value, box), (where, 255, 255)):
        pen = ImageDraw.Draw(to)
        if box is not None:
            pen.rectangle((10, 180, 130, 236), fill=paper)
        pen.rectangle((20, 222, 120, 227), fill=ink)
        pen.text((30, 186), "10 nm", fill=ink, font=font)
    return np.asarray(out), np.asarray(where) > 0


@pytest.mark.parametrize(
    ("value", "box", "least"),
    # between the ends of the range the soft edges of letters are image values as well
    [(255, None, 0.9), (0, None, 0.9), (180, None, 0.7), (255, 0, 0.9), (0, 255, 0.9)],
)
def test_scale_bar_and_label_are_marks(value, box, least):
    image, where = drawn(lattice(), value, box)
    found = burned_in(image.astype(np.float32))
    assert found is not None
    assert found[where].mean() > least
    assert (found & ~where).mean() < 0.03  # the soft edges


@pytest.mark.parametrize("clip", [0.1, 2, 8])
@pytest.mark.parametrize("noise", [2.0, 25.0])
def test_columns_cut_off_at_white_and_black_are_no_marks(clip, noise):
    assert burned_in(lattice(clip, noise).astype(np.float32)) is None
    assert burned_in(np.repeat(np.repeat(lattice(clip, noise), 2, 0), 2, 1).astype(np.float32)) is None


def test_letters_alone_are_marks_and_counts_hold_none():
    out = Image.fromarray(lattice())
    ImageDraw.Draw(out).text((12, 12), "t = 12.5 s", fill=255, font=ImageFont.load_default(30))
    found = burned_in(np.asarray(out, np.float32))
    assert found is not None and found[16:42, 12:140].mean() > 0.3 and not found[60:].any()
    assert burned_in(np.random.default_rng(1).poisson(0.3, (200, 200)).astype(np.float32)) is None


@pytest.mark.parametrize("fill", [0, 255])
def test_a_turned_picture_loses_its_corners_after_jpeg(fill):
    turned = Image.fromarray(lattice()).rotate(17, Image.Resampling.BILINEAR, expand=True, fillcolor=fill)
    inside = np.asarray(Image.new("L", (SIDE, SIDE), 255).rotate(17, Image.Resampling.BILINEAR, expand=True)) == 255
    file = io.BytesIO()
    turned.save(file, "JPEG", quality=80)
    border = empty_border(np.asarray(Image.open(file), np.float32))
    assert border is not None
    assert border[~inside].mean() > 0.99
    assert border[inside].mean() < 0.02


def test_what_is_written_on_a_data_bar_belongs_to_it():
    image = lattice()
    image[-30:] = 0
    bar = Image.fromarray(image)
    ImageDraw.Draw(bar).text((8, SIDE - 26), "300 kV  10 nm", fill=255, font=ImageFont.load_default(18))
    clean = cleaned(np.asarray(bar))
    assert clean is not None and clean.hidden is not None
    assert clean.hidden[-29:].all() and not clean.hidden[:-40].any()
