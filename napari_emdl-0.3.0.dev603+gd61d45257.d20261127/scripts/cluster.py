"""Disks of a datacube on a cluster: SLURM by dask-jobqueue, or workers on this computer to try it.

    python scripts/cluster.py SCAN.h5 -o DISKS.h5 --local 2
    python scripts/cluster.py SCAN.h5 -o DISKS.h5 --slurm 8 --queue normal --hours 1
    python scripts/cluster.py SCAN.h5 -o DISKS.h5 --local 2 --compare

Every worker has one thread and reads its own part of the file, which must lie at the same path everywhere. Prints the rate, how
long this process computed itself, and the most memory that a worker took. With --compare one worker does the same first: the
last lines say how much faster all of them are and whether the disks are the same.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import napari_emdl
from napari_emdl.base.params import DiskParams, RunParams
from napari_emdl.base.peaks import PeakTable


@dataclass(frozen=True)
class Measured:
    """Disks, seconds from start to end, CPU seconds of this process and of all workers, and memory of the largest worker."""

    table: PeakTable
    wall_s: float
    here_s: float
    there_s: float
    peak_mb: float

    @property
    def patterns_per_s(self) -> float:
        """Rate of the whole job."""
        return self.table.n_positions / self.wall_s

    def __str__(self) -> str:
        return (
            f"{self.table.n_positions} patterns, {self.table.n_peaks} disks, {self.patterns_per_s:.1f} patterns/s; CPU: "
            f"{self.there_s:.1f} s in workers, {self.here_s:.1f} s here; most memory of a worker: {self.peak_mb:.0f} MB"
        )


def get_ready() -> None:
    """Import in a worker what it will need, so that it is not timed."""
    import napari_emdl.diffraction.find.disks
    import napari_emdl.diffraction.find.network
    import napari_emdl.diffraction.find.template  # noqa: F401
    from napari_emdl.models.session import ort

    ort()


def cpu_s() -> float:
    """CPU seconds of the process it runs in, all threads."""
    return time.process_time()


def peak_memory_mb() -> float:
    """Most resident memory of the process it runs in."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cluster_of(options: argparse.Namespace, workers: int) -> Any:
    """Workers of one thread each."""
    if options.slurm:
        from dask_jobqueue import SLURMCluster

        cluster = SLURMCluster(
            queue=options.queue, cores=1, processes=1, memory=options.memory, walltime=f"{options.hours:02d}:00:00"
        )
        cluster.scale(jobs=workers)
        return cluster
    from distributed import LocalCluster

    return LocalCluster(n_workers=workers, threads_per_worker=1, memory_limit=options.memory, dashboard_address=None)


def measure(options: argparse.Namespace, workers: int, in_flight: int, output: Path) -> Measured:
    """Find the disks with that many workers. The same number of blocks in flight cuts the scan into the same blocks."""
    from distributed import Client

    with cluster_of(options, workers) as cluster, Client(cluster) as client:
        client.wait_for_workers(workers)
        client.run(get_ready)
        get_ready()
        cube = napari_emdl.open_datacube(options.cube)
        run = RunParams(
            scheduler=cluster.scheduler_address, device="cpu", max_memory=options.max_memory, resume=None, workers=in_flight
        )
        there, here, start = sum(client.run(cpu_s).values()), cpu_s(), time.perf_counter()
        table = napari_emdl.find_disks(cube, params=DiskParams(method=options.method), run=run, output=output)
        seconds, here = time.perf_counter() - start, cpu_s() - here
        napari_emdl.save(table, output)
        return Measured(table, seconds, here, sum(client.run(cpu_s).values()) - there, max(client.run(peak_memory_mb).values()))


def same(one: PeakTable, other: PeakTable) -> bool:
    """Whether two tables hold the same disks, value for value."""
    return np.array_equal(one.offset, other.offset) and all(
        np.array_equal(one.column(name), other.column(name), equal_nan=True) for name in one.fields
    )


def main() -> None:
    """Command line of this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cube")
    parser.add_argument("-o", "--output", required=True, type=Path)
    parser.add_argument("--method", default="fcunet")
    parser.add_argument("--local", type=int, default=2, help="workers on this computer")
    parser.add_argument("--slurm", type=int, default=0, help="workers by SLURM in their place")
    parser.add_argument("--queue", help="partition of SLURM")
    parser.add_argument("--hours", type=int, default=1, help="walltime of a SLURM worker")
    parser.add_argument("--memory", default="4GB", help="of a worker")
    parser.add_argument("--max-memory", default="512MB", help="that all blocks in flight may take")
    parser.add_argument("--compare", action="store_true", help="one worker first")
    options = parser.parse_args()
    workers = options.slurm or options.local
    alone = None
    if options.compare:
        alone = measure(options, 1, 2 * workers, options.output.with_name(f"{options.output.stem}_one.h5"))
        print(f"1 worker: {alone}")
    together = measure(options, workers, 2 * workers, options.output)
    print(f"{workers} workers: {together}")
    if alone is not None:
        by_cpu = (alone.here_s + alone.there_s) / (together.here_s + together.there_s / workers)
        print(f"{alone.wall_s / together.wall_s:.2f} times as fast; {by_cpu:.2f} by CPU time, with this process waited for")
        print("the disks are the same" if same(alone.table, together.table) else "the disks DIFFER")


if __name__ == "__main__":
    main()
