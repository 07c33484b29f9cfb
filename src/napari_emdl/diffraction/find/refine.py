"""Measuring disks: a small network glances at every candidate, the refiner measures those that may be disks, and goes over
those again that it still moved."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.diffraction.find.candidates import Found
from napari_emdl.diffraction.find.maxima import thin
from napari_emdl.diffraction.find.probe import Probe
from napari_emdl.jobs.control import Control
from napari_emdl.models.devices import CUDA_PROVIDER
from napari_emdl.models.session import Session

#: Disks of one call: on a CPU what the layers hand on should stay in the cache of a core, a GPU wants to be filled.
DISKS_PER_CALL = {"cpu": 64, "cuda": 2048}
#: Candidates that the small network gives less are not worth the refiner's look: .2 would spare 6 % of its work more, and lose
#: one disk in a hundred.
GLANCE_FLOOR = 0.1
#: Candidates that it moves nearer to each other than this, in radii, are the same disk.
SAME_PLACE = 0.35
#: A disk that a pass moved by less than this many sigma is measured. Where the refiner looks first, 0.5 raised the strain error
#: on made scans and wedges of GaAs and Cu by up to 5 % and 0.25 by 2 %. Where another network has looked before, the strain
#: error of 28 scans of held-out crystals is .95 (0.25), .96 (0.6) and .97 (1.0) of that.
SETTLED, SETTLED_AFTER_GLANCE = 0.25, 0.6


class Refiner:
    """A refiner network at work on patterns of one probe.

    Parameters
    ----------
    session
        The network.
    probe
        Vacuum probe on the patterns' pixels.

    Raises
    ------
    ModelError
        When the network is no refiner.
    """

    def __init__(self, session: Session, probe: Probe) -> None:
        session.require(("pattern", "pattern_index", "position_px", "radius_px"), ("measured",), optional=("probe", "beam_px"))
        self.session = session
        self.wants_beam = "beam_px" in session.inputs
        self.knows_directions = "covariance" in session.outputs
        self.radius_px = float(probe.radius_px)
        if "probe" in session.inputs:  # refiners trained elsewhere may measure without
            session.set_constant("probe", probe.image)

    def measure(
        self, patterns: NDArray[np.float32], found: Found, beam_px: NDArray[np.float64] | None, control: Control | None
    ) -> Found:
        """One pass over all of `found`.

        Parameters
        ----------
        patterns
            (n, rows, cols) electrons.
        beam_px
            (2,) place of the direct beam, for networks that want it.
        """
        order = np.argsort(found.which, kind="stable")
        which, position = found.which[order], found.position[order]
        measured, ellipse = np.empty((len(which), 5), np.float64), np.empty((len(which), 3), np.float64)
        wanted = ("measured", "covariance") if self.knows_directions else ("measured",)

        def call(start: int, stop: int) -> None:
            first, last = int(which[start]), int(which[stop - 1])
            feeds: dict[str, Any] = {
                "pattern": patterns[first : last + 1],
                "pattern_index": which[start:stop] - first,
                "position_px": position[start:stop],
                "radius_px": np.float32(self.radius_px),
            }
            if self.wants_beam and beam_px is not None:
                feeds["beam_px"] = np.tile(beam_px, (last + 1 - first, 1))
            out = self.session.run(feeds, wanted, control)
            measured[start:stop] = out["measured"]
            ellipse[start:stop] = out["covariance"] if self.knows_directions else out["measured"][:, (2, 2, 2)] * (1, 1, 0)

        batch = DISKS_PER_CALL["cuda" if self.session.provider == CUDA_PROVIDER else "cpu"]
        self.session.in_batches(len(which), batch, call)
        back = np.argsort(order, kind="stable")
        measured, ellipse = measured[back], ellipse[back]
        bad = ~np.isfinite(measured).all(axis=1) | ~np.isfinite(ellipse).all(axis=1)
        measured[bad], ellipse[bad] = 0.0, 0.0
        sigma = np.maximum(measured[:, 2], 1e-3)
        moved = np.linalg.norm(measured[:, :2] - found.position, axis=1)
        return Found(found.which, measured[:, :2], sigma, measured[:, 3], measured[:, 4], found.prior, ellipse, moved)

    def again(
        self,
        patterns: NDArray[np.float32],
        found: Found,
        passes: int,
        settled: float,
        beam_px: NDArray[np.float64] | None,
        control: Control | None,
    ) -> Found:
        """At most `passes` further passes, each over the disks that the last one moved by more than `settled` sigma."""
        for _ in range(passes):
            astray = found.moved >= settled * found.sigma
            if not astray.any():
                break
            found = found.replaced(astray, self.measure(patterns, found.pick(astray), beam_px, control))
        return found


class Looks:
    """The two networks that measure disks, one after the other.

    Parameters
    ----------
    refiner
        Has the last word on every disk.
    glance
        A refiner of coarse crops at a fifth of the cost that looks first. Disks that overlap it cannot tell apart. None: the
        refiner looks at every candidate.

    Attributes
    ----------
    settled
        A disk that the refiner moved by less than this many sigma need not be measured again.
    """

    def __init__(self, refiner: Refiner, glance: Refiner | None) -> None:
        self.refiner, self.glance = refiner, glance
        self.settled = SETTLED if glance is None else SETTLED_AFTER_GLANCE

    def at_a_glance(
        self, patterns: NDArray[np.float32], found: Found, beam_px: NDArray[np.float64] | None, control: Control | None
    ) -> tuple[Found, NDArray[np.intp]]:
        """Candidates that may be disks, and which of `found` they are; all as they are without such a network.

        Parameters
        ----------
        patterns, beam_px
            As :meth:`Refiner.measure`.
        """
        if self.glance is None:
            return found, np.arange(len(found.which))
        seen = self.glance.measure(patterns, found, beam_px, control)
        kept = np.flatnonzero(seen.score >= GLANCE_FLOOR)
        likely = seen.pick(kept)
        spacing_px = SAME_PLACE * self.refiner.radius_px
        single = thin(likely.which, likely.position[:, 0], likely.position[:, 1], likely.score, spacing_px)
        return likely.pick(single), kept[single]
