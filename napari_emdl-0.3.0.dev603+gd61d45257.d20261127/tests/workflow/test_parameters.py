"""Overrides of parameters: one function, one wording."""

from __future__ import annotations

import pytest

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import DiskParams, ProbeParams, RunParams
from napari_emdl.workflow.parameters import validated, with_overrides


def test_overrides_win_and_nested_models_pass() -> None:
    made = with_overrides(DiskParams, DiskParams(min_score=0.2), {"max_disks": 7, "probe": ProbeParams(radius_px=4)})
    assert (made.min_score, made.max_disks, made.probe.radius_px) == (0.2, 7, 4)
    assert with_overrides(RunParams, None, {}) == RunParams()


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ({"max_diks": 7}, r"there is no parameter 'max_diks'; choose from method, model, .*max_disks"),
        ({"max_disks": 0}, r"^max_disks: Input should be greater than or equal to 1$"),
        ({"probe": {"radius_px": -1}}, r"^probe.radius_px: Input should be greater than 0.5$"),
        ({"probe": {"radios_px": 1}}, r"^probe.radios_px: there is no such parameter$"),
    ],
)
def test_what_is_wrong_in_one_line(overrides: dict, line: str) -> None:
    with pytest.raises(EmdlError, match=line) as told:
        with_overrides(DiskParams, None, overrides)
    assert "\n" not in str(told.value)


def test_where_it_stands() -> None:
    with pytest.raises(EmdlError, match=r"^job.yaml: max_memory: cannot read 'lots' as a size"):
        validated(RunParams, {"max_memory": "lots"}, "job.yaml")
