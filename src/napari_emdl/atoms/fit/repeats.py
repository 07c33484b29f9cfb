"""Frames of a movie that repeat the one before them: recorders faster than the camera, interlaced video, filled gaps.

A repeated frame measured nothing: taken for a frame of its own it says that nothing came or went, and rates come out too low.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

#: a frame repeats the last one when it differs from it by less than this part of what frames usually differ by; others
#: differ by more than the second part
SAME, APART = 0.25, 0.5
#: frames usually differ by this part of their contrast where noise tells them apart; at most so many may be repeats
NOISY, MOST = 0.1, 0.8
#: every so many pixels along both axes are compared; fewer frames are not judged
STEP, LEAST_FRAMES = 3, 8


def repeated_frames(read: Callable[[int], NDArray[np.floating]], frames: int) -> NDArray[np.bool_]:
    """(frames,) which frames repeat the one before; none where frames hold no noise that would tell.

    Parameters
    ----------
    read
        Frame t as (rows, cols), NaN where nothing was measured.
    frames
        Number of frames.
    """
    none = np.zeros(frames, bool)
    if frames < LEAST_FRAMES:
        return none
    change, contrast = np.full(frames, np.nan), np.full(frames, np.nan)
    before: NDArray[np.floating] | None = None
    for t in range(frames):
        frame = np.asarray(read(t))[::STEP, ::STEP]
        seen = np.isfinite(frame)
        contrast[t] = frame[seen].std() if seen.any() else np.nan
        if before is not None:
            both = seen & np.isfinite(before)
            change[t] = (frame[both] - before[both]).std() if both.any() else np.nan
        before = frame
    known = np.isfinite(change) & (contrast > 0)
    if np.count_nonzero(known) < LEAST_FRAMES - 1:
        return none
    usual = float(np.quantile(change[known], 0.85))
    same = known & (change < SAME * usual)
    others = known & ~same
    told_by_noise = usual > NOISY * float(np.median(contrast[known]))
    if not told_by_noise or np.any(change[others] < APART * usual) or np.count_nonzero(same) > MOST * frames:
        return none
    return np.asarray(same)
