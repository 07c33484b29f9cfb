"""The program ``napari-emdl``, also ``python -m napari_emdl``."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from napari_emdl import leanimports


def _stop_early(number: int, frame: FrameType | None) -> None:
    """Ctrl-C while the program is still being loaded."""
    os.write(2, b"napari-emdl: stopped\n")
    os._exit(130)


def entry() -> int:
    """Run the command line of this process; what the user stops ends within a second."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop_early)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looking for some reads every installed package
    leanimports.install()
    from napari_emdl.cli import program

    return program()


if __name__ == "__main__":
    sys.exit(entry())
