"""Panels that fit what is in them, also in a larger type: width of a scrolled column, type of the tool buttons."""

from __future__ import annotations

from typing import Any

from napari.settings import get_settings
from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtWidgets import QScrollArea, QWidget

BAR_EDGE_PX = 4  # napari's style draws the scroll bar wider than it says
#: A panel in a large type may ask for so much of a small screen; what is wider then can be scrolled.
MOST_WIDTH_PX = 340


class Column(QScrollArea):
    """Scrolls up and down, and is as wide as what is in it: nothing is cut off at the right."""

    def __init__(self, inner: QWidget, parent: QWidget | None = None):
        super().__init__(parent)
        self._inner = inner  # events come as soon as it is in here
        self.setWidgetResizable(True)
        self.setWidget(inner)
        inner.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Follow what is in it: a dock that was laid out before does not ask again."""
        if watched is self._inner and event is not None and event.type() == QEvent.Type.LayoutRequest:
            needed = self._least_width()
            self.setMinimumWidth(min(needed, MOST_WIDTH_PX))
            policy = Qt.ScrollBarPolicy
            self.setHorizontalScrollBarPolicy(policy.ScrollBarAsNeeded if needed > MOST_WIDTH_PX else policy.ScrollBarAlwaysOff)
        return bool(super().eventFilter(watched, event))

    def wished_width(self) -> int:
        """Width at which nothing has to be scrolled sideways."""
        return self._least_width()

    def _least_width(self) -> int:
        bar = self.verticalScrollBar()
        return self._inner.minimumSizeHint().width() + (bar.sizeHint().width() + BAR_EDGE_PX if bar is not None else 0)


class ToolType(QObject):
    """Tool buttons of a panel in the size of type of napari's settings, which its theme gives to all other buttons."""

    def __init__(self, panel: QWidget):
        super().__init__(panel)
        self._panel = panel
        self._events = get_settings().appearance.events.font_size
        self._events.connect(self._apply)
        self._apply()

    def _apply(self, _event: Any = None) -> None:
        self._panel.setStyleSheet(f"QToolButton {{ font-size: {get_settings().appearance.font_size}pt; }}")

    def close(self) -> None:
        """Follow no more."""
        self._events.disconnect(self._apply)
