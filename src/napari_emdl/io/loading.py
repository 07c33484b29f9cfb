"""What part of an opened signal is used: fly-back columns, crop, bins and the mask, as views that read nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import OpenError
from napari_emdl.base.missing import Missing
from napari_emdl.base.params import OpenParams
from napari_emdl.base.signals import Calibration, Datacube, Signal
from napari_emdl.io.views import BinnedSource, CroppedSource, RepairedSource

S = TypeVar("S", bound=Signal)


def apply_loading(signal: S, params: OpenParams, mask: NDArray[np.bool_] | None = None) -> S:
    """The part of a signal that is to be used, in this order: mask, frames, fly-back columns, crop, bins.

    Parameters
    ----------
    signal
        As opened.
    params
        What is to be used.
    mask
        Mask of the whole detector or frame, True where a pixel is missing.

    Raises
    ------
    OpenError
        When a crop or mask does not fit.
    """
    if mask is not None:
        signal = replace(signal, given_mask=_joined(signal, mask))
    scan = isinstance(signal, Datacube)
    if not scan and (params.scan_crop or params.drop_cols or params.scan_bin > 1):
        raise OpenError(f"{signal.name} was opened as {signal.kind.replace('_', ' ')}, which has no scan to crop or bin")
    ranges = [(0, n) for n in signal.shape]
    if params.frames is not None:
        if scan or signal.kind == "image":
            raise OpenError(f"{signal.name} is not a stack of frames; choose a part of it with `scan_crop` or `detector_crop`")
        ranges[0] = _range(params.frames, signal.shape[0], "frames", signal.name)
    if params.drop_cols is not None:
        first, last = params.drop_cols
        ranges[1] = _range((first, signal.shape[1] - last), signal.shape[1], "scan columns left", signal.name)
    if params.scan_crop is not None:
        r0, r1, c0, c1 = params.scan_crop
        ranges[0] = _range((r0, r1), signal.shape[0], "scan rows", signal.name)
        c0, c1 = _range((c0, c1), ranges[1][1] - ranges[1][0], "scan columns", signal.name)
        ranges[1] = (ranges[1][0] + c0, ranges[1][0] + c1)
    if params.detector_crop is not None:
        r0, r1, c0, c1 = params.detector_crop
        ranges[-2] = _range((r0, r1), signal.shape[-2], "detector rows", signal.name)
        ranges[-1] = _range((c0, c1), signal.shape[-1], "detector columns", signal.name)
    signal = cropped(signal, ranges)
    if params.scan_bin > 1 or params.detector_bin > 1:
        signal = binned(signal, params.scan_bin, params.detector_bin)
    return signal


def _range(span: tuple[int, int], size: int, what: str, name: str) -> tuple[int, int]:
    if not 0 <= span[0] < span[1] <= size:
        raise OpenError(f"{name} has {size} {what.removesuffix(' left')}; {span[0]}:{span[1]} does not lie in them")
    return span


def cropped(signal: S, ranges: Sequence[tuple[int, int]]) -> S:
    """Part of a signal: (start, stop) of each axis."""
    if all(span == (0, n) for span, n in zip(ranges, signal.shape, strict=True)):
        return signal
    (r0, r1), (c0, c1) = ranges[-2:]
    mask = None if signal.given_mask is None else signal.given_mask[r0:r1, c0:c1]
    steps = signal.frame_steps
    if steps is not None:
        steps = steps[slice(*ranges[0])] - steps[ranges[0][0]]
    return replace(signal, data=CroppedSource(signal.data, ranges), given_mask=mask, frame_steps=steps)


def binned(signal: S, scan: int, detector: int) -> S:
    """Signal with neighbouring scan positions and detector pixels added up; missing pixels count as the mean of their bin."""
    factors = [1] * (len(signal.shape) - 2) + [detector, detector]
    if isinstance(signal, Datacube):
        factors[:2] = [scan, scan]
    if any(n < f for n, f in zip(signal.shape, factors, strict=True)):
        raise OpenError(f"{signal.name} {signal.shape} is too small to be binned by {factors}")
    facts = signal.missing_facts
    known = facts.pixels is not None or facts.codes or facts.border is not None
    missing = facts if known else Missing() if signal.dtype.kind == "f" else None
    mask = None
    if facts.pixels is not None:
        rows, cols = (n // detector for n in signal.shape[-2:])
        blocks = facts.pixels[: rows * detector, : cols * detector].reshape(rows, detector, cols, detector)
        mask = blocks.all(axis=(1, 3))
    return replace(
        signal,
        data=BinnedSource(signal.data, factors, missing),
        calibration=_binned_calibration(signal.calibration, scan, detector, isinstance(signal, Datacube)),
        given_mask=np.asarray(mask, bool) if mask is not None and np.any(mask) else None,
    )


def _binned_calibration(calibration: Calibration, scan: int, detector: int, cube: bool) -> Calibration:
    def times(pair: tuple[float, float] | None, factor: int) -> tuple[float, float] | None:
        return None if pair is None else (pair[0] * factor, pair[1] * factor)

    return replace(
        calibration,
        pixel_nm=times(calibration.pixel_nm, scan if cube else detector),
        q_pixel_invA=times(calibration.q_pixel_invA, detector),
    )


def repaired(signal: S) -> S:
    """Signal whose missing pixels are filled when it is read: from their neighbours, and with zero inside larger holes.

    What was missing stays in the signal's mask. Nothing is copied; a signal without missing pixels is returned as it is.
    """
    facts = signal.missing_facts
    if facts.pixels is None and not facts.codes and facts.border is None and signal.dtype.kind != "f":
        return signal
    return replace(signal, data=RepairedSource(signal.data, facts), given_mask=facts.pixels)


def _joined(signal: Signal, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    if mask.shape != signal.shape[-2:]:
        raise OpenError(
            f"the mask is {mask.shape}, the frames of {signal.name} are {signal.shape[-2:]}; give a mask of their shape"
        )
    return mask if signal.given_mask is None else mask | signal.given_mask
