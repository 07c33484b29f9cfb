"""What was not measured is out of view: it is never called empty, and it makes no event."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emdl.atoms.find.columns import find_columns
from napari_emdl.atoms.fit.drift import identity
from napari_emdl.atoms.fit.frames import measured_at
from napari_emdl.atoms.fit.occupancy import fit_occupancy
from napari_emdl.base.signals import Calibration, in_memory

PIXEL_A = 0.15
CALIBRATION = Calibration(pixel_nm=(PIXEL_A / 10, PIXEL_A / 10))


def crystal(frames=12, size=128, step=(1.5, -1.0), weak=1.0, radius=None, seed=0):
    """Frames of an endless crystal that drifts, or of a round particle; every second column has the height `weak`."""
    random = np.random.default_rng(seed)
    rows, cols = np.mgrid[:size, :size]
    out = np.empty((frames, size, size))
    for t in range(frames):
        image = np.full((size, size), 100.0)
        for i in range(-12, 13):
            for j in range(-12, 13):
                y, x = i * 1.9 / PIXEL_A, (j + 0.5 * (i % 2)) * 2.2 / PIXEL_A
                if radius is not None and np.hypot(y, x) * PIXEL_A > radius:
                    continue
                r, c = size / 2 + y + step[0] * t, size / 2 + x + step[1] * t
                if -6 < r < size + 6 and -6 < c < size + 6:
                    top, left = max(0, int(r) - 10), max(0, int(c) - 10)
                    at = (slice(top, int(r) + 11), slice(left, int(c) + 11))
                    far = (rows[at] - r) ** 2 + (cols[at] - c) ** 2
                    image[at] += 60 * (weak if (i + j) % 2 else 1.0) * np.exp(-far / (2 * (0.45 / PIXEL_A) ** 2))
        out[t] = random.poisson(image)
    return out


def aligned(raw, step=(1.5, -1.0), fill=np.nan):
    """The frames moved back, `fill` where nothing is known."""
    out = np.full(raw.shape, fill, np.float32)
    size = raw.shape[1]
    for t in range(len(raw)):
        down, left = int(step[0] * t), int(-step[1] * t)
        out[t, : size - down, left:] = raw[t, down:, : size - left]
    return out


def test_a_nan_border_is_out_of_view():
    movie = in_memory(aligned(crystal()), "movie", CALIBRATION)
    found = fit_occupancy(find_columns(movie, model="log", contrast="bright"), movie)
    assert found.n_sites >= 40
    assert not ((found.p_occupied < 0.5) & found.valid).any()
    assert len(found.events) == 0
    hidden = np.isnan(np.asarray(movie.data))
    for t in (5, 11):
        at = np.clip(np.round(found.positions_in_frame(t)).astype(int), 0, 127)
        assert not found.valid[t][hidden[t][at[:, 0], at[:, 1]]].any()
    assert found.valid.mean() > 0.5


def test_a_single_bad_pixel_hides_no_site():
    frame = np.zeros((64, 64), np.float32)
    frame[30, 30] = np.nan
    frame[:, 50:] = np.nan
    sites = np.array([[30.0, 30.0], [30.0, 52.0], [30.0, 10.0]])
    valid = measured_at(lambda t: frame, sites, identity(np.zeros((2, 2))), np.ones((2, 3), bool), PIXEL_A)
    np.testing.assert_array_equal(valid, [[True, False, True]] * 2)


@pytest.mark.parametrize("weak", [0.35])
def test_a_weak_sublattice_is_occupied(weak):
    raw = crystal(frames=10, step=(0, 0), weak=weak, radius=7.5)
    movie = in_memory(raw.astype(np.uint16), "movie", CALIBRATION)
    found = fit_occupancy(find_columns(movie, model="log", contrast="bright"), movie)
    expected = [
        (64 + i * 1.9 / PIXEL_A, 64 + (j + 0.5 * (i % 2)) * 2.2 / PIXEL_A)
        for i in range(-6, 7) for j in range(-6, 7) if np.hypot(i * 1.9, (j + 0.5 * (i % 2)) * 2.2) <= 7.5
    ]  # fmt: skip
    at = found.sites_px + np.median(found.shift_px, axis=0)
    apart = np.hypot(*(np.array(expected)[:, None] - at[None]).transpose(2, 0, 1))
    assert (apart.min(1) < 5).all()
    assert (found.mean_occupancy()[apart.argmin(1)] > 0.9).all()
    far = apart.min(0) > 5
    assert (found.mean_occupancy()[far] < 0.1).all()
    assert len(found.events) == 0


def test_a_region_confines_the_sites():
    movie = in_memory(crystal(frames=4, step=(0, 0)).astype(np.uint16), "movie", CALIBRATION)
    columns = find_columns(movie, model="log", contrast="bright")
    every = fit_occupancy(columns, movie)
    part = fit_occupancy(columns, movie, region=(0, 64, 30, 100))
    assert 0 < part.n_sites < every.n_sites
    assert (part.sites_px[:, 0] < 64).all() and (part.sites_px[:, 1] >= 29.5).all() and (part.sites_px[:, 1] < 100).all()
