"""The rooms of the GUI: no import circle, the kit knows no science, the sciences do not know each other."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import napari_emdl

PACKAGE = Path(napari_emdl.__file__).parent


def graph() -> dict[str, set[str]]:
    """Modules of gui/ and plugin/, and what each imports of them, at any depth and for type checking too."""
    paths = [path for room in ("gui", "plugin") for path in sorted((PACKAGE / room).rglob("*.py"))]
    names = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in paths}
    found: dict[str, set[str]] = {}
    for name, path in names.items():
        wanted: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                wanted |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        found[name] = wanted & set(names) - {name}
    return found


def test_no_import_circle() -> None:
    TopologicalSorter(graph()).prepare()  # raises CycleError and names the circle


def test_each_room_keeps_to_itself() -> None:
    forbidden = {"kit": ("diffraction", "atoms"), "diffraction": ("atoms",), "atoms": ("diffraction",)}
    for name, wanted in graph().items():
        room = name.split(".")[2]
        for other in forbidden.get(room, ()):
            assert not [one for one in wanted if one.startswith(f"napari_emdl.gui.{other}.")], name
