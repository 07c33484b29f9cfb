"""The walls of the house: the core knows no Qt, the GUI computes nothing, training is behind one door."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import napari_emdl
from helpers.earlier import unpack_earlier

PACKAGE = Path(napari_emdl.__file__).parent
CORE = ("base", "diffraction", "atoms", "models", "io", "jobs", "workflow", "exporting", "samples", "bench", "cli")
QT = {"qtpy", "PyQt5", "PyQt6", "PySide2", "PySide6", "napari", "magicgui", "superqt", "pyqtgraph", "vispy"}
SCIENCE = {"scipy", "onnxruntime", "skimage", "torch", "sklearn", "numba"}


def files(*parts: str) -> list[Path]:
    """Python files of folders or files of the package."""
    found = []
    for part in parts:
        path = PACKAGE / part
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path] if path.exists() else []
    return found


def imports(path: Path) -> Iterator[str]:
    """Full names of everything a file imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_at_once(path: Path) -> Iterator[str]:
    """Names imported when the module itself is imported (not inside functions, not for type checking)."""

    def walk(nodes: list[ast.stmt]) -> Iterator[str]:
        for node in nodes:
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                yield node.module
            elif isinstance(node, (ast.Try, ast.With, ast.If)) and "TYPE_CHECKING" not in ast.dump(getattr(node, "test", node)):
                yield from walk(node.body)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")).body)


def roots(names: Iterator[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", files(*CORE), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_core_imports_no_qt_and_no_gui(path: Path) -> None:
    names = set(imports(path))
    assert not roots(iter(names)) & QT
    assert not any(name.startswith("napari_emdl.gui") for name in names)


@pytest.mark.parametrize("path", files("gui"), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_gui_computes_nothing(path: Path) -> None:
    assert not roots(imports(path)) & SCIENCE


@pytest.mark.parametrize(
    "path", [path for path in files(".") if "training" not in path.relative_to(PACKAGE).parts[:1]], ids=lambda path: path.name
)
def test_training_is_behind_one_door(path: Path) -> None:
    """Only the command line's ``train`` and the tuning dialog import training, and torch only when they run."""
    door = "napari_emdl.training.tuning"  # light: it imports the rest when somebody tunes
    at_once = [name for name in imported_at_once(path) if name.startswith("napari_emdl.training") and name != door]
    assert not at_once
    later = [name for name in imports(path) if name.startswith("napari_emdl.training")]
    if later:
        assert path.relative_to(PACKAGE).parts[0] in ("cli", "gui"), "training is for 'train' and for the tuning dialog"
    assert not roots(imported_at_once(path)) & {"torch", "abtem", "ase", "onnx"}


def modules_after(code: str, whole_names: bool = False) -> set[str]:
    """Modules loaded by a fresh interpreter that ran `code`: the packages, or their modules by whole names."""
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules, sep='\\n')"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name if whole_names else name.split(".")[0] for name in run.stdout.split()}


def test_importing_the_package_is_light() -> None:
    loaded = modules_after("import napari_emdl")
    assert not loaded & (QT | SCIENCE | {"h5py", "dask", "rsciio", "matplotlib"})


def test_what_a_file_holds_is_told_without_scipy_and_networks(tmp_path: Path) -> None:
    """`info` starts in the time that numpy, h5py and pydantic take."""
    files_of = unpack_earlier(tmp_path)
    told = "; ".join(f"print(io.info({str(files_of / name)!r})['kind'])" for name in ("cube.npy", "disks.h5", "columns.h5"))
    loaded = modules_after(f"import napari_emdl.cli\nfrom napari_emdl import io\n{told}")
    assert {"datacube", "disks", "columns"} <= loaded  # the lines that it printed
    assert not loaded & (QT | {"scipy", "onnxruntime", "dask", "matplotlib", "skimage", "rsciio", "torch", "pandas", "yaml"})


def test_the_disks_command_loads_what_it_uses(tmp_path: Path) -> None:
    """The program that `napari-emdl disks` runs, to its end, by template matching."""
    cube, result = unpack_earlier(tmp_path) / "cube.npy", tmp_path / "disks.h5"
    words = ["napari-emdl", "disks", str(cube), "-o", str(result), "--method", "template", "--probe-radius", "3"]
    code = f"import sys\nsys.argv = {words!r}\nfrom napari_emdl.__main__ import entry\nassert entry() == 0"
    loaded = modules_after(code, whole_names=True)
    assert result.exists() and "scipy.ndimage" in loaded
    # scipy names these packages, which are there unopened
    assert not loaded & {"numpy.f2py.f2py2e", "numpy.testing._private", "unittest", "numpy.polynomial.legendre"}
    assert not loaded & {"scipy.spatial.transform._rotation", "scipy.constants"}
    unused = QT | {"dask", "matplotlib", "skimage", "rsciio", "torch", "pandas", "sklearn", "tifffile", "rich"}
    assert not {name.split(".")[0] for name in loaded} & unused
    assert not loaded & {"scipy.optimize", "scipy.signal", "scipy.stats", "scipy.interpolate"}
    assert "onnxruntime" not in loaded  # neither disks nor probe need a network here


def test_the_stem_panel_is_imported_without_science_and_plots() -> None:
    """What computes and draws figures is imported in a thread once the panel is shown."""
    loaded = modules_after("import napari\nimport napari.layers\nimport napari_emdl.gui.diffraction.workspace")
    before = modules_after("import napari\nimport napari.layers")
    assert not (loaded - before) & (SCIENCE | {"matplotlib", "pandas", "xarray", "dask", "rsciio", "yaml"})


def test_importing_the_core_needs_no_qt_and_no_onnxruntime() -> None:
    modules = [
        ".".join(("napari_emdl", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for path in files(*CORE)
    ]
    loaded = modules_after("\n".join(f"import {name}" for name in modules))
    assert not loaded & (QT | {"onnxruntime", "torch"})
    assert "napari_emdl" in loaded


def graph_with_strings() -> tuple[list[str], list[tuple[str, str]]]:
    """Modules of the package and who imports whom, modules named in strings (lazy homes, entry points) included."""
    import grimp

    graph = grimp.build_graph("napari_emdl", exclude_type_checking_imports=True)
    modules = sorted(graph.modules)
    arrows = [(module, other) for module in modules for other in graph.find_modules_directly_imported_by(module)]
    known = set(modules)
    for module in modules:
        path = PACKAGE.parent / Path(*module.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.split(":")[0] in known:
                arrows.append((module, node.value.split(":")[0]))
    return modules, arrows


def test_no_circle() -> None:
    """No module imports itself by way of others; imports inside functions count as well."""
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    modules, arrows = graph_with_strings()
    # a package's own face only hands names on: what imports it, imports what lies behind
    arrows = [(a, b) for a, b in arrows if b != "napari_emdl" and a != "napari_emdl"]
    index = {name: i for i, name in enumerate(modules)}
    rows, cols = ([index[arrow[side]] for arrow in arrows if arrow[0] != arrow[1]] for side in (0, 1))
    matrix = coo_array((np.ones(len(rows)), (rows, cols)), shape=(len(modules), len(modules)))
    _, label = connected_components(matrix, directed=True, connection="strong")
    circles = [sorted(modules[i] for i in np.flatnonzero(label == n)) for n in np.flatnonzero(np.bincount(label) > 1)]
    assert not circles


def test_strings_keep_the_order_of_the_rooms() -> None:
    """What is imported by its name in a string lies below as well; the contracts of import-linter see no strings."""
    import tomllib

    project = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    floor = {room.strip(): len(layers) - i for i, rooms in enumerate(layers) for room in rooms.split("|")}
    _, arrows = graph_with_strings()
    upward = []
    for module, other in arrows:
        above, below = (name.split(".")[1] if "." in name else "" for name in (module, other))
        if above in floor and below in floor and above != below and floor[above] <= floor[below]:
            upward.append((module, other))
    assert not upward
