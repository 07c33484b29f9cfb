"""``python -m tests.fuzz --count 3000``: the long run, by hand."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.run import Report, run


def main() -> int:
    """Run and print what came; exits with 0 only when there is no fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="part of the name of the seeds that are used")
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    options = parser.parse_args()

    def progress(report: Report) -> None:
        print(f"{report.tried} of {options.count}, {len(report.faults)} faults", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="emdl-fuzz-") as folder:
        report = run(Path(folder), options.count, options.seed, options.only, options.first, progress)
    for line in (*report.faults, *(f"(library) {line}" for line in report.in_library)):
        print(line)
    print(f"{report.tried} files: {dict(report.outcomes.most_common())}")
    print(f"{len(report.faults)} faults; peak memory of a process {report.peak_mb} MB")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
