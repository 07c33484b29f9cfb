"""From a file to a finished figure in a real window, by real clicks, which are counted: what a new user does who reads nothing.

    python scripts/walk.py FILE ... [-o walk-out] [--size 1366x768] [--most 6] [--on OTHER]

With --on OTHER it goes on after the figure: tabs of the results, a project, another file in the same window, and the project
opened again. What lies beyond the figure does not count for --most.

Dropping the file on the window is not a click; accepting a file dialog is one. A picture is taken at every step. The exit
status is 1 when a file takes more clicks than `--most` or ends without a figure. It needs a display or Xvfb (which it starts
itself), and nothing but the package.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from make_animation import display

PATIENCE_S = 900.0


class Stuck(Exception):
    """There is nothing to click, or nothing happens."""


@dataclass
class Walk:
    """One file's way.

    Attributes
    ----------
    viewer
        napari viewer with its window shown.
    out
        Folder of pictures and figures.
    clicks
        What was clicked, one by one.
    remarks
        What a user would stumble over.
    pixel_A
        Pixel size that is typed where it is asked for.
    still_s
        How long the window is left alone before a picture.
    """

    viewer: Any
    out: Path
    clicks: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    pictures: int = 0
    pixel_A: float = 0.2
    still_s: float = 1.0

    @property
    def window(self) -> Any:
        """Window of the viewer."""
        return self.viewer.window._qt_window

    def wait(self, seconds: float) -> None:
        """Let the window live."""
        from qtpy.QtWidgets import QApplication

        end = time.monotonic() + seconds
        while time.monotonic() < end:
            QApplication.processEvents()
            time.sleep(0.005)

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> None:
        """Let the window live until something holds."""
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                self.picture("stuck")
                raise Stuck(f"waited {timeout_s:g} s in vain for {what}")
            self.wait(0.05)

    def picture(self, name: str, window: Any = None) -> None:
        """Take a picture of a window, the main one when None."""
        self.wait(self.still_s)
        self.viewer.window._qt_viewer.canvas.native.repaint()
        self.pictures += 1
        (window or self.window).grab().save(str(self.out / f"{self.pictures:02d}-{name}.png"))

    def click(self, widget: Any, name: str) -> None:
        """Click a widget with the mouse, where it can be seen."""
        from qtpy.QtCore import Qt
        from qtpy.QtTest import QTest

        self.until(lambda: widget.isVisible() and widget.isEnabled(), f"{name} to be clicked", 60)
        if widget.visibleRegion().isEmpty():
            self.remarks.append(f"{name} is out of sight: scrolled")
            self._scroll_to(widget)
        self.clicks.append(name)
        QTest.mouseClick(widget, Qt.MouseButton.LeftButton, pos=widget.visibleRegion().boundingRect().center())
        self.wait(0.1)

    def _scroll_to(self, widget: Any) -> None:
        from qtpy.QtWidgets import QScrollArea

        parent = widget.parentWidget()
        while parent is not None and not isinstance(parent, QScrollArea):
            parent = parent.parentWidget()
        if parent is None:
            raise Stuck("a widget is out of sight and cannot be scrolled to")
        parent.ensureWidgetVisible(widget)
        self.wait(0.2)

    def click_tab(self, panel: Any, name: str) -> None:
        """Bring a panel forward by its tab, where it is not in front."""
        from qtpy.QtCore import Qt
        from qtpy.QtTest import QTest
        from qtpy.QtWidgets import QTabBar

        from napari_emdl.gui.kit import session

        if not panel.visibleRegion().isEmpty():
            return
        title = session.dock_of(panel).windowTitle()
        for bar in self.window.findChildren(QTabBar):
            for index in range(bar.count()):
                if bar.isVisible() and bar.tabText(index) == title:
                    QTest.mouseClick(bar, Qt.MouseButton.LeftButton, pos=bar.tabRect(index).center())
                    self.clicks.append(f"tab {name}")
                    self.until(lambda: not panel.visibleRegion().isEmpty(), f"the panel {name}", 20)
                    return
        raise Stuck(f"no tab for {name}")

    def click_page(self, tabs: Any, name: str) -> None:
        """Bring a page of a tab widget forward."""
        from qtpy.QtCore import Qt
        from qtpy.QtTest import QTest

        bar = tabs.tabBar()
        index = next(i for i in range(tabs.count()) if tabs.tabText(i) == name)
        QTest.mouseClick(bar, Qt.MouseButton.LeftButton, pos=bar.tabRect(index).center())
        self.clicks.append(f"page {name}")
        self.wait(0.2)

    def click_entry(self, button: Any, name: str) -> None:
        """Choose an entry of a button's menu."""
        from qtpy.QtCore import Qt, QTimer
        from qtpy.QtTest import QTest

        menu = button.menu()
        action = next(action for action in menu.actions() if action.text() == name)

        def choose() -> None:
            QTest.mouseClick(menu, Qt.MouseButton.LeftButton, pos=menu.actionGeometry(action).center())

        QTimer.singleShot(500, choose)
        self.click(button, button.text())
        self.clicks.append(name)
        self.wait(0.7)

    def drop(self, path: Path) -> None:
        """Drop a file on the window; napari asks which reader is to be used where it knows several."""
        from napari._qt.dialogs.qt_reader_dialog import QtReaderDialog

        def choose(dialog: Any) -> int:
            names = [button.text() for button in dialog.reader_btn_group.buttons()]
            ours = next(button for button in dialog.reader_btn_group.buttons() if "EM deep" in button.text())
            self.remarks.append(f"napari asks for the reader: {', '.join(names)}")
            if not ours.isChecked():
                ours.setChecked(True)
                self.clicks.append("reader: EM deep learning")
            self.clicks.append("reader: OK")
            return 1

        with patch.object(QtReaderDialog, "exec_", choose):
            self.viewer.window._qt_viewer._qt_open([str(path)], stack=False)
        self.wait(0.5)

    def save_as(self, name: str) -> Any:
        """File dialogs answer with a file (or folder) of this name; accepting them is a click."""
        from qtpy.QtWidgets import QFileDialog

        def chosen(*_: Any, **__: Any) -> Any:
            self.clicks.append("file dialog: Save")
            return str(self.out / name), ""

        def folder(*_: Any, **__: Any) -> str:
            self.clicks.append("file dialog: Choose")
            (self.out / name).mkdir(exist_ok=True)
            return str(self.out / name)

        return patch.multiple(
            QFileDialog,
            getSaveFileName=staticmethod(chosen),
            getOpenFileName=staticmethod(chosen),
            getExistingDirectory=staticmethod(folder),
        )


def panels_of(viewer: Any) -> dict[str, Any]:
    """Panels of ours that are open."""
    from napari_emdl.gui.kit import session

    names = (session.WORKSPACE, session.COLUMNS)
    return {name: panel for name in names if (panel := session.registered(viewer, name)) is not None}


def walk(way: Walk, path: Path) -> None:
    """Open a file and click on what offers itself until there is a figure."""
    way.drop(path)
    way.until(lambda: panels_of(way.viewer), "a panel", 60)
    way.until(lambda: not any(panel.suggestion.busy for panel in panels_of(way.viewer).values()), "a look at the file")
    way.wait(3 * way.still_s)
    way.picture("opened")
    names = panels_of(way.viewer)
    from qtpy.QtWidgets import QPushButton

    from napari_emdl.gui.kit import session

    if session.WORKSPACE not in names:  # whoever reads nothing still presses the button of an orange box
        offered = names[session.COLUMNS].notices.findChildren(QPushButton, "notice_action")
        if offered:
            way.click(offered[0], offered[0].text())
            way.until(lambda: session.registered(way.viewer, session.WORKSPACE) is not None, "the workspace", 60)
            way.wait(2 * way.still_s)
            way.picture("as-4d-stem")
            names = panels_of(way.viewer)
    if session.WORKSPACE in names:
        diffraction(way, names[session.WORKSPACE])
    elif names[session.COLUMNS].session.movie.kind == "movie":
        way.until(lambda: session.registered(way.viewer, session.DIFFUSION) is not None, "the diffusion panel", 60)
        movie(way, names[session.COLUMNS], session.registered(way.viewer, session.DIFFUSION))
    else:
        image(way, names[session.COLUMNS])


def figure_there(way: Walk, name: str) -> Callable[[], bool]:
    """True once a figure was written."""
    return lambda: any(p.is_file() and p.stat().st_size for p in way.out.rglob(name))


def diffraction(way: Walk, panel: Any) -> None:
    """A datacube or a pattern: Run all, figure, save."""
    way.until(lambda: not panel.state.busy and panel.state.found.probe is not None, "the probe")
    way.wait(way.still_s)
    way.picture("settled")
    way.click(panel.run_all_button, "Run all")
    way.until(lambda: not panel.state.busy and panel.state.found.disks is not None, "the run")
    way.wait(way.still_s)
    way.until(lambda: panel.maps.settled, "the maps to be drawn", 120)
    way.picture("after-run")
    if panel.state.cube.n_patterns == 1:
        with way.save_as("figure.png"):
            way.click(panel.frame.figure_button, "Figure")
        way.until(figure_there(way, "figure.png"), "a figure", 120)
        return
    way.click(panel.frame.figure_button, "Figure")
    way.wait(2 * way.still_s)
    dialog = panel.export_step.figure_dialog
    if dialog is not None:
        way.until(lambda: not dialog._draw.busy, "the preview")
        way.picture("figure-dialog", dialog)
        with way.save_as("figure.png"):
            way.click(dialog.save_button, "Save")
    way.until(figure_there(way, "figure.png"), "a figure", 120)


def type_pixel(way: Walk, panel: Any) -> None:
    """Type the pixel size into the box that asks for it."""
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    if panel.session.movie.pixel_A is not None:
        return
    way.picture("asks-pixel")
    editor = panel.pixel_box.form.editors["pixel_size_A"]
    way.click(editor.lineEdit(), "pixel size")
    QTest.keyClicks(editor, str(way.pixel_A))
    QTest.keyClick(editor, Qt.Key.Key_Return)
    way.until(lambda: panel.session.movie.pixel_A is not None, "the pixel size to be taken", 20)


def image(way: Walk, panel: Any) -> None:
    """An image: its columns are found by themselves; figure, save."""
    way.wait(2 * way.still_s)
    type_pixel(way, panel)
    way.until(lambda: panel.session.candidates.n_done > 0, "columns")
    way.wait(way.still_s)
    way.picture("columns")
    with way.save_as("figure.png"):
        way.click(panel.figure_button, "Figure")
    way.until(figure_there(way, "figure.png"), "a figure", 120)


def movie(way: Walk, columns: Any, diffusion: Any) -> None:
    """A movie: fit, export."""
    way.wait(2 * way.still_s)
    type_pixel(way, columns)
    way.until(lambda: columns.session.candidates.n_done > 0, "columns")
    way.wait(way.still_s)
    way.picture("columns")
    way.click_tab(diffusion, "Surface diffusion")
    way.picture("diffusion")
    way.click(diffusion.fit_button, diffusion.fit_button.text())
    way.until(lambda: diffusion.session.occupancy is not None and diffusion.fitting.job is None, "the occupancy")
    way.wait(way.still_s)
    way.picture("fitted")
    with way.save_as("exported"):
        way.click(diffusion.export_button, "Export")
    way.until(figure_there(way, "occupancy_map.png"), "a figure", 300)
    way.wait(way.still_s)
    way.picture("exported")


def front_panel(viewer: Any) -> Any:
    """The panel of ours whose tab is in front."""
    from napari_emdl.gui.kit import session

    return next(panel for panel in session.panels(viewer) if not panel.visibleRegion().isEmpty())


def go_on(way: Walk, path: Path, other: Path) -> None:
    """What a user may do after the figure of `path`: more results, a project, another file, and the project opened again."""
    from qtpy.QtWidgets import QToolButton

    from napari_emdl.gui.kit import session

    diffusion = session.registered(way.viewer, session.DIFFUSION)
    if diffusion is not None and diffusion.session.occupancy is not None:
        for title in ("Events", "Rates", "Dwell", "Compare", "Site"):
            way.click_page(diffusion.tabs, title)
            way.picture(f"page-{title}")
        way.click(diffusion.over_movie, "Movie")
        way.picture("over-movie")
    project = way.out / f"{path.stem}.emdl-project"
    with way.save_as(project.name):
        way.click_entry(front_panel(way.viewer).findChild(QToolButton, "project_menu"), "Save project as…")
    way.until(project.exists, "a project", 60)
    way.picture("project-saved")
    way.drop(other)
    way.until(lambda: not any(panel.suggestion.busy for panel in panels_of(way.viewer).values()), "a look at the other file")
    way.wait(5 * way.still_s)
    way.picture("other-file")
    with way.save_as(project.name):
        way.click_entry(front_panel(way.viewer).findChild(QToolButton, "project_menu"), "Open project…")
    way.wait(10 * way.still_s)
    way.picture("project-again")


def main() -> int:
    """Walk."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path("walk-out"))
    parser.add_argument("--size", default="1366x768")
    parser.add_argument("--pixel", type=float, default=0.2, help="pixel size in Å that is typed where it is asked for")
    parser.add_argument("--most", type=int, default=6)
    parser.add_argument("--on", type=Path, metavar="OTHER", help="go on after the figure: results, project, the file OTHER")
    given = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as scratch, display():
        for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
            os.environ[name] = scratch  # as on the first day
        import napari

        for path in given.files:
            folder = given.out / path.name.replace(".", "_")
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.glob("*.p*"):
                old.unlink()
            viewer = napari.Viewer(show=True)
            way = Walk(viewer, folder, pixel_A=given.pixel)
            way.window.resize(*(int(part) for part in given.size.split("x")))
            way.wait(way.still_s)
            print(path.name, flush=True)
            try:
                walk(way, path.resolve())
                said, needed = "", len(way.clicks)
                if given.on is not None:
                    go_on(way, path, given.on.resolve())
            except (Stuck, AttributeError) as stuck:
                said, needed = f" STUCK: {stuck}", len(way.clicks)
            way.picture("end")
            bad = bool(said) or needed > given.most
            failed += bad
            print(f"  {needed} clicks to the figure: {' > '.join(way.clicks)}{said}")
            for remark in way.remarks:
                print(f"  note: {remark}")
            viewer.close()
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
