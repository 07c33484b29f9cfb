"""Walks the HRTEM panels for scripts/screenshots.py: the sample movie, the Live panel, and measured files if there are any."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

#: Name of the picture -> what it shows.
STATES = {
    "hrtem_columns_sample": "columns of a frame of the sample movie, and how many there are in each",
    "hrtem_occupancy_sample": "occupancy over the mean image, and the life of a site",
    "hrtem_events_sample": "events over the movie",
    "hrtem_rates_sample": "rates by group",
    "hrtem_dwell_sample": "dwell times",
}
LIVE_STATES = {"hrtem_live": "Live while frames arrive"}
#: The same of files that do not come with the package.
MEASURED_STATES = {
    "hrtem_pixel_size": "pixel size from a CeO2 (111) spot",
    "hrtem_columns_pt": "columns of the Pt/CeO2 movie",
    "hrtem_occupancy_pt": "its occupancy",
    "hrtem_graphene": "columns of a graphene image",
}
PT, GRAPHENE = "hrtem_movie_pt_ceo2_noisy.tif", "graphene_defect_hrtem.dm3"
CEO2_111_PX = 15.6  # spacing in the Pt/CeO2 movie
GRAPHENE_PIXEL_A = 0.109


def take_sample(camera: Any, viewer: Any) -> None:
    """Columns, occupancy, events, rates and dwell times of the sample movie."""
    from napari_emdl.gui.kit import session

    viewer.open_sample("napari-emdl", "blinking_movie")
    camera.until(lambda: session.registered(viewer, session.DIFFUSION) is not None)
    columns, diffusion = (session.registered(viewer, name) for name in (session.COLUMNS, session.DIFFUSION))
    camera.until(lambda: columns.session.candidates.n_done > 0)
    columns.run()
    camera.until(lambda: columns.finding.job is None and columns.session.candidates.complete)
    camera.take("hrtem_columns_sample")
    _fit(camera, viewer, diffusion)
    occupancy = diffusion.session.occupancy
    changes = np.abs(np.diff(occupancy.occupied.astype(int), axis=0)).sum(0)
    diffusion.choose_site(int(changes.argmax()))
    camera.take("hrtem_occupancy_sample")
    diffusion.heatmap.setCurrentText("Transitions")
    diffusion.over_movie.setChecked(True)
    diffusion.tabs.setCurrentWidget(diffusion.events)
    camera.take("hrtem_events_sample")
    diffusion.over_mean.setChecked(True)
    diffusion.heatmap.setCurrentText("Occupancy")
    for name, tab in (("rates", diffusion.rates), ("dwell", diffusion.dwell)):
        diffusion.tabs.setCurrentWidget(tab)
        camera.take(f"hrtem_{name}_sample", diffusion)


def _fit(camera: Any, viewer: Any, diffusion: Any) -> None:
    from napari_emdl.gui.kit import session

    session.bring_forward(viewer, session.DIFFUSION)
    camera.until(lambda: diffusion.fit_button.isEnabled())
    diffusion.fit()
    camera.until(lambda: diffusion.session.occupancy is not None and diffusion.fitting.job is None)
    camera.until(lambda: diffusion.layers.mean is not None)


def take_live(camera: Any, viewer: Any) -> None:
    """The Live panel on a folder into which the sample movie is written."""
    import tifffile

    from napari_emdl.gui.kit import session
    from napari_emdl.samples.atoms import blinking_movie

    movie, _ = blinking_movie()
    assert movie.calibration.pixel_nm is not None
    per_nm = 1 / movie.calibration.pixel_nm[0]
    panel = session.open_panel(viewer, session.LIVE)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "microscope" / "camera"
        folder.mkdir(parents=True)
        for frame in range(30):
            picture, look = np.asarray(movie.frame(frame)), {"unit": "nm"}
            tifffile.imwrite(folder / f"f_{frame:04d}.tif", picture, imagej=True, resolution=(per_nm, per_nm), metadata=look)
        panel.watch_place(str(folder))
        panel.tabs.setCurrentWidget(panel.rates)
        panel.start()
        camera.until(lambda: panel.state is not None and panel.state.done == 30 and panel.state.backlog == 0)
        camera.wait(2)
        camera.take("hrtem_live")
        panel.stop()
        camera.until(lambda: panel.job is None)


def take_measured(camera: Any, viewer: Any, folder: Path) -> None:
    """The Pt/CeO2 movie and the graphene image of the docs."""
    from napari_emdl.gui.atoms.pixelsize import PixelSizeDialog
    from napari_emdl.gui.kit import session

    viewer.open(str(folder / PT), plugin="napari-emdl")
    camera.until(lambda: session.registered(viewer, session.DIFFUSION) is not None)
    columns, diffusion = (session.registered(viewer, name) for name in (session.COLUMNS, session.DIFFUSION))
    camera.until(lambda: columns.session.movie is not None)
    columns.pixel_box.measure()
    (dialog,) = columns.pixel_box.findChildren(PixelSizeDialog)
    camera.until(lambda: dialog._spectrum is not None)
    dialog.known.setCurrentIndex(next(i for i in range(dialog.known.count()) if "CeO₂ (111)" in dialog.known.itemText(i)))
    dialog.choose(*_brightest(dialog._spectrum, CEO2_111_PX))
    camera.take("hrtem_pixel_size", dialog)
    dialog.accept()
    camera.until(lambda: columns.session.candidates.n_done > 0)
    camera.wait(1)
    camera.until(lambda: not columns.readings.latest.busy)  # bright and dark columns beside each other
    camera.take("hrtem_columns_pt")
    _fit(camera, viewer, diffusion)
    camera.take("hrtem_occupancy_pt")
    viewer.open(str(folder / GRAPHENE), plugin="napari-emdl")
    camera.until(lambda: columns.session.movie.n_frames == 1)
    columns.session.use_pixel_A(GRAPHENE_PIXEL_A, "measured")
    camera.until(lambda: columns.session.candidates.n_done > 0)
    camera.wait(1)
    camera.until(lambda: not columns.readings.latest.busy)
    camera.take("hrtem_graphene")


def _brightest(spectrum: Any, spacing_px: float) -> tuple[float, float]:
    """Brightest place of a spectrum at a spacing."""
    rows, cols = np.indices(spectrum.shape)
    far = np.hypot(*((i - n // 2) / n for i, n in zip((rows, cols), spectrum.shape, strict=True)))
    near = np.abs(far * spacing_px - 1) < 0.06
    row, col = np.unravel_index(np.argmax(np.where(near, spectrum, -np.inf)), spectrum.shape)
    return float(row), float(col)
