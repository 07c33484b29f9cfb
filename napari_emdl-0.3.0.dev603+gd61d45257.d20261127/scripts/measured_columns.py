"""Columns in public measured images that are fetched, never committed: what is found with nothing but the pixel size given.

    python scripts/measured_columns.py FOLDER [--overlays DIR] [--only NAME ...]

FOLDER holds clones named OWNER+NAME (work tree, or only the git directory) of the repositories in ``measured_columns.yaml``,
which says of every image its pixel size and what was seen by eye: how many columns there are, and whether they are bright.
Prints a line an image, and writes overlays to be looked at. Exits with 1 when an image is outside its bounds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.spatial import cKDTree

import napari_emdl as emdl

LIST = Path(__file__).with_name("measured_columns.yaml")
#: an overlay is scaled up until it has so many pixels, so that single columns can be judged
OVERLAY_PX = 1400


def file_of(folder: Path, repository: str, path: str, into: Path) -> Path | None:
    """The file, from a work tree or out of a git directory; None where neither is there."""
    clone = folder / repository.replace("/", "+")
    if (clone / path).is_file():
        return clone / path
    for git in (clone, clone / ".git", clone / "repo", clone / "repo" / ".git"):
        done = subprocess.run(["git", f"--git-dir={git}", "show", f"HEAD:{path}"], capture_output=True)
        if done.returncode == 0:
            out = into / Path(path).name
            out.write_bytes(done.stdout)
            return out
    return None


def image_of(file: Path, entry: dict[str, Any]) -> NDArray[np.float32]:
    """(rows, cols)."""
    movie = emdl.open_movie(f"{file}::{entry['dataset']}" if "dataset" in entry else file)
    return np.asarray(movie.frame(0), np.float32)


def matched(points_px: NDArray[np.float64], true_px: NDArray[np.float64], reach_px: float) -> int:
    """Pairs, one to one, nearer than `reach_px` and each other's nearest."""
    if not len(points_px) or not len(true_px):
        return 0
    away, at = cKDTree(true_px).query(points_px)
    _, back = cKDTree(points_px).query(true_px)
    return int(np.count_nonzero((away < reach_px) & (back[at] == np.arange(len(points_px)))))


def judge(file: Path, entry: dict[str, Any], overlays: Path | None) -> tuple[str, bool]:
    """One line on an image, and whether it is within its bounds."""
    image, pixel_A = image_of(file, entry), float(entry["pixel_A"])
    table = emdl.find_columns(image, pixel_size_A=pixel_A)
    found = table.filter(min_score=float(table.attrs["default_min_score"]))
    points = found.positions_px()
    say = [f"{entry['name']:12s} {len(points):5d} columns, {table.attrs['contrast']}"]
    if table.attrs["contrast_confidence"] is not None:
        say.append(f"({table.attrs['contrast_confidence']:.0%})")
    good = table.attrs["contrast"] == entry.get("contrast", table.attrs["contrast"])
    if "columns" in entry:
        low, high = entry["columns"]
        good &= low <= len(points) <= high
        say.append(f"of {low} to {high}")
    if "positions" in entry:
        with h5py.File(file) as store:
            true_px = np.asarray(store[entry["positions"]])[:, ::-1]  # atomap keeps x, y
        pairs = matched(points, true_px, entry.get("reach_A", 0.5) / pixel_A)
        precision, recall = pairs / max(1, len(points)), pairs / len(true_px)
        good &= precision >= entry["precision"] and recall >= entry["recall"]
        say.append(f"precision {precision:.3f}, recall {recall:.3f} of {len(true_px)}")
    if overlays is not None:
        draw(image, points, overlays / f"{entry['name']}.png", f"{say[0]}")
    warning = table.attrs.get("warning") or ""
    return " ".join(say) + ("" if good else "  OUTSIDE ITS BOUNDS") + (f"\n             {warning}" if warning else ""), good


def draw(image: NDArray[np.float32], points_px: NDArray[np.float64], file: Path, title: str) -> None:
    """Overlay, each column as a small ring."""
    from matplotlib.figure import Figure

    zoom = max(1.0, OVERLAY_PX / max(image.shape))
    figure = Figure(figsize=(image.shape[1] * zoom / 100, image.shape[0] * zoom / 100 + 0.3), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1 - 0.3 / figure.get_figheight()))
    low, high = np.nanpercentile(image, (0.5, 99.5))
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    axes.plot(points_px[:, 1], points_px[:, 0], "o", mfc="none", mec="red", ms=5, mew=0.8)
    axes.set_axis_off()
    axes.set_title(title, fontsize=8, pad=2)
    axes.set_xlim(-0.5, image.shape[1] - 0.5)
    axes.set_ylim(image.shape[0] - 0.5, -0.5)
    figure.savefig(file)


def main() -> int:
    """Judge all images that are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--overlays", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    args = parser.parse_args()
    if args.overlays is not None:
        args.overlays.mkdir(parents=True, exist_ok=True)
    all_good, looked = True, 0
    with tempfile.TemporaryDirectory() as scratch:
        for entry in yaml.safe_load(LIST.read_text())["images"]:
            if args.only and entry["name"] not in args.only:
                continue
            file = file_of(args.folder, entry["repository"], entry["path"], Path(scratch))
            if file is None:
                print(f"{entry['name']:12s} is not there: fetch {entry['repository']}")
                continue
            line, good = judge(file, entry, args.overlays)
            print(line, flush=True)
            all_good, looked = all_good and good, looked + 1
    print(f"{looked} images looked at" + ("" if all_good else ", some outside their bounds"))
    return 0 if all_good and looked else 1


if __name__ == "__main__":
    sys.exit(main())
