"""
Two gases compared
==================

The same kind of particle in two gases: do columns leave faster in one of them? Ratios of rates with interval and
test, and a warning where dose or detection could fake a difference.
"""

# sphinx_gallery_thumbnail_path = 'images/hrtem_rates_sample.png'

import napari_emdl as emdl
from napari_emdl.samples.atoms import Conditions, blinking_movie

# %%
# Two movies
# ----------
#
# In the second "gas" columns leave twice as fast and arrive as fast as in the first.

vacuum, _ = blinking_movie((40, 224, 224), seed=1, conditions=Conditions(dose_e_per_A2=120.0, p_off=0.08, p_on=0.2))
oxygen, _ = blinking_movie((40, 224, 224), seed=2, conditions=Conditions(dose_e_per_A2=120.0, p_off=0.16, p_on=0.2))


def occupancy_of(movie: emdl.Movie, dose_e_per_A2: float):
    """Columns and occupancy with the same settings for every movie."""
    columns = emdl.find_columns(movie, contrast="bright")
    return emdl.fit_occupancy(columns, movie=movie, dose_e_per_A2=dose_e_per_A2)


first, second = occupancy_of(vacuum, 120.0), occupancy_of(oxygen, 120.0)
second.plot()

# %%
# Compare
# -------
#
# ``ratio`` is second over first. ``different`` says that the 90 % interval does not hold 1.

comparison = emdl.compare(first, second)
for row in comparison.rows:
    if row.group == "all":
        print(
            f"{row.rate}: {row.first:.3f} -> {row.second:.3f}, ratio {row.ratio:.2f} [{row.low:.2f}, {row.high:.2f}], "
            f"p = {row.p_value:.3f}{', different' if row.different else ''}"
        )
print(*comparison.warnings, sep="\n")

# %%
# When the dose differs
# ---------------------
#
# The first gas again at a third of the dose, with the very same rates. The raw rates differ, because more columns are
# missed; those of the hidden Markov model should not. The comparison says what could fake a difference.

low, _ = blinking_movie((40, 224, 224), seed=3, conditions=Conditions(dose_e_per_A2=40.0, p_off=0.08, p_on=0.2))
third = occupancy_of(low, 40.0)
again = emdl.compare(first, third)
for row in again.rows:
    if row.group == "all":
        raw = [float(result.rates[0][f"raw_{row.rate}"]) for result in (first, third)]
        print(
            f"{row.rate}: ratio {row.ratio:.2f} [{row.low:.2f}, {row.high:.2f}]; ratio of the raw rates {raw[1] / raw[0]:.2f}"
        )
print(*again.warnings, sep="\n")
