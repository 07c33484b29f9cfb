"""Changes by hand: columns of a frame (with undo) and sites of an occupancy result."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject
from qtpy.QtCore import Signal as QtSignal

from napari_emdl.atoms.fit.result import Occupancy
from napari_emdl.atoms.fit.sites import GROUPS, Sites
from napari_emdl.base.errors import EmdlError
from napari_emdl.gui.atoms.layers import ColumnsLayer
from napari_emdl.gui.atoms.session import AtomsSession
from napari_emdl.gui.atoms.sites import SiteLayers
from napari_emdl.gui.atoms.widgets import EditBar
from napari_emdl.gui.kit.worker import report_error


class ColumnTools(QObject):
    """Ties the edit bar to the columns layer and to the edits of the session."""

    def __init__(self, session: AtomsSession, layer: ColumnsLayer, bar: EditBar, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.session, self.columns_layer, self.bar = session, layer, bar
        self._bound: Any = None
        bar.tool.connect(self.set_tool)
        bar.delete.connect(self.delete_selected)
        bar.undo.connect(self.undo)
        bar.redo.connect(self.redo)
        bar.species_chosen.connect(layer.set_new_species)
        layer.edited.connect(self._edited)

    def set_tool(self, mode: str) -> None:
        """Choose napari's tool of the columns layer."""
        if self.session.layer is None:
            return
        layer = self.columns_layer.make(self.session.layer)
        self.session.viewer.layers.selection.active = layer
        layer.visible = True
        layer.mode = mode
        if layer is not self._bound:
            self._bound = layer
            layer.bind_key("Control-Z", lambda _layer: self.undo(), overwrite=True)
            layer.bind_key("Control-Shift-Z", lambda _layer: self.redo(), overwrite=True)
            layer.events.mode.connect(self._mode_changed)
        self.bar.set_tool(mode)
        self.columns_layer.set_new_species(max(0, self.bar.species.currentIndex()))

    def _mode_changed(self, event: Any) -> None:
        self.bar.set_tool(str(event.source.mode))

    def delete_selected(self) -> None:
        """Delete the columns selected in the layer."""
        layer = self.columns_layer.layer
        if layer is not None and layer.selected_data:
            layer.remove_selected()

    def _edited(self, removed: set[int], added: list[tuple[float, float, int]]) -> None:
        self.session.edits.change(self.session.frame, remove=removed, add=added)
        self.session.edited(self.session.frame)

    def undo(self) -> None:
        """Take the last edit back and go to its frame."""
        self._step(self.session.edits.undo())

    def redo(self) -> None:
        """Do the last undone edit again and go to its frame."""
        self._step(self.session.edits.redo())

    def _step(self, frame: int | None) -> None:
        if frame is not None:
            self.session.seek(frame)
            self.session.edited(frame)


class SiteTools(QObject):
    """Sites added, removed and regrouped; what a new fit then starts from.

    ``changed(occupancy)`` gives the result after a change that needs no new fit, ``pending()`` tells that sites wait for one.
    """

    changed = QtSignal(object)
    pending = QtSignal()

    def __init__(self, session: AtomsSession, layers: SiteLayers, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._session, self._layers = session, layers
        self.by_hand = False
        self.new: list[tuple[float, float]] = []

    def clear(self) -> None:
        """Forget all changes."""
        self.by_hand, self.new = False, []
        self._layers.show_new([])
        self.pending.emit()

    def sites(self, fitted: Occupancy | None) -> Sites | None:
        """Sites for the next fit; None when they are to be found."""
        if fitted is None or not (self.by_hand or self.new):
            return None
        return fitted.sites.added(np.array(self.new)) if self.new else fitted.sites

    def taken(self) -> None:
        """The sites that waited are fitted now."""
        self.by_hand = self.by_hand or bool(self.new)
        self.new = []
        self._layers.show_new([])

    def add(self, row_px: float, col_px: float) -> None:
        """Ask for a site at a point of what is shown."""
        self.new.append(self._layers.to_reference(row_px, col_px, self._session.frame))
        self._layers.show_new(self.new)
        self.pending.emit()

    def put_new(self, places: list[tuple[float, float]]) -> None:
        """Sites that wait for the next fit, as a project kept them."""
        self.new = list(places)
        self._layers.show_new(self.new)
        self.pending.emit()

    def regroup(self, site: int, group: str) -> None:
        """Put a site into another group."""
        occupancy = self._session.occupancy
        groups = occupancy.groups.copy()
        groups[site] = GROUPS.index(group)
        self.changed.emit(occupancy.with_groups(groups))

    def remove(self, site: int) -> None:
        """Leave a site out."""
        self._keep(np.arange(self._session.occupancy.n_sites) != site)

    def keep_region(self) -> str:
        """First call: draw a polygon. Second: leave out the sites outside of it. Returns what to do next, or nothing."""
        inside = self._layers.sites_in_region()
        if inside is None:
            self._layers.draw_region()
            return "Draw a polygon around the sites (a double click ends it), then press Keep region again."
        self._layers.remove_region()
        self._keep(inside)
        return ""

    def _keep(self, keep: NDArray[np.bool_]) -> None:
        from napari_emdl.atoms.fit.rethreshold import with_sites

        try:
            result = with_sites(self._session.occupancy, keep)
        except EmdlError as error:
            report_error(error)
            return
        self.by_hand = True
        self.changed.emit(result)
