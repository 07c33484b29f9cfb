"""Drift, site list, groups, strain."""

from __future__ import annotations

import cloudpickle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.atoms.conftest import matched_sites

from napari_emdl.atoms.fit import correlation
from napari_emdl.atoms.fit.correlation import measure_drift
from napari_emdl.atoms.fit.drift import BLANK, JUMP, NO_MATCH, identity, mean_image
from napari_emdl.atoms.fit.occupancy import fit_occupancy
from napari_emdl.atoms.fit.sites import BULK, CORNER, FACET, find_sites
from napari_emdl.atoms.fit.strain import column_strain, occupancy_strain
from napari_emdl.atoms.lattices import Lattice, find_lattice
from napari_emdl.base.errors import Cancelled, EmdlError
from napari_emdl.base.params import RunParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.jobs import Block, Control


def lattice_points(a=(24.0, 3.0), b=(-5.0, 25.0), radius=120.0, centre=(150.0, 150.0)):
    i, j = np.meshgrid(np.arange(-9, 10), np.arange(-9, 10), indexing="ij")
    points = (i[..., None] * np.array(a) + j[..., None] * np.array(b)).reshape(-1, 2)
    return points[np.hypot(*points.T) < radius] + centre


def test_drift_is_measured_to_a_fraction_of_a_pixel(case):
    data, true = np.asarray(case.movie.data), case.truth.drift_px
    found = measure_drift(lambda t: data[t], 30, 0.12)
    error = found.shift_px - (true - true[0])
    error -= np.median(error, axis=0)
    assert np.abs(error).max() < 0.5
    assert not found.flag.any()
    refined = case.occupancy.shift_px - true
    assert (refined - np.median(refined, axis=0)).std() < 0.1


def test_bad_frames_are_flagged_not_hidden(case):
    random = np.random.default_rng(0)
    data = np.asarray(case.movie.data, np.float32).copy()
    data[5] = 0
    data[6] = np.nan
    data[9] = random.poisson(58, data[9].shape) * 20
    data[14:] = np.roll(data[14:], 30, axis=2)
    found = measure_drift(lambda t: data[t], 30, 0.12)
    assert found.flag[5] == found.flag[6] == BLANK
    assert found.flag[9] == NO_MATCH
    assert found.flag[14] == JUMP
    assert found.usable.sum() == 27
    step = found.shift_px[14] - found.shift_px[13]
    np.testing.assert_allclose(step - (case.truth.drift_px[14] - case.truth.drift_px[13]), (0, 30), atol=0.7)


@pytest.mark.parametrize("frames", [1, 2])
def test_one_and_two_frames(case, frames):
    data = np.asarray(case.movie.data)
    found = measure_drift(lambda t: data[t], frames, 0.12)
    assert found.shift_px.shape == (frames, 2)
    np.testing.assert_allclose(found.shift_px[0], 0)


def test_all_blank(case):
    found = measure_drift(lambda t: np.zeros((64, 64)), 4, 0.12)
    assert (found.flag == BLANK).all()
    np.testing.assert_array_equal(found.shift_px, 0)


class _Stops(Exception):
    pass


@pytest.mark.parametrize("stop_at", [7, 12, 23, 30, 41])
def test_drift_resumes_where_it_stopped(case, tmp_path, stop_at):
    random = np.random.default_rng(3)
    data = np.asarray(case.movie.data, np.float32)[:25].copy()
    data[9] = random.poisson(58, data[9].shape) * 20  # a stranger, blank frames: what the running mean leaves out
    data[10] = 0
    run = RunParams(max_memory="8MB", workers=2)
    whole = measure_drift(lambda t: data[t], 25, 0.12)
    asked = []

    def reader(last):
        def read(t):
            asked.append(t)
            if len(asked) > last:
                raise _Stops
            return data[t]

        return read

    with pytest.raises(_Stops):
        measure_drift(reader(stop_at), 25, 0.12, run=run, output=tmp_path / "a", fingerprint="x")
    asked.clear()
    resumed = measure_drift(
        reader(1000), 25, 0.12, run=run.model_copy(update={"resume": True}), output=tmp_path / "a", fingerprint="x"
    )
    np.testing.assert_allclose(resumed.shift_px, whole.shift_px, atol=1e-9)
    np.testing.assert_allclose(resumed.quality, whole.quality, atol=1e-12)
    np.testing.assert_array_equal(resumed.flag, whole.flag)
    correlation.discard_drift(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_drift_resumed_far_behind_the_start_equals_a_whole_one(monkeypatch, tmp_path):
    """The running mean is rebuilt from the last frames alone."""
    random = np.random.default_rng(5)
    row, col = np.mgrid[:48, :48]
    lattice = lambda t: 30 + 20 * np.cos((row - 0.04 * t) * 0.9) * np.cos((col + 0.03 * t) * 0.8)  # noqa: E731
    data = [random.poisson(lattice(t) * np.exp(-(((row - 24) ** 2 + (col - 24) ** 2) / 300))) for t in range(420)]
    whole = measure_drift(lambda t: data[t], 420, 0.2)
    follow = correlation._Following._follow

    def stops(self, t, spectrum):
        if t == 400:
            raise _Stops
        follow(self, t, spectrum)

    monkeypatch.setattr(correlation._Following, "_follow", stops)
    run = RunParams(max_memory="5MB")
    with pytest.raises(_Stops):
        measure_drift(lambda t: data[t], 420, 0.2, run=run, output=tmp_path / "a", fingerprint="x")
    monkeypatch.undo()
    resumed = measure_drift(
        lambda t: data[t], 420, 0.2, run=run.model_copy(update={"resume": True}), output=tmp_path / "a", fingerprint="x"
    )
    np.testing.assert_allclose(resumed.shift_px, whole.shift_px, atol=1e-6)


def test_second_pass_can_be_sent_to_a_cluster(case):
    data = np.asarray(case.movie.data, np.float32)[:6]
    size = (data.shape[1], data.shape[2])
    first = correlation._Following(correlation._Correlator(size, 0.12, 2.3), lambda t: data[t], 6, None)
    block = Block(0, 0, 6)
    first.take(block, first(data, block))
    here = correlation._Matching(first, None)
    there = cloudpickle.loads(cloudpickle.dumps(here))
    np.testing.assert_array_equal(there(data, block)["shift"], here(data, block)["shift"])


def test_drift_is_cancelled_and_tells_its_progress(case):
    data = np.asarray(case.movie.data)
    seen = []
    control = Control(lambda p: (seen.append(p), control.cancel() if p.done >= 10 else None))
    with pytest.raises(Cancelled):
        measure_drift(lambda t: data[t], 30, 0.12, control=control)
    assert seen[0].total == 30 and seen[-1].message == "measuring drift" and seen[-1].done < 30


def test_alignment_there_and_back():
    shift = np.array([[0.0, 0.0], [3.5, -2.0]])
    alignment = identity(shift)
    points = np.array([[10.0, 12.0], [30.0, 5.0]])
    moved = alignment.to_frame(points)
    np.testing.assert_allclose(moved[1], points + shift[1])
    np.testing.assert_allclose(alignment.from_frame(moved[1], np.array([1, 1])), points)


def test_mean_image_is_in_the_coordinates_of_the_sites(case):
    data = np.asarray(case.movie.data, np.float32)
    image = mean_image(lambda t: data[t], case.occupancy.alignment)
    rows, cols = np.round(case.occupancy.sites_px[case.occupancy.mean_occupancy() > 0.9]).astype(int).T
    assert np.nanmean(image[rows, cols]) > np.nanpercentile(image, 90)


@given(st.floats(0, 2 * np.pi), st.floats(20, 30), st.floats(0.8, 1.25), st.floats(65, 115))
@settings(max_examples=40, deadline=None)
def test_lattice_is_found_at_any_orientation(angle, length, aspect, opening_deg):
    opening = np.deg2rad(opening_deg)
    a = length * np.array([np.cos(angle), np.sin(angle)])
    b = aspect * length * np.array([np.cos(angle + opening), np.sin(angle + opening)])
    points = lattice_points(a, b, 110.0) + np.random.default_rng(0).normal(0, 0.3, (len(lattice_points(a, b, 110.0)), 2))
    found = find_lattice(points, np.ones(len(points)), 0.1)
    assert found is not None
    cell = np.stack([found.a_px, found.b_px])
    whole = cell @ np.linalg.inv(np.stack([a, b]))
    np.testing.assert_allclose(whole, np.round(whole), atol=0.05)
    assert abs(np.linalg.det(np.round(whole))) == 1


def test_scattered_points_are_no_lattice():
    points = np.random.default_rng(2).uniform(0, 300, (8, 2))
    assert find_lattice(points[:5], np.ones(5), 0.1) is None


def test_groups_follow_coordination():
    points = lattice_points((25.0, 0.0), (12.5, 21.65), 90.0)
    table = PeakTable.from_lists([{"row": points[:, 0], "col": points[:, 1], "score": np.ones(len(points))}] * 4)
    sites = find_sites(table, identity(np.zeros((4, 2))), 0.1, (300, 300))
    real = ~sites.extrapolated
    assert real.sum() == len(points)
    assert sites.extrapolated.sum() > 10
    assert (sites.seen[real] == 1).all() and (sites.seen[~real] == 0).all()
    inner = np.hypot(*(sites.position_px - 150).T) < 40
    assert (sites.group[inner] == BULK).all()
    assert set(sites.group[sites.extrapolated]) <= {FACET, CORNER, FACET + 1}
    kept = sites.kept(real).added(np.array([[5.0, 5.0]]))
    assert len(kept) == len(points) + 1


def test_film_grains_that_flicker_are_no_sites(case):
    sites = case.occupancy.sites
    i, j = matched_sites(case.truth, case.occupancy)
    assert len(i) >= 0.98 * len(case.truth.sites_px)
    phantom = np.setdiff1d(np.arange(len(sites)), j)
    assert (case.occupancy.occupied[:, phantom].mean(0) > 0.1).sum() <= 3


def test_no_detections_is_a_clear_line():
    table = PeakTable.empty((5,))
    with pytest.raises(EmdlError, match="no columns were found"):
        find_sites(table, identity(np.zeros((5, 2))), 0.1, (100, 100))


# Strain of columns

DEFORMATION = np.array([[1.02, 0.01], [-0.005, 0.985]])


def small_strain(deformation):
    theta = np.arctan2(deformation[1, 0] - deformation[0, 1], deformation[0, 0] + deformation[1, 1])
    back = np.array([[np.cos(theta), np.sin(theta)], [-np.sin(theta), np.cos(theta)]])
    stretch = back @ deformation
    return stretch[0, 0] - 1, stretch[1, 1] - 1, stretch[0, 1], theta


def test_known_deformation_comes_back_exactly():
    reference = Lattice(np.array([24.0, 3.0]), np.array([-5.0, 25.0]))
    points = lattice_points(centre=(0, 0)) @ DEFORMATION.T + 150
    strain = column_strain(points, reference=reference)
    for got, true in zip((strain.exx, strain.eyy, strain.exy, strain.theta_rad), small_strain(DEFORMATION), strict=True):
        np.testing.assert_allclose(got[~strain.surface], true, atol=1e-6)
    assert strain.surface.sum() > 10
    assert (strain.sigma[strain.surface, 0] >= 0.015).all()
    assert (strain.sigma[~strain.surface, 0] < 0.015).all()


def test_errors_are_what_they_say():
    reference = Lattice(np.array([24.0, 3.0]), np.array([-5.0, 25.0]))
    random, values = np.random.default_rng(0), []
    points = lattice_points()
    for _ in range(40):
        strain = column_strain(points + random.normal(0, 0.2, points.shape), 0.2, reference=reference)
        values.append([strain.exx, strain.eyy, strain.exy, strain.theta_rad])
    scatter = np.std(values, axis=0)[:, ~strain.surface].mean(1)
    np.testing.assert_allclose(scatter, strain.sigma[~strain.surface].mean(0), rtol=0.1)
    guessed = column_strain(points + random.normal(0, 0.2, points.shape), reference=reference)
    np.testing.assert_allclose(guessed.sigma[~guessed.surface], strain.sigma[~strain.surface], rtol=0.35)


def test_bulk_reference_gives_no_mean_strain_and_known_lattice_an_absolute_one():
    points = lattice_points((20.0, 0.0), (0.0, 25.0)) * 1.02
    relative = column_strain(points, pixel_A=0.1)
    assert np.nanmean(relative.exx[~relative.surface]) == pytest.approx(0, abs=1e-9)
    absolute = column_strain(points, pixel_A=0.1, reference=(2.0, 2.5, 90.0))
    np.testing.assert_allclose(absolute.exx[~absolute.surface], 0.02, atol=1e-6)
    np.testing.assert_allclose(absolute.eyy[~absolute.surface], 0.02, atol=1e-6)


def test_turned_axes_swap_the_components():
    reference = Lattice(np.array([24.0, 3.0]), np.array([-5.0, 25.0]))
    points = lattice_points(centre=(0, 0)) @ DEFORMATION.T
    plain, turned = (column_strain(points, reference=reference, axis_deg=a) for a in (0, 90))
    np.testing.assert_allclose(turned.exx, plain.eyy, atol=1e-9)
    np.testing.assert_allclose(turned.theta_rad, plain.theta_rad, atol=1e-9)


def test_strain_of_the_sample_is_none(case):
    strain = occupancy_strain(case.occupancy)
    inner = ~strain.surface
    assert np.abs(strain.exx[inner]).max() < 0.05
    assert np.std(strain.exx[inner]) < 3 * strain.sigma[inner, 0].mean()


@pytest.mark.parametrize(
    ("points", "options", "message"),
    [
        (np.zeros((3, 2)), {}, "needs a lattice of columns"),
        (np.stack([np.arange(9) * 25.0, np.zeros(9)], -1), {}, "form no lattice"),
        (lattice_points()[:7], {"lattice": Lattice(np.array([24.0, 3.0]), np.array([-5.0, 25.0]))}, "no interior"),
        (lattice_points(), {"reference": (2.0, -1.0, 90.0)}, "known lattice"),
    ],
)
def test_strain_without_ground_is_refused(points, options, message):
    with pytest.raises(EmdlError, match=message):
        column_strain(points, **options)


def test_sites_given_by_hand_are_kept(case):
    sites = case.occupancy.sites.kept(np.arange(10))
    result = fit_occupancy(case.columns, case.movie, sites=sites)
    np.testing.assert_array_equal(result.sites_px, sites.position_px)
