"""The judge of the whole program on patterns of held-out crystals: counts by hand, crystals no training sees, its table."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from napari_emdl.base.peaks import PeakTable  # noqa: E402
from napari_emdl.training.diffraction.crystals import catalogue, is_validation  # noqa: E402
from napari_emdl.training.diffraction.mapped import known_crystals  # noqa: E402
from napari_emdl.training.diffraction.nothingset import held_out_runs, judge_table, row_of, run  # noqa: E402
from napari_emdl.training.diffraction.render import Pattern  # noqa: E402


def made(snr: list[float]) -> Pattern:
    """Disks of 5 px at (40, 40), (80, 40), ..., of these signal to noise ratios; the last one is cut by the border."""
    centre = np.array([[40.0 * (k + 1), 40.0] for k in range(len(snr) - 1)] + [[2.0, 90.0]])
    basis = np.array([[40.0, 0.0], [0.0, 40.0]])
    one, hk = torch.ones(len(snr)), np.zeros((len(snr), 2), int)
    place, signal = torch.tensor(centre), torch.tensor(snr)
    blank = torch.zeros((256, 256))
    return Pattern(blank, blank, place, hk, np.ones(len(snr)), one, signal, basis, centre[0], 5.0)


def table_of(rows: list[float], scores: list[float], radius_px: float = 5.4) -> PeakTable:
    columns = {"row": np.array(rows), "col": np.full(len(rows), 41.0), "score": np.array(scores)}
    table = PeakTable((1,), np.array([0, len(rows)]), {k: v.astype(np.float32) for k, v in columns.items()})
    table.attrs.update(default_min_score=0.5, probe_radius_px=radius_px, note="")
    return table


def test_counts_of_a_table() -> None:
    pattern = made([20.0, 8.0, 3.0, 0.5, 50.0])
    verdict = judge_table(table_of([40.5, 80.0, 120.0, 160.0, 200.0, 81.0], [0.9, 0.3, 0.9, 0.9, 0.9, 0.2]), pattern)
    assert verdict.found == 4  # two are below the threshold
    assert verdict.true == 2  # what has no signal is no disk
    assert verdict.clear == 2 and verdict.seen == 1  # the one at the border is not asked for
    assert verdict.ratio == pytest.approx(1.08) and verdict.right_radius
    assert row_of("all", [verdict]) == "| all | 1 | 1.00 | 0 / 0 | 0.500 / 0.500 | 0 |"
    none = judge_table(table_of([], [], 4.0), pattern)
    assert not none.right_radius
    assert row_of("both", [verdict, none]) == "| both | 2 | 0.50 | 1 / 0 | 0.500 / 0.250 | 1 |"


def test_crystals_are_those_that_no_training_sees() -> None:
    names = {crystal.name for crystal in (*catalogue(), *known_crystals()) if is_validation(crystal)}
    runs = held_out_runs(2, seed=3)
    assert all(one.meta["validation"] and one.meta["crystal"] in names for one in runs)
    assert runs[0].meta["zone"] is None and runs[1].meta["zone"] is not None


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    out = tmp_path / "verdicts.json"
    assert run(["--runs", "2", "--count", "1", "--kind", "plain", "--seed", "4", "--method", "light", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "| plain |" in text and "| all |" in text and out.is_file()
