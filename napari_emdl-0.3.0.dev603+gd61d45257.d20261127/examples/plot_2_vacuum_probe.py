"""
Strain of your own file, with a vacuum probe
============================================

A file without a known layout, a vacuum probe recorded beside it, a rotation between detector and scan. What to give,
and what to check before you believe the map.
"""

# sphinx_gallery_thumbnail_path = 'images/stem-lattice.png'

import tempfile
from pathlib import Path

import h5py
import numpy as np

import napari_emdl as emdl
from napari_emdl.samples.diffraction import strained_datacube

# %%
# A file as it comes from a microscope: one HDF5 dataset, no calibration.

folder = Path(tempfile.mkdtemp())
sample, truth = strained_datacube(shape=(10, 20), seed=1)
with h5py.File(folder / "scan.h5", "w") as file:
    file["frames/data"] = np.asarray(sample.data[...])
np.save(folder / "vacuum.npy", truth["probe"])

# %%
# What is it?
# -----------
#
# Several arrays in one file: choose one with ``FILE::DATASET``. What the file does not say is unknown, never guessed.

cube = emdl.open_datacube(f"{folder}/scan.h5::frames/data")
cube

# %%
# Give the calibration where you open it. Strain does not need it; scale bars and the warning about the networks'
# range do.

cube = emdl.open_datacube(
    f"{folder}/scan.h5::frames/data", pixel_nm=1.5, q_pixel_invA=0.016, energy_keV=300, semiangle_mrad=2.0
)
print(cube.calibration.source)

# %%
# Disks with the vacuum probe
# ---------------------------
#
# The probe is a file, or ``FILE::DATASET``. With ``output`` the run is kept in blocks: after a crash the same call
# with ``RunParams(resume=True)`` goes on.

from napari_emdl.base.params import RunParams

disks = emdl.find_disks(
    cube, probe=folder / "vacuum.npy", method="light", output=folder / "disks.h5", run=RunParams(max_memory="1GB")
)
emdl.save(disks, folder / "disks.h5")
disks

# %%
# Strain on the scan's axes
# -------------------------
#
# ``rotation_deg`` and ``flip`` have the meaning of py4DSTEM's ``QR_rotation`` and ``QR_flip``. Without them the axes
# are the detector's.

from napari_emdl.base.params import CalibrateParams

calibrate = CalibrateParams(rotation_deg=0.0, flip=False)
strain = emdl.fit_strain(disks, reference=truth["reference"], calibrate=calibrate)
print(strain.attrs["axes"]["text"])
strain.plot(components=("exx", "eyy"), limit_pct=2)

# %%
# Before you believe it
# ---------------------
#
# 1. The caveats, which stand in the result file as well.

from napari_emdl.base.caveats import Caveats

for line in Caveats.of(strain).texts:
    print("note:", line)

# %%
# 2. How much of a known strain comes back: ``check_gain`` moves the disks of some patterns as strains of 1 % would
#    and finds them anew. 1 is right.

from napari_emdl.base.params import DiskParams
from napari_emdl.diffraction.find.disks import make_finder
from napari_emdl.diffraction.find.probe import Probe, make_probe

probe: Probe = make_probe(cube, DiskParams(probe={"file": str(folder / "vacuum.npy")}).probe, cube.detector_shape)
finder = make_finder(DiskParams(method="light"), probe, cube.detector_shape)
rows, cols = np.nonzero(strain.mask)
picked = np.linspace(0, len(rows) - 1, 4).astype(int)
patterns = np.stack([cube.data[int(rows[i]), int(cols[i])] for i in picked])
lattices = np.stack([(strain.g1[rows[i], cols[i]], strain.g2[rows[i], cols[i]]) for i in picked])
gain = emdl.check_gain(patterns, finder, lattices, strain.origin_px[rows[picked], cols[picked]])
print(gain)

# %%
# 3. Look at the pattern of a position that surprises you, and at why positions are masked.

from napari_emdl.diffraction.fit.strain import REASONS

for code, count in zip(*np.unique(strain.reason, return_counts=True), strict=True):
    print(f"{count:4d} positions: {REASONS[code]}")

# %%

disks.show(5, 9)
