"""Everything the project wants from one machine with a GPU, within some minutes and without a network.

    python scripts/gpu/run.py --out FOLDER [--minutes 9] [--parts sessions disks] [--device cuda|cpu] [--tiny]

Runs the parts in `scripts/gpu/parts` one after the other, each within its share of the time. A part is a module with
`SHARE` (a number; its time is SHARE over the sum of all) and `run(context) -> dict`. What the parts return lands in
FOLDER/report.json, which is written after every part; a part that fails leaves its traceback there and the others go on.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
#: What comes back from the lent machine.
MAX_FILES, MAX_FILE_BYTES = 8, 16 * 2**20


@dataclass
class Context:
    """What a part is given.

    Attributes
    ----------
    out
        Folder for the part's files; all parts together at most 8, each at most 16 MiB.
    device
        "cuda" or "cpu".
    seconds
        Time the part may take.
    tiny
        Only show that everything runs: seconds on one core.
    start
        Folder with files of an earlier run to go on from, or None.
    root
        The repository.
    """

    out: Path
    device: str
    seconds: float
    tiny: bool
    start: Path | None
    root: Path

    def file(self, name: str) -> Path:
        """Path of a file of the result."""
        return self.out / name


def parts() -> dict[str, Path]:
    """Name -> module file of every part, in order of their names."""
    return {path.stem: path for path in sorted((HERE / "parts").glob("*.py"))}


def load(path: Path) -> ModuleType:
    """Import a part by its file."""
    spec = importlib.util.spec_from_file_location(f"gpu_part_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def machine(device: str) -> dict[str, str]:
    """What the figures were measured on."""
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return {"device": name, "torch": torch.__version__, "python": platform.python_version(), "root": ROOT.name}


def check_files(out: Path) -> list[str]:
    """What of the result would not come back."""
    files = [p for p in out.rglob("*") if p.is_file()]
    wrong = [f"{p.name} has {p.stat().st_size / 2**20:.1f} MiB" for p in files if p.stat().st_size > MAX_FILE_BYTES]
    return wrong + ([f"{len(files)} files"] if len(files) > MAX_FILES else [])


def main() -> int:
    """Run the parts."""
    found = parts()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--parts", nargs="*", choices=list(found), default=list(found))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="seconds instead of minutes: shows that everything runs")
    parser.add_argument("--start", type=Path, help="folder with the files of an earlier run to go on from")
    args = parser.parse_args()
    if str(ROOT / "src") not in sys.path:
        sys.path.insert(0, str(ROOT / "src"))
    args.out.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    modules = {name: load(found[name]) for name in args.parts}
    report: dict[str, object] = {"machine": machine(args.device)}
    failed = 0
    for k, (name, module) in enumerate(modules.items()):
        left = 60 * args.minutes - (time.monotonic() - begin)
        share = module.SHARE / sum(m.SHARE for m in list(modules.values())[k:])
        start = time.monotonic()
        try:
            result = module.run(Context(args.out, args.device, left * share, args.tiny, args.start, ROOT))
        except Exception:
            failed += 1
            result = {"failed": traceback.format_exc()}
            print(result["failed"], file=sys.stderr, flush=True)
        report[name] = result | {"seconds": round(time.monotonic() - start, 1)}
        (args.out / "report.json").write_text(json.dumps(report, indent=1, default=float), "utf-8")
        print(f"{name}: {report[name]}", flush=True)
    wrong = check_files(args.out)
    if wrong:
        print(f"these would not come back: {', '.join(wrong)}", file=sys.stderr)
    return 1 if failed or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
