"""Gain check: does the way from pattern to strain return a strain that is put in?

The disks of measured patterns are moved as small known strains would, found and their lattices fitted like any others, and what
comes back is divided by what went in. 1 is right; less than 1 means that the map shows too little strain, as finders do that
pull disks to whole pixels. Moving disks by parts of a pixel smooths their noise a little: this tells the gain, not the noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import StrainParams
from napari_emdl.diffraction.fit.strain import COMPONENTS, disk_weights
from napari_emdl.diffraction.fit.tensor import strain_components
from napari_emdl.diffraction.lattice import LatticeFit, fit_lattices
from napari_emdl.jobs.control import Control
from napari_emdl.jobs.notebook import with_progress

Floats = NDArray[np.float64]

#: Strain that is put in, with either sign.
STRAIN = 0.01


@dataclass(frozen=True)
class GainCheck:
    """What came back of the strain put in.

    Attributes
    ----------
    gain, sigma
        (4,) of exx, eyy, exy, theta_rad: mean over the patterns and its standard error (NaN for one pattern).
    n_patterns
        Patterns that had a lattice in all their deformed versions.
    strain
        Strain put in.
    """

    gain: Floats
    sigma: Floats
    n_patterns: int
    strain: float

    @property
    def mean(self) -> float:
        """Mean gain of the four components."""
        return float(self.gain.mean())


def deform_pattern(pattern: NDArray[Any], f: ArrayLike, g: ArrayLike, origin_px: ArrayLike) -> NDArray[np.float32]:
    """Pattern (rows, cols) of a crystal deformed by F (2, 2) as well.

    Every disk is moved as it is, from `origin + hk @ g` to `origin + hk @ g @ inv(F)`, with the cell of the lattice around it.
    A stretched pattern would have stretched disks, which a strained crystal has not; their brighter edges pull at positions.
    """
    before, origin = np.asarray(g, float), np.asarray(origin_px, float)
    after = before @ np.linalg.inv(np.asarray(f, float))
    place = np.moveaxis(np.indices(pattern.shape), 0, -1).astype(float)
    hk = np.rint((place - origin) @ np.linalg.inv(after))
    source = place - hk @ (after - before)
    image = np.nan_to_num(np.asarray(pattern, np.float32))
    return np.maximum(ndimage.map_coordinates(image, np.moveaxis(source, -1, 0), order=3, mode="nearest"), 0)


@with_progress("checking the gain", "patterns")
def check_gain(
    patterns: NDArray[Any],
    finder: Any,
    g: ArrayLike,
    origin_px: ArrayLike,
    *,
    params: StrainParams | None = None,
    min_score: float | None = None,
    strain: float = STRAIN,
    control: Control | None = None,
) -> GainCheck:
    """Deform patterns, find their disks and compare the strain with what was put in.

    Parameters
    ----------
    patterns
        (n, rows, cols) with a lattice each.
    finder
        :class:`napari_emdl.workflow.finder.Finder`.
    g, origin_px
        (n, 2, 2) rows g1, g2 and (n, 2) origin of each pattern in px.
    params
        Settings of the fit.
    min_score
        Least score; the finder's own when None.
    strain
        Strain to put in, as exx, eyy, exy and rotation, with either sign.

    Raises
    ------
    EmdlError
        When no pattern keeps its lattice.
    """
    params = params or StrainParams()
    lattices, origin = np.asarray(g, float).reshape(-1, 2, 2), np.asarray(origin_px, float).reshape(-1, 2)
    shapes = _deformations(strain)
    gains, total, each = [], len(patterns), np.arange(4)
    for i, pattern in enumerate(patterns):
        if control is not None:
            control.check()
            control.report(i, total, "gain")
        own = lattices[i]
        deformed = np.stack([deform_pattern(pattern, f, own, origin[i]) for f in shapes])
        found = finder.find(deformed, control).filter(min_score=finder.default_min_score if min_score is None else min_score)
        if not found.n_peaks:
            continue
        fit = fit_lattices(
            found.positions_px(),
            disk_weights(found),
            found.offset,
            np.repeat(origin[i : i + 1], len(shapes), axis=0),
            own,
            max_index_error=params.max_index_error,
        )
        if _good(fit, params):
            got = strain_components(fit.g, own).reshape(4, 2, 4)
            true = strain_components(own @ np.linalg.inv(shapes), own).reshape(4, 2, 4)
            gains.append((got[each, 0, each] - got[each, 1, each]) / (true[each, 0, each] - true[each, 1, each]))
    if not gains:
        raise EmdlError(
            "no pattern kept its lattice, so there is no gain to check; choose fitted positions or other thresholds"
        )
    found_gains = np.stack(gains)
    error = found_gains.std(axis=0, ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else np.full(4, np.nan)
    return GainCheck(found_gains.mean(axis=0), error, len(gains), strain)


def _deformations(strain: float) -> Floats:
    """(8, 2, 2) exx, eyy, exy, rotation, each with + and -."""
    cos, sin = np.cos(strain), np.sin(strain)
    shapes = []
    for sign in (1.0, -1.0):
        e = sign * strain
        shapes.append(
            [
                np.diag([1 + e, 1.0]),
                np.diag([1.0, 1 + e]),
                np.array([[1.0, e], [e, 1.0]]),
                np.array([[cos, -sign * sin], [sign * sin, cos]]),
            ]
        )
    return np.stack(shapes).swapaxes(0, 1).reshape(8, 2, 2)


def _good(fit: LatticeFit, params: StrainParams) -> bool:
    return bool(np.isfinite(fit.residual_px).all() and (fit.n_indexed >= params.min_disks).all() and fit.rank_ok.all())


def gain_line(check: GainCheck) -> str:
    """The check in one line."""
    names = ("ε xx", "ε yy", "ε xy", "θ")
    each = ", ".join(f"{name} {value:.2f}" for name, value in zip(names, check.gain, strict=True))
    error = float(np.sqrt(np.square(check.sigma).sum())) / len(COMPONENTS)
    spread = f" ± {error:.2f}" if np.isfinite(error) else ""
    put_in = f"{100 * check.strain:g} % strain put into {check.n_patterns} pattern{'s' if check.n_patterns != 1 else ''}"
    return f"gain {check.mean:.2f}{spread} ({each}; {put_in})"
