"""Opening files and saving results. Heavy libraries are imported when a file needs them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

#: Public name -> module. No module is named like a function, so that importing one never hides the other.
_HOMES = {
    "open": "opening",
    "open_datacube": "opening",
    "open_movie": "opening",
    "info": "summary",
    "is_result": "summary",
    "save": "results",
    "load": "results",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'napari_emdl.io' has no attribute {name!r}")
    return getattr(import_module(f"napari_emdl.io.{_HOMES[name]}"), name)
