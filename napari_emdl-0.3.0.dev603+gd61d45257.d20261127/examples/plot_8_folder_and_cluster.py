"""
A folder of files, and a cluster
================================

The same analysis of every file in a folder: resumable, in bounded memory, on this machine or on a Dask cluster. And
the job file that does it without Python.
"""

# sphinx_gallery_thumbnail_path = 'images/hrtem_live.png'

import tempfile
from pathlib import Path

import numpy as np

import napari_emdl as emdl
from napari_emdl.base.params import RunParams
from napari_emdl.samples.diffraction import strained_datacube

# %%
# A folder of scans
# -----------------

folder = Path(tempfile.mkdtemp())
cube, truth = strained_datacube(shape=(6, 16), detector=(96, 96))
for name in ("scan_1", "scan_2"):
    np.save(folder / f"{name}.npy", cube.data[...])
np.save(folder / "vacuum.npy", truth["probe"])

# %%
# One after the other
# -------------------
#
# With ``output`` finished blocks lie in ``NAME.disks.h5.part``; with ``resume=True`` a run that was stopped goes on,
# and a finished one is left alone. ``max_memory`` bounds what a job takes, whatever the size of the file.

run = RunParams(max_memory="500MB", resume=True)


def analyse(path: Path, run: RunParams) -> float:
    """Disks and strain of one file; returns the typical error of strain in per cent."""
    target = path.with_suffix(".disks.h5")
    scan = emdl.open_datacube(path, pixel_nm=1.5, q_pixel_invA=0.0213)
    if target.exists():
        disks = emdl.load(target)
    else:
        disks = emdl.find_disks(scan, probe=folder / "vacuum.npy", method="template", output=target, run=run)
        emdl.save(disks, target)
    strain = emdl.fit_strain(disks, reference=truth["reference"])
    emdl.save(strain, path.with_suffix(".strain.h5"))
    emdl.export(strain, path.with_suffix(""), parts=("csv", "figures"))
    return 100 * float(np.nanmedian(strain.sigma[strain.mask][:, :3]))


for path in sorted(folder.glob("scan_*.npy")):
    print(f"{path.name}: typical error {analyse(path, run):.3f} %")

# %%
# On a cluster
# ------------
#
# ``scheduler`` is the address of a Dask scheduler. Blocks are read, found and sent back by the workers, which must
# see the file under the same path. Here a scheduler in this process stands for yours. A scheduler is trusted like a
# shell: use one of your own.

from importlib.util import find_spec

if find_spec("distributed"):
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        on_cluster = emdl.find_disks(
            emdl.open_datacube(folder / "scan_1.npy"),
            probe=folder / "vacuum.npy",
            method="template",
            run=RunParams(scheduler=cluster.scheduler_address),
        )
    same = np.allclose(on_cluster.positions_px(), emdl.load(folder / "scan_1.disks.h5").positions_px())
    print("the same disks as on this machine:", same)
else:
    print("left out: the cluster needs pip install 'napari-emdl[cluster]'")

# %%
# The same as a job file
# ----------------------
#
# *Save job* in a panel writes such a file. Paths are relative to it.

job = folder / "job.yaml"
job.write_text(
    """\
stages:
- stage: open
  path: scan_2.npy
- stage: find
  disks: {method: template, probe: {file: vacuum.npy}}
  output: job_disks.h5
- stage: fit
  strain: {reference: [0, 6, 11, 16]}
  output: job_strain.h5
- stage: export
  to: figures
run: {max_memory: 500MB}
"""
)
from napari_emdl.cli.app import main

print("exit status", main(["run", str(job)]))
print(sorted(path.name for path in (folder / "figures").iterdir())[:4])

# %%
# In a shell::
#
#     for file in scan_*.h5; do
#         napari-emdl disks "$file" -o "${file%.h5}.disks.h5" --probe vacuum.npy --resume --max-memory 2GB
#         napari-emdl strain "${file%.h5}.disks.h5" -o "${file%.h5}.strain.h5"
#     done
#
# A movie folder that a camera still writes into: ``napari-emdl watch FOLDER -o live.h5``.
