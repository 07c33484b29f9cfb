"""
From a notebook
===============

Everything shows itself, takes what you have in memory, and turns into pandas tables and xarray datasets. Needs ``pip
install 'napari-emdl[notebook]'`` for the tables and the progress bars.
"""

# sphinx_gallery_thumbnail_path = 'images/stem-strain.png'

import numpy as np
from dask import array

import napari_emdl as emdl
from napari_emdl.samples.atoms import blinking_movie
from napari_emdl.samples.diffraction import strained_datacube

sample, truth = strained_datacube(shape=(8, 16), detector=(96, 96))

# %%
# What goes in
# ------------
#
# Files, and what is in memory already: numpy and dask arrays, HyperSpy and pyxem signals (lazy ones stay lazy, units
# are kept), DataCubes of py4DSTEM::
#
#     emdl.find_disks(hs.load("scan.hspy", lazy=True))
#     emdl.find_disks(py4DSTEM.read("scan.h5"))
#
# An array says nothing of its units; give them where you open it.

lazy = array.from_array(np.asarray(sample.data[...]), chunks=(4, 4, 96, 96))
cube = emdl.open_datacube(lazy, pixel_nm=1.5, q_pixel_invA=0.0213, energy_keV=300)
cube

# %%
# What comes out shows itself
# ---------------------------
#
# Shape, method, device, caveats and a thumbnail. In Jupyter a bar shows progress and the time left; the stop button
# stops the run.

disks = emdl.find_disks(cube, probe=truth["probe"], method="template")
disks

# %%
# ``show(r, c)`` draws one pattern with its disks, ``plot()`` the whole table.

disks.show(4, 5)

# %%

disks.plot()

# %%

strain = emdl.fit_strain(disks, reference=truth["reference"])
strain.plot(components=("eyy", "theta_rad"), limit_pct=2, width_mm=120)

# %%
# A figure is an ordinary figure of matplotlib: ``strain.plot(dpi=600).savefig("strain.pdf")``.
#
# Tables and labelled arrays
# --------------------------

disks.to_dataframe().head()

# %%

strain.to_xarray()

# %%
# So anything of pandas and xarray is at hand, here the mean strain along the growth direction with its standard
# error:

maps = strain.to_xarray()
profile = maps["eyy"].mean("scan_row")
error = np.sqrt((maps["sigma_eyy"] ** 2).sum("scan_row")) / maps["eyy"].count("scan_row")
for col in range(2, 16, 3):
    print(f"column {col}: {100 * profile.values[col]:+.2f} ± {100 * error.values[col]:.2f} %")

# %%
# Movies
# ------

movie, _ = blinking_movie((12, 160, 160))
columns = emdl.find_columns(np.asarray(movie.data[...]), pixel_size_A=0.12, contrast="bright")
columns.show(3)

# %%

occ = emdl.fit_occupancy(columns, movie=movie)
occ.plot()

# %%

occ.to_dataframe().query("not occupied and in_view").groupby("site").size().head()
