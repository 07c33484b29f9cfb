"""Sample data made on the fly, with exact truth: a strained 4D-STEM datacube and an HRTEM movie."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.physics import semiangle_invA, wavelength_A
from napari_emdl.base.signals import Calibration, Datacube, in_memory
from napari_emdl.diffraction.find.probe import synthetic_probe
from napari_emdl.jobs.control import Control
from napari_emdl.samples.bloch import diamond_110
from napari_emdl.samples.propagation import Beams, propagate, render

Floats = NDArray[np.float64]

ENERGY_KEV, SEMIANGLE_MRAD = 300.0, 2.0
SCAN_STEP_NM = 1.5
#: 1/angstrom that the detector spans, whatever its pixels
DETECTOR_INVA = 2.05
ELECTRONS_PER_PATTERN = 60_000
GERMANIUM = 0.3
#: Misfit of the alloy and its tetragonal distortion along the growth direction (2 C12 / C11 = 0.77).
MISFIT = 0.042 * GERMANIUM
_TETRAGONAL = MISFIT * 1.77
_VACUUM = 0.1


def strained_datacube(
    shape: tuple[int, int] = (24, 32), detector: tuple[int, int] = (128, 128), seed: int = 0, control: Control | None = None
) -> tuple[Datacube, dict[str, Any]]:
    """Cross-section of a silicon-germanium layer in silicon along [110], by dynamical diffraction, with shot noise.

    From left to right: vacuum, silicon, the alloy layer (stretched along the growth direction, which is the scan's and the
    detector's col axis, lattice-matched along the rows), silicon substrate with the field of a buried inclusion. The
    foil gets thicker downwards and bends, so that the inner structure of the disks changes over the scan.

    Parameters
    ----------
    shape
        (scan rows, scan cols).
    detector
        (rows, cols) of the detector, at least 64.
    seed
        Of the shot noise.

    Returns
    -------
    cube, truth
        Calibrated datacube of uint16 counts, and a dict: exx, eyy, exy, theta_rad (R, C) in the conventions of
        :mod:`napari_emdl.diffraction.fit.strain` against the substrate, deformation (R, C, 2, 2), crystal (R, C) bool,
        g_px (2, 2), origin_px (R, C, 2), thickness_nm (R, C), reference (row0, row1, col0, col1) of unstrained silicon,
        vacuum (the same of vacuum), probe (detector rows, cols), probe_radius_px.
    """
    rows, cols = shape
    if rows < 1 or cols < 1:
        raise EmdlError(f"a scan needs at least one position, got {rows} x {cols}")
    if min(detector) < 64:
        raise EmdlError(f"the sample needs a detector of at least 64 x 64, got {detector[0]} x {detector[1]}")
    random = np.random.default_rng(seed)
    q_invA = DETECTOR_INVA / min(detector)
    radius_px = semiangle_invA(SEMIANGLE_MRAD, ENERGY_KEV) / q_invA
    y, x = np.meshgrid(np.arange(rows) / max(rows, 2), np.arange(cols) / max(cols, 2), indexing="ij")
    crystal = x >= _VACUUM
    if cols < 10:
        crystal[:] = True
    alloy = np.clip(0.5 * (np.tanh((x - 0.30) / 0.03) - np.tanh((x - 0.48) / 0.03)), 0, 1)
    f = _deformation(x, y, alloy)
    # a crystal is a whole number of periods thick
    period_nm = diamond_110().period_A / 10
    periods = np.rint(np.where(crystal, 22 + 30 * y + 12 * (x - _VACUUM), 0.0) / period_nm).astype(int)
    tilt_invA = np.stack([1.6 * (y - 0.5), 1.8 * (x - 0.55)], axis=-1) * 1e-3 / wavelength_A(ENERGY_KEV)
    origin = (np.array(detector) - 1) / 2 + np.stack([1.2 * (x - 0.5) + 0.4, 1.5 * (y - 0.5) - 0.3], axis=-1)

    counts = np.empty((rows, cols, *detector), np.uint16)
    alloyed = alloy > 0.5
    tables = _beams(periods, crystal, alloyed, np.abs(tilt_invA).max(), q_invA, control)
    g_px = diamond_110().g_invA / q_invA
    background = _background(detector, q_invA)
    vacuum_probe = synthetic_probe(radius_px, detector, 0.5).image / (np.pi * radius_px**2)
    for r in range(rows):
        for c in range(cols):
            if crystal[r, c]:
                table, n = tables[int(alloyed[r, c])], int(periods[r, c])
                strained = g_px @ np.linalg.inv(f[r, c])
                image = render(table, n, strained, origin[r, c], radius_px, tilt_invA[r, c], detector)
                image += table.lost[n] * background
            else:
                image = _shifted(vacuum_probe, origin[r, c] - np.array(detector) // 2)
            counts[r, c] = random.poisson(np.clip(image, 0, None) * ELECTRONS_PER_PATTERN)
        _check(control)
        if control is not None:
            control.report(r + 1, rows, "sample datacube")
    calibration = Calibration(
        pixel_nm=(SCAN_STEP_NM, SCAN_STEP_NM),
        q_pixel_invA=(q_invA, q_invA),
        energy_keV=ENERGY_KEV,
        semiangle_mrad=SEMIANGLE_MRAD,
        source=dict.fromkeys(
            ("pixel_nm", "q_pixel_invA", "energy_keV", "semiangle_mrad", "qr_rotation_rad", "qr_flip"), "file"
        ),
    )
    made = in_memory(counts, "datacube", calibration, name="SiGe layer in Si (sample)")
    assert isinstance(made, Datacube)
    # how it was made stays with it: a project that was saved on the sample makes it again
    cube = replace(made, metadata={"sample": {"shape": (rows, cols), "detector": tuple(detector), "seed": seed}})
    return cube, {
        **_strain_of(f, crystal),
        "deformation": f,
        "crystal": crystal,
        "g_px": g_px,
        "origin_px": origin,
        "thickness_nm": periods * period_nm,
        "reference": (0, rows, min(cols - 1, int(np.ceil(0.9 * cols))), cols),
        "vacuum": (0, rows, 0, max(1, int(np.ceil(_VACUUM * cols)))),
        "probe": synthetic_probe(radius_px, detector, 0.5).image,
        "probe_radius_px": radius_px,
    }


def _beams(
    periods: NDArray[Any],
    crystal: NDArray[np.bool_],
    alloyed: NDArray[np.bool_],
    tilt_invA: float,
    q_invA: float,
    control: Control | None,
) -> list[Beams]:
    """Beams of silicon and of the alloy at the thicknesses they have in the scan."""
    # the aperture, its soft edge, and the pixel around the last sample
    reach = semiangle_invA(SEMIANGLE_MRAD, ENERGY_KEV) + float(tilt_invA) + 3 * q_invA
    made = []
    for germanium, there in ((0.0, crystal & ~alloyed), (GERMANIUM, crystal & alloyed)):
        thick = np.unique(periods[there]).tolist()
        made.append(propagate(diamond_110(germanium), ENERGY_KEV, reach, q_invA, thick, control=control))
    return made


def _deformation(x: Floats, y: Floats, alloy: Floats) -> Floats:
    """(R, C, 2, 2) real-space deformation; rows are the in-plane and cols the growth direction."""
    # a round inclusion in the substrate presses outwards: displacement falls as 1 / r outside it
    dy, dx = (y - 0.55) * 0.75, x - 0.70
    r2 = dy**2 + dx**2
    core = 0.07
    inside = r2 < core**2
    strength = 0.010
    decay = np.where(inside, 1.0, core**2 / np.maximum(r2, 1e-9)) * np.clip((0.92 - x) / 0.08, 0, 1)
    c2, s2 = (dy**2 - dx**2) / np.maximum(r2, 1e-9), 2 * dy * dx / np.maximum(r2, 1e-9)
    radial = np.where(inside, 0.0, decay)
    exx = strength * np.where(inside, decay, -radial * c2)
    eyy = strength * np.where(inside, decay, radial * c2) + _TETRAGONAL * alloy
    exy = -strength * radial * s2
    # the planes bend a little across the layer
    omega = 0.004 * np.sin(2 * np.pi * (y - 0.5)) * alloy
    f = np.empty((*x.shape, 2, 2))
    f[..., 0, 0], f[..., 1, 1] = 1 + exx, 1 + eyy
    f[..., 0, 1], f[..., 1, 0] = exy - omega, exy + omega
    return f


def _strain_of(f: Floats, crystal: NDArray[np.bool_]) -> dict[str, Floats]:
    from napari_emdl.diffraction.fit.strain import COMPONENTS
    from napari_emdl.diffraction.fit.tensor import strain_components

    g = np.asarray(np.linalg.inv(f), dtype=np.float64).reshape(-1, 2, 2)
    maps = strain_components(g, np.eye(2)).reshape(*crystal.shape, 4)
    return {name: np.where(crystal, maps[..., i], np.nan) for i, name in enumerate(COMPONENTS)}


def _background(detector: tuple[int, int], q_invA: float) -> Floats:
    """Diffuse scattering of unit sum: a peaked part around the beam and a broad one."""
    rows, cols = (np.arange(n) - (n - 1) / 2 for n in detector)
    q = np.hypot(rows[:, None], cols[None, :]) * q_invA
    out = 1 / (1 + np.square(q / 0.12)) ** 1.5 + 0.15 * np.exp(-np.square(q / 0.7))
    return out / out.sum()


def _shifted(image: NDArray[Any], shift_px: Floats) -> Floats:
    from scipy import ndimage

    return ndimage.shift(image.astype(float), shift_px, order=1)


def _check(control: Control | None) -> None:
    if control is not None:
        control.check()
