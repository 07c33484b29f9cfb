"""Which panels a window needs for the data it shows."""

from __future__ import annotations

from functools import partial
from typing import Any
from weakref import ref

from napari_emdl.gui.kit import session


def open_panels(viewer: Any) -> None:
    """Open the 4D-STEM workspace if `viewer` shows a datacube, and the HRTEM panels if it shows a movie or an image."""
    if viewer is None or not session.has_window(viewer):
        return
    if any(True for _ in session.layers_with_signal(viewer, "datacube")):
        session.open_panel(viewer, session.WORKSPACE)
    for layer, signal in session.layers_with_signal(viewer, "movie", "focal_series", "image"):
        session.open_panel(viewer, session.COLUMNS)
        project = session.tag_of(layer).get("project")
        if project is not None and project.project.fitted:
            session.open_panel(viewer, session.DIFFUSION)
        elif signal.kind == "movie":
            session.when_idle(partial(_open_behind, ref(viewer)))


def _open_behind(known: ref[Any]) -> None:
    """The panel for what comes after the columns, as a tab behind theirs; `known` is the viewer."""
    viewer = known()
    if viewer is None or not session.has_window(viewer) or session.registered(viewer, session.COLUMNS) is None:
        return
    if session.registered(viewer, session.DIFFUSION) is None:
        session.open_panel(viewer, session.DIFFUSION).behind = True
        session.when_idle(lambda: session.bring_forward(viewer, session.COLUMNS))
