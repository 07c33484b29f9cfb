"""The column network as shipped: tiles, rescaling, focal series, what does not fit."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from scipy.spatial import cKDTree
from tests.atoms.conftest import match

from napari_emdl.atoms.find import maps as map_cache
from napari_emdl.atoms.find import networktiles
from napari_emdl.atoms.find.card import encode_conditions
from napari_emdl.atoms.find.columns import find_columns
from napari_emdl.atoms.find.making import _of_two
from napari_emdl.atoms.find.network import NetworkColumnFinder
from napari_emdl.atoms.find.prepared import Preparation
from napari_emdl.atoms.find.resample import Grid
from napari_emdl.atoms.find.tiles import Tile, quartered, spans, spread, tiles
from napari_emdl.base.caveats import Caveats
from napari_emdl.base.errors import EmdlError, ModelError
from napari_emdl.base.signals import in_memory
from napari_emdl.models.registry import find_model, list_models, shipped_models
from napari_emdl.models.session import Session
from napari_emdl.samples.atoms import Conditions, blinking_movie


@pytest.fixture(scope="module")
def model():
    names = [e.name for e in list_models("columns") if e.source == "shipped" and not e.problem]
    if "columns" not in names:
        pytest.skip("no column network is shipped yet")
    return find_model("columns")


@pytest.fixture(scope="module")
def session(model):
    return Session(model, "cpu")


@pytest.fixture(scope="module")
def frame():
    movie, truth = blinking_movie((1, 416, 448), 1, conditions=Conditions(pixel_A=0.1, dose_e_per_A2=400))
    return np.asarray(movie.data), truth


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(map_cache, "shared", map_cache.MapCache(1 << 26))


def positions(table, least=0.5):
    shown = table.filter(min_score=least).at(0)
    return np.stack([shown["row"], shown["col"]], -1)


def test_columns_are_found_where_they_are(model, session, frame):
    frames, truth = frame
    finder = NetworkColumnFinder(model, 0.1, "bright", session=session)
    found = positions(finder.find(frames), finder.default_min_score)
    true = (truth.sites_px + truth.drift_px[0])[truth.occupied[0]]
    i, j = match(true, found, 5.0)
    assert len(i) > 0.85 * len(true)
    assert np.std(true[i] - found[j]) < 1.5


def test_tiled_is_untiled(model, session, frame):
    frames, _ = frame
    whole = NetworkColumnFinder(model, 0.1, "bright", session=session, tile_px=1024)
    tiled = NetworkColumnFinder(model, 0.1, "bright", session=session, tile_px=368)
    assert len(whole.tiled.tiles((416, 448))) == 1
    assert len(tiled.tiled.tiles((416, 448))) > 4
    maps = [f.logit_maps(frames)[0] for f in (whole, tiled)]
    np.testing.assert_allclose(maps[0], maps[1], atol=0.05)
    one, other = positions(whole.find(frames), 0.2), positions(tiled.find(frames), 0.2)
    i, j = match(one, other, 0.5)
    assert len(i) >= len(one) - 1 and len(i) >= len(other) - 1
    np.testing.assert_allclose(one[i], other[j], atol=0.05)


@pytest.mark.parametrize("factor", [1.5, 0.6])
def test_other_pixel_sizes_are_rescaled_and_positions_come_back(model, session, frame, factor):
    frames, _ = frame
    grid = Grid.scaled(frames.shape[1:], factor)
    other = NetworkColumnFinder(model, 0.1 / factor, "bright", session=session)
    assert other.network_A != other.pixel_A
    one = positions(NetworkColumnFinder(model, 0.1, "bright", session=session).find(frames), 0.6)
    back = grid.to_frame(positions(other.find(grid.resample(frames[0])[None]), 0.3))
    i, j = match(one, back, 4.0)
    assert len(i) > 0.8 * len(one)
    assert np.abs(np.median(one[i] - back[j], axis=0)).max() < 0.15


def test_evidence_is_high_at_columns_low_between_and_missing_outside(model, session, frame):
    frames, truth = frame
    finder = NetworkColumnFinder(model, 0.1, "bright", session=session)
    at = (truth.sites_px + truth.drift_px[0])[truth.occupied[0] & ~truth.blinking]
    points = np.concatenate([at, [[-3.0, 10.0], [5.0, 5.0]]])
    values = finder.sample(frames, points[None])[0]
    assert np.isnan(values[-2])
    assert np.median(values[: len(at)]) > values[-1] + 3


def test_evidence_is_the_same_whether_it_was_remembered_or_not(model, session, frame):
    frames, truth = frame
    points = truth.sites_px[None]
    finder = NetworkColumnFinder(model, 0.1, "bright", session=session)
    fresh = finder.sample(frames, points)
    calls = []
    run, session.run = session.run, lambda *a, **k: calls.append(1)
    try:
        remembered = finder.sample(frames, points)
    finally:
        session.run = run
    assert not calls
    np.testing.assert_array_equal(fresh, remembered)


def test_memory_for_maps_is_bounded():
    cache = map_cache.MapCache(1000)
    for i in range(10):
        cache.put(bytes([i]), np.zeros(100))
    assert cache._bytes <= 1000
    assert cache.get(bytes([0])) is None
    assert cache.get(bytes([9])) is not None


@pytest.mark.parametrize(
    "frame", [np.full((40, 52), 3, np.uint8), np.full((40, 52), np.nan, np.float32)], ids=["constant", "nan"]
)
def test_blank_frames_have_no_columns(model, session, frame):
    finder = NetworkColumnFinder(model, 0.1, "bright", session=session)
    assert finder.find(frame[None]).n_peaks == 0
    assert np.isnan(finder.sample(frame[None], np.array([[[5.0, 5.0]]]))).all()


def test_small_odd_frames_are_taken(model, session):
    frame = np.random.default_rng(0).poisson(20, (1, 37, 21)).astype(np.uint8)
    table = NetworkColumnFinder(model, 0.1, "bright", session=session).find(frame)
    assert table.shape == (1,)
    assert ((table.column("row") >= -0.5) & (table.column("row") <= 36.5)).all()


def test_number_of_foci_must_fit(model, session, case):
    finder = NetworkColumnFinder(model, 0.1, "bright", session=session)
    with pytest.raises(EmdlError, match="takes 1 image"):
        finder.find(np.zeros((1, 3, 64, 64)))
    series = in_memory(np.zeros((1, 7, 64, 64)), "focal_series", case.movie.calibration)
    with pytest.raises(EmdlError, match="focal series of 7"):
        find_columns(series, contrast="bright")


def test_pixel_size_outside_the_training_is_said(model, session):
    finder = NetworkColumnFinder(model, 0.6, "bright", session=session)
    assert "outside" in str(finder.info.caveats)
    assert NetworkColumnFinder(model, 0.1, "bright", session=session).info.caveats == ()


def test_a_model_of_another_kind_is_refused(model, session):
    class Other:
        provider, note = "CPUExecutionProvider", ""

        def require(self, inputs, outputs):
            raise ModelError("needs inputs image, conditions")

    with pytest.raises(ModelError, match="needs inputs"):
        NetworkColumnFinder(model, 0.1, session=Other())


def test_conditions_that_do_not_fit_the_network_are_one_line(model, frame, tmp_path):
    copied = tmp_path / "mine"
    shutil.copytree(model.folder, copied)
    card = copied / "rdf.yaml"
    card.write_text(card.read_text(encoding="utf-8").replace("      size: 24\n", "      size: 12\n", 1), encoding="utf-8")
    with pytest.raises(EmdlError, match=r"does not run on this input .*conditions.*12 Expected: 24") as caught:
        find_columns(in_memory(frame[0], "movie"), model=str(copied), pixel_size_A=0.1, contrast="bright")
    assert "\n" not in str(caught.value)


def test_contrast_is_chosen_by_the_network_and_doubt_is_said(model, frame):
    frames, _ = frame
    movie = in_memory(frames, "movie")
    table = find_columns(movie, pixel_size_A=0.1)
    assert table.attrs["contrast"] == "bright" and table.attrs["contrast_confidence"] > 0.8
    assert "contrast" not in table.attrs["note"]
    noise = in_memory(np.random.default_rng(0).poisson(20, (2, 128, 128)), "movie")
    doubt = find_columns(noise, pixel_size_A=0.1)
    assert 0.5 <= doubt.attrs["contrast_confidence"] < 0.8 and "no columns" in doubt.attrs["note"]


@pytest.mark.parametrize("turn", [0.0, 0.6])
def test_a_grating_gives_no_columns_and_one_line(model, turn):
    row, col = np.indices((300, 300)) * 0.1
    grating = 100 + 50 * np.cos(2 * np.pi * (row * np.cos(turn) + col * np.sin(turn)) / 1.8)
    table = find_columns(in_memory(grating.astype(np.float32), "image"), pixel_size_A=0.1)
    assert table.filter(min_score=table.attrs["default_min_score"]).n_peaks == 0
    assert "no columns" in table.attrs["note"] and "\n" not in table.attrs["note"]


class _Stub:
    """What `_of_two` needs of a finder."""

    def __init__(self, contrast, passing, confidence=None, spots=None, refused=False):
        self.contrast, self.passing, self.contrast_confidence = contrast, passing, confidence
        self.caveats, self.readings = Caveats(), {}
        self.default_min_score = 1.0 if refused else 0.5
        points = np.zeros((0, 2)) if spots is None else spots
        self.sampled_spots = [(points, np.full(len(points), 0.9))]


def test_both_readings_are_offered_where_the_contrast_is_unsure():
    taken = _of_two(_Stub("bright", 40.0, 0.6), _Stub("dark", 32.0))
    assert (taken.contrast, taken.contrast_confidence, taken.readings) == ("bright", 0.6, {"bright": 40.0, "dark": 32.0})
    assert "40 columns a frame; dark gives 32" in str(taken.caveats) and "contrast='dark'" in str(taken.caveats)


def test_the_other_reading_is_taken_where_nothing_passes_in_the_first():
    taken = _of_two(_Stub("bright", 0.0, 0.6), _Stub("dark", 32.0))
    assert (taken.contrast, taken.contrast_confidence) == ("dark", 0.5) and "dark was taken" in str(taken.caveats)
    nothing = _of_two(_Stub("bright", 0.0, 0.6), _Stub("dark", 0.0))
    assert nothing.contrast == "bright" and not nothing.caveats and not nothing.readings


def test_a_few_spots_are_not_taken_where_the_other_reading_is_no_crystal():
    few = np.random.default_rng(1).uniform(0, 100, (3, 2))
    lattice = np.stack(np.meshgrid(np.arange(5), np.arange(5)), -1).reshape(-1, 2) * 20.0
    for first, second in (("bright", "dark"), ("dark", "bright")):
        nothing = _of_two(_Stub("bright", 3.0, 0.6, few), _Stub("dark", 0.0, refused=True))
        assert nothing.passing == 0 and nothing.default_min_score == 1 and "no columns" in str(nothing.caveats)
        nothing = _of_two(_Stub(first, 0.0, 0.6, refused=True), _Stub(second, 3.0, spots=few))
        assert nothing.passing == 0 and not nothing.readings
        taken = _of_two(_Stub(first, 0.0, 0.6, refused=True), _Stub(second, 25.0, spots=lattice))
        assert taken.contrast == second and taken.passing == 25


def test_a_tile_with_more_candidates_than_the_network_lists_is_cut_again(model, session, frame, monkeypatch):
    frames, _ = frame
    finder = NetworkColumnFinder(model, 0.1, "bright", session=session)
    asked: list[tuple[int, ...]] = []

    def list_is_full(images, told, outputs, control):
        asked.append(images.shape[-2:])
        found = dict(finder.session.run({"image": images, "conditions": told}, outputs, control))
        if len(asked) == 1:
            found["candidates"] = found["candidates"][:, :100]  # all of them columns
        return found

    monkeypatch.setattr(finder.tiled, "run", list_is_full)
    table = finder.find(frames)
    assert len(asked) == 5 and max(asked[1:]) < asked[0]
    assert table.attrs["crowded_frames"] == 0
    whole = NetworkColumnFinder(model, 0.1, "bright", session=session).find(frames)
    at, other = positions(table), positions(whole)
    assert len(at) == len(other)
    assert match(at, other, 0.05)[0].size == len(at)


def test_a_crowded_image_is_cut_small_before_the_network_runs(model, session, monkeypatch):
    finder = NetworkColumnFinder(model, 0.1, "bright", session=session)
    grid, images = Grid.scaled((4096, 4096), 1.0), np.broadcast_to(np.float32(0), (1, 3, 4096, 4096))
    tiles = finder.tiled.tiles(grid.shape)
    for seen, factor in ((300, 1), (2000, 4)):  # in 512 x 512 pixels
        listed = np.zeros((1, 12288, 6), np.float32)
        listed[0, :seen, 2] = 0.9
        monkeypatch.setattr(finder.tiled, "run", lambda *_, listed=listed: {"candidates": listed})
        assert len(finder._tiles(images, np.zeros((1, 1), np.float32), grid, None)) == factor * len(tiles)


def test_tiles_are_alike_and_their_quarters_fill_them():
    sizes = [size for _, size, _ in spans(3277, 2048, 144, 16)]
    assert len(sizes) == 2 and max(sizes) - min(sizes) <= 32
    (tile, *_) = tiles((3277, 900), 2048, 144, 16)
    quarters = quartered(tile, (3277, 900), 144, 16)
    seen = np.zeros((3277, 900), int)
    for part in quarters:
        (top, bottom), (left, right) = part.core
        seen[top:bottom, left:right] += 1
        assert all(start % 16 == 0 and size % 16 == 0 for start, size in zip(part.start, part.size, strict=True))
    (top, bottom), (left, right) = tile.core
    assert seen[top:bottom, left:right].all() and seen.sum() == (bottom - top) * (right - left) == (seen > 0).sum()
    assert quartered(Tile((0, 0), (144, 144), ((0, 144), (0, 144))), (144, 144), 144, 16) == []


def test_contrast_comes_from_where_columns_are_in_a_large_frame(model, session, frame):
    large = np.random.default_rng(0).poisson(float(frame[0].mean()), (1, 1100, 1600)).astype(np.float32)
    large[:, 650:1066, 1100:1548] = frame[0]
    tiled = NetworkColumnFinder(model, 0.1, "unknown", session=session, tile_px=768)
    assert len(tiled.tiled.tiles((1100, 1600))) > 4
    assert tiled.bright_probability(np.repeat(large, 4, 0)) > 0.7


def test_the_contrast_of_very_large_frames_comes_from_a_few_parts(model, session, frame, monkeypatch):
    monkeypatch.setattr(networktiles, "GLANCE_FROM_PX", 300)
    monkeypatch.setattr(networktiles, "GLANCE_PX", 160)
    monkeypatch.setattr(networktiles, "GLANCE_LEAST", 50)
    frames, _ = frame
    finder = NetworkColumnFinder(model, 0.1, "unknown", session=session)
    asked: list[tuple[int, ...]] = []
    run = finder.tiled.run
    monkeypatch.setattr(finder.tiled, "run", lambda images, *rest: asked.append(images.shape) or run(images, *rest))
    glanced = finder.bright_probability(frames)
    assert len(asked) == 5 and max(shape[-1] for shape in asked[:4]) == 160  # four parts, and the densest
    monkeypatch.setattr(networktiles, "GLANCE_LEAST", 10**6)  # nothing seen in the parts: the whole frame
    asked.clear()
    whole = finder.bright_probability(frames)
    assert len(asked) == 6 and (glanced > 0.5) == (whole > 0.5)


def test_frames_are_prepared_once_for_contrast_and_columns(model, session, frame, monkeypatch):
    frames, _ = frame
    asks = NetworkColumnFinder(model, 0.1, "unknown", session=session)
    finds = NetworkColumnFinder(model, 0.1, "bright", session=session, preparation=asks.preparation)
    made = []
    plain = Preparation._prepared
    monkeypatch.setattr(Preparation, "_prepared", lambda self, *given: made.append(1) or plain(self, *given))
    asks.bright_probability(frames)
    table = finds.find(frames)
    assert len(made) == 1
    other = frames.copy()
    other[0, 0, 0] += 1
    finds.find(other)
    assert len(made) == 2
    alone = NetworkColumnFinder(model, 0.1, "bright", session=session).find(frames)
    np.testing.assert_array_equal(table.positions_px(), alone.positions_px())


def test_parts_are_spread_from_end_to_end():
    assert spread(3280, 512, 16) == [0, 1376, 2768]
    assert spread(700, 512, 16) == [80]
    assert spread(100, 512, 16) == [0]


def test_unknown_conditions_stay_zero():
    layout = {
        "size": 7,
        "contrast": {"bright": 0, "dark": 1},
        "numeric": [
            {"name": "energy_keV", "known": 2, "value": 3, "scale": 300},
            {"name": "sampling_A", "known": 4, "value": 5, "scale": 0.1},
        ],
    }
    vector = encode_conditions(layout, "dark", {"energy_keV": None, "nonsense": 3.0}, 0.08)
    np.testing.assert_allclose(vector, [0, 1, 0, 0, 1, 0.8, 0])
    np.testing.assert_allclose(encode_conditions(layout, "unknown", {"energy_keV": 150.0}, 0.1), [0, 0, 1, 0.5, 1, 1, 0])


def test_layouts_of_training_and_of_the_finder_agree(model):
    conditions = pytest.importorskip("napari_emdl.training.atoms.conditions")
    layout = model.card.config.emdl.model_extra["conditions"]
    ours = encode_conditions(layout, "bright", {"energy_keV": 300.0, "C10_A": -75.0}, 0.095)
    theirs = conditions.encode_full("bright", energy_keV=300.0, C10_A=-75.0, sampling_A=0.095)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_more_candidates_than_the_network_returns_are_said(model, session, frame, monkeypatch):
    """A network returns so many places of a tile and no more; when the last one is a candidate still, others are lost."""
    whole = session.run

    def few(feeds, outputs, control=None):
        got = whole(feeds, outputs, control)
        return {name: values[:, :20] if name == "candidates" else values for name, values in got.items()}

    movie = in_memory(frame[0], "movie")
    assert "more candidates" not in find_columns(movie, pixel_size_A=0.1, contrast="bright").attrs["note"]
    monkeypatch.setattr(Session, "run", lambda self, feeds, outputs, control=None: few(feeds, outputs, control))
    table = find_columns(movie, pixel_size_A=0.1, contrast="bright")
    assert "1 of 1 frames with more candidates than the network returns" in table.attrs["note"]


def test_shipped_models_are_those_of_the_list():
    listed = [e.name for e in list_models("columns") if e.source == "shipped" and not e.problem]
    assert [m.name for m in shipped_models("columns")] == listed


def graphene(seed: int, peak: float, pixel_A: float = 0.1, side_px: int = 320) -> tuple[np.ndarray, np.ndarray]:
    """Counts of a sheet of graphene under an annular detector, and its atoms in px."""
    rng = np.random.default_rng(seed)
    turn = np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    cell = 2.46 / pixel_A * np.array([[1, 0], [-0.5, 3**0.5 / 2]]) @ turn.T
    number = np.stack(np.meshgrid(np.arange(-30, 31), np.arange(-30, 31), indexing="ij"), -1).reshape(-1, 2)
    atoms = np.concatenate([number, number + np.array([1 / 3, 2 / 3])]) @ cell + side_px / 2
    atoms = atoms[np.all((atoms > -20) & (atoms < side_px + 20), axis=1)]
    row, col = (np.exp(-((np.arange(side_px)[:, None] - atoms[:, k]) ** 2) / (2 * 4.3**2)) for k in (0, 1))
    return rng.poisson(peak * (0.35 + row @ col.T)).astype(np.float32), atoms


@pytest.mark.parametrize("contrast", ["auto", "bright"])
def test_atoms_of_a_sheet_under_an_annular_detector_are_all_found(contrast):
    # the centres of its rings were taken for dark columns, and of the atoms half were found when the contrast was told
    image, atoms = graphene(2, 4.0)
    table = find_columns(image, pixel_size_A=0.1, contrast=contrast)
    found = table.filter(min_score=table.attrs["default_min_score"]).positions_px()
    inside = atoms[np.all((atoms > 4) & (atoms < 315), axis=1)]
    assert table.attrs["contrast"] == "bright"
    assert np.mean(cKDTree(found).query(inside)[0] < 4) > 0.95 and np.mean(cKDTree(atoms).query(found)[0] < 4) > 0.97
    assert "the columns are those of columns_scanned" in table.attrs["note"]
    assert table.attrs["provenance"]["model"]["model"] == "columns_scanned"
    alone = find_columns(image, pixel_size_A=0.1, contrast=contrast, model="columns")
    assert "columns_scanned" not in alone.attrs["note"]  # who asks for a network gets that one
