"""Disks of a datacube on a cluster: SLURM by dask-jobqueue, or workers on this computer to try it.

    python scripts/cluster.py SCAN.h5 -o DISKS.h5 --local 2
    python scripts/cluster.py SCAN.h5 -o DISKS.h5 --slurm 8 --queue normal --hours 1

Every worker has one thread and reads its own part of the file, which must lie at the same path everywhere. Prints the rate and
the most memory that a worker took.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import napari_emdl
from napari_emdl.base.params import DiskParams, RunParams


def peak_memory_mb() -> float:
    """Most resident memory of the process it runs in."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cluster_of(options: argparse.Namespace) -> Any:
    """Workers of one thread each."""
    if options.slurm:
        from dask_jobqueue import SLURMCluster

        cluster = SLURMCluster(
            queue=options.queue, cores=1, processes=1, memory=options.memory, walltime=f"{options.hours:02d}:00:00"
        )
        cluster.scale(jobs=options.slurm)
        return cluster
    from distributed import LocalCluster

    return LocalCluster(n_workers=options.local, threads_per_worker=1, memory_limit=options.memory, dashboard_address=None)


def main() -> None:
    """Command line of this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cube")
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--method", default="fcunet")
    parser.add_argument("--local", type=int, default=2, help="workers on this computer")
    parser.add_argument("--slurm", type=int, default=0, help="workers by SLURM in their place")
    parser.add_argument("--queue", help="partition of SLURM")
    parser.add_argument("--hours", type=int, default=1, help="walltime of a SLURM worker")
    parser.add_argument("--memory", default="4GB", help="of a worker")
    parser.add_argument("--max-memory", default="512MB", help="that a block may take")
    options = parser.parse_args()
    from distributed import Client

    with cluster_of(options) as cluster, Client(cluster) as client:
        client.wait_for_workers(options.slurm or options.local)
        cube = napari_emdl.open_datacube(options.cube)
        run = RunParams(scheduler=cluster.scheduler_address, device="cpu", max_memory=options.max_memory, resume=None)
        start = time.perf_counter()
        table = napari_emdl.find_disks(cube, params=DiskParams(method=options.method), run=run, output=options.output)
        seconds = time.perf_counter() - start
        napari_emdl.save(table, options.output)
        most = max(client.run(peak_memory_mb).values())
    print(f"{table.n_positions} patterns, {table.n_peaks} disks, {table.n_positions / seconds:.1f} patterns/s")
    print(f"most memory of a worker: {most:.0f} MB")


if __name__ == "__main__":
    main()
