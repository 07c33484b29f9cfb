"""What shows one open datacube: its layers on both canvases, cross-hair and detectors, put aside and taken out again as one."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QObject, Signal

from napari_emdl.base.signals import Datacube
from napari_emdl.gui.diffraction.canvas import DiffractionCanvas
from napari_emdl.gui.diffraction.data import StemData
from napari_emdl.gui.diffraction.detectors import Detectors
from napari_emdl.gui.diffraction.maps import AXES, ScanMaps
from napari_emdl.gui.kit import styles, units
from napari_emdl.gui.kit.crosshair import Crosshair
from napari_emdl.gui.kit.session import bare, role_of, signal_of, tag_of
from napari_emdl.gui.kit.switcher import Switcher


class OpenSet(QObject):
    """One datacube on the canvases.

    Parameters
    ----------
    viewer
        napari viewer (main canvas).
    canvas
        Diffraction canvas.
    data
        The datacube with its settings and results.
    """

    def __init__(self, viewer: Any, canvas: DiffractionCanvas, data: StemData, parent: QObject | None = None):
        super().__init__(parent)
        assert data.cube is not None
        self.viewer, self.canvas, self.data = bare(viewer), canvas, data
        self.cube: Datacube = data.cube
        self.maps = ScanMaps(self.viewer, self.cube, self)
        self.detectors = Detectors(canvas, self.maps, self.cube, self)
        self.cross: Crosshair | None = None
        self.navigation = ""  # what its navigation image is
        self.had_strain = False  # a map was shown: what is unfolded then is the user's from there on
        self.unfolded: tuple[bool, ...] | None = None  # steps of the panel, once it was put aside
        self._at_hand: Any = None  # layer that was chosen in napari's list
        self._visible: list[Any] = []
        self._on_canvas: list[Any] = []
        self._view = canvas.view.itemText(0)

    @property
    def name(self) -> str:
        """Name of the datacube."""
        return self.cube.name or "datacube"

    def layers(self) -> list[Any]:
        """Its layers on the main canvas."""
        return [layer for layer in self.viewer.layers if tag_of(layer).get("signal") is self.cube]

    def show(self) -> None:
        """Put it onto the canvases as it was left."""
        self.canvas.set_detector(self.cube.detector_shape, self.cube.calibration.q_pixel_invA)
        if self._on_canvas:
            self.canvas.model.layers.extend(self._on_canvas)
            self._on_canvas = []
        self.canvas.view.setCurrentText(self._view)
        self.show_layers()
        self.cross = Crosshair(
            self.viewer,
            self.cube.scan_shape,
            styles.space(self.cube.calibration.pixel_nm, "nm", AXES),
            self,
            self.data.settings.position,
            self.maps.turns.soon,
        )

    def show_layers(self) -> None:
        """Make the layers visible again that were when it was put aside."""
        for layer in self._visible:
            layer.visible = True
        self._visible = []

    def hide_layers(self) -> None:
        """Hide its layers on the main canvas; they stay in the list."""
        cross = self.cross.layer() if self.cross is not None else None
        mine = [*self.layers(), *([cross] if cross is not None else [])]
        self._visible = [*self._visible, *(layer for layer in mine if layer.visible)]
        active = self.viewer.layers.selection.active
        self._at_hand = active if active in mine else self._at_hand
        for layer in self._visible:
            layer.visible = False
        self.maps.say([])

    def take_up(self) -> None:
        """Choose in napari's list what was chosen there, or the image on top: its controls are for what is seen."""
        active, layers = self.viewer.layers.selection.active, self.viewer.layers
        if active is not None and active.visible and active in layers:
            return
        seen = [layer for layer in reversed(self.layers()) if layer.visible]
        images = [layer for layer in seen if layer._type_string == "image"]
        wanted = self._at_hand if self._at_hand in seen else next(iter([*images, *seen]), None)
        if wanted is not None:
            layers.selection.active = wanted

    def put_aside(self) -> None:
        """Take it off the canvases; nothing is lost."""
        self.hide_layers()
        self._view = self.canvas.view.currentText()
        kept = [layer for layer in self.canvas.model.layers if role_of(layer) in ("", "detector") or _saved(layer)]
        for layer in kept:
            self.canvas.model.layers.remove(layer)
        self._on_canvas = kept
        if self.cross is not None:
            self.cross.close(for_good=False)
            self.cross = None

    def close(self, for_good: bool = True) -> None:
        """Stop what works for it; its layers are the user's now. The cross stays for the next one unless it is `for_good`."""
        self.detectors.close()
        if self.cross is not None:
            self.cross.close(for_good)
            self.cross = None
        self.maps.close()


def _saved(layer: Any) -> bool:
    return role_of(layer).startswith("saved ")


class OpenSets(QObject):
    """The datacubes that are open in one workspace; one of them is shown.

    Parameters
    ----------
    viewer, canvas
        napari viewer and diffraction canvas.
    switcher
        List for the user to choose from.

    Signals
    -------
    shown_changed
        Another one is on the canvases.
    brought_back
        The same one is, after a movie.
    """

    shown_changed = Signal(object)
    brought_back = Signal()

    def __init__(self, viewer: Any, canvas: DiffractionCanvas, switcher: Switcher, parent: QObject | None = None):
        super().__init__(parent)
        self.viewer, self.canvas, self.switcher = bare(viewer), canvas, switcher
        self.all: list[OpenSet] = []
        self.shown: OpenSet | None = None
        self._aside = False  # a movie is in front
        self._of_movies: list[Any] = []  # layers that were visible before the scan came back
        switcher.chosen.connect(lambda index: self.switch(self.all[index]))

    def of(self, cube: Datacube) -> OpenSet | None:
        """The one of a datacube, or None."""
        return next((one for one in self.all if one.cube is cube), None)

    def start(self, data: StemData) -> OpenSet:
        """Show a datacube as one just opened, also when it is open already."""
        assert data.cube is not None
        old = self.of(data.cube)
        if old is not None:
            old.close(for_good=False)
            self.all.remove(old)
            self.shown = None if self.shown is old else self.shown
        opened = OpenSet(self.viewer, self.canvas, data, self)
        self.all.append(opened)
        self._take_out(opened)
        return opened

    def switch(self, chosen: OpenSet) -> None:
        """Show another one, or the one that was put aside for a movie."""
        if chosen is self.shown:
            self.bring_back()
        else:
            self._movies_give_way()
            self._take_out(chosen)

    def _take_out(self, chosen: OpenSet) -> None:
        self._aside = False
        self._make_way(chosen.layers())
        if self.shown is not None:
            self.shown.put_aside()
        self.shown = chosen
        self._movies_give_way()
        chosen.show()
        units.settle(self.viewer)
        self._list()
        self.shown_changed.emit(chosen)
        chosen.maps.turns.soon("at hand", lambda: chosen.take_up() if chosen is self.shown else None)

    def put_aside(self) -> None:
        """Another kind of file is looked at: maps of the scan would lie over it."""
        self._aside = True
        self._make_way(self._of_movies)
        if self.shown is not None:
            self.shown.hide_layers()
            self.switcher.put_aside()
        for layer in self._of_movies:
            layer.visible = True
        self._of_movies = []
        units.settle(self.viewer)

    def bring_back(self) -> None:
        """The scan is looked at again: movies and what was found in them would lie over it."""
        if self.shown is not None:
            self._aside = False
            self._make_way(self.shown.layers())
            self._movies_give_way()
            self.shown.show_layers()
            units.settle(self.viewer)
            self._list()
            self.brought_back.emit()
            self.shown.maps.turns.soon("at hand", self.shown.take_up)

    def _make_way(self, layers: list[Any]) -> None:
        front = next((layer for layer in layers if signal_of(layer) is not None), None)
        if front is not None:
            units.make_way(self.viewer, front)

    def _movies_give_way(self) -> None:
        for layer in self.viewer.layers:
            self.give_way(layer)

    def give_way(self, layer: Any) -> None:
        """Hide a layer of a movie, or of what was found in one, while the scan is in front."""
        role = role_of(layer)
        of_scan = isinstance(signal_of(layer), Datacube) or role == "crosshair" or role.startswith("saved ")
        if layer.visible and role and not of_scan and self.shown is not None and not self._aside:
            layer.visible = False
            self._of_movies.append(layer)

    def forget(self, cube: Any) -> None:
        """The user deleted the layer of a datacube that is put aside."""
        gone = next((one for one in self.all if one.cube is cube and one is not self.shown), None)
        if gone is not None:
            gone.close()
            self.all.remove(gone)
            self._list()

    def _list(self) -> None:
        if self.shown is not None:
            self.switcher.show_names([one.name for one in self.all], self.all.index(self.shown))

    def close(self) -> None:
        """Stop what works for any of them."""
        for one in self.all:
            one.close()
        self.all, self.shown = [], None
