"""Tab that compares two movies, such as vacuum and oxygen, group by group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtWidgets import QFileDialog, QVBoxLayout, QWidget

from napari_emdl.atoms.fit.result import Occupancy
from napari_emdl.atoms.judge.compare import Comparison
from napari_emdl.gui.atoms.diffusion_tabs import fill_table, plain_table
from napari_emdl.gui.atoms.jobs import compare_results, load_occupancy
from napari_emdl.gui.atoms.widgets import button, line, row
from napari_emdl.gui.kit.plots import RatePlot
from napari_emdl.gui.kit.wording import said
from napari_emdl.gui.kit.worker import Job, error_line

NO_OTHER = (
    "Compare this movie with another, such as vacuum with oxygen: load its occupancy file, or press Keep here, then fit the "
    "other movie."
)
TITLES = {"p_off": "vanish", "p_on": "appear"}


class CompareTab(QWidget):
    """Ratios of the rates, the movie in the viewer over the other one, with intervals, a test and warnings."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.shown: Occupancy | None = None
        self.other: Occupancy | None = None
        self.comparison: Comparison | None = None
        self._name = self._shown_name = ""
        self.load_button = button("Load other…", "Occupancy file of the other movie", "load_other", self.load)
        self.keep_button = button("Keep this one", "Compare the movie you fit next with this one", "keep_this", self.keep)
        self.text = line(NO_OTHER, "compare_text")
        self.table = plain_table("compare_table")
        self.plot = RatePlot()
        self.warnings = line(name="compare_warnings")
        self.warnings.setStyleSheet("color: #E3B617;")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 4, 0, 0)
        layout.addWidget(row(self.load_button, self.keep_button, stretch=(1, 1)))
        layout.addWidget(self.text)
        layout.addWidget(self.table)
        layout.addWidget(self.plot, 1)
        layout.addWidget(self.warnings)
        layout.addStretch()
        self._clear()

    def show_occupancy(self, occupancy: Occupancy | None, name: str) -> None:
        """Result in the viewer, and the name of its movie."""
        self.shown, self._shown_name = occupancy, name
        self.keep_button.setEnabled(occupancy is not None)
        self._compare()

    def keep(self) -> None:
        """Take the result in the viewer as the other one."""
        self.take(self.shown, self._shown_name)

    def load(self) -> None:
        """Ask for the occupancy file of the other movie."""
        path, _ = QFileDialog.getOpenFileName(self, "Occupancy of the other movie", "", "Results (*.h5)")
        if path:
            self.load_from(path)

    def load_from(self, path: str) -> None:
        """Take the occupancy of a file as the other one."""
        job = Job(lambda _control, _block: load_occupancy(path), "loading", self)
        job.returned.connect(lambda occupancy: self.take(occupancy, Path(path).stem))
        job.failed.connect(lambda error: self.text.setText(error_line(error)))
        job.start()

    def take(self, other: Occupancy | None, name: str) -> None:
        """Other result to compare with."""
        self.other, self._name = other, name
        self._compare()

    def _compare(self) -> None:
        self.comparison = None
        if self.other is None:
            self._clear()
            self.text.setText(NO_OTHER)
            return
        if self.shown is None or self.shown is self.other:
            self._clear()
            self.text.setText(f"<b>{self._name}</b> is kept. Now open and fit the movie to compare it with.")
            return
        first, second = self.other, self.shown
        job = Job(lambda _control, _block: compare_results(first, second), "comparing", self)
        job.returned.connect(lambda found: self._show(found) if self.shown is second and self.other is first else None)
        job.failed.connect(lambda error: self.text.setText(error_line(error)))
        job.start()

    def _clear(self) -> None:
        self.plot.clear()
        self.plot.hide()
        self.table.hide()
        self.warnings.setText("")

    def _show(self, found: Comparison) -> None:
        self.comparison = found
        self.text.setText(f"<b>{self._shown_name}</b> (this) against <b>{self._name}</b>, with 90 % intervals (* differs).")
        rows: list[tuple[Any, ...]] = [
            (
                f"{r.group} {TITLES[r.rate]}",
                f"{100 * r.second:.1f}",
                f"{100 * r.first:.1f}",
                f"{r.ratio:.2f} ({r.low:.2f}-{r.high:.2f}){' *' if r.different else ''}",
                f"{r.p_value:.2g}",
            )
            for r in found.rows
        ]
        fill_table(self.table, ("", "this %", "other %", "ratio", "p"), rows)
        groups = list(dict.fromkeys(r.group for r in found.rows))
        series = []
        for rate, title in TITLES.items():
            of = {r.group: r for r in found.rows if r.rate == rate}
            ratio, low, high = (
                [getattr(of[g], key) if g in of else np.nan for g in groups] for key in ("ratio", "low", "high")
            )
            series.append((title, ratio, low, high))
        self.plot.show_rates(groups, series, "ratio this : other", level=1.0)
        self.warnings.setText("<br>".join(f"⚠ {said(text)}" for text in found.warnings))
        self.table.show()
        self.plot.show()
