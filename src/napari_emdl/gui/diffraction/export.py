"""Step 5: keep the results. Export, result files, and the job file that the command line runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QFileDialog, QGridLayout, QHBoxLayout, QLabel, QPushButton, QWidget

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.stages import FindStage, FitStage, OpenStage
from napari_emdl.base.stages import Job as JobFile
from napari_emdl.gui.diffraction.figures import FigureDialog
from napari_emdl.gui.diffraction.overlay import fitted_points
from napari_emdl.gui.diffraction.state import StemState
from napari_emdl.gui.kit.steps import Step
from napari_emdl.gui.kit.worker import Job, report_error
from napari_emdl.workflow.jobfile import read_job, write_job

FORMATS = ("png", "svg", "pdf")


class ExportStep(Step):
    """Writes results in a worker; file dialogs are asked for only when no path is given.

    Signals
    -------
    job_loaded
        A :class:`napari_emdl.base.params.Job` whose settings are to be used.
    """

    job_loaded = Signal(object)

    def __init__(self, state: StemState, parent: QWidget | None = None):
        super().__init__(5, "Export", "Save results, figures and the job", parent)
        self.stem = state
        self.layers: Callable[[], tuple[list[Any], dict[str, Any]]] = lambda: ([], {})  # what is exported beside the results
        self.scale_set: Callable[[str], float | None] = lambda name: None  # end of a colour bar, where the user moved it
        self._jobs: list[Job] = []
        self.export_button = QPushButton("Export to folder…")
        self.export_button.setToolTip(
            "Disks and strain as CSV, TIFF with units and figures with colour bars; virtual images; your own points, shapes "
            "and labels; JSON provenance"
        )
        self.formats = {name: QCheckBox(name.upper()) for name in FORMATS}
        for name, box in self.formats.items():
            box.setChecked(name == FORMATS[0])
            box.setToolTip(f"Figures as {name.upper()}{'' if name == FORMATS[0] else ', for print: lines and text stay sharp'}")
        self.figure_button = QPushButton("Strain figure…")
        self.figure_button.setToolTip("Choose maps, range, colours, width and type of a figure; save it or copy it")
        self.figure_dialog: FigureDialog | None = None
        self.pattern_button = QPushButton("Pattern figure…")
        self.pattern_button.setToolTip("The pattern at the cross-hair with its disks and lattice: PNG, PDF or SVG")
        self.disks_button = QPushButton("Save disks…")
        self.disks_button.setToolTip("HDF5 (EMD 1.0) that py4DSTEM reads too")
        self.strain_button = QPushButton("Save strain…")
        self.strain_button.setToolTip("HDF5 (EMD 1.0) with maps, errors, mask and provenance")
        self.load_button = QPushButton("Load result…")
        self.load_button.setToolTip("Disks found before, of this datacube")
        self.save_job_button = QPushButton("Save job…")
        self.save_job_button.setToolTip("All settings as YAML; 'napari-emdl run JOB.yaml' does the same without a window")
        self.load_job_button = QPushButton("Load job…")
        self.load_job_button.setToolTip("Take over the settings of a job file")
        grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        kinds = QHBoxLayout()
        kinds.addWidget(QLabel("Figures"))
        for box in self.formats.values():
            kinds.addWidget(box)
        kinds.addStretch(1)
        grid.addWidget(self.export_button, 0, 0, 1, 2)
        grid.addLayout(kinds, 1, 0, 1, 2)
        for i, button in enumerate(
            (
                self.figure_button,
                self.pattern_button,
                self.disks_button,
                self.strain_button,
                self.load_button,
                self.save_job_button,
                self.load_job_button,
            )
        ):
            grid.addWidget(button, 2 + i // 2, i % 2)
        self.note = QLabel("")
        self.note.setWordWrap(True)
        self.content.addLayout(grid)
        self.content.addWidget(self.note)
        self.export_button.clicked.connect(lambda *_: self.export())
        self.figure_button.clicked.connect(lambda *_: self.open_figure())
        self.pattern_button.clicked.connect(lambda *_: self.save_pattern())
        self.disks_button.clicked.connect(lambda *_: self.save("disks"))
        self.strain_button.clicked.connect(lambda *_: self.save("strain"))
        self.load_button.clicked.connect(lambda *_: self.load())
        self.save_job_button.clicked.connect(lambda *_: self.save_job())
        self.load_job_button.clicked.connect(lambda *_: self.load_job())
        for signal in (state.cube_changed, state.disks_changed, state.strain_changed, state.pattern_changed):
            signal.connect(lambda *_: self.refresh())
        self.refresh()

    def refresh(self) -> None:
        """Enable what can be saved."""
        disks, strain = self.stem.found.disks is not None, self.stem.data.has_map
        self.export_button.setEnabled(disks)
        self.disks_button.setEnabled(disks)
        self.strain_button.setEnabled(strain)
        self.figure_button.setEnabled(strain)
        self.pattern_button.setEnabled(self.stem.found.pattern is not None)
        self.load_button.setEnabled(self.stem.cube is not None)
        self.save_job_button.setEnabled(self.stem.cube is not None)
        self.tell(
            "ready" if disks else "missing", "disks and strain" if strain else "disks" if disks else "nothing to save yet"
        )

    def export(self, folder: str | Path | None = None) -> Job | None:
        """Write tables, images and figures into `folder`."""
        folder = folder or QFileDialog.getExistingDirectory(self, "Export to folder")
        if not folder:
            return None
        stem, target = self.stem, Path(folder)
        strain = stem.found.strain if stem.data.has_map else None
        if strain is not None and not isinstance(stem.settings.reference, str) and stem.settings.reference is not None:
            strain = replace(strain, attrs={**strain.attrs, "reference": stem.settings.reference})  # the figure outlines it
        results = {"disks": stem.found.kept or stem.found.disks, "strain": strain}
        formats = [name for name, box in self.formats.items() if box.isChecked()]
        layers, record = self.layers()

        def work(control: Any, _block: Any) -> str:
            from napari_emdl.exporting.annotations import export_layers
            from napari_emdl.exporting.folder import export

            names = []
            for name, result in results.items():
                control.check()
                if result is not None:
                    names += export(result, target / name, figure_formats=formats)
            control.check()
            names += export_layers(layers, target / "layers", record, formats)
            return f"{len(names)} files in {target}"

        return self._start("export", work)

    def figure(self) -> None:
        """The figure there is: of the strain maps, or of the pattern at the cross-hair."""
        if self.stem.data.has_map:
            self.open_figure()
        else:
            self.save_pattern()

    def open_figure(self) -> FigureDialog | None:
        """Dialog of a strain figure; it does not block the window."""
        strain, reference = self.stem.found.strain, self.stem.settings.reference
        if strain is None:
            return None
        self.close_figure()
        region = None if isinstance(reference, str) else reference
        self.figure_dialog = FigureDialog(strain, region, parent=self.window())
        self.figure_dialog.begin_with(self.scale_set("exx"), self.scale_set("theta_rad"))
        self.figure_dialog.show()
        return self.figure_dialog

    def close_figure(self) -> None:
        """Close the dialog of the figure."""
        if self.figure_dialog is not None:
            self.figure_dialog.close_workers()
            self.figure_dialog.close()
            self.figure_dialog = None

    def save_pattern(self, path: str | Path | None = None) -> Job | None:
        """Draw the pattern at the cross-hair, with its disks and lattice, into a file."""
        stem, cube = self.stem, self.stem.cube
        if cube is None or stem.found.pattern is None:
            return None
        path = path or QFileDialog.getSaveFileName(self, "Save figure", "pattern.png", "Figure (*.png *.pdf *.svg)")[0]
        if not path:
            return None
        target, position, disks, probe = Path(path), stem.settings.position, stem.data.kept_here(), stem.found.probe
        lattice = fitted_points(stem, cube.detector_shape)

        def work(control: Any, _block: Any) -> str:
            from napari_emdl.exporting.framefigure import FramePeaks, save_frame_figure

            radius_px = float(probe.radius_px) if probe is not None else 5.0
            peaks = None if disks is None else FramePeaks(disks, radius_px, lattice_px=lattice)
            return f"saved {save_frame_figure(target, cube, position, peaks).name}"

        return self._start("figure", work)

    def save(self, what: str, path: str | Path | None = None) -> Job | None:
        """Write disks or strain as an HDF5 result file."""
        result = self.stem.found.disks if what == "disks" else self.stem.found.strain
        if result is None:
            report_error(EmdlError(f"there is no {what} to save yet"))
            return None
        path = path or QFileDialog.getSaveFileName(self, f"Save {what}", f"{what}.h5", "HDF5 (*.h5)")[0]
        if not path:
            return None
        target = Path(path)

        def work(control: Any, _block: Any) -> str:
            from napari_emdl.io import save

            save(result, target)
            return f"saved {target.name}"

        return self._start("save", work)

    def load(self, path: str | Path | None = None) -> None:
        """Use disks of a result file."""
        path = path or QFileDialog.getOpenFileName(self, "Load disks", "", "Results (*.h5 *.emd)")[0]
        if not path:
            return
        source = Path(path)

        def work(control: Any, _block: Any) -> Any:
            from napari_emdl.io import load

            return load(source)

        self._start("load", work, lambda result: self._take(result, source))

    def _take(self, result: Any, source: Path) -> None:
        from napari_emdl.base.peaks import PeakTable

        cube = self.stem.cube
        if not isinstance(result, PeakTable) or cube is None or result.shape != cube.scan_shape:
            there = getattr(result, "shape", "")
            report_error(EmdlError(f"this file holds no disks of the open datacube (it holds {type(result).__name__} {there})"))
            return
        self.stem.take_disks(result, file=source)

    def job_of(self, target: Path) -> JobFile:
        """Everything set in the panel as one job: the disks and, when there is a map, the strain of them."""
        stem = self.stem
        if stem.cube is None:
            raise EmdlError("open a datacube before saving a job")
        if not stem.cube.path:
            raise EmdlError("this datacube is not a file; save it first, a job needs a file to read")
        settings = stem.settings
        disks = settings.disk_params.model_copy(update={"min_score": settings.min_score})
        opened = OpenStage(path=stem.cube.path, options=dict(stem.cube.metadata.get("open_options") or {}))
        stages: list[Any] = [opened, FindStage(disks=disks, output=_beside(target, "disks.h5"))]
        if stem.found.strain is not None:
            own = {"min_score": settings.min_score, **reference_params(settings.reference)}
            if settings.regions is not None:
                own["regions"] = _beside(target, "regions.npy")
            strain = settings.strain_params.model_copy(update=own)
            stages.append(FitStage(strain=strain, output=_beside(target, "strain.h5")))
        return JobFile(stages=tuple(stages), run=settings.run_params.model_copy(update={"resume": None}))

    def save_job(self, path: str | Path | None = None) -> Path | None:
        """Write the job file; `napari-emdl run` reads it. Results go beside it."""
        try:
            suggested = f"{Path(self.stem.cube.path or 'datacube').stem}_job.yaml" if self.stem.cube else "job.yaml"
            path = path or QFileDialog.getSaveFileName(self, "Save job", suggested, "YAML (*.yaml)")[0]
            if not path:
                return None
            target = Path(path).absolute()
            job = self.job_of(target)
            write_job(target, job)
            strain = job.section("strain")
            if strain is not None and strain.regions is not None and self.stem.settings.regions is not None:
                np.save(strain.regions, self.stem.settings.regions)
        except (EmdlError, OSError) as error:
            report_error(error, "save job")
            return None
        self.note.setText(f"Run it with: napari-emdl run {target.name}")
        return target

    def load_job(self, path: str | Path | None = None) -> None:
        """Take over the settings of a job file; the data stay."""
        path = path or QFileDialog.getOpenFileName(self, "Load job", "", "YAML (*.yaml *.yml)")[0]
        if not path:
            return
        try:
            job = read_job(path)
        except EmdlError as error:
            report_error(error)
            return
        self.note.setText(f"settings of {Path(path).name}")
        self.job_loaded.emit(job)

    def _start(self, name: str, work: Any, then: Callable[[Any], Any] | None = None) -> Job:
        job = Job(work, name)
        if then is not None:
            job.returned.connect(then)
        job.returned.connect(self._on_returned)
        job.failed.connect(self._on_failed)
        self._jobs = [kept for kept in self._jobs if kept.running] + [job]
        self.note.setText(f"{name}…")
        job.start()
        return job

    def _on_returned(self, result: Any) -> None:
        self.note.setText(result if isinstance(result, str) else "loaded")

    def _on_failed(self, error: BaseException) -> None:
        self.note.setText(report_error(error, "export"))

    def close_jobs(self, timeout_s: float = 3.0) -> bool:
        """Wait for files being written."""
        self.close_figure()
        ended = [job.wait(timeout_s) for job in self._jobs]
        return all(ended)


def _beside(target: Path, what: str) -> str:
    """Result of a job: named after it, beside it."""
    return str(target.with_name(f"{target.stem}_{what}"))


def reference_params(reference: Any) -> dict[str, Any]:
    """Fields of StrainParams for a reference as the panel keeps it (a drawn region becomes its box)."""
    if reference is None:
        return {}
    if isinstance(reference, str):
        return {"reference_lattice": True}
    rows, cols = np.flatnonzero(reference.any(axis=1)), np.flatnonzero(reference.any(axis=0))
    return {"reference": (int(rows[0]), int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1)}
