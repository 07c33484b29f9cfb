"""
Focal series: species in a MoS2 monolayer
=========================================

Three images at different defocus tell Mo, two sulphurs and a single sulphur apart. The series is one "frame" a field
of view, with the axes (field, focus, row, col).
"""

# sphinx_gallery_thumbnail_path = 'images/hrtem_graphene.png'

import numpy as np

import napari_emdl as emdl
from napari_emdl.base.physics import wavelength_A
from napari_emdl.base.signals import Calibration, in_memory
from napari_emdl.training.common.scattering import scattering_factor_A

# %%
# A simulated series
# ------------------
#
# A monolayer is thin enough for a phase object: atoms shift the phase, the lens turns phase into contrast. Eight
# sulphur pairs have lost one atom. With a file of yours: ``emdl.open_movie("series.tif", axes="TFYX")``.

PIXEL_A, SIZE, RIM, ENERGY_KEV, A_A = 0.1, 512, 64, 80.0, 3.18  # the rim, where the image wraps around, is cut off
C10_A, CS_A, FOCAL_SPREAD_A, DOSE_E_PER_A2 = (90.0, 40.0, -10.0), -1.0e5, 22.0, 3000.0
random = np.random.default_rng(5)

steps = np.arange(-28, 29)
i, j = (grid.ravel() for grid in np.meshgrid(steps, steps))
metal = np.stack([A_A * np.sqrt(3) / 2 * j, A_A * (i + j / 2)], axis=1) + SIZE * PIXEL_A / 2 + 0.5
sulphur = metal + np.array([A_A / np.sqrt(3), 0.0])
metal, sulphur = (place[np.all((place > 0) & (place < SIZE * PIXEL_A), axis=1)] for place in (metal, sulphur))
inner = np.flatnonzero(np.all((sulphur > RIM * PIXEL_A + 2) & (sulphur < (SIZE - RIM) * PIXEL_A - 2), axis=1))
single = random.choice(inner, 8, replace=False)
atoms = np.full(len(sulphur), 2.0)
atoms[single] = 1.0

frequency = np.fft.fftfreq(SIZE, PIXEL_A)
k2 = frequency[:, None] ** 2 + frequency[None, :] ** 2
wavelength = wavelength_A(ENERGY_KEV)


def phase_of(symbol: str, place: np.ndarray, count: np.ndarray, u2_A2: float = 0.006) -> np.ndarray:
    """Phase shift (rad) of atoms: scattering factor, thermal damping, relativistic mass."""
    rows = np.exp(-2j * np.pi * frequency[:, None] * place[None, :, 0]) * count
    cols = np.exp(-2j * np.pi * frequency[:, None] * place[None, :, 1])
    factor = scattering_factor_A(symbol, np.sqrt(k2)) * np.exp(-2 * np.pi**2 * u2_A2 * k2) * (np.sqrt(k2) < 3)
    gamma = 1 + ENERGY_KEV / 511.0
    return np.fft.ifft2((rows @ cols.T) * factor).real * gamma * wavelength / PIXEL_A**2


wave = np.fft.fft2(np.exp(1j * (phase_of("Mo", metal, np.ones(len(metal))) + phase_of("S", sulphur, atoms))))
images = []
for c10_A in C10_A:
    chi = np.pi * wavelength * k2 * (c10_A + 0.5 * CS_A * wavelength**2 * k2)
    envelope = np.exp(-0.5 * (np.pi * wavelength * FOCAL_SPREAD_A * k2) ** 2)
    images.append(np.abs(np.fft.ifft2(wave * np.exp(-1j * chi) * envelope)) ** 2)
field = np.stack(images)[None, :, RIM:-RIM, RIM:-RIM]
counts = random.poisson(field * DOSE_E_PER_A2 * PIXEL_A**2).astype(np.uint16)

calibration = Calibration(pixel_nm=(PIXEL_A / 10, PIXEL_A / 10), energy_keV=ENERGY_KEV, defocus_step_A=C10_A[1] - C10_A[0])
series = in_memory(counts, "focal_series", calibration, "MoS2, three defoci")
series

# %%
# Species
# -------
#
# The shipped network for focal series is chosen by the number of images. It needs no contrast: contrast changes along
# the series.

columns = emdl.find_columns(series)
found = columns.filter(min_score=columns.attrs["default_min_score"])
names = columns.attrs["species"]
print({name: int(np.sum(found.column("species") == k)) for k, name in enumerate(names)})
seen = {
    name: int(np.all((place > RIM * PIXEL_A) & (place < (SIZE - RIM) * PIXEL_A), axis=1).sum())
    for name, place in (("Mo", metal), ("S", sulphur))
}
print(f"truth: Mo {seen['Mo']}, S2 {seen['S'] - len(single)}, S1 {len(single)}")

# %%

found.show(0)

# %%
# How sure is the labelling?
# --------------------------
#
# The two sublattices of a piece of crystal are labelled as a whole. ``lattice_evidence`` is the log likelihood by
# which this labelling beats the other one. Near 0 nobody can tell. Small pieces, WS2 and strong three-fold
# astigmatism swap the two: see the limits of ``columns_mos2_focal``.

evidence = found.column("lattice_evidence")
print(f"median evidence {np.nanmedian(evidence):.0f}")
print(columns.attrs["note"] or "nothing to note")

# %%
# The single sulphurs that were put in, and the distance to the nearest column that was called S1.

s1 = (found.positions_px()[found.column("species") == names.index("S1")] + RIM) * PIXEL_A
for place in sulphur[single]:
    nearest = np.min(np.linalg.norm(s1 - place, axis=1)) if len(s1) else np.inf
    print(f"({place[0]:5.1f}, {place[1]:5.1f}) Å: nearest S1 at {nearest:.2f} Å")
