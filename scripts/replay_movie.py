"""Play a movie into a folder, one TIFF file a frame, as a camera would: to try `napari-emdl watch` and the Live panel.

    python scripts/replay_movie.py MOVIE FOLDER [--fps 4] [--slow-write]

Without MOVIE (give "sample") the simulated sample movie is played.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import tifffile

import napari_emdl as emdl
from napari_emdl.signals import Movie


def opened(name: str) -> Movie:
    """The sample movie, or the movie of a file."""
    if name == "sample":
        from napari_emdl.samples_hrtem import blinking_movie

        return blinking_movie()[0]
    return emdl.open_movie(name)


def write(frame: np.ndarray, path: Path, movie: Movie, slow: bool) -> None:
    """Write one frame with its pixel size; `slow` writes it in two halves, as a camera over a network does."""
    pixel_nm = movie.calibration.pixel_nm
    resolution = None if pixel_nm is None else (1e7 / pixel_nm[1], 1e7 / pixel_nm[0])
    part = path.with_suffix(".tmp")
    tifffile.imwrite(part, frame, resolution=resolution, resolutionunit="CENTIMETER" if resolution else None)
    if not slow:
        part.replace(path)
        return
    data = part.read_bytes()
    part.unlink()
    with open(path, "wb") as file:
        file.write(data[: len(data) // 2])
        file.flush()
        time.sleep(0.3)
        file.write(data[len(data) // 2 :])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("movie", help='file, or "sample"')
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fps", type=float, default=4.0, help="frames a second")
    parser.add_argument("--slow-write", action="store_true", help="write every file in two halves")
    options = parser.parse_args()
    movie = opened(options.movie)
    options.folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    for t in range(movie.n_frames):
        time.sleep(max(0.0, began + t / options.fps - time.monotonic()))
        write(np.asarray(movie.frame(t)), options.folder / f"frame_{t:05d}.tif", movie, options.slow_write)
        print(f"\r{t + 1} of {movie.n_frames} frames", end="", flush=True)
    print()


if __name__ == "__main__":
    main()
