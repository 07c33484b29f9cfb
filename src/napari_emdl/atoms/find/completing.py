"""Candidates of a frame completed by its unit cells: weak sublattices, the second atom of a dumbbell, holes in a field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from scipy.spatial import cKDTree
from scipy.special import logit

from napari_emdl.atoms.find.clean import Clean
from napari_emdl.atoms.find.equivalent import CLEAR, DOUBT
from napari_emdl.atoms.find.motif import Read, find_motifs, read_places

Floats = NDArray[np.float64]

#: share of a sublattice's places inside the crystal that hold a spot (one is added, as few are known); with fewer it is none
_FILLED = 0.6
#: a candidate this near to a place is its column, in widths of a column
_NEAR = 1.2
#: the image alone makes no column surer than this
_SUREST = 0.97
#: anchors that tell of a place inside the crystal; a sublattice of anchors does not grow over its rim
_LEAST_TOLD = 3


@dataclass(frozen=True)
class Completed:
    """What the unit cells say.

    Attributes
    ----------
    score
        (n,) of the candidates that were there.
    position_px, added_score, sigma_px
        (m, 2), (m,) and (m,) columns at places without a candidate.
    """

    score: Floats
    position_px: Floats
    added_score: Floats
    sigma_px: Floats


def with_unit_cells(
    columns: dict[str, NDArray[Any]],
    images: Sequence[Clean | None],
    counts: tuple[int, int],
    contrast: str,
    single: bool,
    threads: int = 1,
) -> tuple[dict[str, NDArray[Any]], bool]:
    """Columns of a frame with those that its unit cells show, and whether that changed anything.

    Parameters
    ----------
    columns
        Fields of the candidates.
    images
        The cleaned frame, or this with the means of near and far neighbours.
    counts
        Numbers of frames in these means.
    contrast
        "bright" or "dark".
    single, threads
        See :func:`completed`.
    """
    sign = -1.0 if contrast == "dark" else 1.0
    clean = [(weight, part) for weight, part in zip((1, *counts), images, strict=False) if weight and part is not None]
    seen = [(weight, -part.image if contrast == "dark" else part.image) for weight, part in clean]
    own = cells = seen[0][1]
    if len(seen) > 1:
        cells = np.zeros_like(own)
        for weight, image in seen:
            cells += np.float32(weight / sum(weight for weight, _ in seen)) * image
    points = np.stack([columns["row"], columns["col"]], -1).astype(float)
    found = completed(cells, own, points, columns["score"].astype(float), single, threads)
    changed = bool(len(found.added_score) or np.any(np.abs(found.score - columns["score"]) > 1e-6))
    added = {
        "row": found.position_px[:, 0],
        "col": found.position_px[:, 1],
        "score": found.added_score,
        "sigma_px": found.sigma_px,
        "species": np.zeros(len(found.added_score)),
        "intensity": sign * ndi.map_coordinates(own, found.position_px.T, order=1, mode="nearest"),
        "logit": logit(found.added_score),
    }
    columns = {**columns, "score": found.score.astype(np.float32)}
    return {name: np.concatenate([values, added[name].astype(values.dtype)]) for name, values in columns.items()}, changed


def completed(
    of_cells: NDArray[np.floating],
    own: NDArray[np.floating],
    position_px: Floats,
    score: Floats,
    single: bool,
    threads: int = 1,
) -> Completed:
    """Complete the candidates of a frame.

    Parameters
    ----------
    of_cells, own
        (rows, cols) images with bright columns: what the mean cell is taken from (for a movie's frame its neighbours may help),
        and the frame in which columns are looked for.
    position_px, score
        (n, 2) and (n,) candidates.
    single
        A single image. In a movie a site may be empty, so that nothing is lowered, and the sublattice of the clearest columns
        is left to the network.
    threads
        Threads to use.
    """
    score = score.copy()
    more: list[tuple[Floats, Floats, Floats]] = []
    for motif in find_motifs(of_cells, position_px[score >= CLEAR]):
        read = read_places(own, motif, threads)
        kept, refused = _judged(read, single)
        reach = _NEAR * motif.width_px
        away, at = cKDTree(position_px).query(read.position_px[kept])
        chance, near = np.minimum(read.p_column[kept], _SUREST), away < reach
        np.maximum.at(score, at[near], chance[near])
        new = ~near & (chance >= 0.5)
        more.append((read.position_px[kept][new], chance[new], np.full(int(new.sum()), motif.width_px)))
        if single:  # all of a sublattice's places are columns, or none is
            doubt = np.flatnonzero((score > DOUBT) & (score < CLEAR))
            score[doubt[cKDTree(read.position_px[refused]).query(position_px[doubt])[0] < reach]] = DOUBT
    if not more:
        return Completed(score, np.zeros((0, 2)), np.zeros(0), np.zeros(0))
    return Completed(score, *(np.concatenate(parts) for parts in zip(*more, strict=True)))


def _judged(read: Read, single: bool) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Places of sublattices most of whose places inside the crystal are full, and of those most of whose are empty."""
    told, full = np.isfinite(read.p_column), np.nan_to_num(read.p_column) >= 0.5
    kept, refused = np.zeros((2, len(full)), bool)
    for k in range(read.sublattice.max(initial=-1) + 1):
        own = read.sublattice == k
        inside = own & (read.anchors >= _LEAST_TOLD)
        if k == 0:
            kept |= inside & told & single
        elif (inside & full).sum() + 1 >= _FILLED * (inside.sum() + 1):
            kept |= own & told
        elif (inside & told & ~full).sum() >= _FILLED * inside.sum():
            refused |= own
    return kept, refused
