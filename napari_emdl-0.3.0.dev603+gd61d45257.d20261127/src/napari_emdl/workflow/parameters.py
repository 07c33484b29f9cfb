"""Parameters with overrides, and what is wrong with a value, in one line and one wording for API, CLI, panels and files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from napari_emdl.base.errors import EmdlError

P = TypeVar("P", bound=BaseModel)


def problem(error: ValidationError) -> tuple[str, str]:
    """Dotted name and reason of the first value that does not fit; the name is "" when the values do not fit together."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return where, "there is no such parameter"
    return where, first["msg"].removeprefix("Value error, ")


def problem_line(error: ValidationError) -> str:
    """The first problem as "name: reason"."""
    where, reason = problem(error)
    return f"{where}: {reason}" if where else reason


def with_overrides(model: type[P], params: P | None, overrides: Mapping[str, Any]) -> P:
    """Parameters with keyword overrides.

    Parameters
    ----------
    model
        Class of :mod:`napari_emdl.base.params`.
    params
        Settings to start from; the defaults when None.
    overrides
        Field name -> value; these win.

    Raises
    ------
    EmdlError
        For an unknown name or a value that does not fit.
    """
    unknown = sorted(set(overrides) - set(model.model_fields))
    if unknown:
        raise EmdlError(f"there is no parameter {unknown[0]!r}; choose from {', '.join(model.model_fields)}")
    return validated(model, {**(params.model_dump() if params is not None else {}), **overrides})


def validated(model: type[P], values: Any, where: str = "") -> P:
    """`values` as `model`.

    Parameters
    ----------
    where
        What holds the values, for the message, such as "the job file job.yaml".

    Raises
    ------
    EmdlError
        Naming the value that does not fit.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        line = problem_line(error)
        raise EmdlError(f"{where}: {line}" if where else line) from None
