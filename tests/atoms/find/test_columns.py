"""Column finding with the classical finder, pixel grids, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.atoms.conftest import match

from napari_emdl.atoms.find.columns import find_columns
from napari_emdl.atoms.find.contrast import choose_contrast
from napari_emdl.atoms.find.log import LogFinder, local_maxima, refine_maxima
from napari_emdl.atoms.find.resample import Grid
from napari_emdl.base.errors import Cancelled, EmdlError
from napari_emdl.base.params import ColumnParams, RunParams
from napari_emdl.base.signals import Calibration, in_memory
from napari_emdl.jobs.control import Control
from napari_emdl.samples.atoms import Conditions, blinking_movie


def spots(shape, points, sigma=4.0, height=200.0, background=50.0):
    r, c = np.mgrid[: shape[0], : shape[1]]
    image = np.full(shape, background)
    for row, col in points:
        image += height * np.exp(-((r - row) ** 2 + (c - col) ** 2) / 2 / sigma**2)
    return image


def test_sample_columns_are_found_at_the_default_threshold(case):
    truth, shown = case.truth, case.columns.filter(min_score=case.columns.attrs["default_min_score"])
    found = missed = false = 0
    errors = []
    for t, peaks in enumerate(shown):
        true = (truth.sites_px + truth.drift_px[t])[truth.occupied[t]]
        points = np.stack([peaks["row"], peaks["col"]], -1)
        i, j = match(true, points, 0.5 / truth.conditions.pixel_A)
        found, missed, false = found + len(i), missed + len(true) - len(i), false + len(points) - len(j)
        errors.append(true[i] - points[j])
    assert 2 * found / (2 * found + missed + false) > 0.95
    assert np.std(np.concatenate(errors)) * truth.conditions.pixel_A < 0.15


def test_table_keeps_candidates_and_facts(case):
    table = case.columns
    assert table.shape == (30,)
    assert table.fields == ("row", "col", "score", "sigma_px", "species", "intensity", "logit")
    assert table.column("score").min() < 0.25 < table.attrs["default_min_score"]
    assert table.attrs["species"] == ["column"]
    assert table.attrs["pixel_A"] == pytest.approx(0.12)
    assert table.attrs["contrast"] == "bright"
    assert table.attrs["provenance"]["params"]["columns"]["model"] == "log"


@given(st.floats(20, 44), st.floats(20, 44))
@settings(max_examples=25, deadline=None)
def test_position_is_sub_pixel(row, col):
    random = np.random.default_rng(0)
    frame = spots((64, 64), [(row, col)]) + random.normal(0, 1, (64, 64))
    best = max(LogFinder(0.12).find(frame[None]).at(0), key=lambda p: p["score"])
    assert abs(best["row"] - row) < 0.15
    assert abs(best["col"] - col) < 0.15


def test_sigma_tells_the_scatter_of_positions():
    random = np.random.default_rng(1)
    frames = spots((64, 64), [(31.3, 30.8)], height=40)[None] + random.normal(0, 10, (60, 64, 64))
    table = LogFinder(0.12).find(frames)
    best = [max(p, key=lambda q: q["score"]) for p in table]
    scatter = np.std([[b["row"], b["col"]] for b in best], axis=0).mean()
    assert scatter == pytest.approx(np.median([b["sigma_px"] for b in best]), rel=0.4)


def test_scores_do_not_depend_on_gain_and_offset():
    frame = spots((64, 64), [(30, 30)]) + np.random.default_rng(0).normal(0, 5, (64, 64))
    one, other = (LogFinder(0.12).find(f[None]).at(0) for f in (frame, 7 * frame + 1000))
    np.testing.assert_allclose(np.sort(one["score"]), np.sort(other["score"]), rtol=2e-3)


@pytest.mark.parametrize(
    "frame", [np.full((40, 40), 7.0), np.zeros((40, 40), np.uint8), np.full((40, 40), np.nan)], ids=["constant", "zero", "nan"]
)
def test_blank_frames_have_no_columns(frame):
    assert LogFinder(0.1).find(frame[None]).n_peaks == 0


def test_bad_pixels_do_not_spoil_a_frame():
    frame = spots((64, 64), [(30, 30)]) + np.random.default_rng(0).normal(0, 5, (64, 64))
    frame[5:8, 5:9] = np.nan
    best = max(LogFinder(0.12).find(frame[None]).at(0), key=lambda p: p["score"])
    assert np.hypot(best["row"] - 30, best["col"] - 30) < 0.5


def test_int8_does_not_overflow(case):
    small = (np.asarray(case.movie.data[:1]) // 4 - 100).astype(np.int8)
    table = LogFinder(0.12).find(small)
    assert (table.column("score") > 0.5).sum() > 30


def test_maxima_keep_their_distance_and_plateaus_count_once():
    image = np.zeros((30, 30))
    image[10, 10:13] = 5.0
    image[20, 20] = 4.0
    image[22, 20] = 3.0
    where = local_maxima(image, 3.0, 1.0)
    assert len(where) == 2
    assert [20, 20] in where.tolist()


def test_parabola_finds_the_top():
    r, c = np.mgrid[:21, :21]
    image = 10 - 0.3 * (r - 10.3) ** 2 - 0.2 * (c - 9.8) ** 2 + 0.05 * (r - 10.3) * (c - 9.8)
    row, col, height, _ = refine_maxima(image, np.array([[10, 10]]), 2.0)
    assert (row[0], col[0], height[0]) == pytest.approx((10.3, 9.8, 10.0))


@pytest.mark.parametrize(("c10", "cs", "sign"), [(60.0, -13.0, "bright"), (-60.0, 13.0, "dark")])
def test_contrast_is_chosen_from_the_frames(c10, cs, sign):
    movie, _ = blinking_movie((3, 160, 160), 2, conditions=Conditions(c10_A=c10, cs_um=cs))
    decided = choose_contrast(movie, ColumnParams())
    assert decided.contrast == sign
    assert decided.confidence > 0.7


def test_focal_series_and_images_are_taken(case):
    frames = np.asarray(case.movie.data[:6])
    series = in_memory(frames.reshape(2, 3, 192, 192), "focal_series", case.movie.calibration)
    assert find_columns(series, model="log", contrast="bright").shape == (2,)
    image = in_memory(frames[0], "image", case.movie.calibration)
    assert find_columns(image, model="log", contrast="bright").shape == (1,)


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [((9, 50, 3), "movie", "colour"), ((4, 5, 200), "movie", "8 x 8"), ((2, 2, 20, 20), "datacube", "4D-STEM")],
)
def test_what_is_no_movie_is_refused(shape, kind, message):
    signal = in_memory(np.zeros(shape), kind, Calibration(pixel_nm=(0.01, 0.01)))
    with pytest.raises(EmdlError, match=message):
        find_columns(signal, model="log")


def test_pixel_size_can_be_typed_and_is_asked_for_where_nothing_tells_it(case):
    with pytest.raises(EmdlError, match=r"pixel size is unknown.*no lattice"):
        find_columns(in_memory(np.zeros((2, 64, 64)), "movie", Calibration()), model="log")
    movie = in_memory(np.asarray(case.movie.data[:2]), "movie", Calibration())
    assert find_columns(movie, model="log", pixel_size_A=0.12).attrs["pixel_A"] == 0.12


def test_bad_options_are_one_line(case):
    with pytest.raises(EmdlError, match="there is no parameter 'bogus'"):
        find_columns(case.movie, bogus=1)
    with pytest.raises(EmdlError, match="min_score"):
        find_columns(case.movie, min_score=7)
    with pytest.raises(EmdlError, match="there is no model"):
        find_columns(case.movie, model="no-such-model")


def test_cancel_and_resume(case, tmp_path):
    control = Control()
    done = []

    def stop(block, table):
        done.append(block.stop)
        control.cancel()

    output = tmp_path / "columns.h5"
    with pytest.raises(Cancelled):
        find_columns(
            case.movie, model="log", contrast="bright", output=str(output), control=control, on_block=stop,
            run=RunParams(max_memory="6MB", workers=1),
        )  # fmt: skip
    assert 0 < done[-1] < 30
    table = find_columns(
        case.movie, model="log", contrast="bright", output=str(output), run=RunParams(max_memory="6MB", workers=1, resume=True)
    )
    np.testing.assert_array_equal(table.column("row"), case.columns.column("row"))


@given(st.tuples(st.integers(20, 90), st.integers(20, 90)), st.floats(0.4, 2.5))
@settings(max_examples=30, deadline=None)
def test_grid_maps_there_and_back(shape, factor):
    grid = Grid.scaled(shape, factor)
    points = np.random.default_rng(0).uniform(0, 20, (5, 2))
    np.testing.assert_allclose(grid.to_frame(grid.to_grid(points)), points, atol=1e-9)
    corner = grid.to_grid(np.array([-0.5, -0.5]))
    np.testing.assert_allclose(corner, -0.5, atol=1e-9)


@pytest.mark.parametrize("factor", [0.6, 0.85, 1.3, 1.9])
def test_resampling_moves_nothing(factor):
    frame = spots((96, 80), [(40.3, 37.6)], sigma=5)
    grid = Grid.scaled(frame.shape, factor)
    image = grid.resample(frame)
    assert image.shape == grid.shape
    weight = image - 50
    r, c = np.mgrid[: image.shape[0], : image.shape[1]]
    centre = np.array([(weight * r).sum(), (weight * c).sum()]) / weight.sum()
    np.testing.assert_allclose(grid.to_frame(centre), (40.3, 37.6), atol=0.02)


def test_log_finds_a_lattice_that_fills_the_frame():
    random = np.random.default_rng(0)
    rows, cols = np.mgrid[:220, :220]
    sites = np.array([(r, c + 6 * (k % 2)) for k, r in enumerate(range(8, 215, 21)) for c in range(8, 208, 24)], float)
    image = np.full((220, 220), 10.0)
    for r, c in sites:
        image += 4 * np.exp(-((rows - r) ** 2 + (cols - c) ** 2) / (2 * 4.5**2))
    table = LogFinder(0.1).find(random.poisson(image)[None].astype(np.float32)).filter(min_score=0.5)
    apart = np.hypot(*(sites[:, None] - table.positions_px()[None]).transpose(2, 0, 1))
    assert (apart.min(1) < 5).mean() > 0.9
    assert (apart.min(0) < 5).mean() > 0.95
    # noise alone has no columns, whatever fills part of the frame
    empty = random.poisson(10, (220, 220)).astype(np.float32)
    empty[:, 150:] = np.nan
    assert len(LogFinder(0.1).find(empty[None]).filter(min_score=0.5).positions_px()) <= 10
