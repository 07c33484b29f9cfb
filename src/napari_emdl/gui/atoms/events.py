"""Table of events (a column comes or goes): sorts, filters, and asks to go to the frame of a clicked event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QAbstractTableModel, QModelIndex, QSortFilterProxyModel, Qt, Signal
from qtpy.QtWidgets import QAbstractItemView, QComboBox, QHeaderView, QLabel, QTableView, QVBoxLayout, QWidget
from superqt import QFlowLayout

from napari_emdl.gui.kit.plots import named

#: A column is as wide as what these many rows need.
MEASURED_ROWS = 100
HEADERS = {
    "frame": ("Frame", "First frame in the new state"),
    "time_s": ("Time (s)", "Time of that frame"),
    "site": ("Site", "Number of the site"),
    "kind": ("Event", "appeared: empty to occupied; vanished: occupied to empty"),
    "group": ("Group", "Group of the site"),
    "certainty": ("Certainty", "Chance of the old state before times that of the new state after"),
}


class EventsModel(QAbstractTableModel):
    """Qt model over columns of equal length; nothing is copied into items."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._names: list[str] = []
        self._columns: list[list[Any]] = []

    def set_columns(self, columns: dict[str, NDArray[Any]]) -> None:
        """Show other columns, in the order given."""
        self.beginResetModel()
        self._names = list(columns)
        self._columns = [np.asarray(values).tolist() for values in columns.values()]
        self.endResetModel()

    def rowCount(self, parent: QModelIndex = QModelIndex()) -> int:
        """Number of events."""
        return 0 if parent.isValid() or not self._columns else len(self._columns[0])

    def columnCount(self, parent: QModelIndex = QModelIndex()) -> int:
        """Number of columns."""
        return 0 if parent.isValid() else len(self._columns)

    def value(self, row: int, name: str) -> Any:
        """Plain value of a column in a row."""
        return self._columns[self._names.index(name)][row]

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Text for display; the plain value for sorting (user role)."""
        if not index.isValid():
            return None
        value = self._columns[index.column()][index.row()]
        if role == Qt.ItemDataRole.UserRole:
            return value
        if role == Qt.ItemDataRole.DisplayRole:
            return f"{value:.4g}" if isinstance(value, float) else str(value)
        if role == Qt.ItemDataRole.TextAlignmentRole and not isinstance(value, str):
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        return None

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Column titles and their tooltips."""
        if orientation != Qt.Orientation.Horizontal or section >= len(self._names):
            return None
        title, tip = HEADERS.get(self._names[section], (self._names[section], ""))
        if role == Qt.ItemDataRole.DisplayRole:
            return title
        return tip if role == Qt.ItemDataRole.ToolTipRole else None


class EventsFilter(QSortFilterProxyModel):
    """Keeps the events of a kind, a group and a site; empty keeps all."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setSortRole(Qt.ItemDataRole.UserRole)
        self._wanted: dict[str, Any] = {}

    def set_wanted(self, **wanted: Any) -> None:
        """Keep rows whose columns equal the given values; None does not look at the column."""
        self._wanted = {name: value for name, value in wanted.items() if value is not None}
        self.invalidate()

    def filterAcceptsRow(self, row: int, parent: QModelIndex) -> bool:
        """True for a row that is shown."""
        model: Any = self.sourceModel()
        return all(model.value(row, name) == value for name, value in self._wanted.items())


class EventsTable(QWidget):
    """Events with filters above; :attr:`chosen` gives (frame, site) of a clicked row."""

    chosen = Signal(int, int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.model = EventsModel(self)
        self.filter = EventsFilter(self)
        self.filter.setSourceModel(self.model)
        self.kind = named(QComboBox(), "events_kind")
        self.group = named(QComboBox(), "events_group")
        self.site = named(QComboBox(), "events_site")
        self.count = QLabel()
        for box, text in ((self.kind, "All events"), (self.group, "All groups"), (self.site, "All sites")):
            box.addItem(text, None)
            box.currentIndexChanged.connect(self._apply)
        for kind in ("appeared", "vanished"):
            self.kind.addItem(kind, kind)
        self.view = named(QTableView(), "events_view")
        self.view.setModel(self.filter)
        self.view.setSortingEnabled(True)
        self.view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.view.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.view.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.view.sortByColumn(0, Qt.SortOrder.AscendingOrder)
        rows: Any = self.view.verticalHeader()
        rows.setVisible(False)
        rows.setDefaultSectionSize(20)
        header: Any = self.view.horizontalHeader()
        header.setStretchLastSection(True)
        header.setResizeContentsPrecision(MEASURED_ROWS)
        self.view.setStyleSheet("QTableView, QHeaderView::section { font-size: 8pt; padding: 0px 2px; }")
        header.setMinimumSectionSize(30)
        self.view.setMinimumHeight(120)
        selection: Any = self.view.selectionModel()
        selection.currentRowChanged.connect(self._row_changed)
        self.view.clicked.connect(lambda index: self._choose(index))
        top = QFlowLayout()  # in a narrow panel there are two rows, and no word is cut
        top.setContentsMargins(0, 0, 0, 0)
        for box in (self.kind, self.group, self.site):
            box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
            top.addWidget(box)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 4, 0, 0)
        layout.addLayout(top)
        layout.addWidget(self.view, 1)
        layout.addWidget(self.count)

    def show_events(self, columns: dict[str, NDArray[Any]], groups: Sequence[str]) -> None:
        """Show events; `columns` holds at least frame, site, kind and group."""
        self.model.set_columns(columns)
        header: Any = self.view.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)  # it scrolls sideways before a word is cut
        self._fill(self.group, "All groups", list(groups))
        self._fill(self.site, "All sites", sorted({int(s) for s in columns.get("site", ())}))
        self._apply()

    def show_site(self, site: int | None) -> None:
        """Keep the events of one site; None keeps those of all."""
        self.site.setCurrentIndex(max(0, self.site.findData(site)) if site is not None else 0)

    @staticmethod
    def _fill(box: QComboBox, everything: str, values: list[Any]) -> None:
        chosen = box.currentData()
        box.blockSignals(True)
        box.clear()
        box.addItem(everything, None)
        for value in values:
            box.addItem(value if isinstance(value, str) else f"Site {value}", value)
        box.setCurrentIndex(max(0, box.findData(chosen)) if chosen is not None else 0)
        box.blockSignals(False)

    def _apply(self) -> None:
        self.filter.set_wanted(kind=self.kind.currentData(), group=self.group.currentData(), site=self.site.currentData())
        shown, total = self.filter.rowCount(), self.model.rowCount()
        self.count.setText(f"{shown} events" if shown == total else f"{shown} of {total} events")

    def _row_changed(self, current: QModelIndex, _previous: QModelIndex) -> None:
        if current.isValid() and self.view.hasFocus():
            self._choose(current)

    def _choose(self, index: QModelIndex) -> None:
        row = self.filter.mapToSource(index).row()
        if row >= 0:
            self.chosen.emit(int(self.model.value(row, "frame")), int(self.model.value(row, "site")))
