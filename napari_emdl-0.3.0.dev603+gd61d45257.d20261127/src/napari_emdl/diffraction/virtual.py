"""Virtual detectors: images made of the electrons that fall on a part of the diffraction pattern."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import RunParams
from napari_emdl.base.signals import Datacube
from napari_emdl.jobs.blockjob import arrays, run_block_job
from napari_emdl.jobs.blocks import Block, check_frame_fits
from napari_emdl.jobs.control import Control
from napari_emdl.jobs.provenance import fingerprint, provenance


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
    run = run or RunParams()
    check_frame_fits(cube.detector_shape, run)
    pixels = int(np.prod(cube.detector_shape))
    matrix = np.stack([d.weights.ravel() for d in chosen], axis=1)
    lit = np.flatnonzero(matrix.any(axis=1))
    lit = lit if len(lit) < 0.25 * pixels else np.arange(pixels)
    kernel = matrix[lit].astype(np.float64)

    work = _Sums(cube.missing_facts.of, kernel, lit if len(lit) < pixels else None)
    made = run_block_job(
        total=cube.n_patterns,
        read=cube.patterns,
        work=work,
        merge=arrays(cube.n_patterns),
        bytes_per_item=pixels * (8 + cube.dtype.itemsize),
        run=run,
        output=output,
        fingerprint=_fingerprint(cube, chosen) if output is not None else "",
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


def _fingerprint(cube: Datacube, detectors: Sequence[Detector]) -> str:
    weights = hashlib.sha256(b"".join(np.ascontiguousarray(d.weights).tobytes() for d in detectors)).hexdigest()
    return fingerprint(provenance({"virtual": weights}, cube))


def mean_pattern(cube: Datacube, mask: NDArray[np.bool_] | None = None, most: int = 400) -> NDArray[np.float64]:
    """(rows, cols) mean over the scan, or over `mask` (R, C); at most `most` patterns spread evenly are read."""
    flat: NDArray[Any] = np.arange(cube.n_patterns) if mask is None else np.flatnonzero(mask)
    if not len(flat):
        raise EmdlError("the mask leaves no pattern")
    flat = flat[np.unique(np.linspace(0, len(flat) - 1, min(most, len(flat))).astype(int))]
    total = np.zeros(cube.detector_shape)
    for i in flat:
        total += np.nan_to_num(cube.patterns(int(i), int(i) + 1)[0].astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    return total / len(flat)
