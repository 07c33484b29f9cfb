"""A second column network where the first one is in doubt: when it is asked, and whose columns are taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from napari_emdl.atoms.find.contrast import SURE_CONTRAST
from napari_emdl.atoms.find.finders import ColumnFinder
from napari_emdl.atoms.find.order import LITTLE_ORDER, ORDERLY, order_of
from napari_emdl.base.caveats import Caveats
from napari_emdl.base.errors import ModelError
from napari_emdl.base.params import ColumnParams
from napari_emdl.base.signals import Movie

#: Order from which columns need no second look; by how much those of a second network must repeat better; or how many times as
#: many they must be (where the contrast was not sure, and where it was), and repeat no worse than by so much.
_ORDERED, _CLEARLY, _MORE, _AS_GOOD = 0.2, 0.1, (1.1, 1.25), 0.03
#: A contrast that is likely; a second network has the rest of a lattice where it has so many times the columns, and so large a
#: share of the first one's among them (one sublattice of a honeycomb repeats better than both); columns this near are one.
_LIKELY, _REST, _HELD, _SAME_A = 0.9, 1.3, 0.85, 0.5


def second_opinion(card: Any) -> bool:
    """Whether a network is asked where another one is in doubt only."""
    return bool((card.emdl.model_extra or {}).get("second_opinion"))


def confirmed(
    finder: Any, model: Any, movie: Movie, params: ColumnParams, finder_of: Callable[[Any, ColumnParams], Any]
) -> ColumnFinder:
    """The finder of `model`, or what a second network says where this one is in doubt; `finder_of` makes that of another model.

    Where the second one is sure of the contrast, that is the contrast; where its columns repeat clearly better, or are more and
    repeat as well, they are the columns. Sheets under a scanning probe are what the first network knows least: it finds half of
    their atoms, and takes them for dark.
    """
    from napari_emdl.models.registry import shipped_models

    sure = finder.contrast_confidence is None or finder.contrast_confidence >= SURE_CONTRAST
    asked_below = ORDERLY if movie.kind == "image" else _ORDERED
    if movie.n_foci > 1 or (sure and _order(finder) >= asked_below):
        return finder
    first = finder
    for second in shipped_models("columns", second_opinion):
        try:
            other: Any = finder_of(second, params)
        except ModelError as error:  # the first one's columns are there all the same
            finder.caveats += Caveats([str(error)])
            continue
        if not _surer(other, first):
            continue
        if not sure:
            told = params.model_copy(update={"contrast": other.contrast})
            finder = finder_of(model, told)
            finder.contrast_confidence, finder.contrast_evidence = other.contrast_confidence, {
                **other.contrast_evidence, "decided_by": f"column network {second.name}"
            }  # fmt: skip
        order, better = _order(finder), _order(other)
        more = other.passing >= _MORE[sure] * finder.passing and better >= order - _AS_GOOD
        more |= other.passing >= _REST * finder.passing and _held(finder, other) >= _HELD
        if better >= LITTLE_ORDER and (more or better >= order + _CLEARLY):
            line = (
                f"the columns are those of {second.name}: {other.passing:.0f} a frame of order {better:.2f}; {model.name} has "
                f"{finder.passing:.0f} of order {max(0.0, order):.2f}"
            )
            other.caveats += Caveats([line])
            return other
        return finder if finder.passing >= 0.5 else first
    return first


def _surer(other: Any, first: Any) -> bool:
    """Whether the contrast of a second network counts: it is sure, or errs half as likely as a first one that is not."""
    confidence, before = other.contrast_confidence, first.contrast_confidence
    if confidence is None or confidence >= SURE_CONTRAST:
        return True
    unsure = before is not None and before < SURE_CONTRAST
    return bool(unsure and confidence >= _LIKELY and 1 - confidence <= 0.5 * (1 - before))


def _held(finder: Any, other: Any) -> float:
    """Share of a finder's spots that the other one has as well, in the frames that both looked at."""
    near = total = 0
    for (points, score), (others, other_score) in zip(finder.sampled_spots, other.sampled_spots, strict=False):
        mine, theirs = points[score >= finder.default_min_score], others[other_score >= other.default_min_score]
        total += len(mine)
        if len(mine) and len(theirs):
            near += int((cKDTree(theirs).query(mine)[0] < _SAME_A / finder.pixel_A).sum())
    return near / total if total else 0.0


def _order(finder: ColumnFinder) -> float:
    """Order of the spots that pass in the frames that were looked at; 0 where nothing is known of it."""
    spots = getattr(finder, "sampled_spots", [])
    value = order_of(spots, finder.default_min_score).value
    return value if np.isfinite(value) else 0.0
