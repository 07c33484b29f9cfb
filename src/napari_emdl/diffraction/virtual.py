"""Virtual detectors: images made of the electrons that fall on a part of the diffraction pattern."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import RunParams
from napari_emdl.base.signals import Datacube
from napari_emdl.diffraction.beampath import BeamPath
from napari_emdl.jobs.blockjob import arrays, run_block_job
from napari_emdl.jobs.blocks import Block, check_frame_fits
from napari_emdl.jobs.control import Control
from napari_emdl.jobs.provenance import fingerprint, provenance

#: Detectors that go with the beam are moved by multiples of this, in px.
_STEP_PX = 0.25


@dataclass(frozen=True)
class Detector:
    """Virtual detector.

    Attributes
    ----------
    weights
        (rows, cols) float32 on the detector's grid; the image is the weighted sum of the pattern.
    name
        How its image is called.
    """

    weights: NDArray[np.float32] = field(repr=False)
    name: str = "virtual image"

    def __post_init__(self) -> None:
        if self.weights.ndim != 2 or not np.isfinite(self.weights).all():
            raise EmdlError("a virtual detector is a 2-D array of finite weights")

    @classmethod
    def disk(cls, shape: tuple[int, int], centre_px: ArrayLike, radius_px: float, name: str = "bright field") -> Detector:
        """Disk of `radius_px` around `centre_px` (row, col); pixels on the rim count in part."""
        return cls.annulus(shape, centre_px, 0.0, radius_px, name)

    @classmethod
    def annulus(
        cls,
        shape: tuple[int, int],
        centre_px: ArrayLike,
        inner_px: float,
        outer_px: float,
        name: str = "annular dark field",
    ) -> Detector:
        """Ring from `inner_px` to `outer_px` around `centre_px` (row, col)."""
        if not 0 <= inner_px < outer_px:
            raise EmdlError(f"a ring from {inner_px:g} to {outer_px:g} px has no area; the outer radius must be the larger")
        row, col = np.asarray(centre_px, dtype=float)
        distance = np.hypot(np.arange(shape[0])[:, None] - row, np.arange(shape[1])[None, :] - col)
        weights = np.clip(outer_px - distance + 0.5, 0, 1)
        if inner_px > 0:
            weights = weights - np.clip(inner_px - distance + 0.5, 0, 1)
        return cls(np.clip(weights, 0, 1).astype(np.float32), name)

    @classmethod
    def polygon(cls, shape: tuple[int, int], vertices_px: ArrayLike, name: str = "region") -> Detector:
        """Pixels whose centre lies in the polygon of (n, 2) vertices (row, col), as Shapes layers hold them."""
        vertices = np.asarray(vertices_px, dtype=float)
        if vertices.ndim != 2 or vertices.shape[1] != 2 or len(vertices) < 3:
            raise EmdlError(f"a polygon needs at least 3 vertices (row, col), got an array of shape {vertices.shape}")
        from skimage.draw import polygon2mask

        return cls(polygon2mask(shape, vertices).astype(np.float32), name)


def virtual_image(
    cube: Datacube,
    detectors: Detector | Sequence[Detector],
    control: Control | None = None,
    on_block: Callable[[Block, NDArray[np.float64]], None] | None = None,
    run: RunParams | None = None,
    output: str | Path | None = None,
    path: BeamPath | None = None,
) -> NDArray[np.float64]:
    """Images of one or several virtual detectors in a single pass over the file.

    Parameters
    ----------
    on_block
        Called as ``on_block(block, values)`` with values (patterns of the block, detectors) in scan order, as blocks finish.
    run
        Memory limit, workers or scheduler.
    output
        File beside which finished blocks are kept (``<output>.part``), so that the image can be resumed.
    path
        Way of the direct beam that the detectors go with, from :func:`napari_emdl.diffraction.beampath.measure_path` or
        :func:`~napari_emdl.diffraction.beampath.path_of`; they are drawn about its typical place. None: they stay.

    Returns
    -------
    ndarray
        (scan rows, scan cols) for a single detector, else (detectors, scan rows, scan cols). Missing pixels (NaN, codes for
        "no value", the cube's mask) count as no electrons.
    """
    several = not isinstance(detectors, Detector)
    chosen: list[Detector] = list(detectors) if not isinstance(detectors, Detector) else [detectors]
    if not chosen:
        raise EmdlError("no virtual detector was given")
    for detector in chosen:
        if detector.weights.shape != cube.detector_shape:
            raise EmdlError(
                f"the virtual detector {detector.name!r} is {detector.weights.shape}, the patterns {cube.detector_shape}"
            )
    if path is not None and path.origin_px.shape[:2] != tuple(cube.scan_shape):
        raise EmdlError(f"the way of the beam is over {path.origin_px.shape[:2]} positions, the scan {tuple(cube.scan_shape)}")
    run = run or RunParams()
    check_frame_fits(cube.detector_shape, run)
    pixels = int(np.prod(cube.detector_shape))
    matrix = np.stack([d.weights.ravel() for d in chosen], axis=1)
    lit = np.flatnonzero(matrix.any(axis=1))
    lit = lit if len(lit) < 0.25 * pixels else np.arange(pixels)
    kernel = matrix[lit].astype(np.float64)

    work: _Sums | _MovingSums
    if path is None:
        work = _Sums(cube.missing_facts.of, kernel, lit if len(lit) < pixels else None)
    else:
        work = _MovingSums(cube.missing_facts.of, chosen, path.offset_px.reshape(-1, 2))
    made = run_block_job(
        total=cube.n_patterns,
        read=cube.patterns,
        work=work,
        merge=arrays(cube.n_patterns),
        bytes_per_item=pixels * (8 + cube.dtype.itemsize),
        run=run,
        output=output,
        fingerprint=_fingerprint(cube, chosen, path) if output is not None else "",
        control=control,
        on_block=None if on_block is None else lambda block, result: on_block(block, result["sums"]),
        message="virtual image",
    )
    out: NDArray[np.float64] = made["sums"]
    images = np.moveaxis(out, 1, 0).reshape(len(chosen), *cube.scan_shape)
    return images if several else images[0]


def navigation_image(
    cube: Datacube,
    control: Control | None = None,
    on_block: Callable[[Block, NDArray[np.float64]], None] | None = None,
    run: RunParams | None = None,
    output: str | Path | None = None,
) -> NDArray[np.float64]:
    """(scan rows, scan cols) sum of every pattern; parameters are those of :func:`virtual_image`."""
    everything = Detector(np.ones(cube.detector_shape, np.float32), "navigation")
    return virtual_image(cube, everything, control, on_block, run, output)


class _Sums:
    """Weighted sums of a block of patterns; picklable when the way to find missing pixels is."""

    def __init__(
        self,
        missing: Callable[[NDArray[Any]], NDArray[np.bool_] | None],
        kernel: NDArray[np.float64],
        lit: NDArray[np.intp] | None,
    ) -> None:
        self.missing, self.kernel, self.lit = missing, kernel, lit

    def __call__(self, patterns: NDArray[Any], block: Block) -> dict[str, NDArray[np.float64]]:
        bad = self.missing(patterns)
        flat = patterns.reshape(block.size, -1)
        values = np.asarray(flat if self.lit is None else flat[:, self.lit], dtype=np.float64)
        if bad is not None:
            holes = bad.reshape(flat.shape)
            values = np.where(holes if self.lit is None else holes[:, self.lit], 0.0, values)
        return {"sums": values @ self.kernel}


class _MovingSums:
    """Weighted sums with detectors that go with the pattern, by offsets (n, 2) in px; picklable like `_Sums`.

    What a detector weighs at its border goes on beyond it, so that "all but a disk" stays that wherever it is moved to.
    """

    def __init__(
        self,
        missing: Callable[[NDArray[Any]], NDArray[np.bool_] | None],
        detectors: Sequence[Detector],
        offset_px: NDArray[np.float64],
    ) -> None:
        self.missing = missing
        steps = np.rint(offset_px / _STEP_PX).astype(np.int64)
        per_px = round(1 / _STEP_PX)
        self.whole, self.part = np.divmod(steps, per_px)
        self.moved = [_Moved.of(d.weights.astype(np.float64), int(np.abs(self.whole).max()) + 1) for d in detectors]

    def __call__(self, patterns: NDArray[Any], block: Block) -> dict[str, NDArray[np.float64]]:
        bad = self.missing(patterns)
        if bad is not None:
            patterns = np.where(bad, 0, patterns)
        sums = np.empty((block.size, len(self.moved)))
        total = patterns.sum(axis=(1, 2), dtype=np.float64)
        for i, at in enumerate(range(block.start, block.stop)):
            for k, detector in enumerate(self.moved):
                sums[i, k] = detector.everywhere * total[i] + detector.sum(patterns[i], self.whole[at], self.part[at])
        return {"sums": sums}


@dataclass
class _Moved:
    """Weights less what they are `everywhere`, on a grid with a margin around the detector's; moved by parts of a pixel."""

    everywhere: float
    margin: int
    weights: NDArray[np.float64]
    parts: dict[tuple[int, int], tuple[tuple[int, int], NDArray[np.float64]]] = field(default_factory=dict)

    @classmethod
    def of(cls, weights: NDArray[np.float64], margin: int) -> _Moved:
        rim = np.concatenate([weights[[0, -1]].ravel(), weights[:, [0, -1]].ravel()])
        everywhere = float(rim[0]) if np.ptp(rim) == 0 else 0.0
        return cls(everywhere, margin, np.pad(weights - everywhere, margin, mode="edge"))

    def sum(self, pattern: NDArray[Any], whole: NDArray[np.int64], part: NDArray[np.int64]) -> float:
        """Sum of a pattern with the weights moved by whole pixels and by parts of one."""
        (top, left), weights = self._by_part((int(part[0]), int(part[1])))
        top, left = top + int(whole[0]) - self.margin, left + int(whole[1]) - self.margin
        rows, cols = (slice(max(0, -n), max(0, size - n)) for n, size in zip((top, left), pattern.shape, strict=True))
        lit = weights[rows, cols]
        top, left = max(0, top), max(0, left)
        seen = pattern[top : top + lit.shape[0], left : left + lit.shape[1]]
        return float(np.einsum("rc,rc->", seen, lit, dtype=np.float64))

    def _by_part(self, part: tuple[int, int]) -> tuple[tuple[int, int], NDArray[np.float64]]:
        """Corner and weights of what is lit."""
        if part not in self.parts:
            moved = ndimage.shift(self.weights, np.multiply(part, _STEP_PX), order=1, mode="nearest")
            rows, cols = np.flatnonzero(moved.any(axis=1)), np.flatnonzero(moved.any(axis=0))
            if not len(rows):
                self.parts[part] = ((0, 0), np.zeros((0, 0)))
            else:
                self.parts[part] = ((int(rows[0]), int(cols[0])), moved[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1].copy())
        return self.parts[part]


def _fingerprint(cube: Datacube, detectors: Sequence[Detector], path: BeamPath | None) -> str:
    parts = [d.weights for d in detectors] + ([] if path is None else [path.origin_px])
    weights = hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()
    return fingerprint(provenance({"virtual": weights}, cube))


def mean_pattern(
    cube: Datacube, mask: NDArray[np.bool_] | None = None, most: int = 400, path: BeamPath | None = None
) -> NDArray[np.float64]:
    """(rows, cols) mean over the scan, or over `mask` (R, C); at most `most` patterns spread evenly are read.

    With the `path` of the beam, patterns are laid over each other by whole pixels.
    """
    flat: NDArray[Any] = np.arange(cube.n_patterns) if mask is None else np.flatnonzero(mask)
    if not len(flat):
        raise EmdlError("the mask leaves no pattern")
    flat = flat[np.unique(np.linspace(0, len(flat) - 1, min(most, len(flat))).astype(int))]
    total = np.zeros(cube.detector_shape)
    for i in flat:
        pattern = np.nan_to_num(cube.patterns(int(i), int(i) + 1)[0].astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        total += pattern if path is None else ndimage.shift(pattern, -np.rint(path.offset_px.reshape(-1, 2)[i]), order=0)
    return total / len(flat)
