"""Crops, outlying pixels, gains and shifted probes are what their plain definitions say."""

import numpy as np
import pytest
from scipy import ndimage

from napari_emdl.diffraction.find.kernels import Crop, Splines, fit_bank
from napari_emdl.diffraction.find.measure import best_point, gather, likelihood, without_outliers
from napari_emdl.diffraction.find.patterns import estimate_gain
from napari_emdl.diffraction.find.probe import synthetic_probe


def _patterns(dtype, gain=1.0):
    rng = np.random.default_rng(3)
    counts = rng.poisson(np.where(np.hypot(*np.mgrid[-24:24, -20:20]) < 6, 300, 2), (3, 48, 40))
    counts[0, 5, 7] = 900  # hot
    counts[1, 24, 20] = 3  # dead within the disk
    counts[2, 0, 9] = counts[2, 30, 39] = counts[2, 31, 0] = 900  # at the rim: nothing is known of what lies beyond
    return (gain * counts).astype(dtype)


@pytest.mark.parametrize(("dtype", "gain"), [(np.uint16, 1.0), (np.float32, 1.0), (np.float32, 0.1), (np.int32, 7.0)])
def test_single_outlying_pixels_take_the_extreme_of_their_neighbours(dtype, gain):
    patterns = _patterns(dtype, gain)
    before = patterns.copy()
    expected = patterns.astype(np.float64) / gain
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    for image in expected:
        high = ndimage.maximum_filter(image, footprint=ring)
        low = ndimage.minimum_filter(image, footprint=ring)
        hot = image > high + 6 * np.sqrt(high) + 12
        dead = image < low - 6 * np.sqrt(low)
        hot[[0, -1]] = hot[:, [0, -1]] = dead[[0, -1]] = dead[:, [0, -1]] = False
        image[hot], image[dead] = high[hot], low[dead]
    out = without_outliers(patterns, np.full(3, gain, np.float32))
    np.testing.assert_array_equal(patterns, before)
    np.testing.assert_allclose(out / gain, expected, rtol=1e-5)
    assert (out != patterns).sum() == 2


def test_patterns_without_an_outlying_pixel_are_not_copied():
    patterns = np.random.default_rng(0).poisson(40, (2, 30, 30)).astype(np.uint16)
    assert without_outliers(patterns, np.ones(2, np.float32)) is patterns


def test_a_crop_repeats_the_border_of_the_detector():
    patterns = np.random.default_rng(1).poisson(40, (2, 30, 26)).astype(np.uint16)
    crop, n = Crop.within(4.5), 5
    which, row, col = np.array([0, 1, 1]), np.array([1, 15, 29]), np.array([12, 25, 0])
    got = gather(patterns, np.array([1, 2], np.float32), which, row, col, crop)
    padded = np.pad(patterns, ((0, 0), (n, n), (n, n)), mode="edge").astype(np.float32)
    expected = padded[which[:, None], n + row[:, None] + crop.rows, n + col[:, None] + crop.cols] / (1 + which[:, None])
    np.testing.assert_array_equal(got, expected)


def test_the_gain_is_the_median_of_the_blocks_that_have_counts():
    patterns = 5 * np.random.default_rng(2).poisson(30, (4, 64, 64)).astype(np.float32)
    patterns[1, :, :40] = 0
    patterns[2] = np.nan
    patterns[3, :, 16:] = np.inf
    expected = []
    for image in patterns[[0, 1, 3]]:
        left, right = image[::4, 0::2].reshape(-1, 8), image[::4, 1::2].reshape(-1, 8)
        with np.errstate(invalid="ignore"):
            ratio = np.square(left - right).sum(axis=1) / (left + right).sum(axis=1)
        expected.append(np.median(ratio[np.isfinite(ratio)]) / 0.92)
    with np.errstate(invalid="ignore"):
        gain = estimate_gain(patterns)
    assert gain[[0, 1, 3]] == pytest.approx(expected)
    assert gain[2] == 1


def test_a_shifted_probe_is_the_spline_through_its_pixels():
    probe, crop = synthetic_probe(5.0, (64, 60)), Crop.within(9)
    image = probe.image.astype(float)
    for shift in ((0.0, 0.0), (0.3, -1.6)):
        where = [crop.rows - shift[0] + 32, crop.cols - shift[1] + 30]
        expected = np.clip(ndimage.map_coordinates(image, where, order=3, mode="constant"), 0, None)
        np.testing.assert_allclose(Splines.of(probe).shifted(crop, shift), expected, atol=1e-12)


def test_the_best_point_is_where_the_highest_degree_is_likeliest():
    probe, crop = synthetic_probe(5.0, (64, 64)), Crop.within(9)
    bank = fit_bank(probe, crop, 1.0, 2, degree=2)
    shifts = np.array([(0.0, 0.0), (1.0, -2.0), (-1.0, 1.0)])
    splines = Splines.of(probe)
    counts = np.stack([100 * splines.shifted(crop, tuple(shift)) + 1 for shift in shifts]).astype(np.float32)
    np.testing.assert_allclose(bank.shifts()[best_point(counts, bank)], shifts)
    gains = likelihood(counts, bank)
    assert gains.shape == (3, 25, 3)
    np.testing.assert_array_equal(gains[-1].argmax(axis=0), best_point(counts, bank))
