"""What a strain map says of itself: where its zero, lattice and axes come from, and its spread where it should be flat."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.params import StrainParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.fit.calibrate import DiffractionCalibration
from napari_emdl.diffraction.fit.tensor import COMPONENTS
from napari_emdl.jobs.provenance import provenance

Floats = NDArray[np.float64]

#: Positions of a uniform region that tell a spread, and how many times the error it is worth a warning.
_TELLING_POSITIONS, _WIDER = 12, 1.5

BASIS_HOW = {
    "found": "found in the disks of the whole scan: the pair of difference vectors that makes them most likely, fitted to them",
    "given": "given by the user, then fitted to the disks of the whole scan",
}


def strain_provenance(params: StrainParams, disks: PeakTable, facts: dict[str, Any]) -> dict[str, Any]:
    """Record of a strain map: its parameters, `facts` on reference, basis and axes, and what the disks were found in."""
    record = disks.attrs.get("provenance") or {}
    return provenance({"strain": params.model_dump(mode="json")}, **{**facts, "input": record.get("input"), "disks": record})


def axes_of(measured: DiffractionCalibration, axis_deg: float) -> dict[str, Any]:
    """Which axes the strain is on: frame ("scan" or "detector"), rotation_deg, flip, axis_deg, and a sentence."""
    known = measured.calibration
    turned = measured.scan_axes() is not None
    rotation = float(np.rad2deg(known.qr_rotation_rad))
    frame = "scan" if turned else "detector"
    text = f"x axis at {axis_deg:g} degrees from the {frame}'s rows towards its columns"
    if turned:
        text += f"; detector rotated by {rotation:g} degrees{' and flipped' if known.qr_flip else ''} against the scan"
    else:
        text += "; rotation of the detector against the scan unknown, so the axes are not turned into the scan"
    source = known.source.get("qr_rotation_rad") or known.source.get("qr_flip")
    return {
        "frame": frame,
        "axis_deg": float(axis_deg),
        "rotation_deg": rotation if turned else None,
        "flip": bool(known.qr_flip) if turned else None,
        "source": source,
        "text": text,
    }


def described_reference(reference: Any, params: StrainParams, inliers: int, g: Floats) -> dict[str, Any]:
    wanted = params.reference if reference is None else reference
    region = None
    if params.reference_lattice or (isinstance(reference, str) and reference == "lattice"):
        how = "g1 and g2 as given"
    elif wanted is None:
        how = "median of all fitted positions"
    elif np.asarray(wanted).dtype == bool:
        how = "median of the fitted positions of a mask"
    else:
        region = [int(v) for v in np.asarray(wanted)]
        how = f"median of the fitted positions of scan rows {region[0]}:{region[1]}, cols {region[2]}:{region[3]}"
    uniform = wanted is not None and inliers > 0
    return {"how": how, "region": region, "positions": inliers, "g_px": g.tolist(), "uniform": uniform}


def uniform_spread(fields: dict[str, Any], inside: NDArray[np.bool_]) -> dict[str, dict[str, float]]:
    """What is measured in a region that the user calls uniform, beside what the error says.

    Parameters
    ----------
    fields
        exx, eyy, exy, theta_rad (R, C) and sigma (R, C, 4).
    inside
        (R, C) fitted positions of the region.

    Returns
    -------
    dict
        Component -> "spread", the standard deviation about the region's median, and "sigma", the rms of the standard errors.
    """
    found = {}
    for i, name in enumerate(COMPONENTS):
        values, sigma = np.asarray(fields[name])[inside], np.asarray(fields["sigma"])[inside][:, i]
        spread = float(np.sqrt(np.mean(np.square(values - np.median(values))))) if len(values) else float("nan")
        found[name] = {"spread": spread, "sigma": float(np.sqrt(np.mean(np.square(sigma)))) if len(sigma) else float("nan")}
    return found | {"positions": {"n": float(inside.sum())}}


def spread_warning(found: dict[str, dict[str, float]]) -> list[str]:
    if found["positions"]["n"] < _TELLING_POSITIONS:
        return []
    wide = [n for n in COMPONENTS[:3] if found[n]["spread"] > _WIDER * found[n]["sigma"]]
    if not wide:
        return []
    most = max(wide, key=lambda n: found[n]["spread"])
    spread, error = 100 * found[most]["spread"], 100 * found[most]["sigma"]
    verb = "varies" if len(wide) == 1 else "vary"
    return [
        f"in the reference region {', '.join(wide)} {verb} more than expected from the errors "
        f"({most} by {spread:.2f} %, its error is {error:.2f} %): the region is not uniform, or the errors are too small"
    ]
