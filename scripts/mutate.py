"""Mutation spot check: change one sign, index, order, comparison or constant at a time; a test must fail.

    python scripts/mutate.py diffraction/fit/tensor.py tests/diffraction/fit/test_strain.py [-n 60] [--seed 1] [-k EXPRESSION]

Each mutant runs in a process of its own (fork: Linux and macOS) against the tests named, which are collected once. Survivors
are printed with their line. A constant that other modules took by name keeps its value there.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "napari_emdl"
LONGEST_S = 120  # of CPU
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


def put_in_place(module: ModuleType, tree: ast.Module) -> None:
    """Run a mutant in the namespace of its module; functions and classes that others have imported change where they are."""
    old = dict(vars(module))
    exec(compile(tree, str(module.__file__), "exec"), vars(module))
    for name, new in list(vars(module).items()):
        if (was := old.get(name)) is not new and getattr(new, "__module__", "") == module.__name__:
            vars(module)[name] = _changed(was, new)


def _changed(old: object, new: object) -> object:
    """The old object with the code of the new one; the new one where that cannot be done."""
    if isinstance(old, FunctionType) and isinstance(new, FunctionType):
        if len(old.__code__.co_freevars) != len(new.__code__.co_freevars):
            return new
        old.__code__, old.__defaults__, old.__kwdefaults__ = new.__code__, new.__defaults__, new.__kwdefaults__
        return old
    if isinstance(old, type) and isinstance(new, type):
        for name, value in vars(new).items():
            if isinstance(value, (FunctionType, property, classmethod, staticmethod)):
                setattr(old, name, value)
        return old
    if hasattr(old, "cache_clear") and hasattr(new, "__wrapped__"):
        old.cache_clear()
        _changed(old.__wrapped__, new.__wrapped__)  # type: ignore[attr-defined]
        return old
    return new


class Mutator:
    """Runs the collected tests once for each mutant, each time in a process of its own; collecting happens once."""

    def __init__(self, path: Path, n: int, seed: int) -> None:
        self.path = path
        self.name = path.relative_to(PACKAGE).as_posix()
        self.n, self.seed = n, seed
        self.in_child = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A child ends with its first failure."""
        if self.in_child and report.failed:
            os._exit(1)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In place of running the tests once."""
        module = importlib.import_module(f"{PACKAGE.name}." + self.name.removesuffix(".py").replace("/", "."))
        source = self.path.read_text(encoding="utf-8")
        before = os.times().children_user
        if not self.survives(session, module, ast.parse(source), LONGEST_S):
            raise pytest.UsageError("the tests fail as it is")
        limit_s = min(LONGEST_S, 5 + 5 * (os.times().children_user - before))
        found = mutants(source)
        drawn = random.Random(self.seed).sample(found, min(self.n, len(found)))
        text = source.splitlines()
        lived = 0
        for line, name, tree in sorted(drawn, key=lambda m: m[0]):
            if self.survives(session, module, tree, limit_s):
                lived += 1
                print(f"{self.name}:{line}: {name}: {text[line - 1].strip()}", flush=True)
        print(f"{self.name}: {len(drawn)} mutants of {len(found)}, {len(drawn) - lived} killed, {lived} survived", flush=True)
        return True

    def survives(self, session: pytest.Session, module: ModuleType, tree: ast.Module, limit_s: float) -> bool:
        """Whether all tests pass with the mutant in place of the module."""
        child = os.fork()
        if child == 0:
            self.in_child = True
            session.config.pluginmanager.unregister(name="terminalreporter")
            signal.setitimer(signal.ITIMER_PROF, limit_s)  # of CPU: an endless loop is noticed as well
            try:
                put_in_place(module, tree)
                with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
                    for item, after in zip(session.items, [*session.items[1:], None], strict=True):
                        item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            except BaseException:
                os._exit(1)
            os._exit(0)
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
    flags = ["-q", "-s", "-m", "not referee and not slow", "-k", args.k]
    raise SystemExit(pytest.main([*flags, *args.tests], plugins=[Mutator(PACKAGE / args.module, args.n, args.seed)]))


if __name__ == "__main__":
    main()
