"""What is opened: a datacube, a movie, an image or a focal series. All are lazy and calibrated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.missing import Missing, find_missing
from napari_emdl.base.showing import Shown

Kind = Literal["datacube", "movie", "focal_series", "image"]

#: Frames looked at for missing pixels: at most so many, of so many pixels together; larger frames are not searched.
_SEARCHED_FRAMES, _SEARCHED_PIXELS, _LARGEST_SEARCHED = 24, 4 * 2**20, 40 * 2**20


@runtime_checkable
class LazyArray(Protocol):
    """Array on disk. Indexing with ints and slices reads just that part and gives numpy; safe from several threads."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, index: Any) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Calibration:
    """Physical units of an opened file; None is unknown. Everything in the package stays in pixels but for this.

    Attributes
    ----------
    pixel_nm
        (row, col) size of a real-space pixel: scan step of a datacube, pixel size of an image or frame.
    q_pixel_invA
        (row, col) size of a detector pixel in 1/angstrom.
    frame_interval_s
        Time from frame to frame.
    defocus_step_A
        Step between the images of a focal series.
    energy_keV, semiangle_mrad
        Beam energy and convergence semiangle.
    qr_rotation_rad, qr_flip
        Rotation (and transposition) from scan axes to detector axes.
    source
        Where each value comes from: field name -> "file", "user" or "measured".
    """

    pixel_nm: tuple[float, float] | None = None
    q_pixel_invA: tuple[float, float] | None = None
    frame_interval_s: float | None = None
    defocus_step_A: float | None = None
    energy_keV: float | None = None
    semiangle_mrad: float | None = None
    qr_rotation_rad: float = 0.0
    qr_flip: bool = False
    source: Mapping[str, str] = field(default_factory=dict)

    def override(self, source: str = "user", **values: Any) -> Calibration:
        """Copy with `values` replaced and marked as coming from `source`; None values are ignored."""
        given = {name: value for name, value in values.items() if value is not None}
        return replace(self, **given, source={**self.source, **dict.fromkeys(given, source)})

    def probe_radius_px(self) -> float | None:
        """Radius of the bright-field disk in detector pixels, when energy, semiangle and pixel size are known."""
        from napari_emdl.base.physics import semiangle_invA

        if self.q_pixel_invA is None or self.energy_keV is None or self.semiangle_mrad is None:
            return None
        return semiangle_invA(self.semiangle_mrad, self.energy_keV) / float(np.mean(self.q_pixel_invA))


@dataclass(frozen=True)
class Signal(Shown):
    """Opened file.

    Attributes
    ----------
    data
        Lazy array in the axis order of `kind`: datacube (scan row, scan col, detector row, detector col), movie
        (time, row, col), focal_series (time, focus, row, col), image (row, col).
    kind
        What the axes are.
    calibration
        Units.
    path, name
        Where it came from ("" for arrays in memory) and how a layer of it is called.
    metadata
        Vendor metadata worth showing, flat, small; "notes" are lines that the user must see.
    given_mask
        (rows, cols) bool of the detector or frame, True where a pixel is known to be missing: from the file or the user.
    """

    data: LazyArray
    kind: Kind
    calibration: Calibration = Calibration()
    path: str = ""
    name: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    given_mask: NDArray[np.bool_] | None = field(default=None, repr=False, compare=False)

    NDIM = {"datacube": 4, "movie": 3, "focal_series": 4, "image": 2}

    def __post_init__(self) -> None:
        if len(self.data.shape) != self.NDIM[self.kind]:
            raise EmdlError(
                f"a {self.kind.replace('_', ' ')} has {self.NDIM[self.kind]} axes, but {self.name or 'the array'} has shape "
                f"{tuple(self.data.shape)}; give the kind or the axis order"
            )
        if self.given_mask is not None and self.given_mask.shape != self.shape[-2:]:
            raise EmdlError(
                f"the mask is {self.given_mask.shape}, the frames of {self.name or 'the array'} are {self.shape[-2:]}"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, shape={self.shape}, {self.dtype})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `data`."""
        return tuple(int(n) for n in self.data.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type on disk."""
        return np.dtype(self.data.dtype)

    @property
    def nbytes(self) -> int:
        """Size of the whole array in bytes, unpacked."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def notes(self) -> tuple[str, ...]:
        """What opening has to say to the user, a line each."""
        notes = self.metadata.get("notes", ())
        return (notes,) if isinstance(notes, str) else tuple(str(note) for note in notes)

    @cached_property
    def missing_facts(self) -> Missing:
        """What is missing, found at first use in some frames spread over the signal; see :mod:`napari_emdl.base.missing`."""
        shape, pixels = self.shape, self.shape[-2] * self.shape[-1]
        lead = int(np.prod(shape[:-2], dtype=np.int64))
        if pixels > _LARGEST_SEARCHED:
            return Missing(self.given_mask)
        count = min(lead, _SEARCHED_FRAMES, max(1, _SEARCHED_PIXELS // pixels))
        picked = np.unique(np.linspace(0, lead - 1, count).astype(int))
        frames = [self.data[(*map(int, np.unravel_index(i, shape[:-2])),)] if shape[:-2] else self.data[:, :] for i in picked]
        return find_missing(np.stack(frames), self.kind == "datacube", self.given_mask)

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """(rows, cols) bool, True where the detector has no value in any pattern or frame, given or found; None for nothing."""
        return self.missing_facts.pixels

    def missing(self, frames: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Missing pixels of frames read from `data` (..., rows, cols); None when nothing is missing.

        Knows more than :attr:`mask`: NaN, codes for "no value" and the borders of aligned frames, frame by frame.
        """
        return self.missing_facts.of(frames)

    def values(self, frames: NDArray[Any], fill: float = 0.0) -> NDArray[np.float32]:
        """Frames read from `data` as float32 with `fill` where pixels are missing."""
        bad = self.missing(frames)
        out = np.array(frames, dtype=np.float32)
        if bad is not None:
            out[bad] = fill
        return out


class Datacube(Signal):
    """4D-STEM datacube (scan row, scan col, detector row, detector col)."""

    @property
    def scan_shape(self) -> tuple[int, int]:
        """(scan rows, scan cols)."""
        return self.shape[0], self.shape[1]

    @property
    def detector_shape(self) -> tuple[int, int]:
        """(detector rows, detector cols)."""
        return self.shape[2], self.shape[3]

    @property
    def n_patterns(self) -> int:
        """Number of diffraction patterns."""
        return self.shape[0] * self.shape[1]

    def patterns(self, start: int, stop: int) -> NDArray[Any]:
        """Patterns `start`:`stop` in scan order as (n, rows, cols), read from disk in one or few pieces."""
        cols = self.shape[1]
        parts = []
        flat = start
        while flat < stop:
            row, col = divmod(flat, cols)
            whole_rows = (stop - flat) // cols
            if col == 0 and whole_rows:
                parts.append(self.data[row : row + whole_rows].reshape(-1, *self.detector_shape))
                flat += whole_rows * cols
            else:
                end = min(cols, col + stop - flat)
                parts.append(self.data[row, col:end])
                flat += end - col
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


class Movie(Signal):
    """HRTEM movie (time, row, col) or focal series (time, focus, row, col); an image is a movie of one frame."""

    @property
    def n_frames(self) -> int:
        """Number of frames (fields of view of a focal series)."""
        return 1 if self.kind == "image" else self.shape[0]

    @property
    def frame_shape(self) -> tuple[int, int]:
        """(rows, cols) of a frame."""
        return self.shape[-2], self.shape[-1]

    @property
    def n_foci(self) -> int:
        """Images per frame: more than one in a focal series."""
        return self.shape[1] if self.kind == "focal_series" else 1

    def frame(self, index: int) -> NDArray[Any]:
        """One frame (row, col), or (focus, row, col) of a focal series."""
        return self.data[:, :] if self.kind == "image" else self.data[index]

    @property
    def pixel_A(self) -> float | None:
        """Mean pixel size in angstrom, when known."""
        return None if self.calibration.pixel_nm is None else 10 * float(np.mean(self.calibration.pixel_nm))


def in_memory(
    array: NDArray[Any], kind: Kind, calibration: Calibration | None = None, name: str = "array", path: str = ""
) -> Datacube | Movie:
    """Wrap a numpy array as a :class:`Datacube` or :class:`Movie`."""
    make = Datacube if kind == "datacube" else Movie
    return make(np.asarray(array), kind, calibration or Calibration(), path, name)
