"""Tabs of the diffusion panel: life of a site, rates, dwell times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QAbstractItemView, QComboBox, QHeaderView, QTableWidget, QTableWidgetItem, QVBoxLayout, QWidget

from napari_emdl.atoms.fit.rateunits import UNITS, rates_in_units
from napari_emdl.atoms.fit.result import Occupancy
from napari_emdl.atoms.fit.sites import GROUPS
from napari_emdl.atoms.fit.sitetable import site_table
from napari_emdl.gui.atoms.widgets import button, line, row
from napari_emdl.gui.kit.plots import RatePlot, SurvivalPlot, TracePlot, named

NO_SITE = (
    "Click a site in the image to see its life here: its chance of being occupied, and below it the decision "
    "(blue occupied, orange empty, grey out of view)."
)
INTERVAL_TIP = "Interval that holds the truth with 90 % chance"


class SiteTab(QWidget):
    """Trace of the chosen site; what can be changed about sites by hand."""

    seek = Signal(int)
    regroup = Signal(int, str)
    remove = Signal(int)
    add_tool = Signal(bool)
    keep_region = Signal()
    reset = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.site: int | None = None
        self.text = line(NO_SITE, "site_text")
        self.trace = TracePlot()
        self.trace.seek.connect(self.seek)
        self.group = named(QComboBox(), "site_group")
        self.group.addItems(GROUPS)
        self.group.setToolTip("Put the chosen site into another group; rates by group follow")
        self.group.activated.connect(
            lambda *_: self.site is not None and self.regroup.emit(self.site, self.group.currentText())
        )
        self.remove_button = button("Remove site", "Leave the chosen site out", "remove_site", self._remove)
        tip = "Click in the image where a site is missing; fit again to follow it"
        self.add_button = button("Add site", tip, "add_site", checkable=True)
        self.add_button.toggled.connect(self.add_tool)
        tip = "Draw a polygon around the sites you want, then press again: sites outside of it are left out"
        self.region_button = button("Keep region", tip, "keep_region", self.keep_region.emit)
        tip = "Forget the changes to the sites; Fit again finds them anew"
        self.reset_button = button("Reset", tip, "reset_sites", self.reset.emit)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 4, 0, 0)
        layout.addWidget(self.text)
        layout.addWidget(self.trace, 1)
        layout.addWidget(row(line("Group"), self.group, self.remove_button, stretch=(1, 2, 2)))
        layout.addWidget(row(self.add_button, self.region_button, self.reset_button, stretch=(1, 1, 1)))
        self._enable()

    def show_site(self, occupancy: Occupancy | None, site: int | None) -> None:
        """Show a site, None shows how to choose one."""
        self.site = site if occupancy is not None else None
        if occupancy is None or site is None:
            self.text.setText(NO_SITE)
            self.trace.clear_site()
        else:
            table = site_table(occupancy)
            self.text.setText(
                f"<b>Site {site}</b> ({table['group'][site]}): occupied {table['occupancy_pct'][site]:.0f} % of "
                f"{table['frames'][site]} frames in view, appeared {table['appeared'][site]} and "
                f"vanished {table['vanished'][site]} times"
            )
            self.trace.show_site(
                occupancy.p_occupied[:, site].astype(float), occupancy.occupied[:, site], occupancy.valid[:, site]
            )
            self.group.setCurrentText(str(table["group"][site]))
        self._enable()

    def _enable(self) -> None:
        for widget in (self.group, self.remove_button):
            widget.setEnabled(self.site is not None)

    def _regroup(self) -> None:
        if self.site is not None:
            self.regroup.emit(self.site, self.group.currentText())

    def _remove(self) -> None:
        if self.site is not None:
            self.remove.emit(self.site)


#: Rows below each rate in the table, in other units: title, and name in `rateunits.UNITS`. Short, or a group is cut off.
UNIT_ROWS = {
    "off": (("  /frame", "off_per_site_frame"), ("  /s", "off_per_site_s"), ("  k /s", "k_off_per_s")),
    "on": (("  /frame", "on_per_site_frame"), ("  /s", "on_per_site_s"), ("  k /s", "k_on_per_s")),
}


class RatesTab(QWidget):
    """Rates by group with intervals, as table and plot."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.table = plain_table("rates_table")
        self.plot = RatePlot()
        self.note = line(name="rates_note", dim=True)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 4, 0, 0)
        layout.addWidget(self.table)
        layout.addWidget(self.plot, 1)
        layout.addWidget(self.note)

    def show_occupancy(self, occupancy: Occupancy | None) -> None:
        """Show the rates of a result."""
        if occupancy is None:
            fill_table(self.table, (), ())
            self.plot.clear()
            self.note.setText("")
            return
        rates = occupancy.rates
        names = [str(name) for name in rates["group"]]
        interval_s = occupancy.attrs.get("frame_interval_s")
        units = rates_in_units(rates, float(interval_s) if interval_s else None)
        rows = [
            ("sites", [f"{r['n_sites']}" for r in rates], "Sites of the group"),
            ("blinking", [f"{r['n_blinking']}" for r in rates], "Sites that come and go"),
            ("filled %", [f"{100 * r['occupancy']:.0f}" for r in rates], "Mean share of frames occupied"),
            ("vanish %", [percent(r["p_off"]) for r in rates], "Chance that an occupied site is empty in the next frame"),
            ("  90 %", [span(r["p_off_low"], r["p_off_high"]) for r in rates], INTERVAL_TIP),
            ("  raw", [percent(r["raw_p_off"]) for r in rates], "From plain detections: every missed column adds to it"),
            *unit_rows("off", units, bool(interval_s)),
            ("appear %", [percent(r["p_on"]) for r in rates], "Chance that an empty site is occupied in the next frame"),
            ("  90 %", [span(r["p_on_low"], r["p_on_high"]) for r in rates], INTERVAL_TIP),
            ("  raw", [percent(r["raw_p_on"]) for r in rates], "From plain detections"),
            *unit_rows("on", units, bool(interval_s)),
        ]
        fill_table(self.table, ("", *names), [(title, *values) for title, values, _ in rows], [tip for _, _, tip in rows])
        rate_names = (("vanish", "p_off"), ("appear", "p_on"))
        series = [(title, rates[name], rates[f"{name}_low"], rates[f"{name}_high"]) for title, name in rate_names]
        self.plot.show_rates(names, series, "P per frame")
        dose = occupancy.attrs.get("dose_e_per_A2")
        said = f"{int(rates['frames'].max(initial=0))} frames" + (f", {dose:g} e/Å² a frame" if dose else ", dose not given")
        unknown = "" if interval_s else " Rates a second need the frame interval."
        self.note.setText(f"{said}. Percentages are for one frame to the next.{unknown}")


class DwellTab(QWidget):
    """How long sites stay occupied or empty."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._occupancy: Occupancy | None = None
        self.group = named(QComboBox(), "dwell_group")
        self.group.currentIndexChanged.connect(self._show)
        self.plot = SurvivalPlot()
        note = line("Kaplan-Meier curves with 90 % bands; stays cut by the movie's end or the edge are censored.", dim=True)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 4, 0, 0)
        layout.addWidget(row(line("Stays of"), self.group, stretch=(1, 2)))
        layout.addWidget(self.plot, 1)
        layout.addWidget(note)

    def show_occupancy(self, occupancy: Occupancy | None) -> None:
        """Show the dwell times of a result."""
        self._occupancy = occupancy
        with QSignalBlocker(self.group):
            self.group.clear()
            if occupancy is not None:
                self.group.addItem("all groups", None)
                for code in sorted(set(occupancy.groups.tolist())):
                    self.group.addItem(GROUPS[code], code)
        self._show()

    def _show(self) -> None:
        occupancy = self._occupancy
        if occupancy is None:
            self.plot.clear()
            return
        interval_s = occupancy.attrs.get("frame_interval_s")
        unit = float(interval_s) if interval_s else 1.0
        curves = []
        for name, state in (("occupied", True), ("empty", False)):
            dwell = occupancy.dwell_times(state, self.group.currentData())
            label = f"{name}: {dwell.n_ended} ended, {dwell.n_censored} cut"
            curves.append((label, dwell.frames * unit, dwell.survival, dwell.low, dwell.high))
        self.plot.show_curves(curves, "s" if interval_s else "frames")


def percent(value: float) -> str:
    """Chance in percent, a dash where there is none."""
    return "-" if not np.isfinite(value) else f"{100 * value:.1f}"


def span(low: float, high: float) -> str:
    """Interval in percent, as short as it can be."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return "-"
    return "-".join(f"{100 * v:.0f}" if v >= 0.0995 else f"{100 * v:.1f}" for v in (low, high))


def unit_rows(rate: str, units: Mapping[str, Any], timed: bool) -> list[tuple[str, list[str], str]]:
    """Title, values and tooltip of a rate in its other units; those a second where the frames are `timed`."""
    shown = [(title, name) for title, name in UNIT_ROWS[rate] if timed or not name.endswith("_s")]
    return [
        (title, [figure(value) for value in units[name]], UNITS[name][:1].upper() + UNITS[name][1:]) for title, name in shown
    ]


def figure(value: float) -> str:
    """Rate with two figures, a dash where there is none."""
    return "-" if not np.isfinite(value) else f"{value:.2g}"


def plain_table(name: str) -> QTableWidget:
    """Table that is only looked at and copied from."""
    table = named(QTableWidget(), name)
    table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
    table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
    rows: Any = table.verticalHeader()
    rows.setVisible(False)
    rows.setDefaultSectionSize(18)
    table.setStyleSheet("QTableWidget, QTableWidget::item, QHeaderView::section { font-size: 8pt; padding: 0px; }")
    table.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
    return table


def fill_table(
    table: QTableWidget,
    header: Sequence[str],
    rows: Sequence[Sequence[Any]],
    tips: Sequence[str] = (),
) -> None:
    """Show rows of texts, with a tooltip a row, and make the table as high as they are."""
    table.setColumnCount(len(header))
    table.setRowCount(len(rows))
    table.setHorizontalHeaderLabels(list(header))
    for r, values in enumerate(rows):
        for c, value in enumerate(values):
            item = QTableWidgetItem(str(value))
            item.setToolTip(tips[r] if r < len(tips) else "")
            if c:
                item.setTextAlignment(int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter))
            table.setItem(r, c, item)
    sections: Any = table.horizontalHeader()
    sections.setMinimumSectionSize(30)
    sections.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)  # it scrolls sideways before a number is cut
    sections.setStretchLastSection(True)
    bar: Any = table.horizontalScrollBar()
    table.setFixedHeight(28 + 18 * max(len(rows), 1) + bar.sizeHint().height())
