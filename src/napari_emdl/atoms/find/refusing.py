"""What a column network sees is no columns where it does not repeat, lies on stripes or fringes, or is few and faint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.atoms.find.expected import LEAST_LIKELY, expected_f1
from napari_emdl.atoms.find.fringes import fringe_share
from napari_emdl.atoms.find.order import NO_LATTICE, ORDERLY, lattice_share, order_of
from napari_emdl.atoms.find.shape import roundness
from napari_emdl.atoms.find.structurefactor import MOST_PLACES, lattice_places
from napari_emdl.base.caveats import Caveats

if TYPE_CHECKING:
    from napari_emdl.atoms.find.network import NetworkColumnFinder

#: below this `shape.roundness` spots are ridges; those of simulated columns have .16 to 1
ON_STRIPES = 0.06
#: fewer spots are not judged by their shape
LEAST_ON_STRIPES = 10
#: share of the parts of the sampled frames that show planes in one direction only, from which on spots lie on fringes
ON_FRINGES = 0.5
#: Spots too few to show order are noise below this expected F1: on 603 simulated images of crystals such spots were 70 columns
#: of 4,200 there and 110 false ones.
FEW_FAINT_F1 = 0.72
#: threshold that no score reaches
NOTHING_PASSES = 1.0


def refused(finder: NetworkColumnFinder, frames: NDArray[Any]) -> bool:
    """Let nothing pass where many spots pass that do not repeat as columns do, or lie on stripes; whether that is so.

    The candidates stay, to be seen at a lower threshold.

    Parameters
    ----------
    finder
        After :meth:`~NetworkColumnFinder.choose_threshold`.
    frames
        Those that chose the threshold.
    """
    order = order_of(finder.sampled_spots, finder.default_min_score)
    reason = ""
    in_doubt = order.none or order.value < ORDERLY
    if in_doubt and lattice_places(finder.sampled_spots, finder.default_min_score) >= MOST_PLACES:
        in_doubt = False
    if in_doubt and order.none:
        reason = f"do not repeat as the columns of a crystal do (order {max(0.0, order.value):.2f}; crystals 0.25 to 1)"
    elif in_doubt and lattice_share(finder.sampled_spots, finder.default_min_score) < NO_LATTICE:
        reason = "repeat along lines at most, as letters do, and form no lattice"
    elif order.spots >= LEAST_ON_STRIPES and _on_stripes(finder, frames):
        reason = "lie on stripes, as of a grating or of lattice fringes"
    elif in_doubt and _on_fringes(finder, frames):
        reason = "lie on lattice fringes, for planes are seen in one direction only"
    if reason:
        line = (
            f"no columns: the {order.spots} spots above threshold {finder.default_min_score:.2f} {reason}; "
            "if they are columns, set this threshold"
        )
        finder.caveats += Caveats([line])
        finder.default_min_score, finder.passing = NOTHING_PASSES, 0.0
    elif order.little:
        line = f"the columns hardly repeat (order {order.value:.2f}; crystals 0.25 to 1): check the result"
        finder.caveats += Caveats([line])
    elif order.unknown and not few_and_faint(finder):
        few = "one spot passes" if order.spots == 1 else f"{order.spots} spots pass"
        finder.caveats += Caveats([f"only {few}, too few to tell whether they repeat as columns do: check the result"])
    return bool(reason)


def few_and_faint(finder: NetworkColumnFinder) -> bool:
    """Whether the spots that pass are too few to show order and so faint that most such spots are none."""
    spots = finder.sampled_spots
    scores = np.concatenate([score for _, score in spots]) if spots else np.zeros(0)
    faint = expected_f1(scores[scores >= LEAST_LIKELY])[1] < FEW_FAINT_F1
    return faint and order_of(spots, finder.default_min_score).unknown


def refuse_few(finder: NetworkColumnFinder, other: NetworkColumnFinder | None = None) -> bool:
    """Let nothing pass where the spots are few and faint, with what the other reading has; whether that is so."""
    if not few_and_faint(finder):
        return False
    count = order_of(finder.sampled_spots, finder.default_min_score).spots
    spots, they = ("the only spot", "is") if count == 1 else (f"the {count} spots", "are")
    line = (
        f"no columns: {spots} above threshold {finder.default_min_score:.2f} {they} so faint that noise has as many; to see "
        "what there is, set this threshold"
    )
    if other is not None and other.passing >= 0.5:
        line += f"; read as {other.contrast}, the image has {other.passing:.0f} columns (`contrast='{other.contrast}'`)"
    finder.caveats += Caveats([line])
    finder.default_min_score, finder.passing = NOTHING_PASSES, 0.0
    return True


def _on_stripes(finder: NetworkColumnFinder, frames: NDArray[Any]) -> bool:
    """Whether the spots of the sampled frames are ridges rather than round."""
    spots = finder.sampled_spots
    if len(frames) != len(spots):  # frames that are alike were searched once
        return False
    values = [
        roundness(frame if frame.ndim == 2 else frame[0], points[score >= finder.default_min_score], finder.pixel_A)
        for frame, (points, score) in zip(frames, spots, strict=True)
    ]
    return bool(np.nanmedian([v for v in values if np.isfinite(v)] or [np.nan]) < ON_STRIPES)


def _on_fringes(finder: NetworkColumnFinder, frames: NDArray[Any]) -> bool:
    """Whether the spots of the sampled frames lie where lattice planes are seen in one direction only."""
    spots = finder.sampled_spots
    if len(frames) != len(spots):
        return False
    values = []
    for frame, (points, score) in zip(frames, spots, strict=True):
        image = frame if frame.ndim == 2 else np.average(frame, axis=0, weights=(1, *finder.counts))
        values.append(fringe_share(image, points[score >= finder.default_min_score], finder.pixel_A))
    known = [v for v in values if np.isfinite(v)]
    return bool(known) and float(np.mean(known)) >= ON_FRINGES
