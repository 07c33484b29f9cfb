"""Lines of the core as the command line says them: an option is its flag."""

from __future__ import annotations

from functools import cache

from napari_emdl.base.wording import worded


def said(text: str) -> str:
    """`text` with the options it names as flags: ``fit='peaks'`` is ``--fit peaks``."""
    return worded(text, _flag)


def _flag(name: str, value: str) -> str:
    first, off = _flags().get(name, (f"--{name.replace('_', '-')}", ""))
    if off:
        return off if value == "False" else first
    return f"{first} {value.replace(', ', ',')}".strip()


@cache
def _flags() -> dict[str, tuple[str, str]]:
    """Flag of each field of the parameter models, and the one that turns it off."""
    from napari_emdl.base import params
    from napari_emdl.cli.options import options_of

    found: dict[str, tuple[str, str]] = {}
    for model in (
        params.OpenParams,
        params.ColumnParams,
        params.OccupancyParams,
        params.DiskParams,
        params.StrainParams,
        params.RunParams,
    ):
        for option in options_of(model):
            on, _, off = option.flags[0].partition("/")
            found.setdefault(option.path[-1], (on, off))
    return found
