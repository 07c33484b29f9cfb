"""One pass of the refiner: a network that measures every disk on the pattern as it was recorded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_emdl.diffraction.find.candidates import Found
from napari_emdl.jobs.control import Control
from napari_emdl.models.session import Session

_DISKS_PER_CALL = 512


def one_pass(
    session: Session,
    patterns: NDArray[np.float32],
    found: Found,
    radius_px: float,
    beam_px: NDArray[np.float64] | None,
    control: Control | None,
) -> Found:
    """Disks measured from where they are.

    Parameters
    ----------
    session
        The refiner; one that knows directions gives ellipses.
    patterns
        (n, rows, cols) electrons.
    beam_px
        Place of the direct beam, where the refiner wants it.
    """
    order = np.argsort(found.which, kind="stable")
    which, position = found.which[order], found.position[order]
    measured, ellipse = np.empty((len(which), 5), np.float64), np.empty((len(which), 3), np.float64)
    wanted = tuple(name for name in ("measured", "covariance") if name in session.outputs)

    def call(start: int, stop: int) -> None:
        first, last = int(which[start]), int(which[stop - 1])
        feeds = {
            "pattern": patterns[first : last + 1],
            "pattern_index": which[start:stop] - first,
            "position_px": position[start:stop],
            "radius_px": np.float32(radius_px),
        }
        if beam_px is not None:
            feeds["beam_px"] = np.tile(beam_px, (last + 1 - first, 1))
        out = session.run(feeds, wanted, control)
        measured[start:stop] = out["measured"]
        if "covariance" in out:
            ellipse[start:stop] = out["covariance"]
        else:
            ellipse[start:stop] = out["measured"][:, (2, 2, 2)] * (1, 1, 0)

    session.in_batches(len(which), _DISKS_PER_CALL, call)
    back = np.argsort(order, kind="stable")
    measured, ellipse = measured[back], ellipse[back]
    bad = ~np.isfinite(measured).all(axis=1) | ~np.isfinite(ellipse).all(axis=1)
    measured[bad], ellipse[bad] = 0.0, 0.0
    sigma = np.maximum(measured[:, 2], 1e-3)
    return Found(found.which, measured[:, :2], sigma, measured[:, 3], measured[:, 4], found.prior, ellipse)
