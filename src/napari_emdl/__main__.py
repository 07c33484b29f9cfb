"""The program ``napari-emdl``, also ``python -m napari_emdl``."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from types import FrameType

#: What scipy's imports take hold of with all other names of numpy, though nobody here uses it: a sixth of the start.
_UNUSED = ("numpy.f2py", "numpy.testing")


def _stop_early(number: int, frame: FrameType | None) -> None:
    """Ctrl-C while the program is still being loaded."""
    os.write(2, b"napari-emdl: stopped\n")
    os._exit(130)


def _import_when_used(name: str) -> None:
    """Let a submodule be imported when something of it is used, not when it is named (the recipe of Python's documentation)."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None or name in sys.modules:
        return
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    parent, _, own = name.rpartition(".")
    setattr(sys.modules[parent], own, module)


def entry() -> int:
    """Run the command line of this process; what the user stops ends within a second."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop_early)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looking for some reads every installed package
    for name in _UNUSED:
        _import_when_used(name)
    from napari_emdl.cli import program

    return program()


if __name__ == "__main__":
    sys.exit(entry())
