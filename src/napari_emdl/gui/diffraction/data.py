"""One open datacube: what is set for it and what was found in it. No Qt, no napari: it outlives what shows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.params import DiskLimits, DiskParams, RunParams, StrainParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Datacube
from napari_emdl.gui.diffraction import jobs
from napari_emdl.workflow.finder import LiveResult
from napari_emdl.workflow.partial import PartialPeaks


@dataclass
class Settings:
    """What is set for one datacube.

    Attributes
    ----------
    position
        (row, col) of the cross-hair.
    disk_params, strain_params, run_params
        Parameters; the least score is `min_score`, whose default is the method's own.
    reference
        None (median of all), "lattice", or (R, C) bool.
    regions
        (R, C) labels for several lattices, 0 for none.
    regions_found
        True where the fit found them and nobody gave them: other disks may give others.
    region_shown
        Region whose lattice the vector map shows, 0 for all disks.
    output
        Where the disks of a run are kept.
    project_file
        Project it was saved in or opened from.
    """

    position: tuple[int, int] = (0, 0)
    disk_params: DiskParams = field(default_factory=DiskParams)
    strain_params: StrainParams = field(default_factory=StrainParams)
    run_params: RunParams = field(default_factory=RunParams)
    min_score: float | None = None
    default_min_score: float | None = None
    reference: Any = None
    regions: NDArray[np.uint8] | None = None
    regions_found: bool = False
    region_shown: int = 0
    output: Path | None = None
    project_file: Path | None = None

    @property
    def limits(self) -> DiskLimits:
        """What a disk must pass to be kept."""
        chosen = {name: getattr(self.strain_params, name) for name in DiskLimits.model_fields}
        return DiskLimits(**{**chosen, "min_score": self.min_score})

    def put_limits(self, limits: DiskLimits) -> None:
        """Set what a disk must pass; a least score of None is the method's own."""
        self.min_score = self.default_min_score if limits.min_score is None else limits.min_score
        self.strain_params = self.strain_params.model_copy(update=limits.model_dump(exclude={"min_score"}))

    def suggest_threshold(self, value: float) -> None:
        """A method's own threshold is used until the user sets one."""
        if value != self.default_min_score:
            self.default_min_score = self.min_score = value

    def put_regions(self, regions: NDArray[np.uint8] | None, found: bool = False) -> None:
        """Set labels for several lattices, None for one; what was set for labels that are gone is dropped."""
        self.regions, self.regions_found = regions, found
        if regions is None or not (regions == self.region_shown).any():
            self.region_shown = 0
        present = set() if regions is None else set(np.unique(regions).tolist())
        phases = tuple(phase for phase in self.strain_params.phases if phase.label in present)
        self.strain_params = self.strain_params.model_copy(update={"phases": phases})

    def lattice_shown(self) -> tuple[StrainParams, NDArray[np.bool_] | None]:
        """Parameters and positions of the lattice that is shown."""
        if self.regions is None or not self.region_shown:
            return self.strain_params, None
        phase = next((p for p in self.strain_params.phases if p.label == self.region_shown), None)
        own = {"g1": phase.g1 if phase else None, "g2": phase.g2 if phase else None}
        return self.strain_params.model_copy(update=own), self.regions == self.region_shown

    @property
    def has_structure(self) -> bool:
        """True for the methods that make a structure-factor image."""
        return self.disk_params.method.startswith("fcunet")


@dataclass
class Found:
    """What was found in one datacube.

    Attributes
    ----------
    pattern, probe
        Pattern at the cross-hair; probe.
    live
        Disks of one pattern by the live finder.
    partial
        Disks of a run that goes on.
    disks, disks_file, done
        Disks of the scan, the result file that holds them as they are, and (R, C) where they were looked for.
    kept
        Disks that pass the limits.
    histogram
        (edges, counts, logarithmic) of the scan's scores.
    lattice, strain
        Basis on the vector map; strain maps.
    outlook
        What some patterns say of a run over the scan.
    """

    pattern: NDArray[Any] | None = None
    probe: Any = None
    live: LiveResult[tuple[int, int]] | None = None
    partial: PartialPeaks | None = None
    disks: PeakTable | None = None
    disks_file: Path | None = None
    done: NDArray[np.bool_] | None = None
    kept: PeakTable | None = None
    histogram: Any = None
    lattice: jobs.LatticeView | None = None
    strain: Any = None
    outlook: Any = None


@dataclass(eq=False)
class StemData:
    """A datacube with its settings and results; without one, what the next is opened with."""

    cube: Datacube | None = None
    settings: Settings = field(default_factory=Settings)
    found: Found = field(default_factory=Found)

    @classmethod
    def begin(cls, cube: Datacube, like: Settings, output_folder: Path | None) -> StemData:
        """Datacube with nothing found yet, with the parameters of `like`; the middle of the scan is shown."""
        middle = cube.scan_shape[0] // 2, cube.scan_shape[1] // 2
        kept = {name: getattr(like, name) for name in ("disk_params", "strain_params", "run_params")}
        return cls(cube, Settings(middle, output=jobs.run_file(cube, output_folder), **kept))

    @property
    def lone(self) -> bool:
        """True for a single pattern: nothing to compare with, no map."""
        return self.cube is not None and self.cube.n_patterns == 1

    @property
    def has_map(self) -> bool:
        """True where the strain is a map, or says something of a lone pattern: against an ideal lattice."""
        return self.found.strain is not None and (not self.lone or isinstance(self.settings.reference, str))

    def is_done(self) -> bool:
        """True where the disks of the position were found by a run, finished or not."""
        return self.found.done is not None and bool(self.found.done[self.settings.position])

    def here(self) -> NDArray[np.void] | None:
        """All candidates at the position: of the scan, of the part that is finished, or of the live finder; else None."""
        found, position = self.found, self.settings.position
        if self.is_done() and found.disks is not None:
            return found.disks[position]
        if self.is_done() and found.partial is not None and self.cube is not None:
            return found.partial.rows(position[0] * self.cube.scan_shape[1] + position[1])
        if found.live is not None and found.live.position == position:
            return found.live.table.at(0)
        return None

    def kept_here(self) -> NDArray[np.void] | None:
        """Disks at the position that pass the limits."""
        candidates = self.here()
        if candidates is None or self.cube is None:
            return None
        return jobs.within(candidates, self.settings.limits, self.cube.detector_shape)

    def begin_run(self, resume: bool) -> None:
        """Forget the disks of the scan, they are looked for anew; a run that goes on keeps what is finished."""
        assert self.cube is not None
        found = self.found
        if resume and found.disks is not None and found.done is not None:
            found.partial = PartialPeaks.of(found.disks, found.done)
            found.disks = found.kept = found.histogram = None
            return
        found.disks = found.kept = found.strain = found.disks_file = found.lattice = found.histogram = None
        found.partial = PartialPeaks(self.cube.scan_shape)
        found.done = np.zeros(self.cube.scan_shape, bool)

    def put_block(self, block: Any, table: PeakTable) -> None:
        """Take in a part of the scan that is finished."""
        if self.found.partial is not None and self.found.done is not None:
            self.found.partial.put(block.start, table)
            self.found.done.reshape(-1)[block.start : block.stop] = True

    def part_found(self) -> PeakTable | None:
        """Disks of the part that is finished, over the whole scan; None while there is none."""
        partial, cube = self.found.partial, self.cube
        if partial is None or not partial.n_done or cube is None:
            return None
        table = partial.filled()
        known = {"partial": True, "probe_radius_px": getattr(self.found.probe, "radius_px", None)}
        known |= {"detector_shape": cube.detector_shape, "calibration": cube.calibration}
        table.attrs = {"default_min_score": self.settings.default_min_score, **table.attrs, **known}
        return table

    def take_disks(self, table: PeakTable, done: NDArray[np.bool_] | None = None, file: Path | None = None) -> None:
        """Use a table over the scan: from a run, a partial run or a file."""
        found = self.found
        found.disks, found.disks_file, found.partial, found.histogram = table, file, None, None
        found.done = np.ones(table.shape, bool) if done is None else done
        default = table.attrs.get("default_min_score")
        if default is not None:
            self.settings.suggest_threshold(float(default))
        if self.settings.min_score is None:
            self.settings.min_score = 0.0
