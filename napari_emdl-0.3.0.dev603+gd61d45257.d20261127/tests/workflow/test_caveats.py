"""One channel of caveats: order kept, each once, old files understood."""

from __future__ import annotations

from types import SimpleNamespace

from helpers.earlier import unpack_earlier
from napari_emdl import load
from napari_emdl.base.peaks import PeakTable
from napari_emdl.workflow.caveats import FIT, INPUT, RANGE, Caveat, Caveats


def test_each_once_and_in_order() -> None:
    found = Caveats(["b", "a", "", None, "b", "two\nlines"]) + Caveats(["a", "c"], INPUT)
    assert found.texts == ["b", "a", "two lines", "c"]
    assert found.about(INPUT) == Caveats([Caveat("c", INPUT)])
    assert str(found) == "b; a; two lines; c"
    assert not Caveats() and str(Caveats()) == ""


def test_to_json_and_back() -> None:
    found = Caveats([Caveat("outside", RANGE), Caveat("plain")])
    assert found.to_json() == [{"text": "outside", "about": "range"}, {"text": "plain"}]
    assert Caveats.from_json(found.to_json()) == found
    assert Caveats.from_json(["plain"]).texts == ["plain"]
    assert Caveats.from_json(None) == Caveats()


def test_of_a_table_and_of_its_provenance() -> None:
    table = PeakTable.empty((2,))
    table.attrs["caveats"] = [{"text": "dark frames", "about": "input"}]
    table.attrs["provenance"] = {"caveats": [{"text": "dark frames", "about": "input"}, {"text": "ran on the CPU"}]}
    assert Caveats.of(table).texts == ["dark frames", "ran on the CPU"]


def test_of_the_channels_of_earlier_versions() -> None:
    columns = PeakTable.empty((2,))
    columns.attrs |= {"warning": "contrast unsure; 2 blank frames", "note": "2 blank frames; on the CPU"}
    assert Caveats.of(columns).texts == ["contrast unsure", "2 blank frames", "on the CPU"]
    disks = PeakTable.empty((1, 2))
    disks.attrs |= {"note": "radius out of range; 3 patterns empty", "provenance": {"range_note": "radius out of range"}}
    assert Caveats.of(disks) == Caveats([Caveat("radius out of range", RANGE), Caveat("3 patterns empty")])
    occupancy = SimpleNamespace(attrs={"notes": ["uncertain; more dose", "a second"]})
    assert Caveats.of(occupancy).texts == ["uncertain; more dose", "a second"]


def test_of_a_fit_and_a_comparison() -> None:
    strain = SimpleNamespace(attrs={}, evidence=SimpleNamespace(warnings=("few disks",)), calibration=None)
    assert Caveats.of(strain) == Caveats([Caveat("few disks", FIT)])
    assert Caveats.of(SimpleNamespace(warnings=("unequal dose",))).texts == ["unequal dose"]


def test_of_a_file_of_version_0_2(tmp_path) -> None:
    folder = unpack_earlier(tmp_path)
    columns = load(folder / "columns.h5")
    assert Caveats.of(columns).texts == ["frames of 12.8 Å hold too little to judge: check the pixel size and the result"]
