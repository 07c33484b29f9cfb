"""Docks of the 4D-STEM workspace in the window of its viewer: the diffraction canvas beside the panel, four maps below."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject, Qt, QTimer, Signal
from qtpy.QtWidgets import QMainWindow, QWidget

from napari_emdl.gui.diffraction.canvas import DiffractionCanvas
from napari_emdl.gui.kit import pace, session

PANEL_PX = 318
LEFT_COLUMN_PX = 325  # napari's layer list and controls
LEAST_CANVAS_PX = 290
#: Part of the width that the pattern gets where the scan has one position.
LONE_SHARE = 0.8


class Docks(QObject):
    """Places the canvases in the window.

    Parameters
    ----------
    viewer
        napari viewer; without a window nothing is docked.
    panel, canvas
        The panel (napari docks it) and the diffraction canvas.
    make_four
        Makes the widget of the four maps.
    closing
        Called when the window goes.

    Signals
    -------
    four_closed
        The user closed the dock of the four maps.
    front_changed
        The panel came to the front of the tabs it shares a place with (True), or another one did.
    """

    four_closed = Signal()
    front_changed = Signal(bool)

    def __init__(
        self,
        viewer: Any,
        panel: QWidget,
        canvas: DiffractionCanvas,
        make_four: Callable[[], QWidget],
        closing: Callable[[], None],
    ):
        super().__init__(panel)
        self.viewer, self.panel, self.canvas, self._make_four = viewer, panel, canvas, make_four
        self.closed = False
        self.lone = False  # a single pattern: its scan has nothing to see
        self._lone_shared = False
        self.canvas_dock: Any = None
        self.four_dock: Any = None
        if session.has_window(viewer):
            self._watch = session.CloseWatch(viewer.window._qt_window, closing, self)
            QTimer.singleShot(pace.NEXT_TURN_MS, self._dock)  # after the panel, which napari docks

    def _dock(self) -> None:
        if not self.closed and session.has_window(self.viewer):
            self.canvas_dock = self.viewer.window.add_dock_widget(self.canvas, name="Diffraction", area="right")
            QTimer.singleShot(pace.NEXT_TURN_MS, self._arrange)

    def show_four(self, on: bool) -> None:
        """Dock of the four maps, below the canvases; made when it is first asked for."""
        if on and self.four_dock is None and session.has_window(self.viewer):
            self.four_dock = self.viewer.window.add_dock_widget(self._make_four(), name="Strain maps", area="bottom")
            self.four_dock.visibilityChanged.connect(self._on_four_hidden)
        if self.four_dock is not None:
            self.four_dock.setVisible(on)

    def _on_four_hidden(self, visible: bool) -> None:
        if not visible and self.four_dock is not None and self.four_dock.isHidden():
            self.four_closed.emit()

    def of_panel(self) -> Any:
        """Dock that napari put the panel into, or None."""
        return session.dock_of(self.panel)

    def _both(self) -> tuple[Any, Any] | None:
        """Main window and dock of the panel, while both are there and nothing floats."""
        mine = self.of_panel()
        if self.closed or mine is None or self.canvas_dock is None or mine.isFloating() or self.canvas_dock.isFloating():
            return None
        return self.canvas_dock.parent(), mine

    def _arrange(self) -> None:
        """Diffraction canvas left of the panel, both as wide as they need."""
        docks = self._both()
        if docks is not None:
            self._widen(docks[0])
            docks[0].splitDockWidget(self.canvas_dock, docks[1], Qt.Orientation.Horizontal)
            for name in (session.COLUMNS, session.DIFFUSION, session.LIVE):  # what is open already shares the panel's place
                if (other := session.registered(self.viewer, name)) is not None:
                    session.tabify(self.viewer, other, session.WORKSPACE, name, behind=True)
                    QTimer.singleShot(0, lambda: session.bring_forward(self.viewer, session.WORKSPACE))
            docks[1].visibilityChanged.connect(self._on_panel)
            QTimer.singleShot(0, self._share_width)

    def _on_panel(self, shown: bool) -> None:
        """The pattern goes and comes with the panel, where that shares its place with those of movies."""
        docks = self._both()
        if docks is None or not isinstance(docks[0], QMainWindow):  # it is being taken out of the window
            return
        if not (shown or docks[0].tabifiedDockWidgets(docks[1])):
            return
        if shown != self.canvas_dock.isVisibleTo(docks[0]):
            self.canvas_dock.setVisible(shown)
            self.front_changed.emit(shown)
            QTimer.singleShot(0, self._share_width if shown else self._fit_main)

    def _fit_main(self) -> None:
        """The main canvas has the room that the pattern gave up."""
        docks = self._both()
        if docks is not None:
            tabs = [docks[1], *docks[0].tabifiedDockWidgets(docks[1])]
            front = next((dock for dock in tabs if not dock.visibleRegion().isEmpty()), docks[1])
            wide = max(PANEL_PX, front.minimumSizeHint().width())
            docks[0].resizeDocks([front], [wide], Qt.Orientation.Horizontal)
            QTimer.singleShot(50, lambda: None if self.closed else session.fit_view(self.viewer))

    @staticmethod
    def _widen(window: Any) -> None:
        """Make the window wider where scan and pattern would be too small to see, as far as the screen goes."""
        screen = window.screen().availableGeometry().width()
        needed = LEFT_COLUMN_PX + PANEL_PX + 2 * LEAST_CANVAS_PX
        if window.width() < needed and not (window.isMaximized() or window.isFullScreen()):
            window.resize(min(needed, screen), window.height())

    def _share_width(self) -> None:
        """Main and diffraction canvas get about the same width, the panel what it needs."""
        docks = self._both()
        if docks is not None:
            most = docks[0].width() // 4  # a large type on a large screen has the room it asks for
            wide = max(PANEL_PX, self.panel.minimumSizeHint().width(), min(self.panel.sizeHint().width(), most))
            room = max(250, int((docks[0].width() - LEFT_COLUMN_PX - wide) * (LONE_SHARE if self.lone else 0.48)))
            docks[0].resizeDocks([self.canvas_dock, docks[1]], [room, wide], Qt.Orientation.Horizontal)
            QTimer.singleShot(50, self.fit_views)

    def fit_views(self) -> None:
        """Show scan and pattern whole."""
        if not self.closed:
            if self.lone != self._lone_shared:
                self._lone_shared = self.lone
                self._share_width()
            session.fit_view(self.viewer)
            self.canvas.fit()

    def close(self) -> None:
        """Take the docks off the window."""
        self.closed = True
        for dock in (self.canvas_dock, self.four_dock):
            if dock is not None and session.has_window(self.viewer):
                session.remove_dock(self.viewer, dock)
        self.canvas_dock = self.four_dock = None
