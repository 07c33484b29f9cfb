"""One kind of units in a viewer at a time.

napari shows units, also in its scale bar, only where those of all layers agree, hidden ones too: nm beside pixels or seconds
beside angstroms take them away from the whole viewer, with a warning. So layers of files that are put aside have the units of
what is shown until they are shown again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pint

from napari_emdl.gui.kit.session import role_of, signal_of, tag_of
from napari_emdl.gui.kit.styles import METADATA_KEY

OWN = "own_units"


def expect(viewer: Any, layers: Sequence[tuple[Any, dict[str, Any], str]]) -> None:
    """Layers of a file are about to be added: napari paints each before it tells of it."""
    found = next((look for _, look, _ in layers if look.get("metadata", {}).get(METADATA_KEY, {}).get("signal")), None)
    if found is not None and found.get("units"):
        registry = pint.get_application_registry()
        coming = tuple(registry.Unit(str(unit)) for unit in found["units"])
        for layer in viewer.layers:
            if role_of(layer):
                _lend(layer, coming)


def make_way(viewer: Any, front: Any) -> None:
    """A file comes to the front, of which `front` is a layer: call it before, and :func:`settle` when the others are hidden."""
    signal = signal_of(front)
    mine = [layer for layer in viewer.layers if role_of(layer)]
    for layer in mine:
        if layer is front or (signal is not None and signal_of(layer) is signal):
            _give_back(layer)
    for layer in mine:
        if layer is not front and (signal is None or signal_of(layer) is not signal):
            _lend(layer, front.units)


def settle(viewer: Any) -> None:
    """Layers that are shown have their own units, hidden ones those of what is shown."""
    mine = [layer for layer in viewer.layers if role_of(layer)]
    shown = [layer for layer in mine if layer.visible]
    for layer in shown:
        _give_back(layer)
    longest = max((layer.units for layer in shown), key=len, default=())
    for layer in mine:
        if not layer.visible:
            _lend(layer, longest)


def forget(layer: Any) -> None:
    """The units that a layer has now are its own."""
    tag_of(layer).pop(OWN, None)


def own_units(attributes: dict[str, Any]) -> Any:
    """Units of a layer to be saved, given the attributes that napari saves."""
    found = attributes.get("metadata", {}).get(METADATA_KEY, {})
    return (found.get(OWN) if isinstance(found, dict) else None) or attributes.get("units")


def _lend(layer: Any, units: Any) -> None:
    """Units of the axes that layers share, counted from the last one, where they are of another kind."""
    own = tuple(layer.units)
    shared = min(len(own), len(units))
    pairs = list(zip(own[len(own) - shared :], units[len(units) - shared :], strict=True))
    if any(a.dimensionality != b.dimensionality for a, b in pairs):
        tag_of(layer).setdefault(OWN, tuple(str(unit) for unit in own))
        lent = tuple(a if a.dimensionality == b.dimensionality else b for a, b in pairs)
        layer.units = (*own[: len(own) - shared], *lent)


def _give_back(layer: Any) -> None:
    own = tag_of(layer).pop(OWN, None)
    if own is not None:
        layer.units = own
