"""The user's own layers, as a project keeps them beside what the panels make anew."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import numpy as np

from napari_emdl.gui.kit.session import role_of

LayerData = tuple[Any, dict[str, Any], str]

#: An image of the user's own above this is left out (and named): a project is not a place for another movie.
MAX_IMAGE_BYTES = 256 * 2**20
#: The same while a session is kept, which happens every few seconds.
MAX_IMAGE_BYTES_KEPT = 16 * 2**20


def own(layer: Any) -> bool:
    """True for a layer that no part of this package makes or looks after: the user's own."""
    role = role_of(layer)
    return not role or role.startswith("saved ")


def own_layers(
    layers: Any, leave_out: Any = None, largest: int = MAX_IMAGE_BYTES, drawn: tuple[str, ...] = ()
) -> tuple[list[LayerData], list[str]]:
    """Layer data of the user's own layers; names of what is too large or lazy.

    Parameters
    ----------
    leave_out
        Layer that is named elsewhere: the movie that is analysed.
    drawn
        Roles of drawings of ours that are kept as well.
    """
    kept, left_out = [], []
    for layer in layers:
        if layer is leave_out or not (own(layer) or role_of(layer) in drawn):
            continue
        data, attributes, kind = layer.as_layer_data_tuple()
        if kind == "image" and not (isinstance(data, np.ndarray) and data.nbytes <= largest):
            left_out.append(layer.name)
            continue
        if kind == "labels":
            data = np.array(data)  # painting goes on in the array while this is written
        kept.append((data, attributes, kind))
    return kept, left_out


def digest_of(layers: Any, drawn: tuple[str, ...] = ()) -> str:
    """Differs when one of the user's own layers was changed, or a drawing of ours with a role in `drawn`."""
    known = sha256()
    for layer in layers:
        if not (own(layer) or role_of(layer) in drawn):
            continue
        known.update(f"{layer.name}{layer.visible}{layer.opacity}".encode())
        if layer._type_string == "image":
            known.update(str(id(layer.data)).encode())
            continue
        for part in layer.data if isinstance(layer.data, (list, tuple)) else [layer.data]:
            known.update(np.ascontiguousarray(part).data)
    return known.hexdigest()


def add_own(viewer: Any, saved: list[LayerData]) -> None:
    """Add the user's own layers of a project, unless they are there already."""
    from napari.layers import Layer

    for data, attributes, kind in saved:
        attributes = {name: value for name, value in attributes.items() if name != "metadata"}
        names = [layer.name for layer in viewer.layers if layer._type_string == kind and own(layer)]
        if attributes.get("name") not in names:
            viewer.layers.append(Layer.create(data, attributes, kind))
