"""Fits that go through the patterns of a scan beside its peaks: whether they can be had, what they give, what is said of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import EmdlError, JournalError
from napari_emdl.base.params import RunParams, StrainParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Datacube
from napari_emdl.diffraction.fit.both import LEAST_SHARE, Weights, merged, weigh
from napari_emdl.diffraction.fit.facts import strain_provenance
from napari_emdl.diffraction.fit.projector import Distortion
from napari_emdl.diffraction.lattice import LatticeFit
from napari_emdl.jobs.control import Control
from napari_emdl.jobs.provenance import fingerprint
from napari_emdl.workflow.source import source_of

#: Edges of disks that stray by more than this share of the height are not what a fit to the patterns alone takes them for.
_RAGGED = 0.05
#: Positions that a scan is tried on first, and positions from which on it is.
_TRIAL, _LARGE = 24, 96
#: Seconds of a core that a disk takes, for a radius of 5 px and less; and what a fit that nobody asked for may take.
_S_PER_DISK, _LONGEST_S = 2e-4, 1200.0


@dataclass(frozen=True)
class Made:
    """Lattices of a scan and how they came about.

    Attributes
    ----------
    disks, fit
        What was fitted to, and the lattices.
    kind
        "peaks", "pattern", "both" or "cepstrum": what really ran.
    why
        Why it is that and not what was asked for, or how much the patterns count; empty when there is nothing to say.
    aperture
        Radius, edge and ripple of the disks where they were measured.
    weights
        Of peaks and patterns together.
    warning
        One line when a fit that was asked for could not be had.
    """

    disks: PeakTable
    fit: LatticeFit
    kind: str = "peaks"
    why: str = ""
    aperture: dict[str, float] | None = None
    weights: Weights | None = None
    warning: str = ""

    def facts(self, wanted: str) -> dict[str, Any]:
        """For ``attrs["fit"]``: wanted, fit, text and, of both together, share, apart and alone."""
        found: dict[str, Any] = {"wanted": wanted, "fit": self.kind, "text": f"{_NAMES[self.kind]}{self.why}"}
        if self.kind == "both" and self.weights is not None:
            alone = int(self.weights.alone.sum())
            found |= {"share": self.weights.share, "apart": self.weights.apart, "alone": alone}
        return found


_NAMES = {
    "peaks": "fitted to the peaks",
    "pattern": "fitted to the patterns",
    "both": "fitted to peaks and patterns",
    "cepstrum": "fitted to the cepstra",
}


def cube_of(disks: PeakTable) -> Datacube:
    """The datacube that the disks were found in, opened again.

    Raises
    ------
    EmdlError
        When it is not known, gone, or another one.
    """
    cube = source_of(disks)
    if not isinstance(cube, Datacube) or tuple(cube.scan_shape) != tuple(disks.shape):
        there = " x ".join(str(n) for n in cube.shape)
        scan = " x ".join(str(n) for n in disks.shape)
        raise EmdlError(f"{cube.path} is {there} now, the disks are of a scan of {scan}")
    return cube


@dataclass(frozen=True)
class Through:
    """A fit through the patterns of a scan.

    Attributes
    ----------
    disks, params, run, output, control
        As for :func:`napari_emdl.diffraction.fit.single.fit_one_lattice`; `disks` as they were given.
    chosen, fit, good
        Disks that count, their lattices, and where these are fits.
    refit
        Lattices of other disks, at the given positions or at all.
    fitted
        Where lattices are fits.
    zero
        (n,) positions of the reference; None for an ideal lattice.
    """

    disks: PeakTable
    params: StrainParams
    chosen: PeakTable
    fit: LatticeFit
    good: NDArray[np.bool_]
    refit: Callable[[PeakTable, NDArray[np.int64] | None], LatticeFit]
    fitted: Callable[[LatticeFit], NDArray[np.bool_]]
    run: RunParams = field(default_factory=RunParams)
    output: str | Path | None = None
    control: Control | None = None
    distortion: Distortion | None = None
    zero: NDArray[np.bool_] | None = None

    def make(self, cube: Datacube | None) -> Made:
        """What is asked for, and for "auto" the best that can be had.

        Raises
        ------
        EmdlError
            When a fit that was asked for by name cannot be had.
        """
        wanted = self.params.fit
        reading = (self.disks.attrs.get("provenance") or {}).get("reading") or {}
        if reading.get("negative_of") is not None:
            inverted = "the patterns are inverted, which only disks are found in; save their negative to have them fitted"
            if wanted == "auto":
                return self._peaks(inverted)
            raise EmdlError(f"{inverted}, or use `fit='peaks'`")
        if wanted == "auto":
            return self._best(cube)
        try:
            seen = cube_of(self.disks) if cube is None else cube
        except EmdlError as error:
            raise EmdlError(f"this fit needs the datacube: {error}; give it (`cube`), or use `fit='peaks'`") from error
        if wanted == "both":
            return self._both(seen)
        return self._pattern(seen) if wanted == "pattern" else self._cepstra(seen)

    def _peaks(self, why: str, **known: Any) -> Made:
        return Made(self.chosen, self.fit, "peaks", f": {why}", **known)

    def _best(self, cube: Datacube | None) -> Made:
        try:
            seen = cube_of(self.disks) if cube is None else cube
        except EmdlError as error:
            return self._peaks(f"the patterns are not at hand ({error})")
        expected_s = self.expected_s
        if expected_s > _LONGEST_S:
            return self._peaks(
                f"the patterns too would take about {expected_s / 60:.0f} minutes of a core; `fit='both'` takes them"
            )
        try:
            return self._both(seen)
        except JournalError:
            raise
        except EmdlError as error:
            return self._peaks(str(error).removesuffix("; use `fit='peaks'`"))

    @property
    def expected_s(self) -> float:
        """Seconds of a core that a fit to the patterns takes, about."""
        radius = float(self.disks.attrs.get("probe_radius_px") or 0)
        return float(self.fit.n_indexed[self.good].sum()) * _S_PER_DISK * max(1.0, radius / 5) ** 2

    def _both(self, cube: Datacube) -> Made:
        from napari_emdl.diffraction.fit.pattern import hidden_pixels, measure_aperture, measure_on_patterns, measure_some

        seen: dict[str, Any] = {"distortion": self.distortion, "hidden": hidden_pixels(cube, self.good)}
        aperture = measure_aperture(self.chosen, cube, self.fit, self.good, **seen)
        known: dict[str, Any] = {"aperture": asdict(aperture)}
        if int(self.good.sum()) > _LARGE:
            at = np.flatnonzero(self.good)[np.linspace(0, int(self.good.sum()) - 1, _TRIAL).astype(int)]
            few = self.refit(measure_some(self.chosen, cube, self.fit, at, aperture, **seen, control=self.control), at)
            tried = weigh(_at(self.fit, at), few, np.ones(len(at), bool), self.fitted(few), aperture, None)
            if tried.share < LEAST_SHARE:
                return self._peaks(_surer(tried), **known)
        table = measure_on_patterns(self.chosen, cube, self.fit, self.good, aperture, **seen, **self._job())
        other = self.refit(table, None)
        weights = weigh(self.fit, other, self.good, self.fitted(other), aperture, self.disks.shape, self.zero)
        if weights.contradict:
            return self._peaks(
                f"a fit to the patterns differs from them by {weights.apart:.1f} times what the errors of both say", **known
            )
        if weights.share < LEAST_SHARE:
            return self._peaks(_surer(weights), **known)
        why = f", which count {100 * weights.share:.0f} %"
        if alone := int(weights.alone.sum()):
            places = f"{alone:,} positions" if alone > 1 else "one position"
            why += f"; at {places} the two are too far apart and the peaks count alone"
        return Made(
            self.chosen,
            merged(self.fit, other, weights, self.good, ideal=self.zero is None),
            "both",
            why,
            weights=weights,
            **known,
        )

    def _pattern(self, cube: Datacube) -> Made:
        from napari_emdl.diffraction.fit.pattern import hidden_pixels, measure_aperture, measure_on_patterns

        seen: dict[str, Any] = {"distortion": self.distortion, "hidden": hidden_pixels(cube, self.good)}
        aperture = measure_aperture(self.chosen, cube, self.fit, self.good, **seen)
        known: dict[str, Any] = {"aperture": asdict(aperture)}
        if aperture.ripple > _RAGGED:
            text = (
                f"the edges of the disks are ragged ({100 * aperture.ripple:.0f} % from pixel to pixel, as where simulated "
                "apertures are cut on whole pixels), so the strain is fitted to the peaks and not to the patterns"
            )
            return self._peaks("the edges of the disks are ragged", **known, warning=text)
        table = measure_on_patterns(self.chosen, cube, self.fit, self.good, aperture, **seen, **self._job())
        return Made(table, self.refit(table, None), "pattern", **known)

    def _cepstra(self, cube: Datacube) -> Made:
        from napari_emdl.diffraction.fit.cepstrum import fit_cepstra

        radius = float(self.disks.attrs.get("probe_radius_px") or 0)
        fit = fit_cepstra(cube, self.fit, self.good, max(radius, 1.0), **self._job())
        text = "the cepstra are those of the patterns as recorded: the projector's distortion is not corrected in them"
        return Made(self.chosen, fit, "cepstrum", warning="" if self.distortion is None else text)

    def _job(self) -> dict[str, Any]:
        key = ""
        if self.output is not None:
            table = hashlib.sha256(np.ascontiguousarray(self.disks.positions_px()).tobytes()).hexdigest()
            key = fingerprint(strain_provenance(self.params, self.disks, {"table": table}))
        here = self.run.model_copy(update={"scheduler": None})  # on a cluster the whole fit is one task
        return {"run": here, "output": self.output, "fingerprint": key, "control": self.control}


def _surer(weights: Weights) -> str:
    return f"a fit to the patterns errs by {weights.ratio:.1f} times as much"


def _at(fit: LatticeFit, positions: NDArray[np.int64]) -> LatticeFit:
    """Lattices of some positions; of the disks nothing is kept."""
    return LatticeFit(
        fit.origin[positions],
        fit.g[positions],
        fit.covariance[positions],
        fit.residual_px[positions],
        fit.n_indexed[positions],
        fit.n_disks[positions],
        fit.rank_ok[positions],
        fit.hk[:0],
        fit.used[:0],
    )
