"""What all parameter models share, and how a job runs."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Device = Literal["auto", "cpu", "cuda"]
Pair = tuple[float, float]


class Params(BaseModel):
    """Base of all parameter models: immutable, unknown names are an error."""

    # checks are built when a model is first made: a command or panel makes few of them
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


#: Words for a value that is None.
NOT_SET, FROM_FILE = "not set", "from the file"


def field(
    default: Any,
    text: str,
    unit: str = "",
    advanced: bool = False,
    empty: str = "auto",
    group: str = "",
    file: bool = False,
    label: str = "",
    **bounds: Any,
) -> Any:
    extra: dict[str, Any] = {
        "unit": unit,
        "advanced": advanced,
        "empty": empty,
        "group": group,
        "file": file,
        "label": label,
    }
    return Field(default, description=text, json_schema_extra=extra, **bounds)


class RunParams(Params):
    """How a job runs; no effect on the result."""

    device: Device = field(
        "auto", "Where networks run. auto uses the GPU if it can and says what it used; cuda fails if there is none"
    )
    batch: int | None = field(None, "Patterns or frames per network call; empty chooses by memory", ge=1, le=4096)
    max_memory: str = field("2GB", "Memory a job may take, such as 2GB or 500MB")
    workers: int | None = field(None, "Worker threads; empty uses all cores", ge=1, le=1024)
    scheduler: str | None = field(None, "Address of a Dask scheduler, such as tcp://host:8786; empty runs here", empty="none")
    resume: bool | None = field(
        None, "True goes on with a partial result file, False starts again; empty refuses to overwrite another job's result"
    )

    @field_validator("max_memory")
    @classmethod
    def _parsable(cls, text: str) -> str:
        parse_bytes(text)
        return text

    @property
    def max_memory_bytes(self) -> int:
        """`max_memory` in bytes."""
        return parse_bytes(self.max_memory)


def parse_bytes(text: str) -> int:
    """Turn "2GB", "500 MB" or "1GiB" into bytes."""
    units = {
        "": 1,
        "B": 1,
        "KB": 10**3,
        "MB": 10**6,
        "GB": 10**9,
        "TB": 10**12,
        "KIB": 2**10,
        "MIB": 2**20,
        "GIB": 2**30,
        "TIB": 2**40,
    }
    compact = text.replace(" ", "").upper()
    number = compact.rstrip("KMGTIB")
    unit = compact[len(number) :]
    try:
        value = float(number) * units[unit]
    except (ValueError, KeyError):
        raise ValueError(f"cannot read {text!r} as a size; write it like 2GB or 500MB") from None
    if value <= 0:
        raise ValueError(f"a memory limit must be positive, got {text!r}")
    return int(value)
