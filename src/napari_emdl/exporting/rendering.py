"""Annotated movie: frames with the sites that are occupied, empty ones, and events burned in."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.atoms.fit.frames import frame_reader
from napari_emdl.atoms.fit.result import Occupancy
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.signals import Movie
from napari_emdl.jobs.control import Control

#: colours (red, green, blue) of occupied and empty sites and of events; told apart with any colour vision
OCCUPIED_RGB, EMPTY_RGB, ARRIVES_RGB, LEAVES_RGB = (0, 158, 255), (150, 150, 150), (0, 230, 120), (255, 120, 0)
#: events stay visible for so many frames
EVENT_FRAMES = 3
RADIUS_A = 0.7


def render_movie(
    movie: Movie,
    occupancy: Occupancy,
    path: str | Path,
    *,
    frames_per_s: float = 10.0,
    zoom: int | None = None,
    follow: bool = False,
    control: Control | None = None,
) -> Path:
    """Write an MP4 or GIF (by the ending of `path`) of the movie with its sites.

    Occupied sites are blue rings, empty ones thin grey rings; arriving columns flash a green, leaving ones an orange ring.

    Parameters
    ----------
    movie, occupancy
        Frames and what was found in them.
    path
        File to write, ending in .mp4 or .gif.
    frames_per_s
        Speed of play.
    zoom
        Whole factor of enlargement; makes small frames about 768 pixels when None.
    follow
        Move the frames against the drift, so that the particle stays put.
    control
        Progress and cancel; a cancelled movie leaves no file.

    Raises
    ------
    EmdlError
        Other endings, or a movie that does not fit the occupancy.
    """
    target = Path(path)
    if target.suffix.lower() not in (".mp4", ".gif"):
        raise EmdlError(f"an annotated movie is written as .mp4 or .gif, not {target.suffix or 'without ending'}")
    if movie.n_frames != occupancy.n_frames:
        raise EmdlError(
            f"the movie has {movie.n_frames} frames and the occupancy {occupancy.n_frames}: they do not belong together"
        )
    factor = zoom or max(1, round(768 / max(movie.frame_shape)))
    read = frame_reader(movie, mended=False)
    limits = _limits(read, movie.n_frames)
    part = target.with_name(f".{target.stem}.part{target.suffix}")
    try:
        with _writer(part, frames_per_s) as writer:
            for t in range(movie.n_frames):
                if control is not None:
                    control.check()
                    control.report(t, movie.n_frames, "writing the movie")
                writer.append_data(annotated_frame(read(t), occupancy, t, limits, factor, follow))
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def annotated_frame(
    frame: NDArray[Any], occupancy: Occupancy, t: int, limits: tuple[float, float], zoom: int = 1, follow: bool = False
) -> NDArray[np.uint8]:
    """One frame (rows, cols) with its sites as (rows, cols, 3) uint8; both sides are even, as video needs."""
    image = np.nan_to_num(np.asarray(frame, np.float32), nan=limits[0])
    grey = np.clip((image - limits[0]) / max(limits[1] - limits[0], 1e-12) * 255, 0, 255).astype(np.uint8)
    shift = np.zeros(2)
    if follow:
        shift = -np.round(occupancy.shift_px[t])
        grey = _moved(grey, shift.astype(int))
    canvas = np.repeat(np.repeat(grey, zoom, 0), zoom, 1)
    canvas = np.repeat(canvas[: canvas.shape[0] // 2 * 2, : canvas.shape[1] // 2 * 2, None], 3, 2)
    positions = (occupancy.positions_in_frame(t) + shift + 0.5) * zoom - 0.5
    radius = max(3.0, RADIUS_A / float(occupancy.attrs.get("pixel_A", 0.1)) * zoom)
    for site in np.flatnonzero(occupancy.valid[t]):
        if occupancy.occupied[t, site]:
            _ring(canvas, positions[site], radius, 0.06 * radius + 0.6, OCCUPIED_RGB)
        else:
            _ring(canvas, positions[site], 0.8 * radius, 0.5, EMPTY_RGB)
    recent = occupancy.events[(occupancy.events["frame"] <= t) & (occupancy.events["frame"] > t - EVENT_FRAMES)]
    for event in recent:
        age = t - int(event["frame"])
        colour = ARRIVES_RGB if event["arrives"] else LEAVES_RGB
        _ring(canvas, positions[event["site"]], (1.5 + 0.3 * age) * radius, 0.12 * radius + 0.8, colour)
    return canvas


def _ring(
    canvas: NDArray[np.uint8], centre: NDArray[np.float64], radius: float, half: float, colour: tuple[int, int, int]
) -> None:
    """Draw a smooth ring of half width `half`."""
    reach = int(np.ceil(radius + half + 1))
    row, col = int(round(centre[0])), int(round(centre[1]))
    r0, r1 = max(0, row - reach), min(canvas.shape[0], row + reach + 1)
    c0, c1 = max(0, col - reach), min(canvas.shape[1], col + reach + 1)
    if r0 >= r1 or c0 >= c1:
        return
    rows, cols = np.mgrid[r0:r1, c0:c1]
    distance = np.abs(np.hypot(rows - centre[0], cols - centre[1]) - radius)
    cover = np.clip(half + 0.5 - distance, 0, 1)[..., None]
    part = canvas[r0:r1, c0:c1]
    part[:] = np.round(part * (1 - cover) + np.array(colour) * cover).astype(np.uint8)


def _moved(image: NDArray[np.uint8], shift: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Image moved by whole pixels, black where nothing is known."""
    out = np.zeros_like(image)
    rows, cols = image.shape
    r, c = int(shift[0]), int(shift[1])
    if abs(r) < rows and abs(c) < cols:
        out[max(0, r) : rows + min(0, r), max(0, c) : cols + min(0, c)] = image[
            max(0, -r) : rows - max(0, r), max(0, -c) : cols - max(0, c)
        ]
    return out


def _limits(read: Any, frames: int) -> tuple[float, float]:
    """Contrast from a few frames."""
    chosen = np.unique(np.linspace(0, frames - 1, min(5, frames)).astype(int))
    values = np.concatenate([np.asarray(read(int(t)), np.float32).ravel()[::7] for t in chosen])
    values = values[np.isfinite(values)]
    low, high = np.percentile(values, (0.5, 99.5)) if len(values) else (0.0, 1.0)
    return float(low), float(high)


def _writer(path: Path, frames_per_s: float) -> Any:
    import imageio.v2 as imageio

    if path.suffix.lower() == ".gif":
        return imageio.get_writer(path, format="GIF", mode="I", duration=1000 / frames_per_s, loop=0)
    if find_spec("imageio_ffmpeg") is None:
        raise EmdlError("MP4 needs imageio-ffmpeg, which is not installed: pip install imageio-ffmpeg, or write a .gif")
    return imageio.get_writer(path, format="FFMPEG", fps=frames_per_s, macro_block_size=2, codec="libx264", quality=7)
