"""A strain map on other axes: the tensor, its errors and what is said of both are turned, nothing is fitted anew."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.diffraction.fit.calibrate import DiffractionCalibration
from napari_emdl.diffraction.fit.facts import axes_of, spread_warning, uniform_spread
from napari_emdl.diffraction.fit.strainmap import StrainMap
from napari_emdl.diffraction.fit.tensor import COMPONENTS, standard_errors, tensor_turn


def can_turn(strain: StrainMap) -> bool:
    """Whether a map holds what turning takes."""
    return strain.covariance is not None and isinstance(strain.calibration, DiffractionCalibration)


def turn_strain(strain: StrainMap, axis_deg: float) -> StrainMap:
    """The same map with another direction of the x axis, as a fit with that axis gives it.

    Parameters
    ----------
    strain
        A map with ``covariance``.
    axis_deg
        Direction of the x axis from the row axis towards the col axis, of scan or detector as in the map.

    Raises
    ------
    EmdlError
        When the map does not hold the covariance of its components: of an earlier version, or checked by other fits.
    """
    if axis_deg == strain.axis_deg:
        return strain
    calibration = strain.calibration
    if strain.covariance is None or not isinstance(calibration, DiffractionCalibration):
        raise EmdlError(
            "this strain map cannot be turned: it is of an earlier version or was checked by other fits; fit it again with "
            f"`axis_deg={axis_deg:g}`"
        )
    turn = tensor_turn(axis_deg - strain.axis_deg)
    components = np.stack([strain.component(name) for name in COMPONENTS[:3]], axis=-1) @ turn.T
    covariance = turn @ strain.covariance @ turn.T
    fields: dict[str, Any] = {name: components[..., i] for i, name in enumerate(COMPONENTS[:3])}
    fields["sigma"] = np.concatenate([standard_errors(covariance), strain.sigma[..., 3:]], axis=-1)
    made = replace(strain, **fields, covariance=covariance, axis_deg=float(axis_deg))
    return _said_anew(made, axes_of(calibration, axis_deg))


def _said_anew(strain: StrainMap, axes: dict[str, Any]) -> StrainMap:
    """Attributes and warnings that name components or axes, for the axes the map is on now."""
    attrs = dict(strain.attrs)
    record = dict(attrs.get("provenance") or {})
    attrs["axes"] = axes
    attrs["params"] = {**attrs["params"], "axis_deg": strain.axis_deg}
    warnings = strain.evidence.warnings if strain.evidence is not None else ()
    if "regions" in attrs:
        attrs["regions"] = dict(attrs["regions"])
        for number, facts in attrs["regions"].items():
            prefix = f"region {number}" + (f" ({facts['name']})" if facts["name"] else "") + ": "
            inside = np.asarray(strain.region == int(number))
            own, warnings = _spread_anew(strain, facts["reference_source"], inside, warnings, prefix)
            attrs["regions"][number] = {**facts, "reference_source": own}
        record["regions"] = attrs["regions"]
    elif "reference_source" in attrs:
        attrs["reference_source"], warnings = _spread_anew(strain, attrs["reference_source"], strain.mask, warnings)
        record["reference"] = attrs["reference_source"]
    if "axes" in record:
        record["axes"] = axes
    if "params" in record:
        record["params"] = {**record["params"], "strain": attrs["params"]}
    attrs["provenance"] = record
    evidence = strain.evidence and replace(strain.evidence, warnings=tuple(warnings))
    return replace(strain, attrs=attrs, evidence=evidence)


def _spread_anew(
    strain: StrainMap, described: dict[str, Any], among: NDArray[np.bool_], warnings: tuple[str, ...], prefix: str = ""
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Spread within the reference on the axes of the map, and the warnings with what it says of it in place of the old one."""
    if not described.get("spread") or strain.in_reference is None:
        return described, warnings
    fields = {"sigma": strain.sigma} | {name: strain.component(name) for name in COMPONENTS}
    spread = uniform_spread(fields, strain.in_reference & among)
    old = {prefix + text for text in spread_warning(described["spread"])}
    new = (prefix + text for text in spread_warning(spread))
    return {**described, "spread": spread}, (*(text for text in warnings if text not in old), *new)
