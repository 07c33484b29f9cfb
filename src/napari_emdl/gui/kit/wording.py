"""Lines of the core as the window says them: an option is the label of its field, or the button that does it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from typing import Any

from napari_emdl.base.caveats import Caveats
from napari_emdl.base.wording import worded
from napari_emdl.gui.kit.labels import caption_of, label_of
from napari_emdl.models.devices import is_warning

#: What is done by a button, or stands in the window under another name than in Python.
BUTTONS = {
    ("resume", "True"): "“Resume” or “Go on”",
    ("resume", "False"): "“Run” or “Start again”",
    ("cube", ""): "“Open”",
}

#: As results of earlier versions name an option.
_FLAG = re.compile(r"(?<!\S|-)(\(?)--([a-z][a-z-]+)")


def said(text: str) -> str:
    """`text` with the options it names by their labels: ``fit='peaks'`` is “Fit to”: peaks."""
    new = worded(text, _words)
    return _FLAG.sub(lambda found: found[1] + _words(found[2].replace("-", "_"), ""), new)


def caveats_of(result: Any) -> Caveats:
    """Caveats, or those of a result, in the window's words."""
    found = result if isinstance(result, Caveats) else Caveats.of(result)
    return Caveats(replace(caveat, text=said(caveat.text)) for caveat in found)


def worth_telling(result: Any) -> Caveats:
    """The same without that there is no GPU: nothing to mend, and the device badge says it to who asks."""
    return Caveats(caveat for caveat in caveats_of(result) if is_warning(caveat.text))


def warned(lines: Iterable[str]) -> list[str]:
    """Lines with the sign of a warning, each a sentence."""
    return [f"⚠ {said(line)}." for line in lines]


def _words(name: str, value: str) -> str:
    button = BUTTONS.get((name, value))
    return button or f"“{_labels().get(name, label_of(name))}”" + (f": {value}" if value else "")


@cache
def _labels() -> dict[str, str]:
    """Label of each field of the forms; of two fields of one name that of opening, which lines are mostly about."""
    from napari_emdl.base import params

    models = (
        params.OpenParams, params.ColumnParams, params.OccupancyParams, params.ProbeParams, params.TemplateParams,
        params.DiskParams, params.CalibrateParams, params.StrainParams, params.RunParams,
    )  # fmt: skip
    found: dict[str, str] = {}
    for model in models:
        for name, info in model.model_fields.items():
            found.setdefault(name, caption_of(name, info))
    return found
