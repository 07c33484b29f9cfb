"""Measuring disks by the refiner: batches of crops, and further passes for the disks that a pass still moved."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.diffraction.find.candidates import Found
from napari_emdl.diffraction.find.probe import Probe
from napari_emdl.jobs.control import Control
from napari_emdl.models.devices import CUDA_PROVIDER
from napari_emdl.models.session import Session

#: Disks of one call: on a CPU what the layers hand on should stay in the cache of a core, a GPU wants to be filled.
DISKS_PER_CALL = {"cpu": 64, "cuda": 2048}


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
        self._radius_px = np.float32(probe.radius_px)
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
            (2,) place of the direct beam, where :attr:`wants_beam`.
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
                "radius_px": self._radius_px,
            }
            if beam_px is not None:
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
