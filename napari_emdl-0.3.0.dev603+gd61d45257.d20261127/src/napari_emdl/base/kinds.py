"""Kinds of results: each science registers how its results are recognised, written and read; who saves asks here.

A kind is registered by the module that knows it, the first time somebody needs it: the package itself lists the modules, so
that neither this room nor `io` names a science.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_emdl.base.errors import EmdlError

if TYPE_CHECKING:
    import h5py


@dataclass(frozen=True)
class ResultKind:
    """One kind of result.

    Attributes
    ----------
    name
        As the file's attribute ``emdl_result`` says.
    matches
        Whether an object is a result of this kind.
    write, read
        Into and from an open HDF5 file.
    """

    name: str
    matches: Callable[[Any], bool]
    write: Callable[[h5py.File, Any], None]
    read: Callable[[h5py.File], Any]


_LOADERS: list[Callable[[], tuple[ResultKind, ...]]] = []
_KINDS: dict[str, ResultKind] = {}
_LOADING = threading.RLock()


def register(load: Callable[[], tuple[ResultKind, ...]]) -> None:
    """Add a function that gives kinds of results; it is called when a result is first saved or loaded."""
    _LOADERS.append(load)


def kinds() -> dict[str, ResultKind]:
    """All kinds by name; a second thread waits until all are there."""
    with _LOADING:
        while _LOADERS:
            for kind in _LOADERS.pop(0)():
                _KINDS[kind.name] = kind
    return _KINDS


def kind_of(result: Any) -> ResultKind:
    """Kind of an object.

    Raises
    ------
    EmdlError
        When it is none.
    """
    for kind in kinds().values():
        if kind.matches(result):
            return kind
    raise EmdlError(f"cannot save {type(result).__name__}; expected {_listed(iter(kinds()))}")


def _listed(names: Iterator[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last
