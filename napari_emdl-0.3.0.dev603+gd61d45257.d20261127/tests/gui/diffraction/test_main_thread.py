"""Nothing heavy runs in the thread of the window, from the sample to a restored project."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from helpers.stalls import StallLog
from napari_emdl.gui.kit import session

pytestmark = pytest.mark.gui

#: Functions that read, write, fit or run networks: (module whose name is called, function).
HEAVY = (
    ("napari_emdl.samples.diffraction", "strained_datacube"),
    ("napari_emdl.diffraction.find.probe", "make_probe"),
    ("napari_emdl.diffraction.find.disks", "make_finder"),
    ("napari_emdl.diffraction.find.disks", "find_disks"),
    ("napari_emdl.diffraction.find.limits", "within_limits"),
    ("napari_emdl.diffraction.find.limits", "prepare"),
    ("napari_emdl.diffraction.navigation", "navigation"),
    ("napari_emdl.diffraction.fit.calibrate", "calibrate"),
    ("napari_emdl.diffraction.basis", "find_basis"),
    ("napari_emdl.diffraction.fit.strain", "fit_strain"),
    ("napari_emdl.diffraction.judge.outlook", "look_ahead"),
    ("napari_emdl.exporting.folder", "export"),
    ("napari_emdl.exporting.annotations", "export_layers"),
    ("napari_emdl.gui.kit.projects", "write_project"),
    ("napari_emdl.gui.diffraction.project", "read_project"),
    ("napari_emdl.io", "load"),
    ("napari_emdl.io", "save"),
)


@pytest.fixture
def called(monkeypatch) -> dict[str, set[str]]:
    """Function -> names of the threads it ran in."""
    found: dict[str, set[str]] = {}

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **how: Any) -> Any:
            found.setdefault(name, set()).add(threading.current_thread().name)
            return function(*args, **how)

        return call

    for module_name, name in HEAVY:
        module = importlib.import_module(module_name)
        monkeypatch.setattr(module, name, watched(name, getattr(module, name)))
    return found


def test_from_the_sample_to_a_restored_project(make_napari_viewer, monkeypatch, called, small_sample, wait_until, tmp_path):
    from napari_emdl.samples import diffraction as samples

    slow = samples.strained_datacube
    sample = {"shape": small_sample[0].scan_shape, "detector": small_sample[0].detector_shape}
    monkeypatch.setattr(samples, "strained_datacube", lambda **how: slow(**{**how, **sample}))
    viewer = make_napari_viewer(show=True)
    panel = session.open_panel(viewer, session.WORKSPACE)
    panel.disks_step.form.editors["method"].put("template")
    state = panel.state
    with StallLog() as log:
        log.stage = "open the sample"
        viewer.open_sample("napari-emdl", "strained_datacube")
        wait_until(lambda: state.found.live is not None)
        log.stage = "run all"
        panel.run_all_button.click()
        wait_until(lambda: state.found.strain is not None and not state.busy)
        log.stage = "threshold"
        for direction in (1, 1, -1, -1):
            panel.histogram.step(direction)
        wait_until(lambda: not state.busy)
        log.stage = "region"
        panel.strain_step.reference.setCurrentText("drawn region")
        wait_until(lambda: not state.busy)
        log.stage = "export"
        panel.export_step.export(tmp_path / "out")
        wait_until(lambda: "files" in panel.export_step.note.text())
        log.stage = "project"
        panel.project.save(tmp_path / "work.emdl-project")
        wait_until(lambda: panel.project.path is not None)
        log.stage = "restore"
        before = state.found.strain
        panel.project.open(tmp_path / "work.emdl-project")
        wait_until(lambda: state.found.strain is not None and state.found.strain is not before and not state.busy)
    print(log.report())
    wrong = {name for name, threads in called.items() if "MainThread" in threads}
    assert not wrong
    used = {name for _, name in HEAVY} - {"load", "look_ahead"}  # these depend on how fast the machine is
    assert used <= set(called), "the test watches functions that are not called any more"
