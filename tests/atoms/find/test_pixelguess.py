"""Images without a pixel size: it is guessed where a lattice of columns is seen, and said; no length is written with it."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emdl.atoms.find.columns import find_columns
from napari_emdl.atoms.find.pixelguess import GUESSED, guess_pixel_size, with_guessed_pixel
from napari_emdl.atoms.fit.occupancy import fit_occupancy
from napari_emdl.atoms.fit.strain import occupancy_strain
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import ColumnParams
from napari_emdl.base.signals import Calibration, in_memory
from napari_emdl.exporting.tables import column_columns, known_pixel_A, site_columns
from napari_emdl.io.results import load, save


def columns_of_spots(pixel_A: float, dark: bool, seed: int, size: int = 288) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image of a lattice with two heights of columns 2.8 A apart, and their places (px)."""
    rng = np.random.default_rng([seed, 41])
    angle, spacing = 0.3, 2.8 / pixel_A
    vectors = spacing * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    ij = np.array([(i, j) for i in range(-60, 61) for j in range(-60, 61)])
    places = ij @ vectors + size / 2
    near = np.all((places > -spacing) & (places < size + spacing), axis=1)
    places, height = places[near], np.where((ij[near].sum(1)) % 2, 0.55, 1.0)
    rows, cols = np.mgrid[:size, :size]
    image = np.zeros((size, size))
    for (row, col), h in zip(places, height, strict=True):
        image += h * np.exp(-((rows - row) ** 2 + (cols - col) ** 2) / (2 * (0.55 / pixel_A) ** 2))
    image = (1.6 - image if dark else 0.4 + image) * 60
    return rng.poisson(np.maximum(image, 0)).astype(np.uint16), places


@pytest.mark.parametrize(("pixel_A", "dark"), [(0.08, False), (0.12, True), (0.19, False)])
def test_the_guess_is_near_and_the_columns_are_found(pixel_A: float, dark: bool) -> None:
    image, places = columns_of_spots(pixel_A, dark, 1)
    table = find_columns(image)
    assert table.attrs["pixel_guessed"] and 0.5 < table.attrs["pixel_A"] / pixel_A < 1.8
    assert "the pixel size is unknown" in table.attrs["note"] and "`pixel_size_A`" in table.attrs["note"]
    found = table.filter(min_score=table.attrs["default_min_score"]).positions_px()
    away = np.linalg.norm(found[:, None] - places[None], axis=-1)
    inside = np.all((places > 2) & (places < 285), axis=1)
    assert (away.min(axis=0)[inside] < 0.5 / pixel_A).mean() > 0.95
    assert (away.min(axis=1) < 0.5 / pixel_A).mean() > 0.9


def test_the_edge_of_a_specimen_is_no_lattice() -> None:
    image, places = columns_of_spots(0.12, False, 6, 240)
    beside = np.random.default_rng(7).poisson(400, (240, 240))
    guess = guess_pixel_size(in_memory(np.hstack([beside, image]), "image"), ColumnParams())
    assert guess is not None and 0.5 < guess.pixel_A / 0.12 < 1.8
    # the part that was looked at holds a part of the crystal
    assert guess.columns > 0.4 * np.all((places > 2) & (places < 237), axis=1).sum()


def test_half_precision_is_read() -> None:
    image, _ = columns_of_spots(0.12, False, 2, 200)
    table = find_columns(image.astype(np.float16), pixel_size_A=0.12)
    single = find_columns(image.astype(np.float32), pixel_size_A=0.12)
    np.testing.assert_allclose(table.positions_px(), single.positions_px(), atol=0.05)


@pytest.mark.parametrize("kind", ["noise", "constant"])
def test_without_columns_there_is_no_guess(kind: str) -> None:
    image = {
        "noise": np.random.default_rng(4).poisson(30, (96, 96)),
        "constant": np.full((200, 200), 7),
    }[kind]
    movie = in_memory(image, "image")
    assert guess_pixel_size(movie, ColumnParams()) is None
    with pytest.raises(EmdlError, match="the pixel size is unknown: type it"):
        with_guessed_pixel(movie, ColumnParams())


def test_what_is_known_is_not_guessed() -> None:
    movie = in_memory(np.zeros((20, 20)), "image", Calibration(pixel_nm=(0.01, 0.01)))
    assert with_guessed_pixel(movie, ColumnParams()) == (movie, ColumnParams(), "")
    typed = ColumnParams(pixel_size_A=0.2)
    assert with_guessed_pixel(in_memory(np.zeros((20, 20)), "image"), typed)[1:] == (typed, "")


def test_no_length_rests_on_a_guess(tmp_path) -> None:
    image, _ = columns_of_spots(0.12, False, 3, 220)
    movie = in_memory(np.stack([image] * 3), "movie")
    table = find_columns(movie)
    save(table, tmp_path / "columns.h5")
    table = load(tmp_path / "columns.h5")
    assert table.attrs["pixel_guessed"] and known_pixel_A(table.attrs) is None
    assert "row_A" not in column_columns(table.reshape((3,)), known_pixel_A(table.attrs))
    assert table.attrs["provenance"]["input"]["calibration"]["source"]["pixel_nm"] == GUESSED
    occupancy = fit_occupancy(find_columns(movie))
    assert "row_A" not in site_columns(occupancy, ())
    assert np.isfinite(occupancy_strain(occupancy).exx).any()
    with pytest.raises(EmdlError, match="guessed"):
        occupancy_strain(occupancy, reference=(2.8, 2.8, 90.0))


def test_a_wrong_pixel_size_is_doubted_and_kept() -> None:
    image, _ = columns_of_spots(0.12, False, 8, 240)
    right = find_columns(image, pixel_size_A=0.12)
    assert "is the pixel size right" not in right.attrs["note"]
    wrong = find_columns(image, pixel_size_A=0.03)
    assert wrong.attrs["pixel_A"] == 0.03 and not wrong.attrs["pixel_guessed"]
    assert "is the pixel size right" in wrong.attrs["note"] and "`pixel_size_A`" in wrong.attrs["note"]
    likely_A = float(wrong.attrs["note"].split("at about ")[1].split(" ")[0])
    assert 0.5 < likely_A / 0.12 < 1.8


def test_noise_casts_no_doubt_on_the_pixel_size() -> None:
    noise = np.random.default_rng(9).poisson(40, (128, 128)).astype(np.float32)
    assert "is the pixel size right" not in find_columns(noise, pixel_size_A=0.1).attrs["note"]
