"""The column network: `scripts/gpu/columns.py` for the part's time, from the shipped weights or from an earlier run."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

SHARE = 2.0


def run(context: Any) -> dict[str, Any]:
    """Train, and leave `columns.pt` of at most 16 MiB."""
    earlier = None if context.start is None else context.start / "columns.pt"
    shipped = context.root / "src/napari_emdl/models/shipped/columns/weights.npz"
    target = context.file("columns.pt")
    command = [
        sys.executable, str(context.root / "scripts/gpu/columns.py"), "--device", context.device, "--to", str(target),
        "--from", str(earlier if earlier is not None and earlier.exists() else shipped),
        "--minutes", f"{0.1 if context.tiny else context.seconds / 60:.3f}",
        "--work", str(context.out.parent / "columns_banks"),
        *(["--tiny"] if context.tiny else []),
    ]  # fmt: skip
    path = os.pathsep.join([str(context.root / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return {"log": done.stdout.splitlines()[-40:], "bytes": target.stat().st_size}
