"""Small building blocks of the atom panels: threshold slider, edit bar with legend, empty state, scrolling panel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from qtpy.QtCore import QEvent, QObject, QSignalBlocker, QSize, Qt, QTimer, Signal
from qtpy.QtWidgets import (
    QButtonGroup,
    QComboBox,
    QFrame,
    QGraphicsOpacityEffect,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QSlider,
    QTabWidget,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_emdl.base.params import ColumnLimits
from napari_emdl.base.showing import species_colour
from napari_emdl.gui.atoms.session import AtomsSession
from napari_emdl.gui.kit.fitting import ToolType
from napari_emdl.gui.kit.plots import named
from napari_emdl.gui.kit.session import COLUMNS, DIFFUSION, LIVE, WORKSPACE, dock_of, tabify, when_idle

NO_MOVIE = (
    "<b>Open a movie to begin.</b><br>Open, above, takes an image, a movie or a focal series; "
    "File &gt; Open Sample &gt; EM deep learning &gt; HRTEM movie with blinking sites is there to try."
)


LEAST_WIDTH = 300
DIM = 0.72
BAR_EDGE_PX = 4  # napari's style draws the scroll bar wider than it says
#: Panels that share a place in the window.
PANELS = (WORKSPACE, COLUMNS, DIFFUSION, LIVE)


class _Holder(QWidget):
    """What scrolls: Qt asks for the height it would like at a width, and would scroll plots that can be lower."""

    def heightForWidth(self, width: int) -> int:
        layout = self.layout()
        return -1 if layout is None else layout.minimumHeightForWidth(width)


class ScrollPanel(QWidget):
    """Panel that scrolls when the window is low; `body` is its column of widgets."""

    viewer: Any

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        holder = _Holder()
        self.body = QVBoxLayout(holder)
        self.body.setContentsMargins(8, 6, 8, 6)
        self.body.setSpacing(6)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setWidget(holder)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(area)
        self._holder, self._area = holder, area
        holder.installEventFilter(self)
        self.closed = False
        self._docked = False
        self._tool_type = ToolType(self)
        self._followed: list[tuple[Any, Callable[..., Any]]] = []
        self.behind = False  # it is opened for later, behind the tab that is shown

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Follow what is in it: a dock that was laid out before does not ask again."""
        if event is not None and event.type() == QEvent.Type.LayoutRequest:
            self.setMinimumWidth(self._least_width())
        return bool(super().eventFilter(watched, event))

    def _least_width(self) -> int:
        """What is in it, with the scroll bar: nothing is cut off at the right."""
        bar = self._area.verticalScrollBar()
        return self._holder.minimumSizeHint().width() + (bar.sizeHint().width() + BAR_EDGE_PX if bar is not None else 0)

    def sizeHint(self) -> QSize:
        """As wide as it needs to be beside an image."""
        return QSize(max(LEAST_WIDTH, self._least_width()), 600)

    def showEvent(self, event: Any) -> None:
        """Lie as a tab on the HRTEM panels that are open already: side by side they leave no room for the image."""
        super().showEvent(event)
        if not self._docked and dock_of(self) is not None:
            self._docked = True
            when_idle(lambda: tabify(self.viewer, self, *PANELS, behind=self.behind) if not self.closed else None)

    def follow(self, signal: Any, function: Callable[..., Any]) -> None:
        """Call `function` with `signal` of what outlives this panel, until it is closed."""
        signal.connect(function)
        self._followed.append((signal, function))

    def shut_down(self) -> None:
        """Stop what runs; panels say how."""

    def _close(self) -> None:
        if not self.closed:
            self.closed = True
            self._tool_type.close()
            for signal, function in self._followed:
                signal.disconnect(function)
            self.shut_down()

    def closeEvent(self, event: Any) -> None:
        """Stop what runs when the dock is closed."""
        self._close()
        super().closeEvent(event)

    def event(self, event: Any) -> bool:
        """Stop what runs when the window goes."""
        taken_out = event.type() == QEvent.Type.ParentChange and self.parent() is None  # how napari closes a dock
        if taken_out or event.type() == QEvent.Type.DeferredDelete:
            self._close()
        return bool(super().event(event))


def line(text: str = "", name: str = "", dim: bool = False) -> QLabel:
    """Label that wraps and never asks for more width than there is."""
    label = named(QLabel(text), name)
    label.setWordWrap(True)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    if dim:
        paler = QGraphicsOpacityEffect(label)  # of whatever colour the theme gives the text
        paler.setOpacity(DIM)
        label.setGraphicsEffect(paler)
    return label


class Fold(QWidget):
    """Section that opens and closes with a click on its title."""

    def __init__(self, title: str, *widgets: QWidget, opened: bool = False) -> None:
        super().__init__()
        self.head = QToolButton()
        self.head.setText(title)
        self.head.setCheckable(True)
        self.head.setAutoRaise(True)
        self.head.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.head.setStyleSheet("QToolButton { border: none; background: transparent; font-weight: bold; text-align: left; }")
        self.head.toggled.connect(self._toggled)
        self.content = QWidget()
        inner = QVBoxLayout(self.content)
        inner.setContentsMargins(12, 0, 0, 2)
        for widget in widgets:
            inner.addWidget(widget)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.head)
        layout.addWidget(self.content)
        self.head.setChecked(opened)
        self._toggled(opened)

    def _toggled(self, opened: bool) -> None:
        self.head.setArrowType(Qt.ArrowType.DownArrow if opened else Qt.ArrowType.RightArrow)
        self.content.setVisible(opened)


class PageTabs(QTabWidget):
    """Tabs as high as the page in front, not as the highest of them: what is below stays in sight in a low window."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.currentChanged.connect(self._fit)

    def tabInserted(self, index: int) -> None:
        """Only the page in front asks for room."""
        super().tabInserted(index)
        self._fit(self.currentIndex())

    def hasHeightForWidth(self) -> bool:
        """No: Qt would ask the pages behind as well, whatever their policy says."""
        return False

    def _fit(self, front: int) -> None:
        for index in range(self.count()):
            policy = QSizePolicy.Policy.Preferred if index == front else QSizePolicy.Policy.Ignored
            page = self.widget(index)
            if page is not None:
                page.setSizePolicy(policy, policy)


def row(*widgets: QWidget | int, stretch: Sequence[int] = ()) -> QWidget:
    """Widgets side by side."""
    holder = QWidget()
    layout = QHBoxLayout(holder)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(4)
    for index, widget in enumerate(widgets):
        if isinstance(widget, int):
            layout.addStretch(widget)
        else:
            layout.addWidget(widget, stretch[index] if index < len(stretch) else 0)
    return holder


def single_shot(parent: QObject, interval_ms: int, function: Callable[[], Any]) -> QTimer:
    """Timer that calls `function` once, `interval_ms` after it was started."""
    timer = QTimer(parent)
    timer.setSingleShot(True)
    timer.setInterval(interval_ms)
    timer.timeout.connect(function)
    return timer


def button(text: str, tip: str, name: str, clicked: Any = None, checkable: bool = False) -> QPushButton:
    """Push button with a tooltip and a name tests can find it by."""
    made = named(QPushButton(text), name)
    made.setToolTip(f"<qt>{tip}</qt>")
    made.setCheckable(checkable)
    if clicked is not None:
        made.clicked.connect(lambda *_: clicked())
    return made


class MovieBox(QComboBox):
    """Movies open in the viewer; the choice is that of the session, the same in all panels."""

    def __init__(self, session: AtomsSession, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("movie")
        self.setToolTip("Image, movie or focal series that is analysed")
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(10)
        self._session = session
        self.activated.connect(lambda *_: session.set_layer(self.currentData()))
        session.movie_changed.connect(self.refresh)
        # napari is still placing a layer when it tells of it: look once it is done
        for event in (session.viewer.layers.events.inserted, session.viewer.layers.events.removed):
            event.connect(self._soon)

    def _soon(self, _event: Any = None) -> None:
        when_idle(self.refresh)

    def refresh(self) -> None:
        """List the movies; the newest is taken when none is chosen."""
        if self._session.viewer is None:
            return
        layers = self._session.movie_layers()
        with QSignalBlocker(self):
            self.clear()
            for layer in layers:
                self.addItem(layer.name, layer)
            if self._session.layer in layers:
                self.setCurrentIndex(layers.index(self._session.layer))
        if layers and self._session.layer not in layers:
            self._session.set_layer(layers[-1])


class ThresholdRow(QWidget):
    """Slider over 0..1 with its value, and a button that goes back to the finder's own threshold.

    It shows the limits of a session and sets them; it keeps no value of its own.
    """

    STEPS = 200

    def __init__(self, title: str, tip: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session: AtomsSession | None = None
        self.slider = named(QSlider(Qt.Orientation.Horizontal), "threshold")
        self.slider.setRange(0, self.STEPS)
        self.slider.setToolTip(f"<qt>{tip}</qt>")
        self.slider.setAccessibleName(title)
        self.value_label = named(QLabel(""), "threshold_value")
        self.value_label.setMinimumWidth(34)
        self.default_button = named(QToolButton(), "threshold_default")
        self.default_button.setText("default")
        caption = QLabel(title)
        caption.setToolTip(f"<qt>{tip}</qt>")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget, stretch in ((caption, 0), (self.slider, 1), (self.value_label, 0), (self.default_button, 0)):
            layout.addWidget(widget, stretch)

    def follow(self, session: AtomsSession) -> None:
        """Show and set the limits of `session`."""
        self._session = session
        self.slider.valueChanged.connect(lambda value: session.set_limits(ColumnLimits(min_score=value / self.STEPS)))
        self.default_button.clicked.connect(lambda *_: session.set_limits(ColumnLimits()))
        session.limits_changed.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Show the threshold that counts."""
        if self._session is None:
            return
        settings = self._session.data.settings
        with QSignalBlocker(self.slider):
            self.slider.setValue(round(settings.min_score * self.STEPS))
        self.value_label.setText(f"{settings.min_score:.2f}")
        default = settings.default_min_score
        self.default_button.setToolTip(f"Back to the default of this model and contrast ({default:.2f})")


class EditBar(QWidget):
    """Hand tools: look, add, select/move, delete; undo and redo; species of new columns with their colours."""

    tool = Signal(str)
    delete = Signal()
    undo = Signal()
    redo = Signal()
    species_chosen = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._tools = QButtonGroup(self)
        tools = (
            ("Look", "pan_zoom", "Move and zoom the view"),
            ("Add", "add", "Click in the image to add a column of the species chosen below"),
            ("Move", "select", "Drag a column to move it; drag a box to select several"),
        )
        self.buttons: dict[str, QPushButton] = {}
        for text, mode, tip in tools:
            made = button(text, tip, f"tool_{mode}", checkable=True)
            made.clicked.connect(lambda _checked, mode=mode: self.tool.emit(mode))
            self._tools.addButton(made)
            self.buttons[mode] = made
        self.buttons["pan_zoom"].setChecked(True)
        self.delete_button = button("Delete", "Delete the selected columns (Del)", "delete_columns", self.delete.emit)
        self.undo_button = button("Undo", "Take the last edit back (Ctrl+Z)", "undo", self.undo.emit)
        self.redo_button = button("Redo", "Do it again (Ctrl+Shift+Z)", "redo", self.redo.emit)
        self.species = named(QComboBox(), "new_species")
        self.species.setToolTip("Species of the columns you add")
        self.species.hide()
        self.species.currentIndexChanged.connect(self.species_chosen.emit)
        self.legend = line(name="legend")
        self.legend.setTextFormat(Qt.TextFormat.RichText)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(row(*self.buttons.values(), self.delete_button, stretch=(1, 1, 1, 1)))
        layout.addWidget(row(self.undo_button, self.redo_button, self.species, stretch=(1, 1, 2)))
        layout.addWidget(self.legend)
        self.set_undo(False, False)

    def set_tool(self, mode: str) -> None:
        """Mark a tool as chosen (the layer's mode was changed elsewhere)."""
        self.buttons.get(mode, self.buttons["pan_zoom"]).setChecked(True)

    def set_undo(self, can_undo: bool, can_redo: bool) -> None:
        """Enable undo and redo."""
        self.undo_button.setEnabled(can_undo)
        self.redo_button.setEnabled(can_redo)

    def set_species(self, names: Sequence[str]) -> None:
        """Species that can be chosen."""
        if [self.species.itemText(i) for i in range(self.species.count())] == list(names):
            return
        with QSignalBlocker(self.species):
            self.species.clear()
            self.species.addItems(list(names))
        self.species.setVisible(len(names) > 1)

    def show_counts(self, names: Sequence[str], counts: Sequence[int], by_hand: int) -> None:
        """Legend: colour, name and number of each species in the current frame."""
        parts = [
            f'<span style="color:{species_colour(i)}">●</span> {name}: {count:,}'
            for i, (name, count) in enumerate(zip(names, counts, strict=True))
        ]
        if by_hand:
            parts.append(f"{by_hand} by hand")
        self.legend.setText(" &nbsp; ".join(parts))
