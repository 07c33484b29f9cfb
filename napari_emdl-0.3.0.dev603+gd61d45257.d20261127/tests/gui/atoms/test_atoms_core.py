"""What the atom panels ask of the core: pixel size from a spot, another threshold, site tables, conditions for tuning."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emdl.atoms.find.columns import find_columns
from napari_emdl.atoms.find.pixelsize import log_spectrum, pixel_size_A, refine_spot, spacing_px
from napari_emdl.atoms.fit.occupancy import fit_occupancy
from napari_emdl.atoms.fit.rethreshold import with_sites, with_threshold
from napari_emdl.atoms.fit.sitetable import event_table, nearest_site, site_table
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import ColumnParams
from napari_emdl.jobs.control import Control
from napari_emdl.samples.atoms import blinking_movie
from napari_emdl.training.tuning import default_conditions, missing_for_tuning, read_range, tune


@pytest.fixture(scope="module")
def fitted():
    movie, _ = blinking_movie((16, 128, 128), seed=5)
    columns = find_columns(movie, contrast="bright", model="log")
    return movie, columns, fit_occupancy(columns, movie)


@pytest.mark.parametrize("shape", [(200, 200), (180, 256), (191, 201)])
def test_pixel_size_of_a_known_lattice(shape):
    true_A, spacing_A = 0.1234, 2.355
    rows, cols = np.indices(shape)
    angle = np.deg2rad(25)
    image = np.cos(2 * np.pi * (rows * np.sin(angle) + cols * np.cos(angle)) * true_A / spacing_A)
    spectrum = log_spectrum(image + np.random.default_rng(0).normal(0, 0.5, shape))
    frequency = true_A / spacing_A
    guess = (
        shape[0] // 2 + frequency * np.sin(angle) * shape[0] + 1.5,
        shape[1] // 2 + frequency * np.cos(angle) * shape[1] - 1.5,
    )
    spot = refine_spot(spectrum, guess)
    assert spacing_px(shape, spot) == pytest.approx(spacing_A / true_A, rel=0.01)
    assert pixel_size_A(shape, spot, spacing_A) == pytest.approx(true_A, rel=0.01)


def test_a_spot_must_be_one():
    spectrum = log_spectrum(np.random.default_rng(0).normal(size=(64, 64)))
    with pytest.raises(EmdlError, match="centre"):
        refine_spot(spectrum, (32, 33))
    with pytest.raises(EmdlError, match="inside"):
        refine_spot(spectrum, (0, 70))
    with pytest.raises(EmdlError, match="contrast"):
        log_spectrum(np.zeros((32, 32)))


def test_same_threshold_gives_the_same_occupancy(fitted):
    _, columns, occupancy = fitted
    again = with_threshold(occupancy, columns, occupancy.attrs["min_score"])
    assert again.n_sites == occupancy.n_sites
    np.testing.assert_array_equal(again.detected, occupancy.detected)
    np.testing.assert_array_equal(again.occupied, occupancy.occupied)


def test_higher_threshold_has_fewer_detections_and_sites_come_back(fitted):
    _, columns, occupancy = fitted
    strict = with_threshold(occupancy, columns, 0.999)
    assert strict.detected.sum() < occupancy.detected.sum()
    assert strict.attrs["min_score"] == 0.999
    assert with_threshold(occupancy, columns, 0.5).n_sites >= strict.n_sites
    with pytest.raises(EmdlError, match="no site is left"):
        with_threshold(occupancy, columns, 1.1)


def test_sites_can_be_left_out(fitted):
    occupancy = fitted[2]
    keep = np.arange(occupancy.n_sites) % 2 == 0
    half = with_sites(occupancy, keep)
    np.testing.assert_array_equal(half.sites_px, occupancy.sites_px[keep])
    with pytest.raises(EmdlError, match="at least one"):
        with_sites(occupancy, np.zeros(occupancy.n_sites, bool))


def test_tables_count_the_events(fitted):
    occupancy = fitted[2]
    sites, events = site_table(occupancy), event_table(occupancy)
    assert (sites["appeared"].sum(), sites["vanished"].sum()) == tuple(
        int((events["kind"] == kind).sum()) for kind in ("appeared", "vanished")
    )
    assert np.all((sites["occupancy_pct"] >= 0) & (sites["occupancy_pct"] <= 100))
    np.testing.assert_allclose(events["time_s"], events["frame"] * occupancy.attrs["frame_interval_s"])
    row, col = occupancy.sites_px[4]
    assert nearest_site(occupancy.sites_px, (row + 1, col - 1), 5.0) == 4
    assert nearest_site(occupancy.sites_px, (row + 500, col), 5.0) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [("20 - 80", (20, 80)), ("-150000 - -100000", (-150000, -100000)), ("0.09:0.11", (0.09, 0.11)), ("7", (7, 7))],
)
def test_ranges_are_read(text, expected):
    assert read_range(text, "C10") == expected


@pytest.mark.parametrize("text", ["", "a - b", "1 - 2 - 3", "80 - 20"])
def test_bad_ranges_are_named(text):
    with pytest.raises(EmdlError, match="C10"):
        read_range(text, "C10")


def test_known_conditions_become_ranges():
    known = default_conditions(ColumnParams(contrast="bright", defocus_nm=6.0, cs_um=-13.0, energy_keV=300), 0.1)
    assert known["contrast"] == "bright" and known["energy_keV"] == 300
    assert known["C10_A"] == (30, 90) and known["Cs_A"] == (-160000, -100000)
    assert known["sampling_A"] == (0.095, 0.105)
    assert default_conditions(ColumnParams(), None) == {}


def test_what_is_missing_for_tuning_is_said(monkeypatch):
    assert "network" in missing_for_tuning("log")
    monkeypatch.setattr("napari_emdl.training.tuning.find_spec", lambda name: None)
    assert "pip install" in missing_for_tuning(None)
    with pytest.raises(EmdlError, match="pip install"):
        tune(None, {}, "mine", 1.0, Control())
    with pytest.raises(EmdlError, match="name"):
        tune(None, {}, "../mine", 1.0, Control())
