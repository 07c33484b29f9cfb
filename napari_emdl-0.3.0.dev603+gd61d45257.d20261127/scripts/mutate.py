"""Mutation spot check: change one sign, index, order, comparison or constant at a time; a test must fail.

    python scripts/mutate.py diffraction/fit/tensor.py tests/diffraction/fit/test_strain.py [-n 60] [--seed 1] [-k EXPRESSION]

Each mutant runs in a process of its own (fork: Linux and macOS) against the tests named. Survivors are printed with their line.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import io
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LONGEST_S = 120  # of CPU
LIBRARIES = ("numpy", "scipy.ndimage", "scipy.optimize", "scipy.sparse.linalg", "scipy.spatial", "h5py", "pydantic")
SWAPS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


def changes(node: ast.AST) -> Iterator[tuple[str, Callable[[ast.AST], ast.AST]]]:
    """Ways to make one node wrong: a name for each, and a function that does it to a copy of the node."""
    operators = [getattr(node, "op", None), *getattr(node, "ops", [])[:1]]
    for operator in operators:
        if type(operator) in SWAPS:
            wrong = SWAPS[type(operator)]
            yield f"{type(operator).__name__} -> {wrong.__name__}", lambda n, wrong=wrong: _operator(n, wrong())
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "minus left out", lambda n: n.operand
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        yield "factors swapped", lambda n: ast.BinOp(n.right, n.op, n.left)
    if isinstance(node, ast.Attribute) and node.attr == "T" and isinstance(node.ctx, ast.Load):
        yield "not transposed", lambda n: n.value
    if isinstance(node, ast.Tuple) and len(node.elts) == 2 and not any(isinstance(e, ast.Slice) for e in node.elts):
        yield "two swapped", lambda n: ast.Tuple(n.elts[::-1], n.ctx)
    if isinstance(node, ast.Constant) and type(node.value) is int:
        yield "off by one", lambda n: ast.Constant(n.value + 1)
    if isinstance(node, ast.Constant) and type(node.value) is float and node.value:
        yield "constant x 2", lambda n: ast.Constant(n.value * 2)


def _operator(node: ast.AST, wrong: ast.AST) -> ast.AST:
    if hasattr(node, "ops"):
        node.ops = [wrong, *node.ops[1:]]
    else:
        node.op = wrong
    return node


def mutants(source: str) -> list[tuple[int, str, ast.Module]]:
    """(line, what was changed, changed module) of every single change to code that runs; annotations are left alone."""
    tree = ast.parse(source)
    hidden = {id(sub) for n in ast.walk(tree) for name in ("annotation", "returns") if (at := getattr(n, name, None))
              for sub in ast.walk(at)}  # fmt: skip
    places = [n for n in ast.walk(tree) if id(n) not in hidden]
    found = []
    for index, node in enumerate(places):
        for name, change in changes(node):
            clone = copy.deepcopy(tree)
            again = [n for n, o in zip(ast.walk(clone), ast.walk(tree), strict=True) if id(o) not in hidden][index]
            wrong = ast.copy_location(change(copy.copy(again)), again)
            _Replace(again, wrong).visit(clone)
            found.append((node.lineno, name, ast.fix_missing_locations(clone)))
    return found


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


class _Wrong(MetaPathFinder, SourceFileLoader):
    """Gives the mutant when the module is imported."""

    def __init__(self, module: str, path: Path, tree: ast.Module) -> None:
        SourceFileLoader.__init__(self, module, str(path))
        self.tree = tree

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:  # type: ignore[override]
        if name != self.name:
            return None
        spec = PathFinder.find_spec(name, path)  # type: ignore[arg-type]
        assert spec is not None
        spec.loader = self
        return spec

    def get_code(self, fullname: str):  # type: ignore[no-untyped-def]
        return compile(self.tree, self.path, "exec")


def survives(module: str, path: Path, tree: ast.Module, tests: list[str]) -> bool:
    """Whether all tests pass with the mutant in place of the module."""
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_PROF, LONGEST_S)  # an endless loop is noticed as well
        sys.meta_path.insert(0, _Wrong(module, path, tree))
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(io.StringIO()):
            import pytest

            code = pytest.main(["-x", "-q", "-m", "not referee and not slow", *tests])
        os._exit(int(code) != 0)
    return os.waitpid(child, 0)[1] == 0


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("module", help="below src/napari_emdl")
    parser.add_argument("tests", nargs="+")
    parser.add_argument("-n", type=int, default=60, help="mutants drawn")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-k", default="", help="tests to run, as pytest takes it")
    args = parser.parse_args()
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # a window's plugins take longer to start than the tests
    for library in LIBRARIES:  # once, before the forks
        importlib.import_module(library)

    path = ROOT / "src" / "napari_emdl" / args.module
    module = "napari_emdl." + args.module.removesuffix(".py").replace("/", ".")
    found = mutants(path.read_text(encoding="utf-8"))
    tests = [*args.tests, "-k", args.k]
    if not survives(module, path, ast.parse(path.read_text(encoding="utf-8")), tests):
        raise SystemExit("the tests fail as it is")
    drawn = random.Random(args.seed).sample(found, min(args.n, len(found)))
    text = path.read_text(encoding="utf-8").splitlines()
    lived = 0
    for line, name, tree in sorted(drawn, key=lambda m: m[0]):
        if survives(module, path, tree, tests):
            lived += 1
            print(f"{args.module}:{line}: {name}: {text[line - 1].strip()}", flush=True)
    print(f"{args.module}: {len(drawn)} mutants of {len(found)}, {len(drawn) - lived} killed, {lived} survived")


if __name__ == "__main__":
    main()
