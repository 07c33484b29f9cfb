"""Frames of windows and lines along a camera's edges are no part of a pattern."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_emdl.base.missing import find_missing
from napari_emdl.base.windowframe import window_frame

SIDE = 160


def pattern(dtype: type = np.uint8) -> np.ndarray:
    """Counts of a halo and spots, (SIDE, SIDE)."""
    rng = np.random.default_rng(11)
    rows, cols = np.mgrid[:SIDE, :SIDE]
    expected = 40 * np.exp(-np.hypot(rows - 78, cols - 83) / 40) + 3
    for h, k in np.ndindex(5, 5):
        expected += 90 * np.exp(-(((rows - 78 - 30 * (h - 2)) ** 2 + (cols - 83 - 30 * (k - 2)) ** 2) / 18))
    return np.minimum(rng.poisson(expected), 255).astype(dtype)


def framed(bar: int, rim: int, colour: int, line: int | None) -> tuple[np.ndarray, np.ndarray]:
    """A screenshot with a title bar and its frame as a mask."""
    out = np.full((SIDE + bar + rim, SIDE + 2 * rim), colour, np.uint8)
    inside = (slice(bar, bar + SIDE), slice(rim, rim + SIDE))
    out[4 : bar - 4, 8:60:3] = 250 - colour  # letters
    if line is not None:
        out[bar - 1] = line
    out[inside] = pattern()
    mask = np.ones(out.shape, bool)
    mask[inside] = False
    return out, mask


@pytest.mark.parametrize(("bar", "rim", "colour", "line"), [(14, 0, 36, 206), (12, 3, 210, None), (15, 2, 230, 0)])
def test_a_title_bar_and_a_rim_are_found_whole(bar: int, rim: int, colour: int, line: int | None) -> None:
    image, mask = framed(bar, rim, colour, line)
    found = window_frame(image)
    assert found[mask].mean() > 0.94 and not (found & ~ndimage.binary_dilation(mask, iterations=2)).any()
    missing = find_missing(image[None], diffraction=True)
    assert any("window's frame" in line for line in missing.found)
    assert missing.covered is not None and missing.covered[mask].mean() > 0.94 and (missing.covered & ~mask).mean() < 0.05


def test_hot_lines_along_the_edge_are_found() -> None:
    counts = pattern(np.uint16) + np.uint16(100)
    counts[:2] *= 4
    counts[:, -1] = 7
    found = window_frame(counts)
    assert found[:2].all() and found[:, -1].all() and not found[4:, :-3].any()


def test_a_pattern_has_no_frame() -> None:
    counts = pattern()
    assert not window_frame(counts).any()
    gap = counts.copy()
    gap[10:14] = 0  # between the modules of a detector, which goes on behind it
    assert not window_frame(gap).any()
    assert not window_frame(np.zeros((64, 64))).any()
    assert not window_frame(np.random.default_rng(1).poisson(0.05, (96, 96))).any()
