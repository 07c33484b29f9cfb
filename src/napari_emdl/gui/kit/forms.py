"""Forms made from the pydantic parameter models: labels, tooltips, units and bounds all come from params.py."""

from __future__ import annotations

import math
import re
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
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QSizePolicy,
    QSpinBox,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_emdl.base.errors import EmdlError
from napari_emdl.gui.kit.labels import caption_of, extra_of, label_of
from napari_emdl.gui.kit.steps import Fold
from napari_emdl.workflow.parameters import problem

#: Look of a field whose value does not fit.
WRONG = "QLineEdit, QAbstractSpinBox, QComboBox { border: 1px solid #d9822b; }"


def groups_of(model: type[BaseModel]) -> dict[str, list[str]]:
    """Names of the fields of each group (tab) of a parameter model, in their order."""
    found: dict[str, list[str]] = {}
    for name, info in model.model_fields.items():
        found.setdefault(extra_of(info, "group", ""), []).append(name)
    return found


def tooltip_of(name: str, info: FieldInfo) -> str:
    """Description and unit of a parameter."""
    unit = extra_of(info, "unit", "")
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


class _TypedOver:
    """Spin box whose word for None gives way to what is typed, wherever the click put the cursor."""

    def keyPressEvent(self, event: Any) -> None:
        box: Any = self  # of a spin box
        shown = box.text()
        if event.text().strip() and shown and shown == box.specialValueText() and not box.lineEdit().hasSelectedText():
            box.selectAll()
        super().keyPressEvent(event)  # type: ignore[misc]


class _Number(_TypedOver, QDoubleSpinBox):
    """Float with as many decimals as it needs; where None is allowed the lowest value stands for it and reads `empty`."""

    def __init__(self, empty: str | None, low: float | None, high: float | None, default: float | None, unit: str):
        super().__init__()
        optional = self.optional = empty is not None
        self.setKeyboardTracking(False)
        self.setDecimals(4)
        top = 1e6 if high is None else high
        bottom = -1e6 if low is None else low
        span = abs(default) if default else min(top - bottom, 10.0)
        self.setSingleStep(10.0 ** round(math.log10(span) - 1))
        # one step below the allowed range stands for None
        self.setRange(bottom - self.singleStep() if optional else bottom, top)
        if optional:
            self.setSpecialValueText(empty or "")
        if unit:
            self.setSuffix(f" {unit}")

    def textFromValue(self, value: float) -> str:
        return f"{value:.6g}"

    def get(self) -> float | None:
        return None if self.optional and self.value() <= self.minimum() else self.value()

    def put(self, value: float | None) -> None:
        self.setValue(self.minimum() if value is None else float(value))


class _Integer(_TypedOver, QSpinBox):
    """Integer; where None is allowed the lowest value stands for it and reads `empty`."""

    def __init__(self, empty: str | None, low: float | None, high: float | None, unit: str):
        super().__init__()
        optional = self.optional = empty is not None
        self.setKeyboardTracking(False)
        bottom = int(low if low is not None else 0)
        self.setRange(bottom - 1 if optional else bottom, int(high if high is not None else 10**6))
        if optional:
            self.setSpecialValueText(empty or "")
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
    def __init__(self, values: Iterable[Any], empty: str | None):
        super().__init__()
        narrow(self)
        if empty is not None:
            self.addItem(empty, None)
        for value in values:
            self.addItem(("no", "yes")[value] if isinstance(value, bool) else str(value).replace("_", " "), value)

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

    def __init__(self, empty: str | None, numbers: type | None):
        super().__init__()
        self.numbers = numbers
        self.optional = empty is not None
        self.setPlaceholderText(empty or "")

    def get(self) -> Any:
        text = self.text().strip()
        if not text and self.optional:
            return None
        if self.numbers is None:
            return text
        return tuple(self.numbers(part) for part in re.split("[,:x]", text))

    def put(self, value: Any) -> None:
        if value is None:
            self.setText("")
        elif self.numbers is None:
            self.setText(str(value))
        else:
            self.setText(", ".join(f"{v:.6g}" for v in value))


class _File(QWidget):
    """Name of a file, typed or chosen."""

    editingFinished = Signal()

    def __init__(self, empty: str | None):
        super().__init__()
        self.line = _Text(empty, None)
        self.line.editingFinished.connect(self.editingFinished)
        self.text = self.line.text
        choose = QToolButton()
        choose.setText("…")
        choose.setToolTip("Choose a file")
        choose.clicked.connect(lambda *_: self._choose())
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(2)
        row.addWidget(self.line, 1)
        row.addWidget(choose)

    def _choose(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Choose a file")
        if path:
            self.put(path)
            self.editingFinished.emit()

    def get(self) -> str | None:
        return self.line.get()

    def put(self, value: str | None) -> None:
        self.line.put(value)


def make_editor(info: FieldInfo) -> Any:
    """Editor widget for a field, with `get()` and `put(value)`; None for nested models and lists of them."""
    kind, optional = _optional(info.annotation)
    empty = extra_of(info, "empty", "auto") if optional else None
    low, high = _bounds(info)
    unit = extra_of(info, "unit", "")
    inner = (get_args(kind) or (kind,))[0]
    if isinstance(inner, type) and issubclass(inner, BaseModel):
        return None
    if get_origin(kind) is Literal:
        return _Choice(get_args(kind), empty)
    if kind is bool:
        return _Choice((True, False), empty) if optional else _Check()
    if kind is int:
        return _Integer(empty, low, high, unit)
    if kind is float:
        return _Number(empty, low, high, info.default if isinstance(info.default, float) else None, unit)
    if get_origin(kind) is tuple:
        return _Text(empty, get_args(kind)[0])
    return _File(empty) if extra_of(info, "file", False) else _Text(empty, None)


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
    fold
        Fold advanced fields away.
    """

    changed = Signal()

    def __init__(
        self,
        model: type[BaseModel] | BaseModel,
        include: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        parent: QWidget | None = None,
        fold: bool = True,
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
                self._add(folded if fold and extra_of(info, "advanced", False) else plain, name, info, editor)
        column.addLayout(plain)
        if folded.rowCount():
            holder = QWidget()
            holder.setLayout(folded)
            self.advanced = Fold("Advanced", holder)
            column.addWidget(self.advanced)
        self.refusal = QLabel()  # stays until the value is right: the words napari shows over its canvas go after seconds
        self.refusal.setObjectName("refusal")
        self.refusal.setWordWrap(True)
        self.refusal.setTextFormat(Qt.TextFormat.PlainText)
        self.refusal.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.refusal.hide()
        column.addWidget(self.refusal)
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
        caption = QLabel(caption_of(name, info))
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
                raise self._refused(name, f"cannot read {editor.text()!r}; write numbers with commas") from None
        if self.refusal.text():
            self._mark("", "")
        return found

    def _refused(self, name: str, reason: str) -> EmdlError:
        """The error of a value that does not fit; its field is marked."""
        line = f"{label_of(name)}: {reason}" if name else reason
        self._mark(name, f"⚠ {line}")
        return EmdlError(line)

    def _mark(self, wrong: str, line: str) -> None:
        for name, editor in self.editors.items():
            editor.setStyleSheet(WRONG if name == wrong else "")
        self.refusal.setText(line)
        self.refusal.setVisible(bool(line))

    def value(self) -> Any:
        """Parameters as they stand; raises EmdlError with one line when they do not fit."""
        try:
            return self.model.model_validate({**self._dump_base(), **self.values()})
        except ValidationError as error:
            where, reason = problem(error)
            raise self._refused(where.partition(".")[0], reason) from None

    def _dump_base(self) -> dict[str, Any]:
        return {name: getattr(self._base, name) for name in self.model.model_fields}

    def put(self, params: BaseModel) -> None:
        """Show the values of `params` without a `changed` signal for each."""
        self._base = params
        for name, editor in self.editors.items():
            with QSignalBlocker(editor):
                editor.put(getattr(params, name))
        self.changed.emit()
