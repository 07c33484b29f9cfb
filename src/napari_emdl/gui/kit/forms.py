"""Forms made from the pydantic parameter models: labels, tooltips, units and bounds all come from params.py."""

from __future__ import annotations

import math
import types
from collections.abc import Iterable
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QLabel,
    QLineEdit,
    QSizePolicy,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_emdl.base.errors import EmdlError
from napari_emdl.gui.kit.steps import Fold

AUTO = "auto"

#: Labels that read better than the field's name.
LABELS = {
    "min_score": "Least score",
    "min_spacing_px": "Spacing",
    "edge_px": "Edge",
    "max_disks": "Most disks",
    "min_intensity": "Least intensity",
    "q_pixel_invA": "Detector pixel",
    "scan_step_nm": "Scan step",
    "max_memory": "Memory",
    "cs_um": "Cs",
    "axis_deg": "x axis",
    "rotation_deg": "Rotation",
    "energy_keV": "Beam energy",
    "defocus_nm": "Defocus C10",
    "dose_e_per_A2": "Dose a frame",
    "min_site_fraction": "Least share of frames",
    "max_distance_A": "Farthest detection",
    "g1": "g1",
    "g2": "g2",
}

_SUFFIXES = ("_px", "_invA", "_nm", "_A2", "_A", "_deg", "_rad", "_um", "_keV", "_s")


def label_of(name: str) -> str:
    """Field name as a person writes it."""
    if name in LABELS:
        return LABELS[name]
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name.replace("_", " ").capitalize()


def _extra(info: FieldInfo, key: str, default: Any) -> Any:
    extra = info.json_schema_extra
    return extra.get(key, default) if isinstance(extra, dict) else default


def tooltip_of(name: str, info: FieldInfo) -> str:
    """Description and unit of a parameter."""
    unit = _extra(info, "unit", "")
    return f"<qt>{info.description or label_of(name)}{f' [{unit}]' if unit else ''}</qt>"


def _optional(annotation: Any) -> tuple[Any, bool]:
    """Type without None, and whether None was allowed."""
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [a for a in get_args(annotation) if a is not type(None)]
        return (parts[0] if len(parts) == 1 else annotation), len(parts) < len(get_args(annotation))
    return annotation, False


def _bounds(info: FieldInfo) -> tuple[float | None, float | None]:
    low = high = None
    for item in info.metadata:
        low = next((v for v in (getattr(item, "ge", None), getattr(item, "gt", None)) if v is not None), low)
        high = next((v for v in (getattr(item, "le", None), getattr(item, "lt", None)) if v is not None), high)
    return low, high


class _Number(QDoubleSpinBox):
    """Float with as many decimals as it needs; the lowest value reads "auto" when None is allowed."""

    def __init__(self, optional: bool, low: float | None, high: float | None, default: float | None, unit: str):
        super().__init__()
        self.optional = optional
        self.setKeyboardTracking(False)
        self.setDecimals(4)
        top = 1e6 if high is None else high
        bottom = -1e6 if low is None else low
        span = abs(default) if default else min(top - bottom, 10.0)
        self.setSingleStep(10.0 ** round(math.log10(span) - 1))
        # one step below the allowed range stands for None
        self.setRange(bottom - self.singleStep() if optional else bottom, top)
        if optional:
            self.setSpecialValueText(AUTO)
        if unit:
            self.setSuffix(f" {unit}")

    def textFromValue(self, value: float) -> str:
        return f"{value:.6g}"

    def get(self) -> float | None:
        return None if self.optional and self.value() <= self.minimum() else self.value()

    def put(self, value: float | None) -> None:
        self.setValue(self.minimum() if value is None else float(value))


class _Integer(QSpinBox):
    """Integer; the lowest value reads "auto" when None is allowed."""

    def __init__(self, optional: bool, low: float | None, high: float | None, unit: str):
        super().__init__()
        self.optional = optional
        self.setKeyboardTracking(False)
        bottom = int(low if low is not None else 0)
        self.setRange(bottom - 1 if optional else bottom, int(high if high is not None else 10**6))
        if optional:
            self.setSpecialValueText(AUTO)
        if unit:
            self.setSuffix(f" {unit}")

    def get(self) -> int | None:
        return None if self.optional and self.value() <= self.minimum() else self.value()

    def put(self, value: int | None) -> None:
        self.setValue(self.minimum() if value is None else int(value))


def narrow(box: QComboBox) -> QComboBox:
    """Let a combo box be narrower than its longest entry."""
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(6)
    return box


class _Choice(QComboBox):
    def __init__(self, values: Iterable[Any], optional: bool):
        super().__init__()
        narrow(self)
        if optional:
            self.addItem(AUTO, None)
        for value in values:
            self.addItem(str(value), value)

    def get(self) -> Any:
        return self.currentData()

    def put(self, value: Any) -> None:
        self.setCurrentIndex(max(0, self.findData(value)))


class _Check(QCheckBox):
    def get(self) -> bool:
        return self.isChecked()

    def put(self, value: bool | None) -> None:
        self.setChecked(bool(value))


class _Text(QLineEdit):
    """Text, or numbers with commas between them."""

    def __init__(self, optional: bool, numbers: type | None):
        super().__init__()
        self.numbers = numbers
        self.optional = optional
        if optional:
            self.setPlaceholderText(AUTO)

    def get(self) -> Any:
        text = self.text().strip()
        if not text and self.optional:
            return None
        if self.numbers is None:
            return text
        return tuple(self.numbers(part) for part in text.replace(":", ",").split(","))

    def put(self, value: Any) -> None:
        if value is None:
            self.setText("")
        elif self.numbers is None:
            self.setText(str(value))
        else:
            self.setText(", ".join(f"{v:.6g}" for v in value))


def make_editor(info: FieldInfo) -> Any:
    """Editor widget for a field, with `get()` and `put(value)`; None for nested models and lists of them."""
    kind, optional = _optional(info.annotation)
    low, high = _bounds(info)
    unit = _extra(info, "unit", "")
    inner = (get_args(kind) or (kind,))[0]
    if isinstance(inner, type) and issubclass(inner, BaseModel):
        return None
    if get_origin(kind) is Literal:
        return _Choice(get_args(kind), optional)
    if kind is bool:
        return _Choice((True, False), True) if optional else _Check()
    if kind is int:
        return _Integer(optional, low, high, unit)
    if kind is float:
        return _Number(optional, low, high, info.default if isinstance(info.default, float) else None, unit)
    if get_origin(kind) is tuple:
        return _Text(optional, get_args(kind)[0])
    return _Text(optional, None)


def _changed_signal(editor: Any) -> Any:
    for name in ("currentIndexChanged", "valueChanged", "toggled", "editingFinished"):
        if hasattr(editor, name):
            return getattr(editor, name)
    raise TypeError(f"{type(editor).__name__} has no signal that tells of a change")


class ParamsForm(QWidget):
    """Form over the plain fields of a parameter model.

    Parameters
    ----------
    model
        Class of :mod:`napari_emdl.base.params`, or an instance whose values are shown first.
    include, exclude
        Names of the fields shown, in that order; all but `exclude` by default. Nested models get their own form.
    """

    changed = Signal()

    def __init__(
        self,
        model: type[BaseModel] | BaseModel,
        include: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        parent: QWidget | None = None,
    ):
        super().__init__(parent)
        self.model = model if isinstance(model, type) else type(model)
        self._base: BaseModel = model() if isinstance(model, type) else model
        left_out = set(exclude)
        names = [n for n in (include or self.model.model_fields) if n not in left_out]
        self.editors: dict[str, Any] = {}
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        plain, folded = self._new_form(), self._new_form()
        for name in names:
            info = self.model.model_fields[name]
            editor = make_editor(info)
            if editor is not None:
                self._add(folded if _extra(info, "advanced", False) else plain, name, info, editor)
        column.addLayout(plain)
        if folded.rowCount():
            holder = QWidget()
            holder.setLayout(folded)
            self.advanced = Fold("Advanced", holder)
            column.addWidget(self.advanced)
        self.put(self._base)

    @staticmethod
    def _new_form() -> QFormLayout:
        form = QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.setLabelAlignment(Qt.AlignmentFlag.AlignLeft)
        return form

    def _add(self, form: QFormLayout, name: str, info: FieldInfo, editor: Any) -> None:
        editor.setObjectName(name)
        editor.setToolTip(tooltip_of(name, info))
        if not isinstance(editor, QCheckBox):
            editor.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
            editor.setMinimumWidth(70)
        caption = QLabel(label_of(name))
        caption.setToolTip(tooltip_of(name, info))
        form.addRow(caption, editor)
        self.editors[name] = editor
        _changed_signal(editor).connect(lambda *_: self.changed.emit())

    def values(self) -> dict[str, Any]:
        """Field name -> value as typed."""
        found = {}
        for name, editor in self.editors.items():
            try:
                found[name] = editor.get()
            except ValueError:
                raise EmdlError(f"{label_of(name)}: cannot read {editor.text()!r}; write numbers with commas") from None
        return found

    def value(self) -> Any:
        """Parameters as they stand; raises EmdlError with one line when they do not fit."""
        try:
            return self.model.model_validate({**self._dump_base(), **self.values()})
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else ""
            raise EmdlError(f"{label_of(name)}: {first['msg']}") from None

    def _dump_base(self) -> dict[str, Any]:
        return {name: getattr(self._base, name) for name in self.model.model_fields}

    def put(self, params: BaseModel) -> None:
        """Show the values of `params` without a `changed` signal for each."""
        self._base = params
        for name, editor in self.editors.items():
            with QSignalBlocker(editor):
                editor.put(getattr(params, name))
        self.changed.emit()
