"""Help panel: the keys and the way through."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel, QMessageBox, QWidget

STEM_KEYS = (
    ("Arrow keys", "move the cross-hair by one position"),
    ("Shift + arrow keys", "move the cross-hair by ten positions"),
    ("[ and ]", "lower and raise the least score"),
    ("Space", "find the disks of the current pattern"),
    ("Esc", "stop what runs on the scan"),
    ("Ctrl+Z, Ctrl+Shift+Z", "undo and redo changes of limits, g1 and g2, axis and reference region"),
    ("Click on a map", "put the cross-hair there"),
    ("Drag the cross-hair", "follow the pattern under the mouse"),
)

STEM_WAY = (
    "Open a datacube (File > Open, or File > Open Sample > Strained 4D-STEM datacube). The navigation image fills in, the "
    "pattern under the cross-hair and its disks are shown beside it.",
    "Run all takes you to strain maps with automatic settings. Or go step by step: every step says what is there or missing.",
    "The threshold acts at once: disks are found once and only filtered afterwards. Presets keep sets of limits by name.",
    "Project keeps everything that is set in one file, and opens it again as it was.",
    "BF, ADF and Draw put a virtual detector on the pattern; move it with napari's own tools and its image follows.",
)


def help_text(keys: tuple[tuple[str, str], ...] = STEM_KEYS, way: tuple[str, ...] = STEM_WAY) -> str:
    """Help as rich text."""
    rows = "".join(f"<tr><td><b>{key}</b>&nbsp;&nbsp;</td><td>{what}</td></tr>" for key, what in keys)
    steps = "".join(f"<p>{line}</p>" for line in way)
    return f"{steps}<p>Keys work while a canvas has the focus (click it once).</p><table>{rows}</table>"


def show_help(
    parent: QWidget, title: str = "4D-STEM workspace", text: str | None = None, tour: Callable[[], None] | None = None
) -> QMessageBox:
    """Open the help in a window of its own; it does not block. `tour` begins a guided tour."""
    box = QMessageBox(parent)
    box.setWindowTitle(title)
    box.setTextFormat(Qt.TextFormat.RichText)
    box.setText(text or help_text())
    box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    label = box.findChild(QLabel, "qt_msgbox_label")
    if label is not None:
        label.setMinimumWidth(460)
    if tour is not None:
        begin = box.addButton("Guided tour", QMessageBox.ButtonRole.ActionRole)
        box.addButton(QMessageBox.StandardButton.Close)
        if begin is not None:
            begin.clicked.connect(lambda *_: tour())
    box.open()
    return box
