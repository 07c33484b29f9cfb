"""The short run: a fixed set of damaged files of every format."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def test_whole_seeds_open(tmp_path: Path) -> None:
    from tests.fuzz.attack import attempt
    from tests.fuzz.seeds import make_seeds

    companions = {"20240919_00001_info.txt", "scan_data_000001.h5"}
    refused = [
        path.name for path in make_seeds(tmp_path / "seeds") if attempt(path) == "refused" and path.name not in companions
    ]
    assert refused == []


@pytest.mark.slow
def test_damaged_files_open_or_are_refused_in_one_line(tmp_path: Path) -> None:
    from tests.fuzz.run import run

    report = run(tmp_path, 130, seed=7)
    assert report.faults == []
    assert report.tried == 130 and report.outcomes["refused"] > 20
