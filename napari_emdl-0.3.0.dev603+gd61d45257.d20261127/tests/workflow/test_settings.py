"""Remembered parameters, presets and undo, without a window."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import DiskLimits, DiskParams, RunParams
from napari_emdl.workflow.settings import Presets, Remembered, UndoStack, describe_limits, recall, remember, remembered_path


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def test_remembered_parameters() -> None:
    memory = Remembered("test", {"disks": ("method", "max_disks"), "run": ("workers",)})
    begun, more = memory.begin({"disks": DiskParams(), "run": RunParams()})
    assert begun == {"disks": DiskParams(), "run": RunParams()} and more == {}
    params = {"disks": DiskParams(method="light", max_disks=9, min_score=0.4), "run": RunParams(workers=3, device="cpu")}
    memory.keep(params, live=False)
    begun, more = memory.begin({"disks": DiskParams(), "run": RunParams()})
    assert begun == {"disks": DiskParams(method="light", max_disks=9), "run": RunParams(workers=3)}
    assert more == {"live": False}
    assert memory.defaults(params)["disks"] == DiskParams(min_score=0.4)


def test_what_another_version_or_a_crash_left() -> None:
    memory = Remembered("test", {"disks": ("method",)})
    remember("test", {"disks": {"method": "magic"}})
    assert memory.begin({"disks": DiskParams()})[0] == {"disks": DiskParams()}
    remembered_path("test").write_text("disks: [", encoding="utf-8")
    assert recall("test") == {} and memory.begin({"disks": DiskParams()})[0] == {"disks": DiskParams()}


def test_presets() -> None:
    presets = Presets("limits", DiskLimits)
    assert presets.limits("strict", 0.5) == DiskLimits(min_score=0.75)
    assert presets.limits("strict", 40.0) == DiskLimits(min_score=80.0)
    assert presets.limits("everything", 0.5) == DiskLimits(min_score=0.0)
    assert presets.limits("default", 0.5) == DiskLimits()
    with pytest.raises(EmdlError, match="no preset 'mine'"):
        presets.limits("mine", 0.5)
    presets.save("mine", DiskLimits(min_score=0.6, max_sigma_px=0.2))
    assert Presets("limits", DiskLimits).limits("mine", 0.5) == DiskLimits(min_score=0.6, max_sigma_px=0.2)
    assert describe_limits(presets.own()["mine"]) == "score ≥ 0.6, sigma ≤ 0.2 px"
    presets.delete("mine")
    assert presets.own() == {}


def test_undo_and_redo() -> None:
    value = [0.5]
    stack = UndoStack(lambda: value[0], lambda new: value.__setitem__(0, new))
    value[0] = 0.4
    stack.rebase()  # the method's own threshold
    assert not stack.can_undo
    for new in (0.5, 0.6, 0.7):
        value[0] = new
    assert stack.can_undo
    stack.settle()
    value[0] = 0.9
    stack.undo()
    assert value[0] == 0.7
    stack.undo()
    assert value[0] == 0.4 and not stack.can_undo
    stack.redo()
    assert value[0] == 0.7
    value[0] = 0.1
    stack.settle()
    assert not stack.can_redo
    stack.clear()
    assert not stack.can_undo
