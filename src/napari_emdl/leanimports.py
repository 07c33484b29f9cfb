"""Imports of the program's own process without what nobody here uses: a fifth of the start of most commands.

It reaches into the imports of numpy and scipy, so it is for the program only: whoever imports napari-emdl gets them as they
are.
"""

from __future__ import annotations

import importlib.util
import sys
from collections import defaultdict
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

#: What scipy's imports take hold of by name, though nobody here uses it. Each is loaded when something of it is.
UNUSED = frozenset({"numpy.f2py", "numpy.testing", "numpy.polynomial", "numpy.ctypeslib", "scipy.spatial.transform"})
#: Where scipy takes the docstrings of 200 functions apart to add a table to each, at every start.
DOCSTRINGS = "scipy._lib._docscrape"


def install() -> None:
    """From now on, modules of this process are imported so."""
    if not any(isinstance(finder, _LeanFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _LeanFinder())


class _LeanFinder:
    """Finds the modules named above where they always lie, and loads them in its own way."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in UNUSED and name != DOCSTRINGS:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            lean: Any = _Docstrings if name == DOCSTRINGS else importlib.util.LazyLoader
            spec.loader = lean(spec.loader)
        return spec


class _Docstrings:
    """Loader of scipy's parser of docstrings, whose class for functions then leaves them as they are."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        base = getattr(module, "FunctionDoc", None)
        if isinstance(base, type):
            module.FunctionDoc = type("FunctionDoc", (base,), dict(vars(_Unparsed)))  # type: ignore[attr-defined]


class _Unparsed:
    """A function's docstring that is given back as it was, whatever sections are added to it."""

    def __init__(self, func: Any, *args: Any, **kwargs: Any) -> None:
        self._func = func
        self._parsed_data: defaultdict[str, list[Any]] = defaultdict(list)

    def __str__(self) -> str:
        return f"\n{getattr(self._func, '__doc__', None) or ''}"  # scipy takes off a first line, the signature
