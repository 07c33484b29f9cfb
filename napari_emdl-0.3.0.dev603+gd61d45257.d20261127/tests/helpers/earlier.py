"""Files that version 0.2 wrote: results, jobs, a project and the data they were made from."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

FILES = Path(__file__).resolve().parents[1] / "data" / "v0_2"


def unpack_earlier(folder: Path) -> Path:
    """Put all of them into `folder`, unpacked, and return it."""
    for packed in FILES.iterdir():
        if packed.suffix == ".gz":
            (folder / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
        else:
            shutil.copy(packed, folder)
    return folder
