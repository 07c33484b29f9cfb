"""Forms made from parameter models."""

from __future__ import annotations

import pytest

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import ColumnParams, DiskParams, RunParams, StrainParams
from napari_emdl.gui.kit.forms import ParamsForm, label_of

pytestmark = pytest.mark.gui


@pytest.mark.parametrize("model", [DiskParams, RunParams, StrainParams])
def test_a_form_shows_the_defaults_and_gives_them_back(qtbot, model):
    form = ParamsForm(model)
    qtbot.addWidget(form)
    assert form.value() == model()


def test_values_that_are_set_come_back(qtbot):
    form = ParamsForm(StrainParams)
    qtbot.addWidget(form)
    wanted = StrainParams(g1=(1.5, -20.25), g2=(18.0, 0.5), axis_deg=45.0, min_disks=7, max_sigma_px=0.4)
    form.put(wanted)
    assert form.value() == wanted


def test_none_reads_as_what_it_means_and_numbers_have_units(qtbot):
    form = ParamsForm(DiskParams)
    qtbot.addWidget(form)
    spacing = form.editors["min_spacing_px"]
    assert spacing.text() == "auto"
    spacing.put(4.5)
    assert spacing.text() == "4.5 px"
    assert "Least distance" in spacing.toolTip()
    columns = ParamsForm(ColumnParams)
    qtbot.addWidget(columns)
    texts = {name: columns.editors[name].text() for name in ("energy_keV", "defocus_nm", "pixel_size_A", "min_score")}
    assert texts == {"energy_keV": "not set", "defocus_nm": "not set", "pixel_size_A": "from the file", "min_score": "auto"}


def test_text_that_is_no_number_gives_one_line(qtbot):
    form = ParamsForm(StrainParams)
    qtbot.addWidget(form)
    form.editors["g1"].setText("three, 4")
    with pytest.raises(EmdlError, match="g1: cannot read 'three, 4'"):
        form.value()


def test_a_value_that_does_not_fit_gives_one_line(qtbot):
    form = ParamsForm(RunParams)
    qtbot.addWidget(form)
    form.editors["max_memory"].setText("lots")
    with pytest.raises(EmdlError, match="Memory") as error:
        form.value()
    assert "\n" not in str(error.value) and "Value error" not in str(error.value)
    assert form.refusal.text() == f"⚠ {error.value}" and not form.refusal.isHidden(), "it stays until the value is right"
    assert "border" in form.editors["max_memory"].styleSheet() and not form.editors["batch"].styleSheet()
    form.editors["max_memory"].setText("2GB")
    form.value()
    assert form.refusal.isHidden() and not form.editors["max_memory"].styleSheet()


def test_labels_read_like_words():
    assert label_of("min_spacing_px") == "Spacing"
    assert label_of("max_sigma_px") == "Max sigma"


@pytest.mark.parametrize(("model", "name", "typed"), [(ColumnParams, "pixel_size_A", 0.2), (RunParams, "workers", 3)])
def test_what_is_typed_replaces_the_word_of_an_unset_field(qtbot, model, name, typed):
    """Wherever the click puts the cursor in it."""
    from qtpy.QtCore import Qt

    form = ParamsForm(model)
    qtbot.addWidget(form)
    form.show()
    editor = form.editors[name]
    assert editor.get() is None
    qtbot.mouseClick(editor.lineEdit(), Qt.MouseButton.LeftButton, pos=editor.lineEdit().rect().center())
    qtbot.keyClicks(editor, str(typed))
    qtbot.keyClick(editor, Qt.Key.Key_Return)
    assert editor.get() == typed
