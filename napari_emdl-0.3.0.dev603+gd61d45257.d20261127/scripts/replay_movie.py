"""Write the frames of a movie into a folder at a set rate, one TIFF file each, to try `napari-emdl watch` and the Live panel.

python scripts/replay_movie.py MOVIE FOLDER --rate 5
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import tifffile

import napari_emdl as emdl


def replay(movie: str, folder: Path, frames_per_s: float, chunks: int = 3) -> None:
    """Write every frame in a few pieces, as a camera's computer does, so that half-written files are met as well."""
    opened = emdl.open_movie(movie)
    folder.mkdir(parents=True, exist_ok=True)
    step_nm = opened.calibration.pixel_nm
    resolution = None if step_nm is None else (1 / step_nm[1], 1 / step_nm[0])
    start = time.monotonic()
    for t in range(opened.n_frames):
        target = folder / f"frame_{t:05d}.tif"
        whole = folder.parent / f".{target.name}"
        options = {} if resolution is None else {"resolution": resolution, "imagej": True, "metadata": {"unit": "nm"}}
        tifffile.imwrite(whole, np.asarray(opened.frame(t)), **options)
        data = whole.read_bytes()
        whole.unlink()
        size = -(-len(data) // chunks)
        with open(target, "wb") as file:
            for begin in range(0, len(data), size):
                file.write(data[begin : begin + size])
                file.flush()
                time.sleep(0.1 / frames_per_s)
        time.sleep(max(0.0, start + (t + 1) / frames_per_s - time.monotonic()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("movie")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rate", type=float, default=5.0, help="frames per second")
    options = parser.parse_args()
    replay(options.movie, options.folder, options.rate)
