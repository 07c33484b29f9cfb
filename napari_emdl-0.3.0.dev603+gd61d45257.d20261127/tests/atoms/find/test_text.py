"""A page of printed text has no columns, whatever its size, and says so in one line."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from napari_emdl.atoms.find.columns import find_columns

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
WORDS = [
    "sphinx",
    "of",
    "black",
    "quartz",
    "judge",
    "my",
    "vow",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "lazy",
    "dog",
    "0123",
]


def page(size_px: int, font: str, white: bool, seed: int) -> np.ndarray:
    """512 x 512 of text with a little noise."""
    rng = np.random.default_rng(seed)
    image = Image.new("L", (512, 512), 0 if white else 255)
    draw, letters = ImageDraw.Draw(image), ImageFont.truetype(str(FONTS / font), size_px)
    for row in range(2, 512, round(1.25 * size_px)):
        draw.text((4, row), " ".join(rng.permutation(WORDS * 4)), fill=255 if white else 0, font=letters)
    return np.asarray(image, np.float32) + rng.normal(0, 3, (512, 512)).astype(np.float32)


@pytest.mark.parametrize(
    ("size_px", "font", "white", "pixel_A"),
    [(14, "DejaVuSans.ttf", False, 0.1), (18, "DejaVuSerif.ttf", True, 0.1), (12, "DejaVuSansMono.ttf", False, 0.2)],
)
def test_text_has_no_columns(size_px: int, font: str, white: bool, pixel_A: float) -> None:
    table = find_columns(page(size_px, font, white, size_px), pixel_size_A=pixel_A)
    assert not len(table.filter(min_score=table.attrs["default_min_score"]).positions_px())
    assert "no columns" in table.attrs["note"]
