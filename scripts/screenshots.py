"""Screenshots of the documentation, made from the real window: one for each state of the workspace and of the HRTEM panels.

    python scripts/screenshots.py [-o docs/images] [--method fcunet] [--only stem-strain hrtem_live ...] [--size 1366x768]
                                  [--measured FOLDER]

`--measured` names a folder with the measured files of some HRTEM pictures (graphene, Pt on CeO2); they do not come with the
package.

It needs a display or Xvfb (which it starts itself), and nothing but the package.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import screens_hrtem as hrtem
from make_animation import display
from PIL import Image

COLORS = 256  # fewer mistake colours of the maps for each other
GREYS, OTHERS = 32, 64  # frames of a movie are noise, which no PNG packs; rare colours, of marks and curves, are kept
#: Name of the picture -> what it shows.
STATES = {
    "stem-open": "the sample just opened: navigation image, pattern, disks, and what a run would give",
    "stem-strain": "the strain after Run all",
    "stem-four-maps": "four maps side by side",
    "stem-lattice": "vector map with g1 and g2",
    "stem-region": "reference region on the map",
    "stem-virtual": "virtual detector and its image",
    "stem-compare": "a second method on the pattern",
    "stem-notice": "a file that cannot be opened, with its advice",
    "stem-dialog": "the dialog that asks how a file is read, with what will come out",
    "stem-switcher": "a second datacube, the first put aside",
}
ALL = {**STATES, **hrtem.STATES, **hrtem.LIVE_STATES, **hrtem.MEASURED_STATES}


class Camera:
    """Lets a window live and takes pictures of it."""

    def __init__(self, window: Any, folder: Path, only: list[str]) -> None:
        self.window, self.folder, self.only = window, folder, only

    def wait(self, seconds: float) -> None:
        """Let the window live."""
        from qtpy.QtWidgets import QApplication

        end = time.monotonic() + seconds
        while time.monotonic() < end:
            QApplication.processEvents()
            time.sleep(0.005)

    def until(self, condition: Callable[[], Any], timeout_s: float = 1800.0) -> None:
        """Let the window live until something holds."""
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                raise SystemExit(f"waited {timeout_s:g} s in vain")
            self.wait(0.05)

    def take(self, name: str, window: Any = None) -> None:
        """Take the picture `name` of a window, the main one when None, as a small PNG."""
        if self.only and name not in self.only:
            return
        self.wait(0.6)
        picture = (window or self.window).grab()
        with tempfile.TemporaryDirectory() as scratch:
            raw = Path(scratch) / "raw.png"
            picture.save(str(raw))
            image = Image.open(raw).convert("RGB")
            few = image.quantize(COLORS, dither=Image.Dither.NONE) if name in STATES else _of_few_greys(image)
            few.save(self.folder / f"{name}.png", optimize=True)
        print(f"{name}.png: {ALL[name]}", flush=True)


def _of_few_greys(image: Image.Image) -> Image.Image:
    """The picture in a palette of its own, with places for colours that few pixels have."""
    pixels = np.asarray(image).reshape(-1, 3)
    grey = np.ptp(pixels.astype(int), axis=1) <= 24
    palette: list[int] = []
    ways = ((grey, GREYS, Image.Quantize.MEDIANCUT), (~grey, OTHERS, Image.Quantize.MAXCOVERAGE))
    for mine, count, way in ways:
        if mine.any():
            few = Image.fromarray(np.ascontiguousarray(pixels[mine][:, None])).quantize(count, way)
            palette += list(few.getpalette() or ())[: 3 * count]
    own = Image.new("P", (1, 1))
    own.putpalette(palette)
    return image.quantize(palette=own, dither=Image.Dither.NONE)


def take_all(camera: Camera, viewer: Any, method: str) -> None:
    """Walk through the states."""
    from napari_emdl.gui.diffraction.strain import DRAWN
    from napari_emdl.gui.kit import session
    from napari_emdl.samples.diffraction import strained_datacube

    panel = session.open_panel(viewer, session.WORKSPACE)
    panel.disks_step.form.editors["method"].put(method)
    state = panel.state
    with tempfile.TemporaryDirectory() as scratch:
        stack = Path(scratch) / "stack.npy"
        np.save(stack, strained_datacube((1, 12), (64, 64))[0].data[0])
        panel.open_button.open(stack)
        camera.until(lambda: panel.notices.lines)
        camera.take("stem-notice")
        dialog = panel.open_button.dialog
        dialog.editor("shape").setText("3, 4")
        dialog.refresh()
        camera.until(lambda: not dialog.busy)
        camera.take("stem-dialog", dialog)
        dialog.reject()
        panel.notices.clear()
        if camera.only and not set(camera.only) - {"stem-notice", "stem-dialog"}:
            return
    viewer.open_sample("napari-emdl", "strained_datacube")
    camera.until(lambda: state.found.outlook is not None and not panel.detectors.busy)
    camera.take("stem-open")
    panel.run_all()
    camera.until(lambda: state.found.strain is not None and not state.busy)
    camera.wait(0.5)
    camera.until(lambda: panel.maps.settled)
    camera.take("stem-strain")
    panel.strain_step.all_four.setChecked(True)
    camera.wait(1)
    panel.docks.fit_views()
    camera.take("stem-four-maps")
    panel.strain_step.all_four.setChecked(False)
    camera.wait(0.5)
    panel.docks.fit_views()
    panel.canvas.view.setCurrentText("Vector map")
    panel.lattice_step.unfold()
    camera.take("stem-lattice")
    panel.canvas.view.setCurrentText("Pattern")
    panel.lattice_step.unfold(False)
    panel.strain_step.reference.setCurrentText(DRAWN)
    camera.until(lambda: not state.busy)
    camera.take("stem-region")
    panel.strain_step.reference.setCurrentIndex(0)
    panel.virtual.add_annular()
    camera.until(lambda: not panel.detectors.busy and not state.busy)
    camera.take("stem-virtual")
    panel.close_detectors()
    panel.strain_step.unfold(False)
    panel.disks_step.unfold()
    panel.parts.compare.parentWidget().arrow.setChecked(True)
    panel.parts.compare.choice.setCurrentText("light" if method != "light" else "template")
    camera.until(lambda: panel.parts.compare.pairing is not None)
    camera.take("stem-compare")
    panel.parts.compare.choice.setCurrentIndex(0)
    add_second(viewer, state.cube)
    camera.until(lambda: panel.switcher.isVisible() and state.found.live is not None and not panel.detectors.busy)
    camera.take("stem-switcher")


def add_second(viewer: Any, cube: Any) -> None:
    """Open a part of the sample as another datacube."""
    from napari_emdl.base.signals import in_memory
    from napari_emdl.gui.kit.signals import signal_layers

    part = in_memory(np.asarray(cube.data[:16, ::-1]), "datacube", cube.calibration, name="second scan")
    for data in signal_layers(part):
        viewer._add_layer_from_data(*data)


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--method", default="fcunet")
    parser.add_argument("--only", nargs="*", default=[], choices=ALL)
    parser.add_argument("--size", default="1366x768")
    parser.add_argument("--measured", type=Path, help="folder of measured files for the pictures of them")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
            os.environ[name] = scratch  # nothing of the user's own is in the pictures
        with display():
            import napari

            walks: list[tuple[Callable[..., None], dict[str, str], Any]] = [
                (take_all, STATES, given.method),
                (hrtem.take_sample, hrtem.STATES, None),
                (hrtem.take_live, hrtem.LIVE_STATES, None),
                (hrtem.take_measured, hrtem.MEASURED_STATES, given.measured),
            ]
            for walk, states, what in walks:
                if (given.only and not set(given.only) & set(states)) or (states is hrtem.MEASURED_STATES and what is None):
                    continue
                viewer = napari.Viewer(show=True)
                window = viewer.window._qt_window
                window.resize(*(int(part) for part in given.size.split("x")))
                camera = Camera(window, given.out, given.only)
                camera.wait(1)
                walk(camera, viewer, *([what] if what is not None else []))
                viewer.close()


if __name__ == "__main__":
    main()
