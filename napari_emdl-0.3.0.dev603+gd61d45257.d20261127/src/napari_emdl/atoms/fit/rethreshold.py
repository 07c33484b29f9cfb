"""Another detection threshold for an occupancy that is there already: table work only, so a slider may call it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.atoms.fit.drift import Alignment
from napari_emdl.atoms.fit.evidence import evidence_from_detections
from napari_emdl.atoms.fit.occupancy import decode
from napari_emdl.atoms.fit.result import Occupancy
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.jobs.control import Control


def with_threshold(fitted: Occupancy, columns: PeakTable, min_score: float, control: Control | None = None) -> Occupancy:
    """Occupancy at another threshold of the detections.

    Sites that too few detections support are left out and come back when the threshold goes down; new sites need a new fit.
    The evidence at the sites stays what it was, detections and with them raw rates follow the threshold, and the hidden
    Markov model is fitted again.

    Parameters
    ----------
    fitted
        What :func:`napari_emdl.fit_occupancy` gave.
    columns
        The columns it was fitted to, with all candidates.
    min_score
        New threshold.
    control
        Cancel.

    Raises
    ------
    EmdlError
        When no site is left.
    """
    options = fitted.attrs.get("params") or {}
    radius_px = float(options.get("max_distance_A", 0.8)) / float(fitted.attrs["pixel_A"])
    found = columns.filter(min_score=min_score)
    _, detected = evidence_from_detections(found, fitted.sites_px, fitted.alignment, radius_px)
    detected &= fitted.valid
    seen = detected.sum(0) / np.maximum(1, fitted.valid.sum(0))
    keep = fitted.sites.extrapolated | (seen >= float(options.get("min_site_fraction", 0.05)))
    if not (keep & ~fitted.sites.extrapolated).any():
        raise EmdlError("no site is left at this threshold; move the slider down")
    return _subset(fitted, keep, detected, fitted.alignment, {"min_score": float(min_score)}, control)


def with_sites(fitted: Occupancy, keep: NDArray[np.bool_], control: Control | None = None) -> Occupancy:
    """Occupancy of some of the sites only, chosen by hand; `keep` is (n,) bool.

    Raises
    ------
    EmdlError
        When no site is left.
    """
    if not np.any(keep):
        raise EmdlError("no site would be left; keep at least one")
    return _subset(fitted, np.asarray(keep, bool), fitted.detected, fitted.alignment, {}, control)


def _subset(
    fitted: Occupancy,
    keep: NDArray[np.bool_],
    detected: NDArray[np.bool_],
    alignment: Alignment,
    facts: dict[str, float],
    control: Control | None,
) -> Occupancy:
    attrs = {**fitted.attrs, **facts, "notes": []}
    if "min_score" in facts and isinstance(attrs.get("provenance"), dict):
        attrs["provenance"] = _at_threshold(attrs["provenance"], facts["min_score"])
    at = (slice(None), keep)
    start = fitted.occupied[at] if str(attrs.get("evidence")).startswith("matched") else None
    sites = fitted.sites.kept(keep)
    return decode(sites, alignment, fitted.evidence[at], detected[at], fitted.valid[at], attrs, control, start)


def _at_threshold(record: dict[str, Any], min_score: float) -> dict[str, Any]:
    """Provenance that says which threshold was used."""
    params = record.get("params") or {}
    return {**record, "params": {**params, "occupancy": {**(params.get("occupancy") or {}), "min_score": min_score}}}
