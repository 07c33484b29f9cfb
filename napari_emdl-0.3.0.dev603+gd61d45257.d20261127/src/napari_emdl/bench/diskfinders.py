"""Finders of disks that are measured beside each other: ours, py4DSTEM's and LiberTEM-blobfinder's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.peaks import PeakTable
from napari_emdl.bench.cases import Case
from napari_emdl.diffraction.find.probe import Probe, probe_from_image

Finder = Callable[[NDArray[Any]], PeakTable]


def our_finder(case: Case, method: str, device: str) -> Finder:
    """Disks by :func:`napari_emdl.find_disks` with default settings, above the default threshold."""
    from napari_emdl.diffraction.find.disks import find_disks

    probe: Probe = probe_from_image(case.probe, (case.patterns.shape[1], case.patterns.shape[2]))

    def find(patterns: NDArray[Any]) -> PeakTable:
        table = find_disks(patterns[None], probe=probe, method=method, device=device)
        return table.filter(min_score=table.attrs["default_min_score"]).reshape((len(patterns),))

    return find


def py4dstem_finder(case: Case) -> Finder:
    """py4DSTEM's correlation with a sigmoid kernel and multicorr refinement; all peaks, intensity as score."""
    from py4DSTEM import Probe as TheirProbe
    from py4DSTEM.braggvectors.diskdetection import _find_Bragg_disks_single

    theirs = TheirProbe(case.probe.astype(float))
    bright = case.probe > 0.3 * case.probe.max()
    radius = float(np.sqrt(bright.sum() / np.pi))
    origin = tuple(np.argwhere(bright).mean(axis=0))
    kernel = theirs.get_kernel(mode="sigmoid", origin=origin, radii=(radius, 2 * radius), returncalc=True)
    template = np.conj(np.fft.fft2(np.asarray(kernel)))

    def find(patterns: NDArray[Any]) -> PeakTable:
        lists = []
        for pattern in patterns:
            peaks = _find_Bragg_disks_single(
                pattern.astype(float),
                template,
                corrPower=0.9,
                sigma_cc=1,
                subpixel="multicorr",
                upsample_factor=16,
                minRelativeIntensity=0.001,
                minPeakSpacing=radius,
                edgeBoundary=int(np.ceil(radius)),
                maxNumPeaks=100,
                _template_space="fourier",
            )
            values = peaks.data if hasattr(peaks, "data") else peaks
            bright = np.asarray(values["intensity"])
            lists.append({"row": values["qx"], "col": values["qy"], "intensity": bright, "score": bright})
        return PeakTable.from_lists(lists)

    return find


def blobfinder_finder(case: Case) -> Finder:
    """LiberTEM-blobfinder's correlation with a radial gradient, refined in the crop of each peak; elevation as score."""
    from libertem_blobfinder.common.correlation import get_peaks, process_frames_fast
    from libertem_blobfinder.common.patterns import RadialGradient

    template = RadialGradient(radius=float(np.sqrt((case.probe > 0.3 * case.probe.max()).sum() / np.pi)))

    def find(patterns: NDArray[Any]) -> PeakTable:
        lists = []
        for pattern in patterns.astype(np.float32):
            places = get_peaks(pattern, template, 100)
            _, refined, height, elevation = process_frames_fast(template, pattern[None], places)
            place = refined[0].astype(float)
            lists.append({"row": place[:, 0], "col": place[:, 1], "intensity": height[0], "score": elevation[0]})
        return PeakTable.from_lists(lists)

    return find


#: Finders of other programs.
FOREIGN: dict[str, Callable[[Case], Finder]] = {"py4dstem": py4dstem_finder, "blobfinder": blobfinder_finder}
#: The package that each needs.
PACKAGES = {"py4dstem": "py4DSTEM", "blobfinder": "libertem_blobfinder"}


def installed(methods: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those of the methods whose package is installed, and a line for each other one."""
    there, notes = [], []
    for method in methods:
        package = PACKAGES.get(method)
        if package is None or find_spec(package) is not None:
            there.append(method)
        else:
            notes.append(f"{method} left out: not installed ({package})")
    return there, notes
