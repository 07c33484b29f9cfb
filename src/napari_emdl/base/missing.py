"""What of a signal was not measured: dead and hot pixels, beam stops, gaps, codes for "no value", borders of aligned movies.

One mask of the signal travels with it. It is given (a file, a detector's master file) or found here, by rules that leave
measured values alone:

- NaN and infinity are not a values.
- 2^32-1 in uint32 and 2^16-1 in uint16 mean "no value" where they stand in the same pixels of every frame and everything else
  is far below; so does one negative number that stands in the same pixels of every frame. Negative noise (a dark reference
  subtracted too much) changes from frame to frame and is left alone.
- A pixel without a count in all frames is dead when its neighbours make that all but impossible; so are whole rows and columns.
- A pixel is hot when it stands out of its neighbours in every frame and they do not know of it: every detector spreads a real
  spot over its neighbours.
- What an export drew into patterns, and what it left around them, are told by :mod:`napari_emdl.base.exported`.
- A connected region without a count around the centre of a diffraction pattern is a beam stop when its rim is bright
  (:mod:`napari_emdl.base.beamstop`).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.beamstop import beam_stop, with_rim
from napari_emdl.base.exported import areas, exported

#: Expected counts that make a pixel without any dead: exp(-20) of a detector of a million pixels are none.
_DEAD_COUNTS = 20.0
#: In so few frames a pixel is dead only when zero is this many times the scatter of its neighbours away from them: an image of
#: 8 bit clips its noise at zero, and what it counts are not electrons.
_FEW_FRAMES, _DEAD_SCATTER = 3, 6.0
#: Least height of a hot pixel over its neighbours in units of the noise, in several frames and in a single one.
_HOT_NOISE, _HOT_NOISE_SINGLE = 12.0, 50.0
#: A hot pixel stands this many times higher than its brightest neighbour (one more hot one left out).
_HOT_RATIO = 3.0
#: Share of a real spot's height that its neighbours have at least.
_SPREAD = 0.03
#: Rows that are looked at together, to save memory.
_BAND = 512
#: Share of the pixels up to which they are looked at one by one.
_MANY = 0.02
_OUTER = np.flatnonzero([max(abs(r - 2), abs(c - 2)) == 2 for r in range(5) for c in range(5)])
#: Smaller patterns show no letters.
_LEAST_SIDE = 64
#: A movie whose frames have a border of one value on more than this share of the frames' edges was aligned.
_BORDER_SHARE = 0.02
_UNDER_STOP = "pixels lie under a beam stop"


@dataclass(frozen=True)
class Missing:
    """What is missing in a signal.

    Attributes
    ----------
    pixels
        (rows, cols) bool, True where the detector has no value in any frame; None when there is no such pixel.
    codes
        Values that mean "no value" wherever they stand.
    border
        Value that fills what left the frame (aligned movies); counts as missing where it touches the frame's edge.
    found
        What was found, in words.
    covered
        (rows, cols) bool, those of `pixels` that are areas of no detector: masked, burned in, outside its field; None for none.
    """

    pixels: NDArray[np.bool_] | None = None
    codes: tuple[float, ...] = ()
    border: float | None = None
    found: tuple[str, ...] = ()
    covered: NDArray[np.bool_] | None = None

    def of(self, frames: NDArray[np.generic]) -> NDArray[np.bool_] | None:
        """Missing pixels of frames (..., rows, cols), as an array of their shape; None when nothing is missing."""
        bad: NDArray[np.bool_] | None = None
        if frames.dtype.kind == "f":
            unreal = ~np.isfinite(frames)
            bad = unreal if unreal.any() else None
        for code in self.codes:
            hit = frames == np.asarray(code, frames.dtype)
            if hit.any():
                bad = hit if bad is None else bad | hit
        if self.border is not None:
            flat = frames.reshape(-1, *frames.shape[-2:])
            edge = np.stack([border_of(frame, self.border) for frame in flat]).reshape(frames.shape)
            if edge.any():
                bad = edge if bad is None else bad | edge
        if self.pixels is not None:
            bad = np.broadcast_to(self.pixels, frames.shape).copy() if bad is None else bad | self.pixels
        return bad


def border_of(frame: NDArray[np.generic], value: float) -> NDArray[np.bool_]:
    """Pixels of `value` that are connected to the frame's edge in runs of at least three along it."""
    from scipy import ndimage

    same = np.asarray(frame == np.asarray(value, frame.dtype))
    if not (same[0].any() or same[-1].any() or same[:, 0].any() or same[:, -1].any()):
        return np.zeros(frame.shape, bool)
    # thinning looks two pixels far: strips along the edges tell whether anything there is left of it
    strips = same[:6], same[-6:][::-1], same[:, :6].T, same[:, -6:].T[::-1]
    if not any(_solid(strip)[0].any() for strip in strips):
        return np.zeros(frame.shape, bool)
    solid = _solid(same)
    labels, _ = ndimage.label(solid)
    rim = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return np.isin(labels, rim[rim > 0])


def _solid(same: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What hangs together: single zeros of a counted image do not, once thinned."""
    from scipy import ndimage

    opened = ndimage.binary_opening(np.pad(same, 2, mode="edge"), np.ones((3, 3), bool))[2:-2, 2:-2]
    return np.asarray(opened & same)


def fill_missing(frame: NDArray[Any], bad: NDArray[np.bool_], least: int = 6) -> None:
    """Fill missing pixels of a frame in place.

    Parameters
    ----------
    frame
        (rows, cols).
    bad
        (rows, cols) bool, True where a pixel is missing. It gets the median of the measured pixels in the 5 x 5 around it, or
        zero where there are fewer than `least` of them (inside a beam stop, a gap, a border).
    """
    places = np.argwhere(bad)
    if not len(places):
        return
    if len(places) > 50_000:
        frame[bad] = 0
        return
    around = _windows(np.where(bad, np.nan, frame.astype(np.float64)), places).reshape(-1, 25)
    known = np.isfinite(around).sum(axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # medians of nothing
        middle = np.where(known >= least, np.nan_to_num(np.nanmedian(around, axis=1)), 0.0)
    frame[bad] = middle if frame.dtype.kind == "f" else np.rint(middle)


def find_missing(frames: NDArray[np.generic], diffraction: bool, given: NDArray[np.bool_] | None = None) -> Missing:
    """Look for what is missing in some frames of a signal.

    Parameters
    ----------
    frames
        (n, rows, cols), spread over the signal.
    diffraction
        True for patterns, which may have a beam stop; False for images, which may have borders.
    given
        (rows, cols) bool, pixels known to be missing.
    """
    rows, cols = frames.shape[-2:]
    bad = np.zeros((rows, cols), bool) if given is None else np.array(given, bool)
    found = [f"{int(bad.sum())} pixels are masked by the file or the user"] if bad.any() else []
    codes = _codes(frames)
    values = np.asarray(frames, np.float32)
    always = np.zeros((rows, cols), bool)
    if codes or frames.dtype.kind == "f":
        unreal = ~np.isfinite(values)
        for code in codes:
            unreal |= frames == np.asarray(code, frames.dtype)
        if codes:
            found.append(f"{', '.join(f'{c:g}' for c in codes)} stands for no value in {int(unreal.all(axis=0).sum())} pixels")
        always |= unreal.all(axis=0)
        values = np.where(unreal, np.nan, values)
    new = always & ~bad
    if new.any() and not codes:
        found.append(f"{int(new.sum())} pixels are NaN")
    bad |= always
    covered = areas(bad) if diffraction and bad.any() else np.zeros_like(bad)
    if diffraction and min(rows, cols) >= _LEAST_SIDE:
        drawn, hits = exported(frames, bad)
        found += drawn
        bad, covered = bad | hits, covered | hits
    if min(rows, cols) >= 8:
        with warnings.catch_warnings(), np.errstate(invalid="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)  # means of nothing but NaN
            for what, hits in _faults(values, bad, diffraction):
                if hits.any():
                    found.append(f"{int(hits.sum())} {what}")
                    bad |= hits
                    if what == _UNDER_STOP:  # with its rim, which is half lit
                        covered |= with_rim(hits)
    border = None if diffraction else _border_value(values)
    if border is not None:
        found.append(f"frames have a border of {border:g}, as alignment leaves it")
    return Missing(bad if bad.any() else None, codes, border, tuple(found), covered if covered.any() else None)


def _codes(frames: NDArray[np.generic]) -> tuple[float, ...]:
    """Values that mean "no value": the largest of an unsigned type, or a negative number, in the same pixels of every frame."""
    kind, first = frames.dtype.kind, frames[0]
    if kind == "u" and frames.dtype.itemsize in (2, 4):
        top = int(np.iinfo(frames.dtype.str).max)
        if first.max() < top or not (always := (frames == top).all(axis=0)).any():
            return ()
        rest = frames[:, ~always]
        share = 0.5 if frames.dtype.itemsize == 2 else 1.0
        return (float(top),) if rest.size == 0 or float(rest.max()) <= share * top else ()
    if kind not in "if":
        return ()
    negative = np.isfinite(first) & (first < 0) if kind == "f" else first < 0
    same = negative & (frames == first).all(axis=0)
    if not same.any():
        return ()
    candidates, counts = np.unique(first[same], return_counts=True)
    if len(candidates) > 3:
        return ()
    codes = []
    for value, count in zip(candidates, counts, strict=True):
        isolated = value <= -999 or (kind == "i" and value == np.iinfo(frames.dtype.str).min)
        # of frames that vary, the same negative number in every one of at least three is no noise
        if isolated or (len(frames) >= 3 and count == int((first == value).sum())):
            codes.append(float(value))
    return tuple(codes)


def _faults(values: NDArray[np.floating], bad: NDArray[np.bool_], diffraction: bool) -> list[tuple[str, NDArray[np.bool_]]]:
    """Dead lines, beam stop, dead and hot pixels, each with its name."""
    total, empty = _summed(values)
    if bad.any():
        total, empty = np.where(bad, np.float32(0), total), empty & ~bad
    out = []
    lines = np.zeros_like(bad)
    for axis in (0, 1):
        dark = np.asarray((empty | bad).all(axis=1 - axis) & ~bad.all(axis=1 - axis))
        mean = total.mean(axis=1 - axis)
        for i in np.flatnonzero(dark):
            around = mean[max(0, i - 8) : i + 9]
            near = mean[max(0, i - 8) : i][~dark[max(0, i - 8) : i]], mean[i + 1 : i + 9][~dark[i + 1 : i + 9]]
            # a border of an image is dark on one side only
            if around.size and near[0].size and near[1].size and min(near[0].max(), near[1].max()) > _DEAD_COUNTS:
                if axis == 0:
                    lines[i] = True
                else:
                    lines[:, i] = True
    lines &= ~bad
    out.append(("pixels lie in rows or columns without a count", lines))
    known = bad | lines
    stop = beam_stop(total, empty & ~known, len(values)) if diffraction else np.zeros_like(bad)
    out.append((_UNDER_STOP, stop))
    known = known | stop
    out.append(("dead pixels", _dead(total, empty & ~known, known, few=len(values) <= _FEW_FRAMES)))
    out.append(("hot pixels", _hot(values, known)))
    return out


def _summed(values: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Sum (rows, cols) of what the frames hold, and where none holds anything."""
    total = values.sum(axis=0) if len(values) > 1 else values[0]
    if np.isfinite(total.sum()):
        return total, (values == 0).all(axis=0) if len(values) > 1 else total == 0
    return np.nansum(values, axis=0), ((values == 0) | np.isnan(values)).all(axis=0)


def _windows(image: NDArray[np.floating], places: NDArray[np.intp]) -> NDArray[np.floating]:
    """(n, 5, 5) surroundings of n pixels; NaN outside the image."""
    padded = np.pad(image, 2, constant_values=np.nan)
    return np.lib.stride_tricks.sliding_window_view(padded, (5, 5))[places[:, 0], places[:, 1]]


def _dead(total: NDArray[np.floating], empty: NDArray[np.bool_], known: NDArray[np.bool_], few: bool) -> NDArray[np.bool_]:
    """Pixels without a count where the neighbours' median, and in few frames their scatter, make that all but impossible."""
    out = np.zeros_like(empty)
    places = np.argwhere(empty)
    if not len(places) or len(places) > min(200_000, 0.2 * empty.size):
        return out
    windows = _windows(np.where(known, np.nan, total), places).reshape(-1, 25)
    # a median above the counts has half of the pixels above them: medians of the rest need not be worked out
    may_be = 2 * np.count_nonzero(windows > _DEAD_COUNTS, axis=1) >= np.count_nonzero(np.isfinite(windows), axis=1)
    places, windows = places[may_be], windows[may_be]
    around = np.nan_to_num(np.nanmedian(windows, axis=1))
    dead = around > _DEAD_COUNTS
    if few:
        scatter = 1.4826 * np.nanmedian(np.abs(windows - around[:, None]), axis=1)
        dead &= around > _DEAD_SCATTER * np.nan_to_num(scatter)
    places = places[dead]
    out[places[:, 0], places[:, 1]] = True
    return out


def _whole(values: NDArray[np.floating]) -> bool:
    """Whether a sample of the values are whole numbers or missing."""
    some = values[:, ::7, ::5]
    return bool(np.all((some == np.rint(some)) | ~np.isfinite(some)))


def _hot(values: NDArray[np.floating], known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels that stand out in every frame while their neighbours do not."""
    out = np.zeros_like(known)
    mean = np.mean(values, axis=0) if len(values) > 1 else values[0]
    if known.any():
        mean = np.where(known, np.nan, mean)
    steps = np.diff(mean[:: max(1, mean.shape[0] // 512)], axis=1).ravel()
    steps = steps[np.isfinite(steps)]
    if not steps.size:
        return out
    noise = 1.4826 * float(np.median(np.abs(steps))) / np.sqrt(2)
    if _whole(values):
        noise = max(noise, 1 / len(values))  # one count on an empty detector is an electron
    need = _HOT_NOISE if len(values) > 1 else _HOT_NOISE_SINGLE
    places = _peaks(mean, need * noise)
    if not len(places) or len(places) > 0.02 * out.size:
        return out
    around = _windows(mean, places)
    height0 = around[:, 2, 2].copy()
    near = np.delete(around[:, 1:4, 1:4].reshape(-1, 9), 4, axis=1)
    outer = around.reshape(-1, 25)[:, _OUTER]
    beyond = np.nanmedian(outer, axis=1)
    height = height0 - beyond
    local = np.sqrt(np.maximum(noise**2, np.maximum(beyond, 0) / len(values)))
    second = np.sort(np.where(np.isfinite(near), near, -np.inf), axis=1)[:, -2]
    stands_out = (height > need * local) & (height > _HOT_RATIO * np.maximum(second - beyond, 0))
    # a real spot lifts its neighbours above what lies beyond them
    alone = np.nanmedian(near, axis=1) - beyond < _SPREAD * height + 1.5 * local
    lowest = np.nanmin(values[:, places[:, 0], places[:, 1]], axis=0)
    hot = places[stands_out & alone & (lowest > beyond + 0.3 * height)]
    if len(hot) <= 0.01 * out.size:
        out[hot[:, 0], hot[:, 1]] = True
    return out


def _peaks(image: NDArray[np.floating], least: float) -> NDArray[np.intp]:
    """Pixels higher by `least` than all but one of the four pixels beside them."""
    floor = float(np.fmin.reduce(image, axis=None)) + least
    found = []
    for top in range(0, image.shape[0], _BAND):
        band = image[top : top + _BAND]
        high = band > floor
        if np.count_nonzero(high) > _MANY * high.size:
            high[:, 1:-1] &= band[:, 1:-1] > np.fmin(band[:, :-2], band[:, 2:]) + least
        found.append(_peaks_among(image, np.argwhere(high) + np.array([top, 0]), least))
    return np.concatenate(found)


def _peaks_among(image: NDArray[np.floating], places: NDArray[np.intp], least: float) -> NDArray[np.intp]:
    """Those of some places (n, 2) that are peaks."""
    rows, cols = places.T
    around = []
    for dr, dc in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        r, c = rows + dr, cols + dc
        inside = (r >= 0) & (r < image.shape[0]) & (c >= 0) & (c < image.shape[1])
        around.append(np.where(inside, image[np.clip(r, 0, image.shape[0] - 1), np.clip(c, 0, image.shape[1] - 1)], -np.inf))
    up, down, left, right = around
    one, other = np.fmax(up, down), np.fmax(left, right)
    second = np.fmax(np.fmin(one, other), np.fmax(np.fmin(up, down), np.fmin(left, right)))
    core = image[rows, cols]
    return places[(core > second + least) & np.isfinite(core)]


def _border_value(values: NDArray[np.floating]) -> float | None:
    """Value that fills the border of aligned frames, when more than some pixels of one frame have it and not of all."""
    edges = np.concatenate([values[:, 0], values[:, -1], values[:, :, 0], values[:, :, -1]], axis=1)
    candidates = np.unique([v[np.isfinite(v)].min() for v in edges if np.isfinite(v).any()])
    for value in candidates[:3]:
        if max(float(np.mean(edge == value)) for edge in edges) < _BORDER_SHARE:
            continue
        borders = [border_of(np.asarray(frame), float(value)) for frame in values]
        size = max(int(b.sum()) for b in borders)
        share = max(float(np.mean(np.concatenate([b[0], b[-1], b[:, 0], b[:, -1]]))) for b in borders)
        if share < _BORDER_SHARE or size < 8:
            continue
        beyond = [frame[~border] for frame, border in zip(values, borders, strict=True)]
        same = float(np.mean([np.mean(part == value) for part in beyond if part.size])) if any(p.size for p in beyond) else 1.0
        # the value must be rare inside: a background of zeros is not a border
        if same < 0.002 and max(float(b.mean()) for b in borders) < 0.9:
            return float(value)
    return None
