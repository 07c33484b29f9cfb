"""Which positions of a scan lie alike: labels proposed for regions that have a lattice each.

See :mod:`napari_emdl.diffraction.fit.regions` for the fit with such labels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import StrainParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.fit.calibrate import calibrate
from napari_emdl.diffraction.fit.origin import nearest_neighbour
from napari_emdl.diffraction.fit.strainmap import select_disks
from napari_emdl.jobs.control import Control

Labels = NDArray[np.uint8]

MAX_REGIONS = 32
#: Bins of the clustering, in units of the distance between disks, and the blur over them in bins.
_BIN, _BLUR, _MOST_BINS = 0.12, 0.8, 96
_COMPONENTS_KEPT, _RESTARTS = 8, 8
#: Positions the directions and centres are learnt from.
_LEARNT = 4000


def segment_positions(
    disks: PeakTable, n_regions: int, params: StrainParams | None = None, control: Control | None = None
) -> Labels:
    """Group the positions of a scan by where their disks lie.

    Each position is a blurred histogram of its disks around the common origin; the leading components of all of them are
    grouped by k-means, and single positions follow their neighbours. Nothing is known of lattices here: look at the result.

    Parameters
    ----------
    n_regions
        Number of groups, the largest becomes number 1.
    params
        Thresholds, and the fewest disks of a position that is grouped; others get 0.

    Returns
    -------
    (R, C) uint8 labels.

    Raises
    ------
    EmdlError
        When there are fewer positions with disks than groups.
    """
    params = params or StrainParams()
    if not 1 <= n_regions <= MAX_REGIONS:
        raise EmdlError(f"the number of regions must lie between 1 and {MAX_REGIONS}, got {n_regions}")
    chosen = select_disks(disks, params)
    rich = np.flatnonzero(chosen.counts().ravel() >= params.min_disks)
    if len(rich) < n_regions:
        raise EmdlError(f"only {len(rich)} positions have {params.min_disks} disks or more, too few for {n_regions} regions")
    origin = calibrate(chosen, params.calibrate, disks.attrs.get("calibration")).origin_px.reshape(-1, 2)
    if control is not None:
        control.check()
    features = _features(chosen, origin)[rich]
    if control is not None:
        control.check()
    learn = np.unique(np.linspace(0, len(rich) - 1, _LEARNT).astype(np.int64))
    points = _leading(features, learn)
    centres = _k_means(points[learn], n_regions, control)
    group = np.square(points[:, None] - centres).sum(axis=2).argmin(axis=1)
    order = np.argsort(-np.bincount(group, minlength=n_regions), kind="stable")
    rank = np.empty(n_regions, np.uint8)
    rank[order] = np.arange(1, n_regions + 1)
    labels = np.zeros(disks.n_positions, np.uint8)
    labels[rich] = rank[group]
    return _follow_neighbours(labels.reshape(disks.shape))


def _features(disks: PeakTable, origin_px: NDArray[np.float64]) -> sparse.csr_matrix:
    """(positions, bins) histograms of unit length, without the central disk."""
    of, place = disks.flat_index(), disks.positions_px()
    spacing = nearest_neighbour(place, of)
    relative = place - origin_px[of]
    outer = np.linalg.norm(relative, axis=1) > 0.5 * spacing
    relative, of = relative[outer], of[outer]
    reach = float(np.abs(relative).max()) if len(relative) else spacing
    size = max(_BIN * spacing, 2 * reach / _MOST_BINS)
    half = int(np.ceil(reach / size)) + 3
    width = 2 * half + 1
    # the blur is written out over the bins around each disk, so that the matrix stays sparse
    around = np.stack(np.meshgrid(*[np.arange(-1, 2)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    at = relative / size + half
    bins = np.rint(at).astype(np.int64)[:, None] + around
    weight = np.exp(-0.5 * np.square((bins - at[:, None]) / _BLUR).sum(axis=2))
    column = bins[..., 0] * width + bins[..., 1]
    shape = (disks.n_positions, width * width)
    matrix = sparse.csr_matrix((weight.ravel(), (np.repeat(of, len(around)), column.ravel())), shape=shape)
    length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    return sparse.csr_matrix(sparse.diags(1 / np.maximum(length, 1e-12)) @ matrix)


def _leading(features: sparse.csr_matrix, learn: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n, k) coordinates along the directions in which the positions `learn` differ most."""
    sample = features[learn]
    n, bins = sample.shape
    mean = np.asarray(sample.mean(axis=0)).ravel()
    k = min(_COMPONENTS_KEPT, n - 1, bins - 1)
    if k < 1:
        return np.zeros((features.shape[0], 1))
    centred = sparse.linalg.LinearOperator(
        (n, bins),
        matvec=lambda v: sample @ v.ravel() - mean @ v.ravel(),
        rmatvec=lambda v: sample.T @ v.ravel() - mean * v.sum(),
        dtype=np.float64,
    )
    start = np.random.default_rng(0).standard_normal(min(n, bins))
    direction = sparse.linalg.svds(centred, k=k, v0=start, return_singular_vectors="vh")[2]
    return np.asarray(features @ direction.T - direction @ mean)


def _k_means(points: NDArray[np.float64], k: int, control: Control | None) -> NDArray[np.float64]:
    """(k, d) centres of the groups: the best of several starts, the same for the same data."""
    from scipy.cluster.vq import ClusterError, kmeans2

    best, least = points[:k], np.inf
    for start in range(_RESTARTS):
        if control is not None:
            control.check()
        try:
            centres, group = kmeans2(points, k, minit="++", seed=start, missing="raise")
        except ClusterError:  # a group ran empty from this start
            continue
        cost = float(np.square(points - centres[group]).sum())
        if cost < least:
            best, least = centres, cost
    return best


def _follow_neighbours(labels: Labels) -> Labels:
    """Every grouped position takes the group that most of its 3 x 3 neighbourhood has."""
    numbers = [int(n) for n in np.unique(labels) if n]
    votes = np.stack([ndimage.uniform_filter((labels == n).astype(float), 3, mode="nearest") for n in numbers])
    own = np.stack([(labels == n) * 1e-3 for n in numbers])  # a tie leaves the position as it is
    winner = np.asarray(numbers, np.uint8)[np.argmax(votes + own, axis=0)]
    return np.where(labels > 0, winner, labels)
