"""The public API: what is promised is there, and typed."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import napari_emdl as emdl

STUB = Path(emdl.__file__).with_suffix(".pyi")


def stubbed() -> dict[str, str]:
    """Name -> module of everything the stub gives."""
    found = {}
    for node in ast.parse(STUB.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: node.module or "" for alias in node.names}
    return found


def test_the_stub_types_every_public_name() -> None:
    assert set(stubbed()) | {"__version__"} == set(emdl.__all__)
    assert STUB.with_name("py.typed").exists()


def test_the_stub_tells_where_names_come_from() -> None:
    for name, module in stubbed().items():
        assert getattr(emdl, name).__module__ == module, name


def test_public_functions_are_documented_and_annotated() -> None:
    for name in emdl.__all__:
        thing = getattr(emdl, name)
        if inspect.isfunction(thing):
            assert "Raises" in (thing.__doc__ or "") or "Returns" in (thing.__doc__ or "") or name.startswith("open_"), name
            assert inspect.signature(thing).return_annotation is not inspect.Signature.empty, name
    assert {"export", "watch", "compare", "check_gain"} <= set(emdl.__all__)
