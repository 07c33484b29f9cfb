"""What is shown of the position under the cross-hair: rings, histogram, counts, and its values in words."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_emdl.base.signals import Datacube
from napari_emdl.gui.diffraction.canvas import DiffractionCanvas
from napari_emdl.gui.diffraction.jobs import score_histogram
from napari_emdl.gui.diffraction.state import StemState
from napari_emdl.gui.kit import styles
from napari_emdl.gui.kit.histogram import ScoreHistogram
from napari_emdl.gui.kit.worker import duration
from napari_emdl.jobs.control import Control

BINS_HERE = 40


def show_overlay(state: StemState, canvas: DiffractionCanvas, histogram: ScoreHistogram) -> list[str]:
    """Draw the disks and the lattice fitted at the position; returns its values in words, empty while nothing is known."""
    found, candidates = state.data.kept_here(), state.data.here()
    if state.settings.min_score is not None:
        histogram.set_value(state.settings.min_score)
    if state.found.disks is not None and state.found.histogram is not None:
        edges, counts, logarithmic = state.found.histogram
        histogram.show_counts(edges, counts, logarithmic, state.settings.default_min_score)
    elif state.found.disks is None and candidates is not None:
        histogram.show_counts(*score_histogram(Control(), candidates["score"], BINS_HERE), state.settings.default_min_score)
    elif state.found.disks is None and state.found.live is None:
        histogram.show_none()
    in_all = state.found.kept.n_peaks if state.found.kept is not None else None
    histogram.show_count(
        None if found is None else len(found), in_all, state.found.disks.n_peaks if state.found.disks is not None else None
    )
    if found is None or candidates is None:  # rings of another position would lie
        canvas.show_disks(np.zeros((0, 2)), np.zeros(0))
        canvas.show_fit(np.zeros((0, 2)))
        return []
    positions = np.stack([found["row"], found["col"]], axis=-1).astype(float)
    features = {name: found[name] for name in ("intensity", "sigma_px") if name in (found.dtype.names or ())}
    limits = _color_limits(candidates["score"], state.settings.min_score or 0.0)
    canvas.show_disks(positions, found["score"], limits, **features)
    canvas.show_fit(fitted_points(state, canvas.shape))
    return values_here(state, len(found))


def _color_limits(scores: Any, low: float) -> tuple[float, float]:
    if not len(scores) or scores.max() <= 1:
        return low, 1.0
    return low, max(float(np.quantile(scores, 0.9)), low * 1.5)


def fitted_points(state: StemState, shape: tuple[int, int] | None) -> np.ndarray:
    """(n, 2) lattice points of the fit at the position that lie on the detector; none where it is masked."""
    strain = state.found.strain
    if strain is None or state.coarse is not None or shape is None or not strain.mask[state.settings.position]:
        return np.zeros((0, 2))
    from napari_emdl.diffraction.judge.evidence import lattice_points

    return lattice_points(strain, state.settings.position, shape)[1]


def values_here(state: StemState, count: int) -> list[str]:
    """Position, number of disks, and strain with its error or why it is masked."""
    row, col = state.settings.position
    said = f"{count} disk{'s' if count != 1 else ''}"
    parts = ["one pattern" if state.data.lone else f"({row}, {col})", said]
    strain = state.found.strain
    if strain is None or state.coarse is not None:  # its values are of the settings before
        return parts
    if not strain.mask[row, col]:
        from napari_emdl.diffraction.fit.strain import REASONS

        return [*parts, f"masked: {REASONS[int(strain.reason[row, col])]}"]
    for i, (name, title, factor, unit) in enumerate(styles.STRAIN_MAPS if state.data.has_map else ()):
        value, sigma = getattr(strain, name)[row, col] * factor, strain.sigma[row, col, i] * factor
        parts.append(f"{title} {value:+.2f} ± {sigma:.2f} {unit}")
    return [*parts, f"residual {strain.residual_px[row, col]:.2f} px, {int(strain.n_indexed[row, col])} indexed"]


def outlook_line(outlook: Any) -> str:
    """What a run over the scan would give, in a line."""
    if outlook is None:
        return ""
    n, good = len(outlook.lattice), int(outlook.lattice.sum())
    if outlook.problem:
        return f"⚠ {outlook.problem[0].upper()}{outlook.problem[1:]}. Try another method, probe or least score."
    if n == 1 and outlook.n_patterns == 1:
        return "There is a lattice in this pattern." if good else "There is no lattice in this pattern."
    takes = f"a run takes about {duration(outlook.run_s)} with {outlook.params.method}" if outlook.n_patterns > n else ""
    return f"Lattice in {good} of {n} patterns" + (f"; {takes} on this device." if takes else ".")


def axes_note(strain: Any) -> list[str]:
    """A line where the arrows of x and y are directions on the detector, because its rotation against the scan is not known."""
    from napari_emdl.diffraction.judge.glance import axes_on_scan

    return [] if strain is None or axes_on_scan(strain).known else ["x, y on the detector"]


def describe(cube: Datacube) -> str:
    """Two lines on what is open."""
    rows, cols = cube.scan_shape
    height, width = cube.detector_shape
    known = cube.calibration
    parts = [
        "one pattern" if cube.n_patterns == 1 else f"scan {rows} x {cols}",
        f"detector {height} x {width}",
        str(cube.dtype),
    ]
    if known.pixel_nm:
        parts.append(f"step {np.mean(known.pixel_nm):.3g} nm")
    if known.q_pixel_invA:
        parts.append(f"{np.mean(known.q_pixel_invA):.4g} 1/Å a pixel")
    else:
        parts.append("detector pixel size unknown")
    if known.energy_keV:
        parts.append(f"{known.energy_keV:g} kV")
    return f"{cube.name or 'datacube'}\n{', '.join(parts)}"
