"""What is remembered between starts, and undo of what is set: values and files only, no widgets.

Files are small YAML files in the user's configuration folder; a damaged file counts as absent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import BaseModel

from napari_emdl.base.errors import EmdlError, OpenError
from napari_emdl.base.reading import read_yaml
from napari_emdl.io.outputs import atomic_path

logger = logging.getLogger(__name__)

P = TypeVar("P", bound=BaseModel)
T = TypeVar("T")

STEPS_KEPT = 200


def remembered_path(name: str) -> Path:
    """File of that name."""
    from platformdirs import user_config_path

    return user_config_path("napari-emdl", appauthor=False) / f"{name}.yaml"


def recall(name: str) -> dict[str, Any]:
    """What was remembered under `name`; empty when there is nothing, or nothing that can be read."""
    path = remembered_path(name)
    try:
        found = read_yaml(path) if path.exists() else {}
    except (OSError, OpenError) as error:
        logger.warning("%s cannot be read (%s); starting without it", path, error)
        return {}
    return found if isinstance(found, dict) else {}


def remember(name: str, values: Mapping[str, Any]) -> None:
    """Remember `values` under `name` for the next start; a folder that cannot be written to is logged and stops no work."""
    try:
        with atomic_path(remembered_path(name)) as temporary:
            temporary.write_text(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True), encoding="utf-8")
    except EmdlError as error:
        logger.warning("not remembered: %s", error)


def given(params: BaseModel, names: Iterable[str]) -> dict[str, Any]:
    """Values of the fields `names` that are not None, as YAML holds them."""
    return params.model_dump(mode="json", include=set(names), exclude_none=True)


def taken(params: P, known: Any, names: Iterable[str]) -> P:
    """`params` with what is known of the fields `names`; all of it or nothing."""
    if not isinstance(known, Mapping):
        return params
    try:
        return type(params).model_validate({**dict(params), **{name: known[name] for name in names if name in known}})
    except ValueError:  # written by another version
        return params


@dataclass(frozen=True)
class Remembered:
    """Parameters that the next start begins with: how to work, not what belongs to one file.

    Attributes
    ----------
    name
        Of the file.
    sections
        Section name -> the fields that are remembered. Calibrations, regions and thresholds belong to a file and are none.
    """

    name: str
    sections: Mapping[str, tuple[str, ...]]

    def begin(self, params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Parameters to begin with, and what else was kept.

        Parameters
        ----------
        params
            Section name -> parameters without memory.
        """
        known = recall(self.name)
        found = {section: taken(value, known.get(section), self.sections[section]) for section, value in params.items()}
        return found, {key: value for key, value in known.items() if key not in self.sections}

    def keep(self, params: Mapping[str, BaseModel], **more: Any) -> None:
        """Remember parameters, and further plain values."""
        remember(self.name, {**{name: given(value, self.sections[name]) for name, value in params.items()}, **more})

    def defaults(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters as they come in the fields that are remembered; what belongs to the open file stays as it is."""
        plain = {}
        for section, value in params.items():
            fields = type(value).model_fields
            fresh = {name: fields[name].get_default(call_default_factory=True) for name in self.sections[section]}
            plain[section] = value.model_copy(update=fresh)
        return plain


@dataclass(frozen=True)
class Presets(Generic[P]):
    """Sets of limits by name: built in, and the user's own, which are kept between starts.

    Attributes
    ----------
    name
        Of the file with the user's own.
    model
        Class of the limits, such as :class:`~napari_emdl.base.params.DiskLimits`; it has a field `min_score`.
    built_in
        Name -> what it does, in words.
    """

    name: str
    model: type[P]
    built_in: Mapping[str, str] = field(
        default_factory=lambda: {
            "strict": "Score half-way up to 1 (twice the method's threshold for correlations), no other limit",
            "default": "The method's own threshold, no other limit",
            "everything": "All candidates, no limit",
        }
    )

    def own(self) -> dict[str, P]:
        """The user's own presets; those that cannot be read are left out."""
        found = {}
        for name, values in recall(self.name).items():
            try:
                found[str(name)] = self.model.model_validate(values)
            except ValueError:
                continue
        return found

    def limits(self, name: str, default_min_score: float | None) -> P:
        """Limits of a preset, for a method whose own threshold is `default_min_score`; the user's own win.

        A `min_score` of None is the method's own threshold.
        """
        own = self.own()
        if name in own:
            return own[name]
        if name == "everything":
            return self.model.model_validate({"min_score": 0.0})
        if name == "strict" and default_min_score is not None:
            half_way_up = (1 + default_min_score) / 2  # for scores that are probabilities
            return self.model.model_validate({"min_score": half_way_up if default_min_score < 1 else 2 * default_min_score})
        if name not in self.built_in:
            raise EmdlError(f"there is no preset {name!r}; there are {', '.join([*own, *self.built_in])}")
        return self.model()

    def save(self, name: str, limits: P) -> None:
        """Keep `limits` under `name`."""
        self._write({**self.own(), name: limits})

    def delete(self, name: str) -> None:
        """Forget a preset of the user's own."""
        self._write({key: limits for key, limits in self.own().items() if key != name})

    def _write(self, own: Mapping[str, P]) -> None:
        remember(self.name, {key: limits.model_dump(exclude_none=True) for key, limits in own.items()})


def describe_limits(limits: BaseModel) -> str:
    """Limits in words."""
    words = {
        "min_score": "score ≥ {:g}",
        "min_intensity": "intensity ≥ {:g}",
        "max_sigma_px": "sigma ≤ {:g} px",
        "min_spacing_px": "spacing ≥ {:g} px",
        "edge_px": "edge ≥ {:g} px",
    }
    parts = [words[name].format(value) for name, value in limits if value is not None and name in words]
    return ", ".join(parts) or "no limit"


class UndoStack(Generic[T]):
    """Undo and redo of one value that is set elsewhere.

    Parameters
    ----------
    read
        Gives the value as it is now.
    write
        Sets it; called by :meth:`undo` and :meth:`redo`.

    Notes
    -----
    Changes between two calls of :meth:`settle` are one step; whoever watches the user calls it once the hand leaves the slider.
    """

    def __init__(self, read: Callable[[], T], write: Callable[[T], None]) -> None:
        self._read, self._write = read, write
        self._before: list[T] = []
        self._after: list[T] = []
        self._settled = read()
        #: True while the stack itself changes the value.
        self.moving = False

    def clear(self) -> None:
        """Forget all steps: another file."""
        self._before, self._after = [], []
        self._settled = self._read()

    def rebase(self) -> None:
        """A value that came by itself (the method's own threshold) is where the steps begin, not a step."""
        if not self._before and not self._after:
            self._settled = self._read()

    def settle(self) -> bool:
        """What changed since the last step is a step now; True when something did."""
        now = self._read()
        if now == self._settled:
            return False
        self._before = [*self._before, self._settled][-STEPS_KEPT:]
        self._after = []
        self._settled = now
        return True

    @property
    def can_undo(self) -> bool:
        """True when there is a step to take back."""
        return bool(self._before) or self._read() != self._settled

    @property
    def can_redo(self) -> bool:
        """True when a step was taken back."""
        return bool(self._after)

    def undo(self) -> None:
        """Take the last step back."""
        self.settle()
        if self._before:
            self._after.append(self._settled)
            self._go(self._before.pop())

    def redo(self) -> None:
        """Make the step again that was taken back last."""
        self.settle()
        if self._after:
            self._before.append(self._settled)
            self._go(self._after.pop())

    def _go(self, value: T) -> None:
        self._settled = value
        self.moving = True
        try:
            self._write(value)
        finally:
            self.moving = False
