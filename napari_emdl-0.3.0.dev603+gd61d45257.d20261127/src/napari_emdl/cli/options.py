"""Command-line options made from the parameter models in :mod:`napari_emdl.base.params`, so that there is one definition."""

from __future__ import annotations

import functools
import inspect
import re
import types
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel, ValidationError

#: Options whose name is not just the field's: (model, field) -> flags.
FLAGS: dict[tuple[str, str], tuple[str, ...]] = {
    ("ProbeParams", "file"): ("--probe",),
    ("ProbeParams", "radius_px"): ("--probe-radius",),
    ("ProbeParams", "region"): ("--probe-region",),
    ("ProbeParams", "edge_width_px"): ("--probe-edge-width",),
    ("RunParams", "resume"): ("--resume/--restart",),
    ("ColumnParams", "energy_keV"): ("--kv", "--energy-kev"),
    ("ColumnParams", "pixel_size_A"): ("--pixel-size",),
    ("ColumnParams", "frames"): ("--neighbour-frames",),
    ("OccupancyParams", "dose_e_per_A2"): ("--dose",),
    ("OpenParams", "pixel_nm"): ("--scan-step", "--pixel-nm"),
    ("OpenParams", "q_pixel_invA"): ("--q-pixel",),
    ("OccupancyParams", "frame_interval_s"): ("--frame-interval",),
}

_LENGTHS_A = {"": 1.0, "\u00c5": 1.0, "A": 1.0, "ANGSTROM": 1.0, "PM": 0.01, "NM": 10.0}


def read_length_A(text: str) -> float:
    """Turn "0.1 Å", "0.1A", "10 pm" or "0.01nm" into angstrom; a bare number is angstrom."""
    match = re.fullmatch(r"\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*([^\d\s]*)\s*", text)
    unit = unicodedata.normalize("NFC", match.group(2)) if match else ""  # there are two letters that look like Å
    factor = _LENGTHS_A.get(unit) or _LENGTHS_A.get(unit.upper())
    if match is None or factor is None:
        raise ValueError(f'cannot read {text!r} as a length; write it like "0.1 Å" or 10pm')
    return float(match.group(1)) * factor


def read_pair(text: str) -> tuple[float, float]:
    """Turn "R,C" into two numbers."""
    try:
        row, col = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"cannot read {text!r}; write it as ROW,COL such as 12.5,-3") from None
    return row, col


def read_size(text: str) -> tuple[float, float]:
    """Turn "S" or "R,C" into a size along rows and cols."""
    return read_pair(text if "," in text else f"{text},{text}")


def read_region(text: str) -> tuple[int, int, int, int]:
    """Turn "R0:R1,C0:C1" into four integers."""
    match = re.fullmatch(r"\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*", text)
    if match is None:
        raise ValueError(f"cannot read {text!r}; write it as R0:R1,C0:C1 such as 0:10,0:20")
    r0, r1, c0, c1 = (int(part) for part in match.groups())
    if r1 <= r0 or c1 <= c0:
        raise ValueError(f"the region {text!r} is empty; the end must be larger than the start")
    return r0, r1, c0, c1


def read_shape(text: str) -> tuple[int, ...]:
    """Turn "100,100,256,256" or "100x100x256x256" into integers."""
    try:
        return tuple(int(part) for part in re.split("[,x]", text))
    except ValueError:
        raise ValueError(f"cannot read {text!r} as a shape; write it as 100,100,256,256") from None


@dataclass(frozen=True)
class Option:
    """One option of a model's field.

    Attributes
    ----------
    path
        Names of the fields that lead to it, as ("probe", "file").
    flags
        As on the command line.
    type
        What typer reads: str, int, float or bool.
    metavar, help
        For the help text.
    read
        Turns the text into the value.
    """

    path: tuple[str, ...]
    flags: tuple[str, ...]
    type: type
    metavar: str | None
    help: str
    read: Callable[[Any], Any] = field(default=lambda value: value)

    def parameter(self, name: str) -> inspect.Parameter:
        """Parameter of a typer command."""
        option = typer.Option(*self.flags, metavar=self.metavar, help=self.help, show_default=False)
        return inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[self.type | None, option]
        )


def options_of(model: type[BaseModel], skip: frozenset[str] = frozenset(), _path: tuple[str, ...] = ()) -> Iterator[Option]:
    """All options of a model, nested models included."""
    for name, info in model.model_fields.items():
        path = (*_path, name)
        if ".".join(path) in skip:
            continue
        annotation = _without_none(info.annotation)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from options_of(annotation, skip, path)
            continue
        flags = FLAGS.get((model.__name__, name), (f"--{name.lower().replace('_', '-')}",))
        kind, metavar, read = _kind_of(annotation, name)
        if kind is bool and "/" not in flags[0]:
            flags = (f"{flags[0]}/--no-{flags[0].removeprefix('--')}",)
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        unit = extra.get("unit")
        default = info.get_default(call_default_factory=True)
        text = info.description or ""
        text += f" [{unit}]" if unit and str(unit) not in text else ""
        if default is not None and not isinstance(default, bool):
            text += f" (default: {default})"
        yield Option(path, flags, kind, metavar, text, read)


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        kept = [part for part in get_args(annotation) if part is not type(None)]
        return kept[0] if len(kept) == 1 else annotation
    return annotation


def _kind_of(annotation: Any, name: str) -> tuple[type, str | None, Callable[[Any], Any]]:
    if name == "pixel_size_A":
        return str, "LENGTH", read_length_A
    if name in ("pixel_nm", "q_pixel_invA"):
        return str, "SIZE|R,C", read_size
    if get_origin(annotation) is Literal:
        return str, "|".join(map(str, get_args(annotation))), str
    if get_origin(annotation) is tuple:
        parts = get_args(annotation)
        if Ellipsis in parts:
            return str, "N,N,...", read_shape
        if len(parts) == 4:
            return str, "R0:R1,C0:C1", read_region
        return str, "FIRST,LAST" if parts == (int, int) else "R,C", read_pair
    if annotation in (int, float, str, bool):
        return annotation, None, annotation
    return str, None, str


@dataclass(frozen=True)
class Section:
    """A parameter model as options of a command.

    Attributes
    ----------
    model
        Its fields become options.
    skip
        Fields (dotted) that do not.
    as_dict
        Hand over only the values that were given, as a dict, instead of a whole model.
    """

    model: type[BaseModel]
    skip: frozenset[str] = frozenset()
    as_dict: bool = False

    def collect(self, values: Mapping[str, Any], options: Mapping[str, Option]) -> Any:
        """Model (or dict) from the values typer read.

        Raises
        ------
        typer.BadParameter
            Naming the option.
        """
        given: dict[str, Any] = {}
        flags: dict[tuple[str, ...], str] = {}
        for name, option in options.items():
            if (value := values[name]) is None:
                continue
            try:
                read = option.read(value)
            except ValueError as error:
                raise typer.BadParameter(f"{option.flags[0]}: {error}") from None
            at = given
            for part in option.path[:-1]:
                at = at.setdefault(part, {})
            at[option.path[-1]] = read
            flags[option.path] = option.flags[0]
        try:
            made = self.model.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            flag = flags.get(tuple(str(part) for part in first["loc"]), ".".join(map(str, first["loc"])))
            raise typer.BadParameter(f"{flag}: {first['msg'].removeprefix('Value error, ')}") from None
        return given if self.as_dict else made


def with_sections(**sections: Section) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Replace the parameters of a command named like the sections by the options of their models."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        made = {
            section: {f"{section}_{'_'.join(option.path)}": option for option in options_of(entry.model, entry.skip)}
            for section, entry in sections.items()
        }
        own = inspect.signature(function, eval_str=True).parameters
        parameters = [parameter for name, parameter in own.items() if name not in sections]
        parameters += [option.parameter(name) for options in made.values() for name, option in options.items()]

        @functools.wraps(function)
        def command(**values: Any) -> Any:
            built = {name: sections[name].collect(values, options) for name, options in made.items()}
            generated = {name for options in made.values() for name in options}
            return function(**{name: value for name, value in values.items() if name not in generated}, **built)

        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        del command.__wrapped__  # type: ignore[attr-defined]
        return command

    return decorate
