from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from helpers.disks_made import G, deformation, lattice_points, pattern
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.bench import diskfinders, disks, speed
from napari_emdl.bench.cases import Case, load_case
from napari_emdl.bench.columns import load_case as load_movie
from napari_emdl.bench.disks import markdown, measure, run, score, tune_threshold
from napari_emdl.bench.speed import lattice_case as speed_lattice_case
from napari_emdl.diffraction.find.probe import synthetic_probe

SHAPE = (160, 160)
ORIGIN = np.array([80.0, 80.0])


def case() -> Case:
    random = np.random.default_rng(0)
    f = np.stack([deformation(*random.uniform(-0.02, 0.02, 4)) for _ in range(6)])
    images = [pattern(lattice_points(G @ np.linalg.inv(one), ORIGIN, SHAPE)[0], SHAPE) for one in f]
    data = random.poisson(np.stack(images)).astype(np.uint16)
    return Case("made", data, synthetic_probe(5.0, SHAPE).image, f, G, np.tile(ORIGIN, (6, 1)))


def perfect(c: Case, shift: float = 0.0, extra: int = 0) -> PeakTable:
    lists = []
    for f in c.deformation:
        place, _ = lattice_points(c.g_px @ np.linalg.inv(f), ORIGIN, SHAPE)
        place = np.concatenate([place + shift, np.full((extra, 2), 67.0)])
        lists.append(
            {"row": place[:, 0], "col": place[:, 1], "score": np.ones(len(place)), "sigma_px": np.full(len(place), 0.1)}
        )
    return PeakTable.from_lists(lists)


def test_scores_of_perfect_shifted_and_false_disks():
    c = case()
    right = score(c, perfect(c))
    assert right["strain_rmse_pct"] < 1e-6 and right["gain"] == pytest.approx(1) and right["precision"] == 1
    # the made disks keep off the edge a little further than the definition asks
    assert right["recall"] > 0.9 and right["failed"] == 0
    moved = score(c, perfect(c, shift=0.3))
    assert moved["disk_rmse_px"] == pytest.approx(0.3 * np.sqrt(2)) and moved["strain_rmse_pct"] < 1e-6
    spoilt = score(c, perfect(c, extra=2))
    n = perfect(c).n_peaks
    assert spoilt["precision"] == pytest.approx(n / (n + 12))
    nothing = score(c, PeakTable.empty((6,), ("row", "col", "score", "sigma_px")))
    assert nothing["recall"] == 0 and nothing["failed"] == 6 and np.isnan(nothing["error_over_sigma"])


def test_error_over_sigma_of_noisy_disks():
    c = case()
    table = perfect(c)
    noise = 0.1 * np.random.default_rng(3).standard_normal((table.n_peaks, 2))
    columns = {name: table.column(name) for name in table.fields}
    noisy = columns | {"row": columns["row"] + noise[:, 0], "col": columns["col"] + noise[:, 1]}
    assert score(c, PeakTable(table.shape, table.offset, noisy))["error_over_sigma"] == pytest.approx(1, abs=0.4)
    sure = noisy | {"sigma_px": columns["sigma_px"] / 3}
    # residuals that are too large for their sigmas enlarge the sigma of the strain
    assert score(c, PeakTable(table.shape, table.offset, sure))["error_over_sigma"] == pytest.approx(1, abs=0.4)


def test_table_of_our_methods_and_notes_on_those_left_out(capsys):
    c = case()
    rows, _ = measure(c, ["template"], rounds=1)
    assert rows[0].precision > 0.95 and rows[0].recall > 0.9 and rows[0].patterns_per_s > 0
    assert rows[0].strain_rmse_pct < 0.2
    assert "| made | template |" in markdown(rows)
    assert tune_threshold(c, perfect(c))[1]["failed"] == 0
    with pytest.raises(EmdlError, match="no method"):
        run(["--methods", "magic"])
    with pytest.raises(EmdlError, match="is missing"):
        load_case("nowhere/case")


def test_better_than_py4dstem_tuned_on_a_validation_case(shared_data):
    c = load_case(shared_data / "cases" / "al")
    rows, _ = measure(c, ["template"], rounds=1)
    assert rows[0].strain_rmse_pct < 0.495
    assert rows[0].precision > 0.78 and rows[0].recall > 0.39
    assert rows[0].gain == pytest.approx(1, abs=0.03)


def written(folder: Path, c: Case, **truth: np.ndarray) -> Path:
    with h5py.File(folder / "made.emd.h5", "w") as file:
        file["data"] = c.patterns[None]
    np.save(folder / "made_probe.npy", c.probe)
    with h5py.File(folder / "made_truth.h5", "w") as file:
        for name, values in truth.items():
            file[f"truth/{name}"] = values
    return folder / "made"


def test_a_case_without_deformation_is_an_unstrained_crystal(tmp_path):
    c = case()
    prefix = written(tmp_path, c, g_px=G, origin_px=ORIGIN)
    loaded = load_case(prefix)
    np.testing.assert_array_equal(loaded.deformation, np.tile(np.eye(2), (6, 1, 1)))
    still = Case("still", c.patterns, c.probe, loaded.deformation, G, loaded.origin_px)
    values = score(still, perfect(still))
    assert values["strain_rmse_pct"] < 1e-6 and np.isnan(values["gain"])


def test_a_truth_that_is_none_is_one_line(tmp_path):
    c = case()
    with pytest.raises(EmdlError, match=r"made_truth.h5 has no truth/g_px"):
        load_case(written(tmp_path, c, origin_px=ORIGIN))
    with pytest.raises(EmdlError, match="tells the deformation of 2 patterns, the case has 6"):
        load_case(written(tmp_path, c, g_px=G, origin_px=ORIGIN, F=c.deformation[:2]))
    tifffile.imwrite(tmp_path / "made.tif", np.zeros((2, 8, 8), np.uint8))
    with pytest.raises(EmdlError, match="has no attribute s"):
        load_movie(tmp_path / "made")
    with h5py.File(tmp_path / "made_truth.h5", "a") as file:
        file.attrs["s"] = 0.1
    with pytest.raises(EmdlError, match="has no truth/sites_px"):
        load_movie(tmp_path / "made")


def test_a_method_that_is_not_installed_is_said_once(capsys, monkeypatch):
    monkeypatch.setitem(diskfinders.PACKAGES, "blobfinder", "no_such_package")
    cases = [case(), case()]
    monkeypatch.setattr(disks, "load_case", lambda prefix: cases.pop())
    assert run(["a", "b", "--methods", "template,blobfinder", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert out.count("left out") == 1 and "blobfinder left out: not installed (no_such_package)" in out


def test_bench_speed_prints_rates_floor_and_growth(capsys, monkeypatch):
    monkeypatch.setattr(speed, "sample_case", case)
    monkeypatch.setattr(speed, "_GROWTH_SIZES", (128,))
    monkeypatch.setattr(speed, "_GROWTH_DISKS", (9,))
    monkeypatch.setattr(speed, "_GROWTH_SCANS", (2,))
    monkeypatch.setattr(speed, "lattice_case", lambda size, wanted, count: whole(size, wanted, min(count, 2)))
    whole = speed_lattice_case
    assert speed.run(["--methods", "template,blobfinder", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert "blobfinder left out: not installed" in out or "| made | blobfinder |" in out
    assert "| made | template |" in out and "floor of made:" in out and "| 9 disks, 256 px" in out


def test_made_lattices_have_as_many_disks_as_asked():
    for wanted in (9, 13, 29):
        made = speed_lattice_case(256, wanted, 1)
        table = speed.our_finder(made, "template", "cpu")(made.patterns)
        assert abs(table.n_peaks - wanted) <= 1
