from __future__ import annotations

import numpy as np
import pytest

from helpers.disks_made import G, deformation, lattice_points, pattern
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.bench import speed
from napari_emdl.bench.disks import Case, load_case, markdown, measure, run, score, tune_threshold
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


def test_bench_speed_prints_rates_floor_and_growth(capsys, monkeypatch):
    monkeypatch.setattr(speed, "sample_case", case)
    monkeypatch.setattr(speed, "_GROWTH_SIZES", (128,))
    monkeypatch.setattr(speed, "_GROWTH_DISKS", (9,))
    monkeypatch.setattr(speed, "_GROWTH_SCANS", (2,))
    monkeypatch.setattr(speed, "lattice_case", lambda size, disks, count: whole(size, disks, min(count, 2)))
    whole = speed_lattice_case
    assert speed.run(["--methods", "template,blobfinder", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert "blobfinder left out: not installed" in out or "| made | blobfinder |" in out
    assert "| made | template |" in out and "floor of made:" in out and "| 9 disks, 256 px" in out


def test_made_lattices_have_as_many_disks_as_asked():
    for disks in (9, 13, 29):
        made = speed_lattice_case(256, disks, 1)
        table = speed.our_finder(made, "template", "cpu")(made.patterns)
        assert abs(table.n_peaks - disks) <= 1
