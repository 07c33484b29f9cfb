"""Evidence from what a coming and going column does to the image, learned from the movie itself.

Once it is roughly known which sites are occupied when, the movie tells what one column adds to the image: every frame is a
background plus a kernel at each occupied site. The kernel is the least-squares solution over all frames and blinking sites
(a Wiener deconvolution), so aberrations, camera and neighbours that overlap are taken care of. Its matched filter (Turin, IRE
Trans. Inf. Theory 6, 311 (1960)) is the best linear evidence in the noise of the movie, and that noise is Gaussian, where a
network's logit saturates and now and then fails grossly. Evidence and occupancy improve each other until they settle; where
they settle does not depend on the finder that gave the start.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emdl.atoms.fit.alignedframes import EDGE_A, REACH_A, AlignedFrames
from napari_emdl.atoms.fit.emissions import BLINKING
from napari_emdl.atoms.fit.firstkernel import SURE, FirstLook, first_look
from napari_emdl.atoms.fit.siteclasses import fit_site_classes
from napari_emdl.jobs.control import Control

#: the finder's own evidence is kept where it tells the states apart so many times better than what was learned, and than this
CLEARLY, LEAST_CLEAR = 2.0, 3.0
#: spectra are shrunken by this part of their mean power where the sites hardly change; levels by this part of a column's own
RIDGE = 0.02
#: evidence and occupancy settle in two to four rounds; a kernel must hold this many times the energy of its noise
MOST_ROUNDS, LEAST_QUALITY = 5, 4.0
#: the noise of many counts is Gaussian; iterations in which it need not be settled to the last digit
COUNTS_DOF, MOST_ITERATIONS = 30.0, 30
#: sites less likely to blink than this are left out
LEAST_BLINKING = 0.01
#: reach of the image of the columns that stay, before the soft edge
STEADY_A = 0.8


@dataclass(frozen=True)
class Learned:
    """Evidence learned from the movie.

    Attributes
    ----------
    evidence
        (T, n) float32 in noise sigmas, NaN where not in view.
    occupied
        (T, n) bool, what is occupied when as the last round left it: where a fit to the evidence starts.
    """

    evidence: NDArray[np.float32]
    occupied: NDArray[np.bool_]


def learned_evidence(
    aligned: AlignedFrames,
    evidence: NDArray[np.floating],
    detected: NDArray[np.bool_],
    control: Control | None = None,
    shown: NDArray[np.bool_] | None = None,
    surface: NDArray[np.bool_] | None = None,
) -> Learned | None:
    """Matched-filter evidence of every site, in noise sigmas: about 0 where there is no column.

    It starts from the pattern that lasts from frame to frame at the sites; where none stands out, from the finder's logit.

    Parameters
    ----------
    aligned
        The frames.
    evidence, detected
        (T, n) logit at the sites and plain detections.
    control
        Cancel.
    shown, surface
        (n,) bool, sites that the mean of all frames shows, and sites at which coming and going is expected; unknown when None.

    Returns
    -------
    Learned
        None when too little comes and goes to learn from, or the finder's evidence tells the states apart far better.
    """
    kept, given = aligned.kept, False
    weight = np.ones(len(aligned.at)) if surface is None or not surface.any() else surface.astype(np.float64)
    look = first_look(aligned, weight)
    if look is None:
        model = fit_site_classes(evidence, detected, None, MOST_ITERATIONS, 1e-3, control, shown=shown, must_last=False)
        p, blinking = model.p_occupied.copy(), model.class_probability[:, BLINKING]
        kernel = learn_kernel(aligned, p, blinking)
        if kernel is None:
            p, blinking = _steady(aligned, detected, shown), np.zeros(len(aligned.at))
            kernel, given = steady_kernel(aligned, p[0]), True
    else:
        p, blinking = _guess(aligned, look, detected, shown)
        kernel = look.kernel
    if kernel is None:
        return None
    for _ in range(MOST_ROUNDS):
        seen = respond(aligned, kernel, p, blinking, kept, control)[kept]
        model = fit_site_classes(
            seen, detected[kept], COUNTS_DOF, MOST_ITERATIONS, 1e-3, control, start=p[kept] > 0.5, shown=shown
        )
        change = float(np.abs(model.p_occupied - p[kept]).mean())
        p[kept], blinking = model.p_occupied, model.class_probability[:, BLINKING]
        better = learn_kernel(aligned, p, blinking)
        if better is None and look is None and not given:
            return None
        if better is None or change < 5e-4:
            break  # the round pattern of the start is significant by itself
        kernel = better
    if given and not (blinking > 0.5).any():
        return None
    plain = fit_site_classes(evidence, detected, None, MOST_ITERATIONS, 1e-3, control, shown=shown, must_last=False)
    if plain.separation > CLEARLY * max(model.separation, LEAST_CLEAR):
        return None
    return Learned(respond(aligned, kernel, p, blinking, aligned.frames, control), p > 0.5)


def _guess(
    aligned: AlignedFrames, look: FirstLook, detected: NDArray[np.bool_], shown: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Occupancy (T, n) and chance to blink (n,) to start from: sites that hardly change are full or empty throughout."""
    p = _steady(aligned, detected, shown)
    changing = look.changes > SURE
    p[np.ix_(aligned.kept, changing)] = look.occupied[:, changing]
    return p, changing.astype(np.float64)


def _steady(aligned: AlignedFrames, detected: NDArray[np.bool_], shown: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """Occupancy (T, n) as if nothing came or went: what most frames, or their mean, show is there throughout."""
    known = np.maximum(1, aligned.valid.sum(0))
    full = (detected & aligned.valid).sum(0) / known >= 0.5
    if shown is not None:
        full |= shown
    return np.tile(full.astype(np.float64), (len(detected), 1))


def steady_kernel(aligned: AlignedFrames, full: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Round image of the columns that stay, least squares over the mean of all frames; None without columns.

    Where one or two sites blink their changes drown in the scatter of all others, but a column that comes looks about like
    those that stay.
    """
    comb = aligned.comb(full)
    power = np.abs(comb) ** 2
    if not power.any():
        return None
    raw = aligned.pixels(np.conj(comb) * aligned.mean / (power + RIDGE * power.mean()))
    r = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n, 1 / n) for n in raw.shape), indexing="ij"))
    window = np.clip((STEADY_A + EDGE_A - r * aligned.sampling_A) / EDGE_A, 0, 1) ** 2
    return _round_part(raw, r) * window


def _change(
    aligned: AlignedFrames, p_occupied: NDArray[np.float64], blinking: NDArray[np.float64], frames: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(frames, n) what the blinking sites have more than on average."""
    valid = aligned.valid
    mean = np.where(valid, p_occupied, 0).sum(0) / np.maximum(1, valid.sum(0))
    return np.where(valid[frames], p_occupied[frames] - mean, 0.0) * np.where(blinking > LEAST_BLINKING, blinking, 0.0)


def learn_kernel(
    aligned: AlignedFrames, p_occupied: NDArray[np.float64], blinking: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Least-squares image of one column, origin at the corner; None when noise dominates it.

    Parameters
    ----------
    aligned
        The frames.
    p_occupied
        (T, n) chance of being occupied.
    blinking
        (n,) chance that a site blinks; the others do not shape the kernel.
    """
    change = _change(aligned, p_occupied, blinking, aligned.kept)
    top, bottom = np.zeros(aligned.mean.shape, np.complex128), np.zeros(aligned.mean.shape)
    for t, s in zip(aligned.kept, change, strict=True):
        comb = aligned.comb(s)
        top += np.conj(comb) * (aligned.spectrum(int(t)) - aligned.mean)
        bottom += np.abs(comb) ** 2
    if not bottom.mean() > 0:
        return None
    bottom += RIDGE * bottom.mean()
    raw = aligned.pixels(top / bottom)
    r = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n, 1 / n) for n in raw.shape), indexing="ij")) * aligned.sampling_A
    window = np.clip((REACH_A + EDGE_A - r) / EDGE_A, 0, 1) ** 2
    spectrum = np.fft.rfft2(raw * window)
    # what noise leaves in the window, and how far the kernel stands out of it at each spatial frequency
    noise = aligned.radial(aligned.noise / bottom) * float(np.mean(window**2))
    signal = np.maximum(aligned.radial(np.square(np.abs(spectrum), dtype=np.float64)) - noise, 0.0)
    gain = signal / (signal + noise)
    energy = (gain**2 * np.abs(spectrum) ** 2 / aligned.noise).sum()
    if not energy > LEAST_QUALITY * (gain**2 * noise / aligned.noise).sum():
        return None
    in_a_pixel = float((gain**2 * noise).mean() / np.sum(window**2))
    return _smooth_parts(aligned.pixels(gain * spectrum), r / aligned.sampling_A, in_a_pixel)


def _smooth_parts(kernel: NDArray[np.float64], radius_px: NDArray[np.float64], variance: float) -> NDArray[np.float64]:
    """Kernel whose parts without symmetry are kept only as far as they stand out of the noise.

    A column's image is nearly round, then even, and its odd part is small: each further part has less to show.

    Parameters
    ----------
    kernel, radius_px
        Image with the origin at the corner, and each pixel's distance from it.
    variance
        Of the kernel's noise in a pixel.
    """
    ring = np.round(radius_px).astype(int)
    count = np.bincount(ring.ravel())

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray((np.bincount(ring.ravel(), values.ravel()) / count)[ring])

    turned = np.roll(kernel[::-1, ::-1], (1, 1), (0, 1))
    round_part = _round_part(kernel, radius_px)
    out = round_part.copy()
    for part in ((kernel + turned) / 2 - round_part, (kernel - turned) / 2):
        power = mean(part**2)
        out += part * (1 - 0.5 * variance / np.maximum(power, np.maximum(0.5 * variance, 1e-300)))
    return out


def _round_part(kernel: NDArray[np.float64], radius_px: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over all directions, linear between rings one pixel apart."""
    low = np.floor(radius_px).astype(int)
    part = radius_px - low
    size = int(low.max()) + 2

    def gathered(values: NDArray[np.float64]) -> NDArray[np.float64]:
        inner = np.bincount(low.ravel(), ((1 - part) * values).ravel(), size)
        return np.asarray(inner + np.bincount(low.ravel() + 1, (part * values).ravel(), size))

    profile = gathered(kernel) / np.maximum(gathered(np.ones_like(kernel)), 1e-12)
    return np.asarray(np.interp(radius_px, np.arange(size), profile))


def respond(
    aligned: AlignedFrames,
    kernel: NDArray[np.float64],
    p_occupied: NDArray[np.float64],
    blinking: NDArray[np.float64],
    frames: NDArray[np.int64],
    control: Control | None = None,
) -> NDArray[np.float32]:
    """Response (T, n) of the matched filter in noise sigmas, what the neighbours do taken off; NaN in all other frames.

    Parameters
    ----------
    aligned, kernel
        The frames and what :func:`learn_kernel` gave.
    p_occupied, blinking
        (T, n) and (n,), as known so far: the neighbours.
    frames
        Which frames.
    control
        Cancel.
    """
    kernel_k = np.fft.rfft2(kernel)
    matched = np.conj(kernel_k) / aligned.noise
    coupling = _coupling(aligned, aligned.pixels(kernel_k * matched))
    own = np.full((len(frames), len(aligned.at)), np.nan)
    for row, t in zip(own, frames, strict=True):
        if control is not None:
            control.check()
        seen = aligned.pixels(matched * aligned.spectrum(int(t)))
        row[:] = ndi.map_coordinates(seen, aligned.at.T, order=3, mode="nearest")
    change = _change(aligned, p_occupied, blinking, frames)
    mean = ndi.map_coordinates(aligned.pixels(matched * aligned.mean), aligned.at.T, order=3, mode="nearest")
    # the mean is that of all columns together, steady ones as well; what changes is the site's own and its neighbours'
    size = coupling[0, 0]
    level = np.linalg.solve(coupling + RIDGE * size * np.eye(len(coupling)), mean) * size
    np.fill_diagonal(coupling, 0)
    out = np.full(p_occupied.shape, np.nan, np.float32)
    out[frames] = (own - mean - change @ coupling + level) * np.sqrt(np.prod(aligned.shape) / size)
    out[~aligned.valid] = np.nan
    return out


def _coupling(aligned: AlignedFrames, spread: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, n) response at one site to a column at another."""
    apart = aligned.at[:, None] - aligned.at[None]
    around = (apart.reshape(-1, 2) % np.array(aligned.shape)).T
    coupling = ndi.map_coordinates(spread, around, order=3, mode="grid-wrap").reshape(apart.shape[:2])
    coupling[np.hypot(*apart.transpose(2, 0, 1)) > 2 * (REACH_A + EDGE_A) / aligned.sampling_A] = 0
    return np.asarray(0.5 * (coupling + coupling.T))
