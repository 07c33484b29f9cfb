"""The dialog that asks how a file is read: made from OpenParams, with a look at what comes out."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from qtpy.compat import isalive

from napari_emdl.base.params import OpenParams
from napari_emdl.base.signals import Datacube, Movie
from napari_emdl.gui.kit.open_dialog import OpenDialog, can_help

pytestmark = pytest.mark.gui


@pytest.fixture
def ask(qtbot, wait_until):
    made = []

    def ask(path, *args, **how):
        dialog = OpenDialog(str(path), *args, **how)
        made.append(dialog)
        dialog.show()
        wait_until(lambda: not dialog.busy, 20)
        return dialog

    yield ask
    for dialog in made:
        if isalive(dialog):
            dialog.reject()


def put(dialog, wait_until, **values) -> None:
    for name, value in values.items():
        dialog.editor(name).put(value)
    dialog.refresh()
    wait_until(lambda: not dialog.busy, 20)


def test_a_stack_opens_with_its_scan_crop_bin_mask_and_calibration(ask, wait_until, tmp_path):
    rng = np.random.default_rng(1)
    stack = rng.poisson(5, (12, 20, 16)).astype(np.uint16)
    np.save(tmp_path / "stack.npy", stack)
    mask = np.zeros((20, 16), bool)
    mask[:4, :4] = True
    np.save(tmp_path / "mask.npy", mask)
    dialog = ask(tmp_path / "stack.npy", "give the scan shape", start=OpenParams(kind="datacube"))
    assert dialog.reason.text() == "give the scan shape"
    assert "give the scan shape" in dialog.line.text() and not dialog.open_button.isEnabled()
    assert {name for form in dialog.forms for name in form.editors} == set(OpenParams.model_fields), "one definition"
    put(dialog, wait_until, shape=(3, 4))
    assert "scan 3 x 4, detector 20 x 16 px, uint16, 7.68 kB" in dialog.line.text() and dialog.open_button.isEnabled()
    assert dialog.image.image.shape == (20, 16)
    put(dialog, wait_until, drop_cols=(1, 0), detector_bin=2, mask=str(tmp_path / "mask.npy"), scan_crop=(0, 2, 0, 3))
    dialog.editor("pixel_nm").setText("0.5")
    put(dialog, wait_until, q_pixel_invA=(0.02, 0.03))
    assert "scan 2 x 3, detector 10 x 8 px" in dialog.line.text() and "scan step 0.5 nm" in dialog.line.text()
    taken = []
    dialog.opened.connect(taken.append)
    dialog.accept_when_ready()
    cube = taken[0]
    assert isinstance(cube, Datacube) and cube.calibration.q_pixel_invA == (0.04, 0.06)
    assert cube.given_mask.sum() == 4
    binned = stack.reshape(3, 4, 10, 2, 8, 2).sum(axis=(3, 5))[:2, 1:]
    np.testing.assert_array_equal(cube.data[:, :, 2:], binned[:, :, 2:])
    assert cube.metadata["open_options"]["shape"] == [3, 4], "a project opens it so again"


def test_one_of_several_arrays_is_chosen_and_another_kind(ask, wait_until, tmp_path):
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a/first"] = np.zeros((5, 8, 8), np.uint8)
        file["b/second"] = np.ones((6, 9, 9), np.float32)
    dialog = ask(tmp_path / "two.h5")
    assert "several arrays" in dialog.line.text() and dialog.array.isVisible()
    assert dialog.array.itemText(2) == "b/second  (6 x 9 x 9 float32)"
    dialog.array.setCurrentIndex(2)
    put(dialog, wait_until)
    assert "movie: 6 frames, 9 x 9 px" in dialog.line.text()
    put(dialog, wait_until, kind="datacube", shape=(2, 3))
    assert "scan 2 x 3" in dialog.line.text()
    dialog.editor("frames").setText("two")
    dialog.refresh()
    assert "cannot read 'two'" in dialog.line.text() and not dialog.open_button.isEnabled()
    dialog.editor("frames").setText("")
    put(dialog, wait_until, kind="movie", shape=None, frames=(1, 4))
    taken = []
    dialog.opened.connect(taken.append)
    dialog.editor("detector_bin").put(3)  # pressed before the look at it is done
    dialog.accept_when_ready()
    wait_until(lambda: taken, 20)
    assert isinstance(taken[0], Movie) and taken[0].shape == (3, 3, 3) and taken[0].path.endswith("two.h5::b/second")


def test_raw_binary_and_what_no_option_helps(ask, wait_until, tmp_path):
    from napari_emdl.base.errors import OpenError

    (tmp_path / "scan.bin").write_bytes(bytes(16) + np.arange(96, dtype=">u2").tobytes())
    dialog = ask(tmp_path / "scan.bin")
    put(dialog, wait_until, dtype=">u2", shape=(2, 2, 4, 6))
    assert "“Offset”: 16" in dialog.line.text(), "the readings that fit are named"
    put(dialog, wait_until, offset=16)
    assert "scan 2 x 2" in dialog.line.text()
    (tmp_path / "empty.npy").write_bytes(b"")
    refused = OpenError("no")
    assert can_help(str(tmp_path / "scan.bin"), refused) and not can_help(str(tmp_path / "scan.bin"), OSError("no"))
    assert not can_help(str(tmp_path / "empty.npy"), refused) and not can_help(str(tmp_path / "gone.npy"), refused)
