"""Which of the open files a panel shows."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QWidget

from napari_emdl.gui.kit.forms import narrow


class Switcher(QComboBox):
    """List of what is open; hidden while there is nothing to choose.

    Signals
    -------
    chosen
        Number of the file that is to be shown; also when it is the one that was shown last.
    """

    chosen = Signal(int)

    def __init__(self, tip: str, parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName("switcher")
        self.setToolTip(tip)
        self.setAccessibleName("Open files")
        narrow(self)
        self.activated.connect(lambda index: self.chosen.emit(int(index)))
        self.hide()

    def show_names(self, names: list[str], shown: int) -> None:
        """List names, of which number `shown` is on the canvases; files of one name are numbered."""
        self.clear()
        for index, name in enumerate(names):
            count = names[: index + 1].count(name)
            self.addItem(name if names.count(name) == 1 else f"{name} ({count})")
        self.setCurrentIndex(shown)
        self.setVisible(len(names) > 1)

    def put_aside(self) -> None:
        """Another file is on the canvas; choosing brings one of these back."""
        self.setCurrentIndex(-1)
        self.setPlaceholderText(f"{self.count()} put aside: choose one to go back" if self.count() > 1 else "go back to …")
        self.setVisible(self.count() > 0)
