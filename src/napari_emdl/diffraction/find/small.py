"""Disks of a pixel or two: by networks, which know sharp small disks best, and as peaks, which know the spots of SAED.

Which of the two a small probe is cannot be told from its edge, which is as wide as the disk. On sharp disks of 1 to 2.6 px the
networks find a tenth more and measure them a third better; on round spots without an edge they miss half and measure worse. So
a pattern in which more is seen as a peak than as a disk is one of spots.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.caveats import RANGE, Caveats
from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.find.candidates import ELLIPSE_FIELDS
from napari_emdl.diffraction.find.maxima import strongest
from napari_emdl.diffraction.find.network import NetworkFinder
from napari_emdl.diffraction.find.pairing import pair_disks
from napari_emdl.diffraction.find.spots import SpotFinder
from napari_emdl.jobs.control import Control
from napari_emdl.workflow.finder import FinderInfo

#: A disk and a peak this near, in radii and in px, are the same.
_SAME_RADII, _SAME_PX = 1.3, 2.0
#: A network's disk that is not so sure needs a peak, however faint. Chosen on disks of held-out crystals: it costs 2 % of the
#: recall and wins the precision of the peaks.
_SURE_ALONE = 0.8
#: Peaks count where they say that they err by less than this part of what the network says of the same places: round spots have
#: .35, sharp disks of 1.3 to 1.7 px .74.
_FAR_SURER = 0.5


class SmallDiskFinder:
    """Finds small disks and spots; a :class:`napari_emdl.workflow.finder.Finder`.

    Parameters
    ----------
    network, spots
        Finders of the same probe and detector.
    """

    def __init__(self, network: NetworkFinder, spots: SpotFinder) -> None:
        self.network, self.spots = network, spots
        self.default_min_score: float = network.default_min_score
        self.parallel: bool = network.parallel

    @property
    def info(self) -> FinderInfo:
        """What the networks say of themselves, and that there are peaks beside them."""
        known = self.network.info
        radius = self.network.probe.radius_px
        line = f"a probe of radius {radius:.1f} px makes spots or small disks: they are looked for by network and as peaks"
        others = Caveats(caveat for caveat in known.caveats if caveat.about != RANGE)
        return FinderInfo(known.method, known.model, known.model_sha256, known.provider, Caveats([line]) + others)

    def find(self, patterns: NDArray[Any], control: Control | None = None) -> PeakTable:
        """Disks of (n, rows, cols) patterns: PeakTable over (n,) with the networks' fields (float32)."""
        disks, peaks = self.network.find(patterns, control), self.spots.find(patterns, control)
        pairs = pair_disks(disks, peaks, max(_SAME_PX, _SAME_RADII * self.network.probe.radius_px), control)
        score = disks.column("score").astype(np.float32)
        alone = pairs.only_first[score[pairs.only_first] < _SURE_ALONE]
        score[alone] *= self.default_min_score / _SURE_ALONE
        sure, peaked = (t.column("score") >= f.default_min_score for t, f in ((disks, self.network), (peaks, self.spots)))
        counts = [np.bincount(t.flat_index()[k], minlength=len(patterns)) for t, k in ((disks, sure), (peaks, peaked))]
        of_spots = ((counts[1] > counts[0]) | self._surer(disks, peaks, pairs))[disks.flat_index()]
        measured_as_peak = (of_spots | ~sure)[pairs.first] & peaked[pairs.second]
        kept, added = np.ones(len(score), bool), np.zeros(peaks.n_peaks, bool)
        kept[pairs.first[measured_as_peak]] = False
        added[pairs.second[measured_as_peak]] = added[pairs.only_second] = True
        return self._joined(disks.with_columns(score=score).where(kept), peaks.where(added))

    @staticmethod
    def _surer(disks: PeakTable, peaks: PeakTable, pairs: Any) -> NDArray[np.bool_]:
        """(n,) patterns in which places measured as peaks are far better known than the same ones by network."""
        ratio = peaks.column("sigma_px")[pairs.second] / np.maximum(disks.column("sigma_px")[pairs.first], 1e-6)
        of = disks.flat_index()[pairs.first]
        far = [(of == i).any() and np.median(ratio[of == i]) < _FAR_SURER for i in range(disks.n_positions)]
        return np.array(far, bool)

    def _joined(self, disks: PeakTable, peaks: PeakTable) -> PeakTable:
        """One table, best first in each pattern; peaks are as uncertain in all directions."""
        which = np.r_[disks.flat_index(), peaks.flat_index()]
        sigma = peaks.column("sigma_px")
        told = dict(zip(ELLIPSE_FIELDS, (sigma, sigma, np.zeros_like(sigma)), strict=True))
        columns = {n: np.r_[disks.column(n), told[n] if n in told else peaks.column(n)] for n in disks.fields}
        keep = np.flatnonzero(strongest(which, columns["score"], self.network.params.max_disks))
        order = keep[np.lexsort((-columns["score"][keep], which[keep]))]
        counts = np.bincount(which[order], minlength=disks.n_positions)
        table = PeakTable(
            disks.shape, np.r_[0, np.cumsum(counts)], {n: v[order].astype(np.float32) for n, v in columns.items()}
        )
        table.attrs = dict(disks.attrs)
        return table

    def structure_factor(self, pattern: NDArray[Any], control: Control | None = None) -> NDArray[np.float32]:
        """Structure-factor image of the network."""
        return self.network.structure_factor(pattern, control)
