"""
Strain of your own file, without a probe
========================================

No vacuum probe was recorded. The program takes vacuum positions of the scan where there are some, else the radius on
which the disks of the patterns agree. How to see which it was, and what the missing probe costs.
"""

# sphinx_gallery_thumbnail_path = 'images/stem-compare.png'

import numpy as np

import napari_emdl as emdl
from napari_emdl.diffraction.judge.compare import compare_disks
from napari_emdl.samples.diffraction import strained_datacube

cube, truth = strained_datacube(shape=(10, 20), seed=2)

# %%
# Vacuum within the scan
# ----------------------
#
# The left edge of this scan is vacuum. Nothing is given, and the provenance says what was used.

found = emdl.find_disks(cube, method="light")
print(found.attrs["provenance"]["probe"])

# %%
# You can name the region, which is safer than to have it found.

row0, row1, col0, col1 = truth["vacuum"]
from napari_emdl.base.params import DiskParams, ProbeParams

named = emdl.find_disks(cube, params=DiskParams(method="light", probe=ProbeParams(region=(row0, row1, col0, col1))))
print(named.attrs["provenance"]["probe"])

# %%
# No vacuum anywhere
# ------------------
#
# Crop the vacuum away: the radius now comes from the disks themselves.

from napari_emdl.base.signals import in_memory

first = int(np.argmax(truth["crystal"][0]))
crystal = in_memory(np.asarray(cube.data[:, first:]), "datacube", cube.calibration, "crystal only")
alone = emdl.find_disks(crystal, method="light")
print(alone.attrs["provenance"]["probe"], f"(true radius {truth['probe_radius_px']:.2f} px)")
alone.show(5, 6)

# %%
# What does it cost?
# ------------------
#
# Compare with the run that used the vacuum: the share of disks that both have, and the strain against the truth.

with_probe = found.filter(min_score=found.attrs["default_min_score"])
without = alone.filter(min_score=alone.attrs["default_min_score"])
same_part = with_probe.select_positions(np.arange(cube.n_patterns).reshape(cube.scan_shape)[:, first:].ravel())
pairs = compare_disks(same_part.reshape(crystal.scan_shape), without, max_distance_px=1.3)
print(f"{100 * np.nanmean(pairs.share):.0f} % of the disks agree, median distance {pairs.median_distance_px:.3f} px")

reference = truth["reference"]
for name, table, skipped in (("vacuum probe", found, 0), ("no probe", alone, first)):
    r0, r1, c0, c1 = reference
    strain = emdl.fit_strain(table, reference=(r0, r1, c0 - skipped, c1 - skipped))
    inside = strain.mask & truth["crystal"][:, skipped:]
    error = (strain.eyy - truth["eyy"][:, skipped:])[inside]
    print(f"{name}: rms error of eyy {100 * np.sqrt(np.mean(error**2)):.3f} %, {inside.sum()} positions")

# %%
# A fit to the patterns themselves measures radius and edge of the disks from the scan, so a wrong probe matters less.
# It takes longer.

r0, r1, c0, c1 = reference
pattern = emdl.fit_strain(alone, reference=(r0, r1, c0 - first, c1 - first), cube=crystal, fit="pattern")
inside = pattern.mask & truth["crystal"][:, first:]
error = (pattern.eyy - truth["eyy"][:, first:])[inside]
print(f"no probe, fit to patterns: rms error of eyy {100 * np.sqrt(np.mean(error**2)):.3f} %")
pattern.plot(components=("eyy",), width_mm=90)
