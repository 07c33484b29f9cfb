"""What a strain map shows at first sight: which component has most to see, where a scale saturates, where the axes point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from napari_emdl.diffraction.fit.strain import StrainMap

COMPONENTS = ("exx", "eyy", "exy", "theta_rad")


def most_to_see(strain: StrainMap) -> str:
    """Component whose values spread furthest beyond their errors; the first where nothing is fitted."""
    if not strain.mask.any():
        return COMPONENTS[0]
    contrast = []
    for number, name in enumerate(COMPONENTS):
        values, sigma = getattr(strain, name)[strain.mask], strain.sigma[..., number][strain.mask]
        low, high = np.nanquantile(values, (0.02, 0.98))
        error = float(np.nanmedian(sigma))
        contrast.append(float(high - low) / error if error > 0 else 0.0)
    return COMPONENTS[int(np.argmax(contrast))]


def beyond(values: ArrayLike, limits: tuple[float, float]) -> tuple[float, float]:
    """Shares of the finite values that lie below and above a colour scale."""
    known = np.asarray(values)[np.isfinite(values)]
    if not known.size:
        return 0.0, 0.0
    return float(np.mean(known < limits[0])), float(np.mean(known > limits[1]))


@dataclass(frozen=True)
class Axes:
    """Strain axes as they lie on the scan.

    Attributes
    ----------
    x, y
        Unit vectors (row, col).
    known
        False where the rotation from scan to detector is not known, so that these are directions on the detector.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    known: bool


def axes_on_scan(strain: StrainMap) -> Axes:
    """Directions of x and y on the scan.

    x lies at `axis_deg` from the rows towards the columns, y a quarter turn further: of the scan where the fit knew the
    rotation (and transposition) from scan to detector, else of the detector. Maps of versions that fitted on the axes of
    the detector alone do not say which; theirs are turned to the scan here.
    """
    angle = np.deg2rad(strain.axis_deg)
    axes = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    frame = (strain.attrs.get("axes") or {}).get("frame")
    if frame is not None:
        return Axes(axes[0], axes[1], frame == "scan")
    known = strain.calibration.calibration if strain.calibration is not None else None
    if known is None or "qr_rotation_rad" not in known.source:
        return Axes(axes[0], axes[1], False)
    turn = known.qr_rotation_rad
    undo = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    on_scan = axes @ undo.T
    if known.qr_flip:
        on_scan = on_scan[:, ::-1]
    return Axes(on_scan[0], on_scan[1], True)
