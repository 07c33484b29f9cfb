"""Several lattices in one scan: regions (phases, grains) that each have a lattice and a reference of their own.

A label image over the scan says which region a position belongs to; 0 belongs to none. Origin, ellipse and units are measured
once for the whole scan, everything else for each region by :func:`napari_emdl.diffraction.fit.strain.fit_strain`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_emdl.base.errors import EmdlError, JournalError
from napari_emdl.base.params import RegionParams, RunParams, StrainParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.reading import read_small_npy
from napari_emdl.base.signals import Datacube
from napari_emdl.diffraction.basis import find_basis
from napari_emdl.diffraction.fit.calibrate import DiffractionCalibration, calibrate
from napari_emdl.diffraction.fit.distortion import corrected
from napari_emdl.diffraction.fit.segment import MAX_REGIONS, Labels
from napari_emdl.diffraction.fit.several import Lattices, own_disks
from napari_emdl.diffraction.fit.single import fit_one_lattice
from napari_emdl.diffraction.fit.strainmap import REASONS, Evidence, StrainMap, reference_mask, select_disks
from napari_emdl.jobs.control import Control

_OUTSIDE = REASONS.index("outside the regions")
_NO_LATTICE, _FEW_DISKS = REASONS.index("too few disks on the lattice"), REASONS.index("too few disks")
_PER_POSITION = ("exx", "eyy", "exy", "theta_rad", "sigma", "g1", "g2", "origin_px", "residual_px")


def check_regions(regions: ArrayLike, shape: tuple[int, ...]) -> Labels:
    """(R, C) uint8 labels.

    Raises
    ------
    EmdlError
        When they do not fit the scan, are no whole numbers, or name no region or too many.
    """
    found = np.squeeze(np.asarray(regions))
    if found.shape != tuple(shape):
        there = " x ".join(map(str, found.shape))
        raise EmdlError(f"the regions are {there}, the scan is {shape[0]} x {shape[1]}; give one label per scan position")
    if found.dtype.kind not in "biu" and not np.array_equal(found, np.rint(found)):
        raise EmdlError("regions are whole numbers: 0 for none, then 1, 2, ... for each lattice")
    present = np.unique(found)
    if not (present > 0).any():
        raise EmdlError("no position belongs to a region; give labels 1, 2, ... and 0 for none")
    if present.min() < 0 or present.max() > 255 or (present > 0).sum() > MAX_REGIONS:
        raise EmdlError(
            f"there are {int((present > 0).sum())} regions up to number {present.max():g}; at most {MAX_REGIONS}, below 256"
        )
    return found.astype(np.uint8)


def read_regions(path: str | Path, shape: tuple[int, ...]) -> Labels:
    """Label image of a file: .npy, or any image that imageio reads (TIFF, PNG).

    Raises
    ------
    EmdlError
        When it cannot be read or does not fit the scan.
    """
    file = Path(path).expanduser()
    try:
        if file.suffix.lower() == ".npy":
            return check_regions(read_small_npy(file), shape)
        from imageio.v3 import imread

        return check_regions(imread(file), shape)
    except EmdlError as error:
        raise EmdlError(f"{file.name}: {error}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise EmdlError(f"the regions {file} cannot be read ({reason}); give a TIFF, PNG or .npy of labels") from None


def journal_of(output: str | Path, number: int) -> Path:
    """Name under which the fit of one region keeps its blocks beside `output`."""
    return Path(f"{output}.region{number}")


def journals_of(output: str | Path) -> tuple[Path, ...]:
    """Names under which the regions of a scan may have kept theirs."""
    return tuple(journal_of(output, number) for number in range(1, 256))


def fit_strain_regions(
    disks: PeakTable,
    regions: ArrayLike,
    *,
    reference: Any = None,
    params: StrainParams | None = None,
    control: Control | None = None,
    cube: Datacube | None = None,
    run: RunParams | None = None,
    calibration: DiffractionCalibration | None = None,
    found: Lattices | None = None,
    output: str | Path | None = None,
) -> StrainMap:
    """One strain map from the lattices of several regions.

    Parameters
    ----------
    disks
        Table over (scan rows, scan cols).
    regions
        (R, C) labels, 0 for none.
    reference
        As for :func:`fit_strain`: of a region or mask, the part that lies in a region is its reference. A region that it does
        not touch takes the median of its own positions, and a warning says so. ``params.phases`` overrides it.
    params
        Settings; ``params.phases`` has lattice vectors and references of single regions.
    cube
        The patterns, for fits that take them; opened from where the disks were found when None.
    calibration
        Origin, ellipse and units when they are measured already.
    found
        The lattices that the labels come from, where nobody gave them: a warning says so.
    output
        Result file beside which finished blocks of every region are kept, see :func:`journals_of`.

    Returns
    -------
    StrainMap
        With ``region``; positions outside are masked for that reason. A region without a lattice is masked, and a warning
        says why.

    Raises
    ------
    EmdlError
        When no region has a lattice.
    """
    params = params or StrainParams()
    if len(disks.shape) != 2:
        disks = disks.reshape((1, disks.n_positions))
    shape = (disks.shape[0], disks.shape[1])
    labels = check_regions(regions, shape)
    chosen = select_disks(disks, params)
    numbers = [int(n) for n in np.unique(labels) if n]
    measured = calibration or _calibrated(chosen, params, [labels == number for number in numbers])
    phases = {phase.label: phase for phase in params.phases}
    unknown = sorted(set(phases) - set(numbers))
    if unknown:
        raise EmdlError(f"region {unknown[0]} has settings but no position; the regions are {', '.join(map(str, numbers))}")
    known = found.bases() if found is not None else {}
    chosen = _without_other_lattices(chosen, labels, measured, phases, known)
    of = chosen.flat_index()
    fits: dict[int, StrainMap] = {}
    problems: dict[int, str] = {}
    for done, number in enumerate(numbers):
        if control is not None:
            control.check()
            control.report(done, len(numbers), "regions")
        inside = labels == number
        phase = phases.get(number, RegionParams(label=number))
        own, warning = _reference_of(phase, reference, params, inside)
        try:
            fit = fit_one_lattice(
                chosen.where(inside.ravel()[of]),
                _params_of(phase, params),
                reference=own,
                control=control,
                calibration=measured,
                cube=cube,
                run=run,
                output=None if output is None else journal_of(output, number),
            )
        except JournalError:
            raise
        except EmdlError as error:
            problems[number] = str(error)
        else:
            fits[number] = fit
            if warning:
                problems[number] = warning
    if not fits:
        raise EmdlError("; ".join(f"region {number}: {text}" for number, text in problems.items()))
    if control is not None:
        control.report(len(numbers), len(numbers), "done")
    joined = _join(labels, fits, problems, phases, chosen.counts(), params)
    return joined if found is None else _told(joined, found, labels, chosen.counts() >= params.min_disks)


def _told(joined: StrainMap, found: Lattices, labels: Labels, rich: NDArray[np.bool_]) -> StrainMap:
    """The map with a warning that its regions were found and not given, and why a position has none."""
    sizes = ", ".join(f"{int((labels == number).sum()):,}" for number in range(1, len(found.g) + 1))
    text = f"{len(found.g)} lattices were found, at {sizes} positions: each has a zero of its own, the median of its positions "
    text += "where the reference does not reach it. Set lattices to one for a single lattice"
    if len(found.g) == 1:
        text = "a second lattice lies above the scan's at some positions: its disks were left out. Set lattices to one to keep "
        text += "them"
    assert joined.evidence is not None
    reason = np.where((labels == 0) & rich, _NO_LATTICE, np.where(labels == 0, _FEW_DISKS, joined.reason))
    return replace(
        joined,
        reason=reason.astype(np.uint8),
        evidence=replace(joined.evidence, warnings=(text, *joined.evidence.warnings)),
        attrs=joined.attrs | {"regions_found": True},
    )


def _without_other_lattices(
    disks: PeakTable,
    labels: Labels,
    measured: DiffractionCalibration,
    phases: dict[int, RegionParams],
    known: dict[int, NDArray[np.float64]],
) -> PeakTable:
    """Disks without those that lie on the lattice of another region alone; as they are where one lattice is known at most."""
    origin, of = measured.origin_px.reshape(-1, 2), disks.flat_index()
    bases = dict(known)
    for number in (int(n) for n in np.unique(labels) if n and int(n) not in known):
        phase = phases.get(number)
        if phase is not None and phase.g1 is not None and phase.g2 is not None:
            bases[number] = np.array([phase.g1, phase.g2])
            continue
        try:
            bases[number] = find_basis(disks.where((labels == number).ravel()[of]), origin).g
        except EmdlError:  # its own fit says so
            continue
    return disks.where(own_disks(disks, labels, bases, origin)) if len(bases) > 1 else disks


def _calibrated(disks: PeakTable, params: StrainParams, regions: list[NDArray[np.bool_]]) -> DiffractionCalibration:
    """Origin, ellipse and distortion of the whole scan."""
    found = calibrate(disks, params.calibrate, disks.attrs.get("calibration"))
    if params.calibrate.distortion == "none" and params.calibrate.standard is None:
        return found
    lattices: list[tuple[NDArray[np.bool_] | None, NDArray[np.float64]]] = []
    for inside in regions:
        try:
            own = disks.where(inside.ravel()[disks.flat_index()])
            lattices.append((inside, find_basis(own, found.origin_px.reshape(-1, 2)).g))
        except EmdlError:  # its own fit says so
            continue
    return corrected(disks, params, found, lattices)[1]


def _params_of(phase: RegionParams, params: StrainParams) -> StrainParams:
    """Settings of one region: its own lattice, else (of the scan's settings) none, which finds it."""
    own = {"g1": phase.g1, "g2": phase.g2, "reference": None, "reference_lattice": False}
    return params.model_copy(update={**own, "regions": None, "phases": (), "lattices": "one"})


def _reference_of(phase: RegionParams, reference: Any, params: StrainParams, inside: NDArray[np.bool_]) -> tuple[Any, str]:
    """Reference of a region and what is to be said about it."""
    ideal = isinstance(reference, str) and reference == "lattice"
    if phase.reference_lattice or (phase.reference is None and (ideal or params.reference_lattice)):
        return "lattice", ""
    wanted = phase.reference if phase.reference is not None else params.reference if reference is None else reference
    if wanted is None:
        return None, ""
    mask = reference_mask(inside.shape, wanted) & inside
    if mask.any():
        return mask, ""
    return None, "the reference lies outside it, so its zero is the median of its own positions"


def _join(
    labels: Labels,
    fits: dict[int, StrainMap],
    problems: dict[int, str],
    phases: dict[int, RegionParams],
    counts: NDArray[np.int64],
    params: StrainParams,
) -> StrainMap:
    first = next(iter(fits.values()))
    facts = {str(n): _facts(fit, phases.get(n), labels == n) for n, fit in fits.items()}
    own = {
        "params": {"strain": params.model_dump(mode="json")},
        "reference": {"how": "each region has its own, see regions", "region": None},
        "basis": {"source": "each region has its own, see regions"},
    }
    fields = {name: np.full_like(getattr(first, name), np.nan) for name in _PER_POSITION}
    mask = np.zeros(labels.shape, bool)
    reason = np.full(labels.shape, _OUTSIDE, np.uint8)
    reason[labels > 0] = np.where(counts[labels > 0] < params.min_disks, _FEW_DISKS, _NO_LATTICE)
    n_indexed = np.zeros(labels.shape, np.int64)
    for number, fit in fits.items():
        inside = labels == number
        for name, whole in fields.items():
            whole[inside] = getattr(fit, name)[inside]
        mask[inside], reason[inside], n_indexed[inside] = fit.mask[inside], fit.reason[inside], fit.n_indexed[inside]
    names = {
        n: f"region {n}" + (f" ({phases[n].name})" if n in phases and phases[n].name else "") for n in np.unique(labels) if n
    }
    alone = np.zeros(labels.shape, bool)
    for number, fit in fits.items():
        if fit.peaks_alone is not None:
            alone |= fit.peaks_alone & (labels == number)
    how = {str(n): fit.attrs["fit"] for n, fit in fits.items()}
    return StrainMap(
        **fields,
        mask=mask,
        reason=reason,
        n_indexed=n_indexed,
        reference_g=first.reference_g,
        axis_deg=first.axis_deg,
        calibration=first.calibration,
        evidence=_evidence(fits, problems, names, fields["residual_px"][mask]),
        attrs={
            "params": params.model_dump(mode="json"),
            "disks_provenance": first.attrs.get("disks_provenance"),
            "caveats": first.attrs.get("caveats"),
            "axes": first.attrs["axes"],
            "distortion": first.attrs["distortion"],
            "fit": _fit_of_all(how, names, params.fit),
            "regions": facts,
            "provenance": first.attrs["provenance"] | own | {"regions": facts},
        },
        region=labels,
        peaks_alone=None if all(fit.peaks_alone is None for fit in fits.values()) else alone,
        covariance=_joined(labels, {n: fit.covariance for n, fit in fits.items()}),
        in_reference=_joined(labels, {n: fit.in_reference for n, fit in fits.items() if fit.in_reference is not None}),
    )


def _joined(labels: Labels, parts: dict[int, NDArray[Any] | None]) -> NDArray[Any] | None:
    """Values of each region at its positions, nothing (NaN, False) elsewhere; None where a region has none."""
    known = [part for part in parts.values() if part is not None]
    if not known or len(known) < len(parts):
        return None
    out = np.full_like(known[0], np.nan if known[0].dtype.kind == "f" else False)
    for number, part in zip(parts, known, strict=True):
        out[labels == number] = part[labels == number]
    return out


def _fit_of_all(how: dict[str, dict[str, Any]], names: dict[int, str], wanted: str) -> dict[str, Any]:
    """What the regions were fitted to: in one sentence where they agree."""
    texts = {facts["text"] for facts in how.values()}
    kinds = {facts["fit"] for facts in how.values()}
    text = texts.pop() if len(texts) == 1 else "; ".join(f"{names[int(n)]}: {facts['text']}" for n, facts in how.items())
    return {"wanted": wanted, "fit": kinds.pop() if len(kinds) == 1 else "several", "text": text}


def _facts(fit: StrainMap, phase: RegionParams | None, inside: NDArray[np.bool_]) -> dict[str, Any]:
    found = fit.evidence
    assert found is not None
    return {
        "name": phase.name if phase is not None else "",
        "positions": int(inside.sum()),
        "fitted": int(fit.mask.sum()),
        "basis_g": np.asarray(fit.attrs["basis_g"]).tolist(),
        "basis_source": fit.attrs["basis_source"],
        "fit": fit.attrs["fit"],
        "reference_g": fit.reference_g.tolist(),
        "reference_source": fit.attrs["reference_source"],
        "indexed_fraction": found.indexed_fraction,
        "basis_consensus": found.basis_consensus,
        "median_residual_px": found.median_residual_px,
        "reference_inliers": found.reference_inliers,
    }


def _evidence(
    fits: dict[int, StrainMap], problems: dict[int, str], names: dict[int, str], residual_px: NDArray[np.float64]
) -> Evidence:
    """Evidence of all regions together: means weighted by their fitted positions, warnings with the region's name."""
    weight = np.array([max(1, fit.mask.sum()) for fit in fits.values()], float)
    each = [fit.evidence for fit in fits.values() if fit.evidence is not None]
    shared = {text for text in each[0].warnings if all(text in found.warnings for found in each)} if len(each) > 1 else set()
    warnings = [text for text in each[0].warnings if text in shared]
    for number, fit in fits.items():
        assert fit.evidence is not None
        warnings += [f"{names[number]}: {text}" for text in fit.evidence.warnings if text not in shared]
    warnings += [f"{names[number]}: {text}" for number, text in problems.items()]
    return Evidence(
        float(np.average([found.indexed_fraction for found in each], weights=weight)),
        float(np.average([found.basis_consensus for found in each], weights=weight)),
        float(np.median(residual_px)) if residual_px.size else float("nan"),
        sum(found.reference_inliers for found in each),
        tuple(warnings),
    )
