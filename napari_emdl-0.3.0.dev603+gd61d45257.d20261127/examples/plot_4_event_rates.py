"""
From a low-dose movie to event rates
====================================

A gold particle whose surface columns come and go, 40 frames. Where are the sites, which are occupied when, and how
often do columns leave and arrive, with intervals?
"""

# sphinx_gallery_thumbnail_path = 'images/hrtem_occupancy_sample.png'

import napari_emdl as emdl
from napari_emdl.samples.atoms import Conditions, blinking_movie

movie, truth = blinking_movie(shape=(40, 224, 224), conditions=Conditions(dose_e_per_A2=60.0))
movie

# %%
# Columns
# -------
#
# Say whether atoms are bright or dark if you know it. ``frames="auto"`` takes neighbouring frames where single frames
# show too little.

columns = emdl.find_columns(movie, contrast="bright")
columns.show(10)

# %%
# The table holds candidates above a low floor. The finder says what it saw.

print(columns)
print("threshold", columns.attrs["default_min_score"], "| contrast", columns.attrs["contrast"])
print(columns.attrs["note"] or "nothing to note")

# %%
# Sites and occupancy
# -------------------
#
# ``fit_occupancy`` measures the drift, makes the list of sites, learns what one column adds to the image, and decides
# with a hidden Markov model which sites are occupied in which frame.

occ = emdl.fit_occupancy(columns, movie=movie, dose_e_per_A2=60.0)
occ

# %%
# Left: how often each site is occupied. Right: every site over time.

occ.plot()

# %%
# Rates
# -----
#
# ``p_off`` and ``p_on`` are chances from one frame to the next that an occupied site empties and an empty site fills,
# with 90 % intervals. The raw rates of plain detections depend on how many columns the finder misses, and so on the
# dose: never compare those between movies.

for row in occ.rates:
    print(
        f"{row['group']:>6}: {row['n_blinking']:3d} of {row['n_sites']:3d} sites blink, "
        f"p_off {row['p_off']:.3f} [{row['p_off_low']:.3f}, {row['p_off_high']:.3f}] (raw {row['raw_p_off']:.3f}), "
        f"p_on {row['p_on']:.3f} [{row['p_on_low']:.3f}, {row['p_on_high']:.3f}]"
    )
print(f"truth: p_off {truth.conditions.p_off}, p_on {truth.conditions.p_on}")

# %%
# In physical units: the rates of the process behind the chances, in 1/s.

from napari_emdl.atoms.fit.rateunits import rates_in_units

units = rates_in_units(occ.rates, occ.attrs["frame_interval_s"])
print(f"all sites: k_off {units['k_off_per_s'][0]:.3f} / s, k_on {units['k_on_per_s'][0]:.3f} / s")

# %%
# Events and dwell times
# ----------------------

print(occ.events[:5])
stays = occ.dwell_times(True)
print(f"{stays.n_ended} stays ended in view, {stays.n_censored} were cut by the ends of the movie")
for frames, survival in zip(stays.frames[:4], stays.survival[:4], strict=True):
    print(f"longer than {frames} frames: {survival:.2f}")

# %%
# May these rates be believed?
# ----------------------------
#
# ``separation`` is how far occupied and empty sites stand apart in one frame, in sigma. Below 3 the rates depend on
# the model of the noise.

print(f"separation {occ.attrs['separation']:.1f} sigma")
print(*occ.attrs["notes"], sep="\n")

# %%
# The same on the command line::
#
#     napari-emdl columns movie.tif -o columns.h5 --contrast bright
#     napari-emdl occupancy columns.h5 -o occupancy.h5 --dose 60
#     napari-emdl export occupancy.h5 --to results
