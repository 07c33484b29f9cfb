"""The probe from the data alone: vacuum positions of the scan where it has some, else the size of the disks themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_emdl.base.signals import Datacube
from napari_emdl.diffraction.find.edgefit import edge_reach, fit_edge
from napari_emdl.diffraction.find.gaps import fill_gaps
from napari_emdl.diffraction.find.patterns import fill_missing
from napari_emdl.diffraction.find.probeshape import (
    Probe,
    brightest_disk,
    measure_edge,
    probe_from_image,
    synthetic_probe,
    without_hot_pixels,
)
from napari_emdl.diffraction.find.reading import Reading
from napari_emdl.diffraction.find.scale import Scale, is_sparse, measure_scale
from napari_emdl.diffraction.find.scaleguess import ScaleGuess, begin_network, guess_scale
from napari_emdl.diffraction.find.wholescan import shows_crystal

Floats = NDArray[np.float64]

#: Patterns looked at when the probe is measured from the data, spread evenly over the scan.
SAMPLED_PATTERNS = 48
MEASURED, VACUUM = "measured from the data", "vacuum positions of the scan"
#: Single patterns whose disks vote beside those of the mean: the ones with the most around the direct beam.
_SINGLE = 3
#: Patterns of single electrons are laid over each other by their beams; one that lies farther off, by this part of the
#: detector, is no beam.
_FAR_DRIFT = 0.1
#: Vacuum scatters no more of its electrons out of the direct beam than this, and than this part of what the scan does.
_VACUUM_OUTSIDE, _VACUUM_SHARE = 0.04, 0.25
#: Vacuum positions looked for beside those the sample hit.
_VACUUM_MORE = 96
#: The direct beam's own radius is taken where it agrees with the other disks to this part.
_AGREES = 0.04
#: Patterns over which the inner structure of the direct beam averages out.
_AVERAGED = 8
#: Pixels around a part of a pattern after which its splines are those of the whole pattern, to 1e-9.
_SPLINE = 16
#: Disks that must agree before a radius is called sure.
_SURE_SUPPORT, _SURE_SHARE = 4, 0.35
#: Factor on a vote for a radius that the scale network excludes; the least probability with which it tells a radius.
_UNLIKELY, _TOLD = 0.02, 0.5
#: Probabilities of a crystal, and of the network's radius, from which that counts where one disk, or none, tells it.
_PERHAPS, _LONE_TOLD = 0.2, 0.25
#: Radius of circles by the vote over the true one, the median of simulated patterns.
_CIRCLES_LARGE = 1.04
#: Logarithm of the radius by which the edge of the disks may differ from what the network tells: it knows them to a tenth.
_APART = 0.25
#: Edge width over radius of disks whose edge cannot be measured.
_USUAL_EDGE = 0.1
_CHECK = "check the file and the axes, or give a vacuum probe or a probe radius"
#: A brightest region larger than this part of the detector is not a disk; the radius drawn where there is none.
_LARGEST_SHARE, _NO_RADIUS_PX = 0.22, 4.0
#: A direct beam with a rim sharper than this part of its radius is a disk up to this part of the detector.
_SHARP_EDGE, _WIDEST_SHARE = 0.12, 0.25
#: Share of the inside of a disk at the largest value there is that a cut-off top has.
_CLIPPED = 0.05
_ADVICE = "check the probe's circle, or give a vacuum probe or a probe radius"


@dataclass(frozen=True)
class _Beam:
    """Direct beam of a pattern: centre, radius, plateau, and the part of all counts that lies outside it."""

    centre: Floats
    radius: float
    plateau: float
    outside: float


def measure_probe(cube: Datacube, reading: Reading | None = None) -> Probe:
    """Probe of a datacube that has none: from vacuum positions, else a synthetic one of the size of the disks.

    Parameters
    ----------
    reading
        How its patterns are to be read; as they are without.

    Where there is no disk in any pattern, the probe's `trust` is 0 and its `note` says so.
    """
    begin_network()  # while patterns are read
    picked = np.unique(np.linspace(0, cube.n_patterns - 1, min(SAMPLED_PATTERNS, cube.n_patterns)).astype(int))
    reading = reading or Reading()
    images = [_clean(cube, int(i), reading) for i in picked]
    beams = [_beam(image) for image in images]
    if not any(np.any(image > image.min()) for image in images):
        shape = (cube.detector_shape[0], cube.detector_shape[1])
        return replace(
            synthetic_probe(_NO_RADIUS_PX, shape, 0.5, MEASURED), note=f"the patterns are empty: {_CHECK}", trust=0.0
        )
    vacuum = _vacuum_probe(cube, picked, images, beams, reading)
    if vacuum is not None:
        return vacuum
    looked_at = [fill_gaps(image[None], reading.covered)[0][0].astype(float) for image in _telling(images, beams)]
    guess = guess_scale(looked_at)
    probe = _from_disks(images, beams, looked_at, guess, (cube.detector_shape[0], cube.detector_shape[1]))
    return replace(probe, crystal=guess.crystal, paired=shows_crystal(images, probe.radius_px))


def _clean(cube: Datacube, index: int, reading: Reading) -> Floats:
    return without_hot_pixels(fill_missing(reading(cube.patterns(index, index + 1)))[0].astype(np.float64))


def _beam(image: Floats) -> _Beam | None:
    """Direct beam: the brightest disk; None where there is none."""
    above = image - np.percentile(image, 20)
    if not above.max() > 0:
        return None
    region, plateau = brightest_disk(above)
    if region.sum() < 2 or not plateau > 0:
        return None
    centre = np.array(ndimage.center_of_mass(region))
    radius = float(np.sqrt(region.sum() / np.pi))
    distance = np.hypot(np.arange(image.shape[0])[:, None] - centre[0], np.arange(image.shape[1])[None, :] - centre[1])
    far = above[distance > 1.5 * radius + 2]
    total = float(np.clip(above, 0, None).sum())
    return _Beam(centre, radius, plateau, float(np.clip(far, 0, None).sum() / max(total, 1e-12)))


def _vacuum_probe(
    cube: Datacube, picked: NDArray[np.intp], images: list[Floats], beams: list[_Beam | None], reading: Reading
) -> Probe | None:
    """Mean of the patterns that hold the direct beam alone, or None where the scan has none that differ from the rest."""
    outside = np.array([1.0 if beam is None else beam.outside for beam in beams])
    usual = float(np.median(outside))
    radius = float(np.median([beam.radius for beam in beams if beam is not None] or [0.0]))
    limit = min(_VACUUM_OUTSIDE, _VACUUM_SHARE * usual)

    def is_vacuum(beam: _Beam | None) -> bool:
        return beam is not None and beam.outside < limit and 0.7 * radius < beam.radius < 1.4 * radius

    hits = [i for i, beam in enumerate(beams) if is_vacuum(beam)]
    if len(hits) < 2 or radius < 1.5:
        return None
    parts = [_centred(images[i], beams[i]) for i in hits]
    seen = set(picked.tolist())
    for index in _neighbours([int(picked[i]) for i in hits], cube.scan_shape, seen):
        image = _clean(cube, index, reading)
        beam = _beam(image)
        if is_vacuum(beam):
            parts.append(_centred(image, beam))
    probe = probe_from_image(np.mean(parts, axis=0), (cube.detector_shape[0], cube.detector_shape[1]), VACUUM)
    return probe if 0.8 * radius < probe.radius_px < 1.25 * radius else None


def _neighbours(hits: list[int], scan_shape: tuple[int, int], seen: set[int]) -> list[int]:
    """Scan positions beside the hits, nearest first, that were not looked at."""
    rows, cols = scan_shape
    out: dict[int, None] = {}
    for reach in (1, 2, 3):
        for hit in hits:
            r, c = divmod(hit, cols)
            for a in range(max(0, r - reach), min(rows, r + reach + 1)):
                for b in range(max(0, c - reach), min(cols, c + reach + 1)):
                    if a * cols + b not in seen:
                        out[a * cols + b] = None
    return list(out)[:_VACUUM_MORE]


def _centred(image: Floats, beam: _Beam | None) -> Floats:
    """Pattern with its direct beam in the middle."""
    assert beam is not None
    half = np.array(image.shape) // 2
    return ndimage.shift(image, half - beam.centre, order=3, mode="nearest")


def _around(image: Floats, beam: _Beam, half: int) -> Floats:
    """As :func:`_centred`, what lies within `half` pixels of the middle, less where the detector ends."""
    middle, nearest = np.array(image.shape) // 2, np.rint(beam.centre).astype(int)
    least = np.maximum(middle - half, 0) - _SPLINE
    most = np.minimum(middle + half + 1, image.shape) + _SPLINE
    rows, cols = (
        np.clip(np.arange(a, b) + shift, 0, n - 1)
        for a, b, shift, n in zip(least, most, nearest - middle, image.shape, strict=True)
    )
    part = ndimage.shift(image[np.ix_(rows, cols)], nearest - beam.centre, order=3, mode="nearest")
    return part[_SPLINE:-_SPLINE, _SPLINE:-_SPLINE]


def _from_disks(
    images: list[Floats], beams: list[_Beam | None], looked_at: list[Floats], guess: ScaleGuess, shape: tuple[int, int]
) -> Probe:
    """Synthetic probe of the radius on which the disks of the patterns agree, the direct beam being one of them."""
    scale = measure_scale(looked_at, likely=lambda radii_px: _UNLIKELY + (1 - _UNLIKELY) * guess.relative(radii_px))
    direct = _direct_beam(images, beams)
    most = min(shape) / 2 - 1
    radius, edge = _common_edge(looked_at, scale) if scale.support else (float("nan"), 0.5)
    # edges come out small where disks are brightest in their middle, circles large where edges are soft (they are voted on by
    # the root of the counts), the network either way: the middle one of three that err on their own
    radius = float(np.median([radius, scale.radius_px / _CIRCLES_LARGE, guess.radius_px]))
    likelihood = guess.chance(guess.radius_px)
    wide = scale.support < 2 and _is_wide(direct, guess, shape) and not _is_clipped(images, beams)
    told = likelihood > _TOLD and not wide
    agree = told and abs(np.log(radius / guess.radius_px)) < _APART
    # where hardly a disk shows its edge, the network's doubt about the crystal is no reason to believe a halo
    lone = scale.support < 2 and guess.crystal > _PERHAPS and not wide
    if not agree and ((told and guess.crystal > 0.5) or (lone and likelihood > _LONE_TOLD)):
        probe = _guessed(guess, direct, shape)
        return probe if told and guess.crystal > 0.5 else replace(probe, trust=0.5)
    if not scale.support:
        if direct is None or (direct[0] > _LARGEST_SHARE * min(shape) and not wide):
            note = f"no disk was found in the patterns, only noise or a smooth background: {_CHECK}"
            return replace(synthetic_probe(_NO_RADIUS_PX, shape, 0.5, MEASURED), note=note, trust=0.0)
        note = f"the probe radius of {direct[0]:.1f} px is that of the brightest spot alone: {_ADVICE}"
        return replace(synthetic_probe(float(np.clip(direct[0], 0.5, most)), shape, direct[1], MEASURED), note=note, trust=0.25)
    sure = (agree and guess.crystal > 0.5) or (scale.support >= _SURE_SUPPORT and scale.share > _SURE_SHARE)
    if direct is not None and abs(np.log(direct[0] / radius)) < _AGREES:
        # the inner structure of a direct beam averages out over a scan, not in one pattern
        radius, edge = direct if len(images) >= _AVERAGED else (radius, edge)
        sure |= scale.support >= 2 and scale.share > 0.5 * _SURE_SHARE
    probe = synthetic_probe(float(np.clip(radius, 0.5, most)), shape, edge, MEASURED)
    if sure:
        return probe
    seen = f"only {scale.support} disk{'s' if scale.support > 1 else ''} agree{'' if scale.support > 1 else 's'} on it"
    note = f"the probe radius of {probe.radius_px:.1f} px is not sure, {seen}: {_ADVICE}"
    backed = scale.support > 1 or (agree and guess.crystal > _PERHAPS)
    return replace(probe, note=note, trust=0.5 if backed else 0.25)


def _is_wide(direct: tuple[float, float] | None, guess: ScaleGuess, shape: tuple[int, int]) -> bool:
    """Whether the direct beam is a disk with a sharp rim, larger than any that the network knows, as in bright-field data."""
    if direct is None:
        return False
    radius, edge = direct
    return guess.radii_px.max() < radius < _WIDEST_SHARE * min(shape) and edge < _SHARP_EDGE * radius


def _is_clipped(images: list[Floats], beams: list[_Beam | None]) -> bool:
    """Whether the middle of the brightest disk is at the largest value there is: a halo that is cut off has a sharp rim too."""
    shares = []
    for image, beam in zip(images, beams, strict=True):
        if beam is not None:
            rows, cols = np.ogrid[: image.shape[0], : image.shape[1]]
            inside = np.hypot(rows - beam.centre[0], cols - beam.centre[1]) < 0.7 * beam.radius
            shares.append(float(np.mean(image[inside] >= image.max())))
    return float(np.median(shares or [0.0])) > _CLIPPED


def _guessed(guess: ScaleGuess, direct: tuple[float, float] | None, shape: tuple[int, int]) -> Probe:
    """Probe of the radius that the network tells, where no circle has it: that of the direct beam if it is the same."""
    radius, edge, note = guess.radius_px, _USUAL_EDGE * guess.radius_px, ""
    if direct is not None and guess.chance(direct[0]) > _TOLD:
        radius, edge = direct
    else:
        note = f"the probe radius of {radius:.1f} px is told by the scale network alone, no edge of the disks has it: {_ADVICE}"
    radius = float(np.clip(radius, 0.5, min(shape) / 2 - 1))
    return replace(synthetic_probe(radius, shape, float(np.clip(edge, 0.5, 3.0)), MEASURED), note=note)


def _telling(images: list[Floats], beams: list[_Beam | None]) -> list[Floats]:
    """Images to measure disks on: the sum of all patterns, and single ones, or sums of parts where these are too faint."""
    if len(images) == 1:
        return images
    rich = np.argsort([-np.inf if beam is None else -beam.outside * beam.plateau for beam in beams])[:_SINGLE]
    shown = [images[i] for i in rich]
    if not any(is_sparse(image) for image in shown):
        return [np.sum(images, axis=0), *shown]
    centre = np.array([[np.nan, np.nan] if beam is None else beam.centre for beam in beams])
    drift = np.nan_to_num(np.rint(centre - np.nanmedian(centre, axis=0)) if np.isfinite(centre).any() else centre)
    drift[np.abs(drift).max(axis=1) > _FAR_DRIFT * min(images[0].shape)] = 0
    moved = [np.roll(image, -move.astype(int), (0, 1)) for image, move in zip(images, drift, strict=True)]
    parts = np.array_split(np.arange(len(moved)), _SINGLE)
    return [np.sum(moved, axis=0), *(np.sum([moved[i] for i in part], axis=0) for part in parts if len(part))]


def _direct_beam(images: list[Floats], beams: list[_Beam | None]) -> tuple[float, float] | None:
    """Radius and edge width of the direct beam, aligned and averaged so that its inner structure averages out."""
    some = [(image, beam) for image, beam in zip(images, beams, strict=True) if beam is not None]
    if not some:
        return None
    low = [float(np.percentile(image, 20)) for image, _ in some]
    guess = float(np.median([beam.radius for _, beam in some]))
    half = int(edge_reach(guess) + guess) + 2
    aligned = [(_around(image, beam, half) - dark) / beam.plateau for (image, beam), dark in zip(some, low, strict=True)]
    return measure_edge(np.mean(aligned, axis=0), np.array(aligned[0].shape) // 2 * 1.0, guess)


def _common_edge(images: list[Floats], scale: Scale) -> tuple[float, float]:
    """Radius at half height and edge width of the supporting disks, each scaled to the same height."""
    guess = scale.radius_px
    reach = 1.7 * guess + 1.5
    step = max(0.25, guess / 24)
    bins = np.arange(0, reach, step)
    total, weights = np.zeros(len(bins)), np.zeros(len(bins))
    for which, centre, weight in zip(scale.image, scale.centre_px, scale.weight, strict=True):
        image = images[which]
        r0, c0 = np.maximum(np.floor(centre - reach).astype(int), 0)
        r1, c1 = np.ceil(centre + reach).astype(int) + 1
        part = image[r0:r1, c0:c1]
        rows, cols = np.arange(r0, r0 + part.shape[0]) - centre[0], np.arange(c0, c0 + part.shape[1]) - centre[1]
        distance = np.hypot(rows[:, None], cols[None, :])
        bottom = float(np.percentile(part[(distance > 1.25 * guess + 0.5) & (distance < reach)], 30))
        height = float(part[distance < max(0.8 * guess, 1.0)].mean()) - bottom
        if not height > 0:
            continue
        index = (distance / step).astype(int).ravel()
        ok = index < len(bins)
        total += weight * np.bincount(index[ok], ((part - bottom) / height).ravel()[ok], len(bins))
        weights += weight * np.bincount(index[ok], minlength=len(bins))
    known = weights > 0
    return fit_edge(bins[known] + 0.5 * step, total[known] / weights[known], guess)
