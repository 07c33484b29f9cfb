"""From a movie to occupancy, events and rates; bad movies; files."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from scipy import ndimage as ndi
from tests.atoms.conftest import matched_sites

from napari_emdl.atoms.find.columns import find_columns
from napari_emdl.atoms.fit.occupancy import fit_occupancy
from napari_emdl.atoms.fit.result import Occupancy
from napari_emdl.base.caveats import Caveats
from napari_emdl.base.errors import Cancelled, EmdlError
from napari_emdl.base.signals import in_memory
from napari_emdl.exporting.rendering import annotated_frame, render_movie
from napari_emdl.jobs.control import Control
from napari_emdl.samples.atoms import Conditions, blinking_movie


def analysed(data, calibration, **options):
    movie = in_memory(data, "movie", calibration)
    columns = find_columns(movie, model="log", contrast="bright")
    return fit_occupancy(columns, movie, **options)


def test_sample_movie_end_to_end(case):
    truth, found = case.truth, case.occupancy
    i, j = matched_sites(truth, found)
    assert len(i) >= 0.98 * len(truth.sites_px)
    error = truth.occupied[:, i] != found.occupied[:, j]
    assert error[:, truth.blinking[i]].mean() < 0.02
    assert error[:, ~truth.blinking[i]].mean() < 0.005
    row = found.rates[found.rates["group"] == "all"][0]
    assert row["p_off_low"] <= truth.conditions.p_off <= row["p_off_high"]
    assert row["p_on_low"] <= truth.conditions.p_on <= row["p_on_high"]
    assert row["n_blinking"] == pytest.approx(truth.blinking.sum(), abs=2)
    assert found.attrs["evidence"] == "matched filter learned from the movie"
    assert found.attrs["frame_interval_s"] == 0.5


def test_sites_lie_at_position_plus_shift(case):
    truth, found = case.truth, case.occupancy
    i, j = matched_sites(truth, found)
    for t in (0, 15, 29):
        there = found.positions_in_frame(t)[j]
        np.testing.assert_allclose(there, found.sites_px[j] + found.shift_px[t], atol=1e-9)
        assert np.median(np.hypot(*(there - truth.sites_px[i] - truth.drift_px[t]).T)) < 1.5


def test_low_dose_rates_are_not_those_of_the_detections():
    movie, truth = blinking_movie((60, 192, 192), 7, conditions=Conditions(dose_e_per_A2=60))
    columns = find_columns(movie, model="log", contrast="bright")
    row = fit_occupancy(columns, movie).rates[0]
    assert row["raw_p_off"] > 1.8 * truth.conditions.p_off
    assert row["p_off"] == pytest.approx(truth.conditions.p_off, rel=0.35)
    assert row["p_on"] == pytest.approx(truth.conditions.p_on, rel=0.35)


def test_groups_and_regrouping(case):
    found = case.occupancy
    assert {"bulk", "facet"} <= set(found.group_names)
    bulk = found.rates[found.rates["group"] == "bulk"][0]
    assert bulk["events_off"] == 0 and bulk["off_per_site_s_high"] > 0
    moved = found.with_groups(np.zeros_like(found.groups))
    assert set(moved.rates["group"]) == {"all", "bulk"}


def test_dwell_times_by_group(case):
    curve = case.occupancy.dwell_times(True)
    assert curve.n_ended > 5 and curve.n_censored > 0
    assert (np.diff(curve.survival) <= 0).all()


def test_file_and_back(case, tmp_path):
    path = tmp_path / "occupancy.h5"
    with h5py.File(path, "w") as file:
        case.occupancy.to_hdf5(file)
    with h5py.File(path) as file:
        assert file["sites/position_px"].shape == (case.occupancy.n_sites, 2)
        assert file["frames/shift_px"].shape == (30, 2)
        assert file["occupancy/occupied"].dtype == bool
        assert file["rates/p_off_low"].shape == file["rates/p_off_high"].shape
        back = Occupancy.from_hdf5(file)
    np.testing.assert_array_equal(back.occupied, case.occupancy.occupied)
    for name in back.rates.dtype.names:
        np.testing.assert_array_equal(back.rates[name], case.occupancy.rates[name])
    np.testing.assert_array_equal(back.events, case.occupancy.events)
    assert back.group_names == case.occupancy.group_names
    assert back.attrs["pixel_A"] == case.occupancy.attrs["pixel_A"]
    with h5py.File(tmp_path / "other.h5", "w") as file, pytest.raises(EmdlError, match="not a complete occupancy"):
        Occupancy.from_hdf5(file)


def test_without_the_movie_detections_are_the_evidence(case):
    columns = case.columns.compact()
    columns.source, columns.attrs["provenance"] = None, {}
    found = fit_occupancy(columns)
    assert found.attrs["evidence"] == "detections"
    assert "from the detected columns alone" in str(Caveats.from_json(found.attrs["caveats"]))
    i, j = matched_sites(case.truth, found)
    assert (case.truth.occupied[:, i] != found.occupied[:, j]).mean() < 0.05


def test_a_movie_that_is_gone_or_none_is_said_in_one_line(case, monkeypatch):
    columns = case.columns.compact()
    columns.source, columns.attrs["provenance"] = None, {"input": {"path": "gone.tif"}}
    for source in (lambda _: object(), lambda _: (_ for _ in ()).throw(EmdlError("gone.tif is gone"))):
        monkeypatch.setattr("napari_emdl.atoms.fit.occupancy.source_of", source)
        said = str(Caveats.from_json(fit_occupancy(columns).attrs["caveats"]))
        assert "from the detected columns alone" in said
    assert "gone.tif is gone" in said


def test_columns_bring_the_movie_they_were_found_in(case):
    found = fit_occupancy(case.columns)
    assert found.attrs["evidence"] == case.occupancy.attrs["evidence"] != "detections"
    np.testing.assert_array_equal(found.occupied, case.occupancy.occupied)


def test_threshold_method(case):
    found = fit_occupancy(case.columns, case.movie, method="threshold")
    np.testing.assert_array_equal(found.occupied[found.valid], found.detected[found.valid])


# Bad input


@pytest.mark.parametrize("frames", [1, 2])
def test_too_few_frames_give_detections_and_say_so(case, frames):
    found = analysed(np.asarray(case.movie.data[:frames]), case.movie.calibration)
    assert found.occupied.shape[0] == frames
    assert "too few" in found.attrs["notes"][0]
    assert found.occupied.sum() > 30 * frames


def test_blank_beam_and_bad_frames_in_the_middle(case):
    data = np.asarray(case.movie.data, np.float32).copy()
    data[10:14] = 0
    data[20] = np.nan
    found = analysed(data, case.movie.calibration)
    assert not found.valid[10:14].any() and not found.valid[20].any()
    assert found.valid[9].any() and found.valid[14].any()
    assert any("blank" in note and "10" in note for note in found.attrs["notes"])
    i, j = matched_sites(case.truth, found)
    seen = found.valid[:, j]
    assert (case.truth.occupied[:, i] != found.occupied[:, j])[seen].mean() < 0.02
    assert np.isnan(found.evidence[~found.valid]).all()


def test_particle_that_leaves_keeps_what_was_seen(case):
    random = np.random.default_rng(0)
    data = np.asarray(case.movie.data).copy()
    for t in range(30):
        data[t] = np.roll(data[t], 9 * t, axis=0)
        data[t, : min(192, 9 * t)] = random.poisson(58 / 20, (min(192, 9 * t), 192)) * 20
    found = analysed(data, case.movie.calibration)
    assert 0.1 < found.valid.mean() < 0.9
    assert found.valid[:5].mean() > 0.9


def test_a_particle_that_changes_all_at_once_is_pointed_out(case):
    data = np.asarray(case.movie.data).copy()
    data[15:] = data[15:, ::-1]
    found = analysed(data, case.movie.calibration)
    assert any("sintered or turned" in note for note in found.attrs["notes"])


def test_all_sites_empty_is_a_clear_line():
    data = np.random.default_rng(0).poisson(50, (6, 128, 128)).astype(np.uint16)
    movie, _ = blinking_movie((1, 128, 128))
    with pytest.raises(EmdlError, match=r"no (site|columns)"):
        analysed(data, movie.calibration)


def test_isolated_columns_without_a_lattice():
    random = np.random.default_rng(0)
    r, c = np.mgrid[:128, :128]
    image = 30 + 60 * sum(np.exp(-((r - a) ** 2 + (c - b) ** 2) / 32) for a, b in ((30, 40), (90, 33), (64, 100)))
    movie, _ = blinking_movie((1, 128, 128))
    found = analysed(random.poisson(image, (10, 128, 128)), movie.calibration)
    assert found.n_sites == 3
    assert set(found.group_names) == {"off lattice"}
    assert found.occupied.all()


def test_a_turning_particle_is_followed(case):
    frames = [np.asarray(frame, float) for frame in case.movie.data]
    data = np.stack([ndi.rotate(f, 0.25 * t, reshape=False, order=1, mode="reflect") for t, f in enumerate(frames)])
    found = analysed(data, case.movie.calibration)
    angle = np.rad2deg(np.arctan2(found.alignment.linear[:, 1, 0], found.alignment.linear[:, 0, 0]))
    assert abs(angle[-1] - angle[0]) == pytest.approx(0.25 * 29, abs=0.6)


def test_movie_and_columns_must_belong_together(case):
    other = in_memory(np.asarray(case.movie.data[:5]), "movie", case.movie.calibration)
    with pytest.raises(EmdlError, match="do not belong together"):
        fit_occupancy(case.columns, other)


def test_cancel(case):
    control = Control()
    control.cancel()
    with pytest.raises(Cancelled):
        fit_occupancy(case.columns, case.movie, control=control)


# Annotated movie


@pytest.mark.parametrize("ending", [".gif", ".mp4"])
def test_annotated_movie_can_be_read_back(case, tmp_path, ending):
    import imageio.v3 as imageio

    if ending == ".mp4":
        pytest.importorskip("imageio_ffmpeg")
    short = in_memory(np.asarray(case.movie.data[:4]), "movie", case.movie.calibration)
    found = fit_occupancy(find_columns(short, model="log", contrast="bright"), short)
    path = render_movie(short, found, tmp_path / f"movie{ending}", zoom=1)
    frames = imageio.imread(path)
    assert frames.shape[:3] == (4, 192, 192)
    with pytest.raises(EmdlError, match="mp4 or"):
        render_movie(short, found, tmp_path / "movie.avi")
    with pytest.raises(EmdlError, match="do not belong together"):
        render_movie(case.movie, found, path)


def test_rings_lie_on_the_columns(case):
    t = 15
    frame = np.zeros((192, 192))
    canvas = annotated_frame(frame, case.occupancy, t, (0, 1))
    blue = (canvas[..., 2].astype(int) - canvas[..., 0]) > 100
    centre = np.argwhere(blue).mean(0)
    positions = case.occupancy.positions_in_frame(t)[case.occupancy.occupied[t] & case.occupancy.valid[t]]
    np.testing.assert_allclose(centre, positions.mean(0), atol=1.5)
    followed = annotated_frame(frame, case.occupancy, t, (0, 1), follow=True)
    blue = (followed[..., 2].astype(int) - followed[..., 0]) > 100
    np.testing.assert_allclose(np.argwhere(blue).mean(0), centre - np.round(case.occupancy.shift_px[t]), atol=1.0)


# Validation movies, when they are there


@pytest.mark.parametrize(("name", "pixel_A"), [("cu_dev", 0.09), ("ag_dev", 0.095)])
def test_validation_movies_with_the_classical_finder(shared_data, name, pixel_A):
    import tifffile

    data = tifffile.imread(shared_data / "cases" / f"{name}.tif")
    with h5py.File(shared_data / "cases" / f"{name}_truth.h5") as file:
        occupied, blinking = file["truth/occupied"][()].astype(bool), file["truth/blinking"][()].astype(bool)
        sites_px, drift_px = file["truth/sites_px"][()], file["truth/drift_px"][()]
    from tests.atoms.conftest import match

    from napari_emdl.base.signals import Calibration

    movie = in_memory(data, "movie", Calibration(pixel_nm=(pixel_A / 10, pixel_A / 10)))
    found = fit_occupancy(find_columns(movie, model="log"), movie)
    i, j = match(sites_px, found.sites_px + np.median(found.shift_px - drift_px, axis=0), 0.8 / pixel_A)
    assert len(i) >= 0.98 * len(sites_px)
    assert (occupied[:, i] != found.occupied[:, j])[:, blinking[i]].mean() < 0.01
    phantom = np.setdiff1d(np.arange(found.n_sites), j)
    assert (found.occupied[:, phantom].mean(0) > 0.1).sum() <= 3


def test_a_particle_that_is_gone_after_a_third_leaves_a_partial_result(case):
    data = np.asarray(case.movie.data).copy()
    level = data[:10].mean() / 20
    data[10:] = np.random.default_rng(0).poisson(level, data[10:].shape) * 20
    found = analysed(data, case.movie.calibration)
    assert found.valid[:10].mean() > 0.9
    assert found.valid[10:].mean() < 0.1
    assert any("no match" in note for note in found.attrs["notes"])
    assert len(found.events) and (found.events["frame"] < 12).all()
