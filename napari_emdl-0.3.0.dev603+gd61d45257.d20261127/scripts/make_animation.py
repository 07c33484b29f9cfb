"""The animation of the README, made from the real window: open the sample, run, drag the threshold, look around, export.

    python scripts/make_animation.py [-o docs/images/stem-workspace.gif] [--method light]

It needs a display or Xvfb (which it starts itself), and nothing but the package.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SCREEN = (1366, 768)
SHOWN = (1000, 562)
CAPTION_PX = 34
MOST_BYTES = 3_000_000
#: Colours of cross-hair, reference, rings by score and marks of the steps.
ACCENTS = ("#ffb000", "#21d07a", "#4666dd", "#2aa3f0", "#1fd0a0", "#a3f03d", "#f0b030", "#e04010", "#2e9e5b", "#d9822b")


@contextmanager
def display() -> Iterator[None]:
    """The display that is there, else an Xvfb for as long as the script runs."""
    if os.environ.get("DISPLAY"):
        yield
        return
    read, write = os.pipe()
    screen = f"{SCREEN[0]}x{SCREEN[1]}x24"
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", screen, "+extension", "GLX", "-nolisten", "tcp", "-terminate"],
        pass_fds=[write],
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    with os.fdopen(read) as pipe:
        os.environ["DISPLAY"] = f":{pipe.readline().strip()}"
    try:
        yield  # with -terminate the server goes when the window has gone; Qt crashes if it goes before
    except BaseException:
        server.terminate()
        raise


class Film:
    """Frames of a window with a caption and, where it matters, the mouse."""

    def __init__(self, window: Any) -> None:
        self.window = window
        self.frames: list[Image.Image] = []
        self.milliseconds: list[int] = []
        self.caption = ""
        self.font = ImageFont.load_default(17)

    def wait(self, seconds: float) -> None:
        """Let the window live."""
        from qtpy.QtWidgets import QApplication

        end = time.monotonic() + seconds
        while time.monotonic() < end:
            QApplication.processEvents()
            time.sleep(0.005)

    def until(self, condition: Callable[[], Any], timeout_s: float = 900.0) -> None:
        """Let the window live until something holds."""
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                raise SystemExit(f"waited {timeout_s:g} s in vain; the frame is called {self.caption!r}")
            self.wait(0.05)

    def shoot(self, milliseconds: int, mouse: tuple[float, float] | None = None) -> None:
        """Take a frame; `mouse` is where the pointer is, as parts of the window (x, y)."""
        self.wait(0.15)
        image = self.window.grab().toImage().convertToFormat(self.window.grab().toImage().Format.Format_RGB888)
        pointer = image.constBits()
        pointer.setsize(image.sizeInBytes())
        rows = np.frombuffer(pointer, np.uint8).reshape(image.height(), image.bytesPerLine())
        pixels = rows[:, : 3 * image.width()].reshape(image.height(), image.width(), 3)
        self.add(Image.fromarray(pixels.copy()), milliseconds, mouse)

    def add(self, picture: Image.Image, milliseconds: int, mouse: tuple[float, float] | None = None) -> None:
        """Add a picture as a frame."""
        frame = Image.new("RGB", (SHOWN[0], SHOWN[1] + CAPTION_PX), "#16181d")
        inside = picture.copy()
        inside.thumbnail(SHOWN, Image.Resampling.LANCZOS)
        frame.paste(inside, ((SHOWN[0] - inside.width) // 2, CAPTION_PX + (SHOWN[1] - inside.height) // 2))
        draw = ImageDraw.Draw(frame)
        draw.text((12, CAPTION_PX // 2), self.caption, fill="white", font=self.font, anchor="lm")
        if mouse is not None:
            x, y = mouse[0] * SHOWN[0], CAPTION_PX + mouse[1] * SHOWN[1]
            arrow = [(0, 0), (0, 17), (4, 13), (7, 20), (10, 19), (7, 12), (13, 12)]
            draw.polygon([(x + a, y + b) for a, b in arrow], fill="white", outline="black")
        self.frames.append(frame)
        self.milliseconds.append(milliseconds)

    def place(self, widget: Any, x: float = 0.5, y: float = 0.5) -> tuple[float, float]:
        """Point of a widget as parts of the window."""
        from qtpy.QtCore import QPoint

        at = widget.mapTo(self.window, QPoint(int(x * widget.width()), int(y * widget.height())))
        return at.x() / self.window.width(), at.y() / self.window.height()

    def save(self, path: Path) -> int:
        """Write the GIF with as many colours as the size allows; returns its bytes."""
        for colors in (160, 96, 64, 40):
            sample = Image.new("RGB", (SHOWN[0], 7 * SHOWN[1]))
            for i, k in enumerate(np.linspace(0, len(self.frames) - 1, 6).astype(int)):
                sample.paste(self.frames[k], (0, i * SHOWN[1]))
            swatch = SHOWN[0] // len(ACCENTS)
            for i, color in enumerate(ACCENTS):  # thin lines must keep their colour although they cover few pixels
                sample.paste(color, (i * swatch, 6 * SHOWN[1], (i + 1) * swatch, 7 * SHOWN[1]))
            palette = sample.quantize(colors, dither=Image.Dither.NONE)
            small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in self.frames]
            temporary = path.with_name(f".{path.name}")
            small[0].save(
                temporary, "GIF", save_all=True, append_images=small[1:], duration=self.milliseconds, loop=0, optimize=False
            )
            size = temporary.stat().st_size
            if size <= MOST_BYTES:
                break
        temporary.replace(path)
        return size


def map_point(viewer: Any, film: Film, row: float, col: float) -> tuple[float, float]:
    """Place of a scan position on the main canvas, as parts of the window."""
    canvas = viewer.window._qt_viewer.canvas
    scale = viewer.layers[0].scale
    x, y = canvas.view.scene.transform.map([col * scale[1], row * scale[0]])[:2]
    native = canvas.native
    return film.place(native, x / native.width(), y / native.height())


def tell_story(film: Film, viewer: Any, panel: Any, folder: Path) -> None:
    """All of it, in the order a user does it."""
    state = panel.state
    film.caption = "File > Open: the datacube opens with its navigation image; the pattern at the cross-hair and its disks"
    film.until(lambda: state.found.live is not None and np.isfinite(panel.maps.layer("navigation").data).all())
    panel.docks.fit_views()
    film.shoot(2200)

    film.caption = "Move the cross-hair: the disks of each pattern are found at once"
    for row, col in ((12, 16), (10, 13), (8, 11), (10, 18), (14, 24)):
        panel.cross.move_to(row, col)
        film.until(lambda: state.found.live is not None and state.found.live.position == state.settings.position)
        film.shoot(550, map_point(viewer, film, row, col))

    film.caption = "Run all: probe, disks, lattice and strain of the whole scan, in the background"
    film.shoot(500, film.place(panel.run_all_button))
    panel.run_all_button.click()
    last = 0.0
    while state.found.strain is None:
        film.wait(0.2)
        done = float(state.found.done.mean()) if state.found.done is not None else 0.0
        if done - last > 0.24:
            last = done
            film.shoot(350)
    panel.disks_step.unfold(False)
    panel.strain_step.unfold()
    panel.strain_step.show_map.setCurrentText("ε yy")
    film.wait(0.5)
    film.caption = "The strain map, with what speaks for and against it"
    film.shoot(2000)

    film.caption = "Drag the threshold: disks, counts and map follow, the disks are not found anew"
    histogram, start = panel.histogram, state.settings.min_score
    low, high = histogram.plot.getPlotItem().viewRange()[0]
    for part in (0.0, 0.35, 0.7, 1.0, 0.5, 0.0):
        before = state.found.strain
        histogram._take(start + part * (0.98 - start) if high <= 1.2 else start * (1 + 4 * part))
        film.until(lambda known=before, same=part: state.found.strain is not known or same == 0.0, 60)
        film.wait(0.4)
        film.shoot(450, film.place(histogram.plot, (histogram._to_axis(histogram.value) - low) / (high - low), 0.6))
    histogram.reset.click()
    film.wait(0.5)

    film.caption = "Look at any position: its pattern, its disks (rings), its lattice (crosses), its strain with error"
    for row, col in ((13, 20), (12, 12), (9, 11), (15, 12)):
        panel.cross.move_to(row, col)
        film.wait(0.3)
        film.shoot(600, map_point(viewer, film, row, col))

    film.caption = "Draw what is unstrained: the substrate becomes the reference"
    before = state.found.strain
    panel.strain_step.reference.setCurrentIndex(1)
    region = panel.strain_step.region_layer()
    film.until(lambda: state.found.strain is not before)
    film.shoot(600)
    box, cols = np.asarray(region.data[0]), state.cube.scan_shape[1]
    for part in (0.4, 0.75):
        before = state.found.strain
        region.data = [box + np.array([0.0, part * cols])]
        film.until(lambda known=before: state.found.strain is not known)
        film.wait(0.3)
        film.shoot(700, map_point(viewer, film, *(box + np.array([0.0, part * cols])).mean(axis=0)))

    film.caption = "Export: figures, TIFF with units, CSV, result files that py4DSTEM reads"
    panel.strain_step.unfold(False)
    panel.export_step.unfold()
    film.wait(0.3)
    film.shoot(700, film.place(panel.export_step.export_button))
    panel.export_step.export(folder)
    figure = folder / "strain" / "strain.png"
    film.until(lambda: "files in" in panel.export_step.note.text())
    film.shoot(700)
    film.add(Image.open(figure).convert("RGB"), 3000)


def main() -> None:
    """Make the animation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parents[1] / "docs/images/stem-workspace.gif")
    parser.add_argument("--method", default="light", choices=("fcunet", "fcunet-plain", "light", "template"))
    options = parser.parse_args()
    options.output = options.output.absolute()
    with display(), tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # so that the window shows no path of the machine it was made on
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME"):  # the window of somebody who never saw the program
            os.environ[name] = str(Path(folder) / name)
        import napari

        from napari_emdl.gui.kit.session import open_panel

        viewer = napari.Viewer(title="napari-emdl")
        window = viewer.window._qt_window
        window.resize(*SCREEN)
        film = Film(window)
        viewer.open_sample("napari-emdl", "strained_datacube")
        panel = open_panel(viewer, "4D-STEM workspace")
        panel.disks_step.form.editors["method"].put(options.method)
        tell_story(film, viewer, panel, Path("figures"))
        size = film.save(options.output)
        viewer.close()
    print(f"{options.output}: {len(film.frames)} frames, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
