"""Gain check: does the way from pattern to strain return a strain that is put in?

Measured patterns are deformed by small known strains, their disks found and their lattices fitted like any others, and what
comes back is divided by what went in. 1 is right; less than 1 means that the map shows too little strain, as finders do that
pull disks to whole pixels. Deforming a pattern smooths its noise a little, so this tells the gain, not the noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from napari_emdl.diffraction.lattice import LatticeFit, fit_lattices
from napari_emdl.diffraction.strain import COMPONENTS, disk_weights, strain_components
from napari_emdl.errors import EmdlError
from napari_emdl.jobs.control import Control
from napari_emdl.params import StrainParams

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


def deform_pattern(pattern: NDArray[Any], f: Floats, origin_px: ArrayLike) -> NDArray[np.float32]:
    """Pattern (rows, cols) of a crystal deformed by F (2, 2) as well: disks move from v to v @ inv(F) around the origin."""
    origin = np.asarray(origin_px, float)
    moved = ndimage.affine_transform(
        np.nan_to_num(np.asarray(pattern, np.float32)), f.T, offset=origin - f.T @ origin, order=3, mode="nearest"
    )
    return np.maximum(moved, 0)


def check_gain(
    patterns: NDArray[Any],
    finder: Any,
    basis_g: ArrayLike,
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
        (n, rows, cols) with a lattice near `basis_g`.
    finder
        :class:`napari_emdl.diffraction.disks.DiskFinder`.
    basis_g
        (2, 2) rows g1, g2 in px.
    origin_px
        (n, 2) origin of each pattern.
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
    g, origin = np.asarray(basis_g, float), np.asarray(origin_px, float).reshape(-1, 2)
    stretches = _deformations(strain)
    parts, total = [], len(patterns)
    for i, pattern in enumerate(patterns):
        if control is not None:
            control.check()
            control.report(i, total, "gain")
        deformed = np.stack([deform_pattern(pattern, f, origin[i]) for f in stretches])
        found = finder.find(deformed, control).filter(min_score=finder.default_min_score if min_score is None else min_score)
        if not found.n_peaks:
            continue
        fit = fit_lattices(
            found.positions_px(),
            disk_weights(found),
            found.offset,
            np.repeat(origin[i : i + 1], len(stretches), axis=0),
            g,
            max_index_error=params.max_index_error,
        )
        if _good(fit, params):
            parts.append(strain_components(fit.g, g))
    if not parts:
        raise EmdlError(
            "no pattern kept its lattice, so there is no gain to check; choose fitted positions or other thresholds"
        )
    got = np.stack(parts).reshape(len(parts), 4, 2, 4)
    true = strain_components(g @ np.linalg.inv(stretches), g).reshape(4, 2, 4)
    each = np.arange(4)
    gains = (got[:, each, 0, each] - got[:, each, 1, each]) / (true[each, 0, each] - true[each, 1, each])
    sigma = gains.std(axis=0, ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else np.full(4, np.nan)
    return GainCheck(gains.mean(axis=0), sigma, len(gains), strain)


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
