"""Progress bars in a notebook: only there, only where nobody passed a control, and closed whatever happens."""

from __future__ import annotations

import pytest

from napari_emdl.jobs import notebook
from napari_emdl.jobs.control import Control


class Bar:
    """What of a bar of tqdm is used."""

    made: list[Bar] = []

    def __init__(self, desc: str, unit: str, total: int | None) -> None:
        self.desc, self.unit, self.total, self.n, self.closed = desc, unit, total, 0, False
        self.seen: list[tuple[str, int, int | None]] = []
        Bar.made.append(self)

    def reset(self, total: int) -> None:
        self.total = total

    def set_description_str(self, text: str, refresh: bool) -> None:
        self.desc = text

    def refresh(self) -> None:
        self.seen.append((self.desc, self.n, self.total))

    def close(self) -> None:
        self.closed = True


@notebook.with_progress("finding", "patterns")
def job(steps: int, *, control: Control | None = None) -> Control | None:
    for i in range(steps):
        if control is not None:
            control.report(i + 1, steps)
    if steps == 0:
        raise ValueError("nothing to do")
    return control


@pytest.fixture
def in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    tqdm = pytest.importorskip("tqdm.auto")
    monkeypatch.setattr(notebook, "in_notebook", lambda: True)
    monkeypatch.setattr(tqdm, "tqdm", Bar)
    Bar.made.clear()


def test_there_is_a_bar_in_a_notebook(in_a_notebook: None) -> None:
    job(3)
    (bar,) = Bar.made
    assert bar.seen == [("finding", 1, 3), ("finding", 2, 3), ("finding", 3, 3)] and bar.unit == " patterns"
    assert bar.closed


def test_a_bar_is_closed_after_an_error(in_a_notebook: None) -> None:
    with pytest.raises(ValueError):
        job(0)
    assert Bar.made[0].closed


def test_whoever_passes_a_control_shows_progress_himself(in_a_notebook: None) -> None:
    mine = Control()
    assert job(2, control=mine) is mine
    assert not Bar.made


def test_there_is_none_in_a_script() -> None:
    assert not notebook.in_notebook()
    assert job(2) is None
