"""Bragg disks by networks: a proposer (FCU-Net, or correlation for the light path), then a network that measures each disk.

1. The proposer gives candidates: FCU-Net on its own grid (:mod:`napari_emdl.diffraction.find.netgrid`), or template matching.
2. The refiner measures every candidate on the pattern as it was recorded, some passes long, each from where the last ended.
3. Confident disks give the pattern's lattice; lattice points nobody proposed are measured as well, and the refiner's score
   decides about them like about any other. Disks off a convincing lattice lose score.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.caveats import DEVICE, RANGE, Caveats
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import DiskParams, RunParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.find.candidates import (
    ELLIPSE_FIELDS,
    Found,
    crowded,
    inside,
    located,
    off_lattice,
    unlike,
)
from napari_emdl.diffraction.find.complete import lattices_of, missing_sites, worth_measuring
from napari_emdl.diffraction.find.directbeam import with_direct_beam
from napari_emdl.diffraction.find.doubt import doubt
from napari_emdl.diffraction.find.gaps import counts_and_gap, overlap
from napari_emdl.diffraction.find.maxima import full_patterns, strongest, thin
from napari_emdl.diffraction.find.netgrid import Grid, choose_centre, choose_scale
from napari_emdl.diffraction.find.netmodels import chosen_models, default_score, device_and_threads, glance_model, trained_radii
from napari_emdl.diffraction.find.ownprobe import MEASURED
from napari_emdl.diffraction.find.patterns import count_defects
from napari_emdl.diffraction.find.plausible import keep_plausible
from napari_emdl.diffraction.find.probe import Probe
from napari_emdl.diffraction.find.refine import SAME_PLACE, Looks, Refiner
from napari_emdl.diffraction.find.rings import ON_RING, Rings
from napari_emdl.diffraction.find.spectrum import probe_spectrum
from napari_emdl.diffraction.find.template import FIELDS, TemplateFinder, beam_finder, light_proposer
from napari_emdl.jobs.control import Control
from napari_emdl.models.ahead import Ahead
from napari_emdl.models.devices import CUDA_PROVIDER
from napari_emdl.models.session import Session
from napari_emdl.workflow.finder import FinderInfo

#: Candidates below are not kept at all.
SCORE_FLOOR = 0.05
#: Disks this sure make the lattice.
CONFIDENT_SCORE = 0.6
#: A disk measured from a lattice point must end this near it, in radii.
SITE_CAPTURE = 0.35
#: Least part of a disk that a beam stop or a gap of the detector leaves.
LEAST_SEEN = 0.5
#: Disks nearer than this to each other, in radii, are the same one.
SAME_DISK = 0.7
#: Proposals of this score (FCU-Net), or this many sigma (correlation), count fully where no lattice speaks for them.
SURE_PROPOSAL, SURE_CORRELATION = 0.2, 7.0
#: Passes of the refiner, and where neighbouring disks overlap.
PASSES, OVERLAP_PASSES = 2, 4
_CHUNK = 64


class NetworkFinder:
    """Finds Bragg disks by networks; a :class:`napari_emdl.workflow.finder.Finder`.

    Parameters
    ----------
    probe
        Vacuum probe on the detector's grid.
    params
        Method ("fcunet", "fcunet-plain" or "light"), model and limits.
    detector_shape
        (rows, cols) of the patterns.
    run
        Device, batch and threads.
    calls
        Calls of :meth:`find` at the same time: on a CPU they share the threads, so that what is not the network's work runs on
        all cores as well.
    ahead
        Where the networks may be open already.

    Raises
    ------
    EmdlError
        When a network or the device cannot be had, or the probe does not fit the detector.
    """

    def __init__(
        self,
        probe: Probe,
        params: DiskParams,
        detector_shape: tuple[int, int],
        run: RunParams,
        calls: int = 1,
        ahead: Ahead | None = None,
    ) -> None:
        if probe.shape != tuple(detector_shape):
            raise EmdlError(f"the probe is {probe.shape} but the detector is {tuple(detector_shape)}; measure the probe again")
        self.probe, self.params, self.run, self.calls = probe, params, run, calls
        self.detector_shape = (int(detector_shape[0]), int(detector_shape[1]))
        self.edge_px = probe.radius_px if params.edge_px is None else params.edge_px
        self._proposer: Session | None = None
        self._looks: Looks | None = None
        self._light: TemplateFinder | None = None
        self._open_networks(ahead or Ahead())
        self._radii: tuple[float, float] = trained_radii(self._sessions[0].model)
        self.default_min_score: float = default_score(self._sessions[-1].model)
        self._beam_finder: TemplateFinder = beam_finder(probe, params, self.detector_shape)
        self._grids: dict[tuple[float, float], Grid] = {}
        if self._proposer is not None:
            self._put_probe_on_the_device()

    def _open_networks(self, ahead: Ahead) -> None:
        proposer, refiner = chosen_models(self.params)
        options = device_and_threads(self.run, self.calls)
        if proposer is not None:
            self._proposer = ahead.session(proposer, *options)
            self._proposer.require(("pattern", "probe_re", "probe_im"), ("structure_factor", "candidates"))
        if refiner is not None:  # it decides about what correlation proposes as well
            self._light = light_proposer(self.probe, self.params, self.detector_shape)
            glance = glance_model(self.params)
            first = None if glance is None else Refiner(ahead.session(glance, *options), self.probe)
            self._looks = Looks(Refiner(ahead.session(refiner, *options), self.probe), first)

    @property
    def parallel(self) -> bool:
        """Whether blocks may be computed at the same time."""
        return self.calls > 1

    @property
    def _sessions(self) -> list[Session]:
        networks = [] if self._looks is None else [self._looks.glance, self._looks.refiner]
        return [part for part in (self._proposer, *(each.session for each in networks if each is not None)) if part is not None]

    @property
    def info(self) -> FinderInfo:
        """What runs, and what the user should know of it."""
        sessions = self._sessions
        return FinderInfo(
            self.params.method,
            " + ".join(session.model.name for session in sessions),
            " + ".join(session.model.sha256 for session in sessions),
            sessions[-1].provider,
            self._outside_range() + Caveats([session.note for session in sessions], DEVICE),
        )

    def _outside_range(self) -> Caveats:
        """What lies outside the networks' training range: the proposer's on its own grid, the refiner's on the detector."""
        for session in self._sessions[-1:] if self._proposer is None else (self._proposer, self._sessions[-1]):
            scale = self._grid_scale if session is self._proposer else 1.0
            low, high = trained_radii(session.model)
            if not low <= self.probe.radius_px * scale <= high:
                line = (
                    f"disks of radius {self.probe.radius_px:.1f} px are outside what {session.model.name} was trained on "
                    f"({low:g} to {high:g} px); check the result, or bin or rescale the patterns"
                )
                return Caveats([line], RANGE)
        return Caveats()

    @property
    def _grid_scale(self) -> float:
        return self._scale if self._proposer is not None else 1.0

    @property
    def _scale(self) -> float:
        return choose_scale(self.probe.radius_px, self.detector_shape, self._grid_px, self._radii)

    @property
    def _grid_px(self) -> int:
        assert self._proposer is not None
        size = self._proposer.inputs["pattern"].shape[-1]
        return size if isinstance(size, int) else 256

    def _put_probe_on_the_device(self) -> None:
        assert self._proposer is not None
        middle = (self.detector_shape[0] // 2, self.detector_shape[1] // 2)
        grid = Grid(self._grid_px, self._scale, (float(middle[0]), float(middle[1])), self.detector_shape)
        image = np.maximum(grid.resample(self.probe.image[None])[0], 0)
        re, im = probe_spectrum(image, self._grid_px)
        self._proposer.set_constant("probe_re", re)
        self._proposer.set_constant("probe_im", im)

    def find(self, patterns: NDArray[Any], control: Control | None = None) -> PeakTable:
        """Disks of (n, rows, cols) patterns: PeakTable over (n,) with row, col, intensity, score, sigma_px (float32).

        The table's attribute ``n_cleaned`` counts patterns with missing values (NaN, negative) that were filled in,
        ``n_saturated`` those with saturated pixels, ``n_empty`` those without any counts.
        """
        if patterns.ndim != 3 or patterns.shape[1:] != self.detector_shape:
            rows, cols = self.detector_shape
            raise EmdlError(f"patterns have shape {patterns.shape}, expected (n, {rows}, {cols})")
        tables, seen = (
            [],
            {"n_raised": 0, "n_lowered": 0, "n_cleaned": 0, "n_saturated": 0, "n_empty": 0, "n_full": 0, "n_ringed": 0},
        )
        for start in range(0, len(patterns), _CHUNK):
            if control is not None:
                control.check()
            raw = patterns[start : start + _CHUNK]
            seen.update(count_defects(raw))
            tables.append(self._find_chunk(raw, control))
            seen.update(tables[-1].attrs)
        table = PeakTable.concatenate(tables) if tables else PeakTable.empty((0,), self._fields)
        table.attrs = {name: count for name, count in seen.items() if count}
        table = keep_plausible(table, self.probe, self.default_min_score, self.detector_shape, self.params.max_disks)
        return with_direct_beam(table, patterns, self.probe.radius_px, self.default_min_score)

    def _find_chunk(self, raw: NDArray[Any], control: Control | None) -> PeakTable:
        patterns, gain, gap = counts_and_gap(raw, self.probe.covered)
        found, ringed = self._propose(patterns, gap, control), np.zeros(0, np.intp)
        if self._looks is not None:
            found, ringed = self._measure(patterns, found, gap, control)
            found.score = found.score * located(found.sigma, self.probe.radius_px)
        found.intensity = found.intensity * gain[found.which]
        keep = (found.score >= SCORE_FLOOR) & inside(found.position, self.detector_shape, self.edge_px)
        keep &= (patterns.max(axis=(1, 2), initial=0) > 0)[found.which]
        keep &= overlap(gap, found.position, self.probe.radius_px) >= LEAST_SEEN
        found = self._without_doubles(found.pick(keep), self._spacing_px)
        kept = found.pick(strongest(found.which, found.score, self.params.max_disks))
        table = kept.table(len(patterns), self._fields)
        table.attrs = full_patterns(found.which, found.score >= self.default_min_score, len(patterns), self.params.max_disks)
        table.attrs["n_ringed"] = len(ringed)
        return table

    @property
    def _fields(self) -> tuple[str, ...]:
        knows_directions = self._looks is not None and self._looks.refiner.knows_directions
        return (*FIELDS, *ELLIPSE_FIELDS) if knows_directions else FIELDS

    @property
    def _spacing_px(self) -> float:
        given = self.params.min_spacing_px
        return SAME_DISK * self.probe.radius_px if given is None else given

    @staticmethod
    def _without_doubles(found: Found, spacing_px: float) -> Found:
        keep = thin(found.which, found.position[:, 0], found.position[:, 1], found.score, spacing_px)
        return found.pick(keep)

    def _propose(self, patterns: NDArray[np.float32], gap: NDArray[np.bool_], control: Control | None) -> Found:
        """What the network and correlation propose; a disk that both see counts once, as the network places it."""
        parts = []
        if self._proposer is not None:
            parts.append(self._propose_by_network(patterns, control))
        if self._light is not None:
            parts.append(unlike(self._propose_by_correlation(patterns, gap, control), parts, SAME_DISK * self.probe.radius_px))
        return Found.join(parts)

    def _propose_by_correlation(self, patterns: NDArray[np.float32], gap: NDArray[np.bool_], control: Control | None) -> Found:
        assert self._light is not None
        table = self._light.propose(patterns, control, gap)
        score = table.column("score").astype(float)
        sigma, prior = table.column("sigma_px").astype(float), np.minimum(score / SURE_CORRELATION, 1)
        return Found(table.flat_index(), table.positions_px(), sigma, score, np.square(score), prior)

    def _propose_by_network(self, patterns: NDArray[np.float32], control: Control | None) -> Found:
        grid = self._grid_of(patterns)
        candidates = self._run_proposer(grid.resample(patterns), ("candidates",), control)["candidates"].astype(float)
        which, _ = np.nonzero(candidates[..., 2] >= SCORE_FLOOR)
        flat = candidates[candidates[..., 2] >= SCORE_FLOOR]
        position = grid.to_detector(flat[:, :2])
        on_detector = inside(position, self.detector_shape, 0.0)
        # A spot's centroid is good to about half a pixel of the grid; only the refiner knows a sigma for each disk.
        sigma = np.full(len(flat), 0.5 / grid.scale)
        prior = np.minimum(flat[:, 2] / SURE_PROPOSAL, 1)
        return Found(which, position, sigma, flat[:, 2], flat[:, 3], prior).pick(on_detector)

    def _run_proposer(
        self, images: NDArray[np.float32], outputs: tuple[str, ...], control: Control | None
    ) -> dict[str, NDArray[np.float32]]:
        session = self._proposer
        assert session is not None
        batch = self.run.batch or (64 if session.provider == CUDA_PROVIDER else 4)
        parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in outputs}

        def call(start: int, stop: int) -> None:
            part = images[start:stop]
            if session.provider == CUDA_PROVIDER and stop - start < batch:  # one shape: nothing is tuned anew
                part = np.concatenate([part, np.zeros((batch - len(part), *part.shape[1:]), np.float32)])
            for name, value in session.run({"pattern": part}, outputs, control).items():
                parts[name].append(value[: stop - start])

        session.in_batches(len(images), batch, call)
        return {name: np.concatenate(values) for name, values in parts.items()}

    def structure_factor(self, pattern: NDArray[Any], control: Control | None = None) -> NDArray[np.float32]:
        """FCU-Net's image of one pattern (rows, cols) on the detector's pixels: soft visibility of a disk at each place.

        Raises
        ------
        EmdlError
            For the light method, which has no such image.
        """
        if self._proposer is None:
            raise EmdlError(f"the method {self.params.method!r} makes no structure-factor image; choose fcunet")
        counts, _, _ = counts_and_gap(np.asarray(pattern)[None], self.probe.covered)
        grid = self._grid_of(counts)
        image = self._run_proposer(grid.resample(counts), ("structure_factor",), control)["structure_factor"][0]
        return grid.to_detector_image(image)

    def _grid_of(self, patterns: NDArray[np.float32]) -> Grid:
        """Grid for patterns of one block: in the middle of the detector, or on the direct beam if that lies elsewhere."""
        centre = choose_centre(self._beam(patterns), self._scale, self.detector_shape)
        if centre not in self._grids:
            self._grids[centre] = Grid(self._grid_px, self._scale, centre, self.detector_shape)
        return self._grids[centre]

    def _beam(self, patterns: NDArray[np.float32]) -> NDArray[np.float64]:
        """Place of the direct beam: the strongest disk of the patterns' mean."""
        mean = patterns.mean(axis=0, dtype=np.float64).astype(np.float32)
        correlation = self._beam_finder.correlation(mean[None])[0]
        if not np.isfinite(correlation).all() or correlation.max() <= 0:
            return np.array([n // 2 for n in self.detector_shape], float)
        place = np.array(np.unravel_index(int(correlation.argmax()), correlation.shape), float)
        binning = self._beam_finder.binning
        return place * binning + (binning - 1) / 2

    def _measure(
        self, patterns: NDArray[np.float32], proposed: Found, gap: NDArray[np.bool_], control: Control | None
    ) -> tuple[Found, NDArray[np.intp]]:
        """Refine proposals, complete them by the lattice, drop doubles, lower the score of what does not fit.

        Returns
        -------
        found, ringed
            Disks, and the patterns in which a ring made places look like disks.
        """
        n, radius = len(patterns), self.probe.radius_px
        assert self._looks is not None
        place = self._beam(patterns)
        closely = self._looks.glance is None or self._proposed_crowded(proposed)
        glanced = proposed if closely else self._looks.at_a_glance(patterns, proposed, place, control)[0]
        closely |= self._passes(glanced) == OVERLAP_PASSES
        measure = partial(self._looks.refiner.measure, beam_px=place, control=control)
        first = measure(patterns, proposed if closely else glanced)
        first = self._without_doubles(first.pick(first.score >= SCORE_FLOOR), SAME_PLACE * radius)
        passes = self._passes(first)
        closely |= passes == OVERLAP_PASSES
        # where disks overlap, and where the user says how many passes, every disk takes all of them
        settled = 0.0 if passes != PASSES or self.params.refine_passes else self._looks.settled
        again = partial(self._looks.refiner.again, passes=passes - 1, settled=settled, control=control)
        found = again(patterns, first, beam_px=place)
        found = self._without_doubles(found, self._spacing_px)
        rings = Rings(patterns, place, radius, CONFIDENT_SCORE, gap)
        found, ringed = self._off_rings(rings, found)
        sure = found.pick(found.score >= CONFIDENT_SCORE)
        centre = np.array(self.detector_shape) / 2
        confident = sure.table(n)
        lattices = lattices_of(confident, radius, centre)
        alone = ~lattices.good[found.which]  # nothing but the refiner and the proposer speak for these
        found.score = np.where(alone, found.prior * found.score, found.score)
        if self.probe.source == MEASURED:
            alone = alone if self.probe.trust >= 0.5 else ~lattices.witnessed(confident)[found.which]
            found.score *= doubt(patterns, found, alone, self.probe, place, CONFIDENT_SCORE, gap)
        if not lattices.good.any():
            return found, ringed
        which, site = missing_sites(lattices, found.table(n), radius, self.detector_shape, self.edge_px)
        if passes < OVERLAP_PASSES:  # a disk among others that overlap does not stand out
            seen = worth_measuring(patterns, which, site, radius)
            which, site = which[seen], site[seen]
        if len(which):
            unmeasured = np.zeros(len(which))
            wanted = Found(which, site, unmeasured, unmeasured, unmeasured, np.ones(len(which)))
            if not closely:
                wanted, looked = self._looks.at_a_glance(patterns, wanted, place, control)
                site = site[looked]
            extra = measure(patterns, wanted)
            likely = extra.score >= SCORE_FLOOR
            extra, site = again(patterns, extra.pick(likely), beam_px=place), site[likely]
            extra = extra.pick(np.linalg.norm(extra.position - site, axis=1) < SITE_CAPTURE * radius)
            extra, more = self._off_rings(rings, extra)
            ringed = np.union1d(ringed, more)
            found = self._without_doubles(Found.join([found, extra]), self._spacing_px)
        away = lattices.distance_px(found.which, found.position)
        strange = away > np.maximum(0.3 * radius, 4 * found.sigma)
        found.score = off_lattice(found, strange, found.score >= CONFIDENT_SCORE)
        return found, ringed

    def _off_rings(self, rings: Rings, found: Found) -> tuple[Found, NDArray[np.intp]]:
        """Scores lowered where a ring about the direct beam makes what looks like a disk, and the patterns that have one."""
        ring = rings.hold(found)
        ringed = np.unique(found.which[ring & (found.score >= self.default_min_score)])
        found.score = np.where(ring, ON_RING * found.score, found.score)
        return found, ringed

    def _passes(self, found: Found) -> int:
        """Passes asked for, else two, or four where neighbouring disks overlap."""
        if self.params.refine_passes:
            return self.params.refine_passes
        return OVERLAP_PASSES if crowded(found.pick(found.score >= CONFIDENT_SCORE), self.probe.radius_px) else PASSES

    def _proposed_crowded(self, proposed: Found) -> bool:
        """Whether what is proposed overlaps; without FCU-Net proposals are too rough to tell."""
        return self._proposer is not None and crowded(proposed.pick(proposed.prior >= 1), self.probe.radius_px)
