"""
Strain of the sample
====================

From a datacube to a strain map in five lines, on the sample that comes with the program: a cross-section of a
silicon-germanium layer in silicon along [110], simulated by dynamical diffraction. Vacuum is on the left, the layer
in the middle, the substrate on the right.
"""

# sphinx_gallery_thumbnail_path = 'images/stem-four-maps.png'

import numpy as np

import napari_emdl as emdl
from napari_emdl.samples.diffraction import strained_datacube

# %%
# Open
# ----
#
# The sample is made on the fly; a file of yours opens with ``emdl.open_datacube("scan.h5")``. In a notebook a
# datacube shows its shape, its calibration and one pattern.

cube, truth = strained_datacube(shape=(12, 24))
cube

# %%
# Find the disks
# --------------
#
# ``light`` is the fast method for CPUs; leave ``method`` out for FCU-Net. The table holds every candidate with its
# score. A threshold is a view: nothing is computed again.

disks = emdl.find_disks(cube, probe=truth["probe"], method="light")
print(disks)
print("by default:", disks.filter(min_score=disks.attrs["default_min_score"]).n_peaks, "disks")

# %%
# Look before you go on: the disks of one pattern. Rings have the radius of the probe; colour is the score.

disks.show(6, 8)

# %%
# Fit the strain
# --------------
#
# The reference is a region you call unstrained (row0, row1, col0, col1), here the substrate. Everything else is
# found: origin, lattice vectors, and the lattice of every position.

strain = emdl.fit_strain(disks, reference=truth["reference"])
strain

# %%

strain.plot()

# %%
# How sure is it?
# ---------------
#
# ``sigma`` holds one standard error of exx, eyy, exy and theta at every position. The sample knows the truth, so the
# error can be compared with it. Your own data do not: look at ``strain.evidence`` and at the caveats.

inside = strain.mask & truth["crystal"]
for i, name in enumerate(("exx", "eyy", "exy")):
    error_pct = 100 * np.sqrt(np.mean((getattr(strain, name) - truth[name])[inside] ** 2))
    sigma_pct = 100 * np.median(strain.sigma[inside][:, i])
    print(f"{name}: rms error {error_pct:.3f} %, typical sigma {sigma_pct:.3f} %")
print(strain.evidence)

# %%
# Keep it
# -------
#
# Result files are EMD 1.0; ``py4DSTEM.read`` opens them. ``export`` writes CSV, TIFF with units, figures, and the
# provenance.

import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp())
emdl.save(strain, folder / "strain.h5")
for path in emdl.export(strain, folder / "strain"):
    print(path.name)

# %%
# The same on the command line::
#
#     napari-emdl disks scan.h5 -o disks.h5 --method light --probe vacuum.npy
#     napari-emdl strain disks.h5 -o strain.h5 --reference 0:12,16:24
#     napari-emdl export strain.h5 --to strain
