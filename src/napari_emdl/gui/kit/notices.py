"""What could not be done, with its advice, on screen until it is dismissed: in an open panel of ours, else in a box."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QFrame,
    QGridLayout,
    QLabel,
    QMessageBox,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_emdl.gui.kit import session
from napari_emdl.gui.kit.wording import said

MOST = 4
#: Title of a button, and what it does.
Action = tuple[str, Callable[[], Any]]


class Notices(QFrame):
    """Lines that stay; hidden while there is none. The newest is on top, the same line is there once."""

    def __init__(self, parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName("notices")
        self.setAccessibleName("Messages")
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(2)
        self._rows: dict[str, QWidget] = {}
        self.closed_by_user: set[str] = set()  # and not told again since
        self.hide()

    @property
    def lines(self) -> list[str]:
        """Lines that are there, newest first."""
        return list(self._rows)

    def tell(self, line: str, action: Action | None = None) -> None:
        """Show a line, with a button for its `action`; the oldest goes when there are many."""
        if line in self._rows:
            return
        self.closed_by_user.discard(line)
        row = QFrame()
        row.setFrameShape(QFrame.Shape.StyledPanel)
        row.setStyleSheet("QFrame { border: 1px solid #d9822b; border-radius: 3px; } QLabel { border: none; }")
        text = QLabel()
        text.setTextFormat(Qt.TextFormat.PlainText)
        text.setText(f"⚠ {said(line)}")
        text.setWordWrap(True)
        text.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        text.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        close = QToolButton()
        close.setText("✕")
        close.setToolTip("Dismiss")
        close.clicked.connect(lambda *_: self._close(line))
        inside = QGridLayout(row)
        inside.setContentsMargins(4, 2, 2, 2)
        inside.setColumnStretch(0, 1)
        inside.addWidget(text, 0, 0)
        inside.addWidget(close, 0, 1, Qt.AlignmentFlag.AlignTop)
        if action is not None:
            inside.addWidget(self._button(line, *action), 1, 0, 1, 2)
        self._rows = {line: row, **self._rows}
        self._column.insertWidget(0, row)
        for old in list(self._rows)[MOST:]:
            self.dismiss(old)
        self.show()

    def _button(self, line: str, title: str, function: Callable[[], Any]) -> QPushButton:
        """Button that does what helps; the line has done its work then."""
        button = QPushButton(title)
        button.setObjectName("notice_action")
        button.clicked.connect(lambda *_: self.dismiss(line))
        button.clicked.connect(lambda *_: function())
        return button

    def _close(self, line: str) -> None:
        self.closed_by_user.add(line)
        self.dismiss(line)

    def dismiss(self, line: str) -> None:
        """Take a line away."""
        row = self._rows.pop(line, None)
        if row is not None:
            row.setParent(None)
            row.deleteLater()
        self.setVisible(bool(self._rows))

    def clear(self) -> None:
        """Take all lines away."""
        for line in self.lines:
            self.dismiss(line)


def dismiss(viewer: Any, line: str) -> None:
    """Take a line away from all panels of `viewer`: it does not hold any more."""
    for panel in session.panels(viewer):
        notices = getattr(panel, "notices", None)
        if isinstance(notices, Notices):
            notices.dismiss(line)


def tell(viewer: Any, line: str, action: Action | None = None) -> None:
    """Show a line in a panel of `viewer` that has room for notices, the one in front, else in a box that waits for nobody."""
    able = [panel for panel in session.panels(viewer) if isinstance(getattr(panel, "notices", None), Notices)]
    if able:
        next((panel for panel in able if not panel.visibleRegion().isEmpty()), able[0]).notices.tell(line, action)
        return
    box = QMessageBox(QMessageBox.Icon.Warning, "EM deep learning", said(line), QMessageBox.StandardButton.Close)
    box.setParent(viewer.window._qt_window, Qt.WindowType.Dialog)
    box.setObjectName("notice")
    box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    box.open()
