"""The sample datacube from start to strain map, in a window or, without a display, as files."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import DiskMethod


def has_display() -> bool:
    """True where a window can be opened: always on Windows and macOS, on Linux with an X or Wayland display."""
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def main(headless: bool = False, out: str | Path = "demo-out", method: DiskMethod | None = None) -> None:
    """Run the demo.

    Parameters
    ----------
    headless
        Write figures and result files to `out` even where there is a display.
    out
        Folder for the files, made when missing.
    method
        Disk method; None takes the default network where it is shipped.
    """
    if headless or not has_display():
        write_files(Path(out), method)
    else:
        open_window()


def write_files(out: Path, method: DiskMethod | None = None) -> dict[str, float]:
    """Find disks on the sample, map its strain, write results and figures; returns the error against the known strain.

    Returns
    -------
    dict
        Strain component -> RMSE in percent over the indexed positions, and "indexed", their fraction.
    """
    from napari_emdl.base.params import DiskParams
    from napari_emdl.diffraction.find.disks import find_disks
    from napari_emdl.diffraction.fit.strain import fit_strain
    from napari_emdl.exporting.folder import export
    from napari_emdl.io import save
    from napari_emdl.samples.diffraction import strained_datacube

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EmdlError(f"cannot make the folder {out}: {error.strerror}; choose another (`out`)") from None
    cube, truth = strained_datacube()
    params = DiskParams() if method is None else DiskParams(method=method)
    disks = find_disks(cube, probe=truth["probe"], params=params)
    kept = disks.filter(min_score=disks.attrs["default_min_score"])
    strain = fit_strain(kept, reference=truth["reference"], cube=cube)
    save(kept, out / "disks.h5")
    save(strain, out / "strain.h5")
    export(kept, out / "disks")
    export(strain, out / "strain")
    errors = strain_errors_pct(strain, truth)
    provider = disks.attrs["provenance"]["provider"]
    print(f"{cube.scan_shape[0]} x {cube.scan_shape[1]} patterns, {kept.n_peaks} disks by {params.method} on {provider}")
    for name, value in errors.items():
        print(f"  {name}: {value:.3f}" + ("" if name == "indexed" else " % rms against the known strain"))
    print(f"No display was used. Result files and figures are in {out}: disks.h5, strain.h5 and a folder of each")
    return errors


def strain_errors_pct(strain: Any, truth: dict[str, Any]) -> dict[str, float]:
    """RMSE in percent of each strain component against the sample's truth, over indexed positions of crystal."""
    use = strain.mask & truth["crystal"]
    errors = {
        name: 100 * float(np.sqrt(np.mean((getattr(strain, name)[use] - truth[name][use]) ** 2)))
        for name in ("exx", "eyy", "exy")
    }
    return errors | {"indexed": float(use.sum() / max(1, truth["crystal"].sum()))}


def open_window() -> None:
    """Open napari on the sample with the workspace, run everything, and leave the window to the user."""
    import napari

    from napari_emdl.gui.kit.session import open_panel

    viewer = napari.Viewer(title="napari-emdl demo")
    screen = viewer.window._qt_window.screen().availableSize()
    # napari's first window leaves a strip to the map, between pattern and panel
    viewer.window.resize(min(1600, screen.width()), min(1000, screen.height()))
    viewer.open_sample("napari-emdl", "strained_datacube")
    workspace = open_panel(viewer, "4D-STEM workspace")
    workspace.run_all()
    napari.run()
