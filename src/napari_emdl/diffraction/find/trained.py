"""Whether a datacube lies in the range the networks were trained on, by what the file says of itself."""

from __future__ import annotations

from napari_emdl.base.params import DiskParams
from napari_emdl.base.signals import Calibration

_WORDS = {"energy_keV": ("beam energy", "keV"), "semiangle_mrad": ("convergence semiangle", "mrad")}


def outside_training(params: DiskParams, calibration: Calibration) -> list[str]:
    """One sentence for each of energy and semiangle that the networks of a method never saw; unknown values pass.

    The radius of the disks in pixels, which matters most, is looked at by the finder itself, which rescales patterns where
    that brings them into range.
    """
    if params.method == "template":
        return []
    from napari_emdl.diffraction.find.netmodels import chosen_models

    notes = []
    models = [model for model in chosen_models(params) if model is not None]
    for name, (what, unit) in _WORDS.items():
        value = getattr(calibration, name)
        ranges = [model.card.emdl.ranges.get(name) for model in models]
        known = [limits for limits in ranges if limits]
        if value is None or not known:
            continue
        low, high = max(limits[0] for limits in known), min(limits[1] for limits in known)
        if not low * (1 - 1e-6) <= value <= high * (1 + 1e-6):
            notes.append(
                f"the {what} of {value:g} {unit} is outside what the network was trained on ({low:g} to {high:g} {unit})"
            )
    return notes
