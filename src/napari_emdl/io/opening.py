"""Opening: find out what a path is, read its axes and calibration, and give a lazy, calibrated signal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from glob import glob
from pathlib import Path
from typing import Any, Literal, cast, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from napari_emdl.base.errors import OpenError
from napari_emdl.base.params import OpenParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.reading import SMALL_ARRAY_BYTES, first_line, read_small_npy
from napari_emdl.base.signals import Datacube, Kind, Movie
from napari_emdl.base.timing import Timing
from napari_emdl.io.axes import KIND_WORDS, Found
from napari_emdl.io.making import make_signal

#: Name of a file or folder, several of them, or an array or signal in memory.
Openable = str | Path | Sequence[str | Path] | Any
_KINDS = ("datacube", "pattern", "stack", "movie", "focal_series", "image", "disks")
_RAW = ("offset", "header_rows", "footer_rows", "frame_header", "frame_footer", "trailer")
_CALIBRATION = (
    "pixel_nm",
    "q_pixel_invA",
    "frame_interval_s",
    "defocus_step_A",
    "energy_keV",
    "semiangle_mrad",
    "qr_rotation_rad",
    "qr_flip",
)


def split_dataset(path: str | Path) -> tuple[Path, str | None]:
    """Split ``FILE::DATASET`` into the file and the dataset's path inside it."""
    text = str(path)
    if "::" in text:
        file, _, dataset = text.rpartition("::")
        return Path(file).expanduser(), dataset.strip("/")
    return Path(text).expanduser(), None


def _paths(path: Openable) -> tuple[Path, str | None, list[Path]]:
    """(path, dataset, files of a sequence); the files are empty unless several were given or a pattern names them."""
    if not isinstance(path, (str, Path)):
        files = [Path(p).expanduser() for p in path]
        if not files:
            raise OpenError("no files were given")
        if len(files) == 1:
            return (*split_dataset(files[0]), [])
        return files[0].parent, None, files
    file, dataset = split_dataset(path)
    if not file.exists() and any(c in file.name for c in "*?["):
        from napari_emdl.io.sequence import natural_key

        files = sorted((Path(p) for p in glob(str(file))), key=natural_key)
        if not files:
            raise OpenError(f"no file matches {file}")
        return file, None, files
    return file, dataset, []


def _scan_of(shape: Sequence[int] | None) -> tuple[int, int] | None:
    if shape is None:
        return None
    rows, cols = (int(shape[0]), int(shape[1])) if len(shape) >= 2 else (0, 0)
    usable = len(shape) in (2, 4) and (min(rows, cols) >= 1 or (min(rows, cols) == -1 and max(rows, cols) >= 1))
    if not usable:
        raise OpenError(
            f"cannot use the shape {tuple(shape)}: give the scan as (rows, cols), or `shape` and `dtype` of raw binary"
        )
    return rows, cols


def open_params(kind: str | None = None, params: OpenParams | None = None, **options: Any) -> OpenParams:
    """Parameters of opening from keywords, checked.

    Raises
    ------
    OpenError
        Naming the option.
    """
    if kind is not None and kind not in _KINDS:
        raise OpenError(f"unknown kind {kind!r}; use one of {', '.join(_KINDS)}")
    given = {name: value for name, value in options.items() if value is not None}
    unknown = sorted(set(given) - set(OpenParams.model_fields))
    if unknown:
        raise TypeError(f"open() got an unexpected keyword {unknown[0]!r}")
    base = {} if params is None else params.model_dump(exclude_defaults=True)
    try:
        return OpenParams.model_validate(base | given | ({} if kind is None else {"kind": kind}))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][:1])
        raise OpenError(f"{name}: {first['msg'].removeprefix('Value error, ')}") from None


@overload
def open(path: Openable, kind: Literal["disks"], *, params: OpenParams | None = None, **options: Any) -> PeakTable: ...
@overload
def open(
    path: Openable,
    kind: Literal["datacube", "pattern", "stack", "movie", "focal_series", "image"] | None = None,
    *,
    params: OpenParams | None = None,
    **options: Any,
) -> Datacube | Movie: ...
def open(path: Openable, kind: Any = None, *, params: OpenParams | None = None, **options: Any) -> Datacube | Movie | PeakTable:
    """Open a datacube, movie, focal series or image lazily and with its calibration.

    Parameters
    ----------
    path
        File, folder (image sequence, Gatan in-situ tree, zarr store), pattern with ``*``, list of image files, or
        ``FILE::DATASET`` for an array inside a file. Or something in memory: a numpy, dask or zarr array, a signal of HyperSpy
        or pyxem, a DataCube of py4DSTEM; nothing of it is copied or computed.
    kind
        "datacube", "pattern" (one), "stack" (patterns one after the other, with the scan as `shape`), "movie", "focal_series"
        or "image"; "disks" gives the peak lists of a file. The axes decide when None.
    params
        How it is read, as :class:`napari_emdl.base.params.OpenParams`.
    options
        Fields of :class:`~napari_emdl.base.params.OpenParams`; they stand above `params`. The most used ones:

        axes
            Order of the axes in the file, one letter each: R C scan row and col, Q K detector row and col, T time, F focus,
            Y X image row and col, S scan position of a flat scan. The file decides when None.
        shape
            (rows, cols) of the scan for a stack of patterns (one may be -1); the full shape (with `dtype`) for raw binary.
        dtype, offset, header_rows, footer_rows, frame_header, frame_footer, trailer
            numpy type, bytes before the array, and what surrounds every frame: reads the file as raw binary.
        frames, drop_cols, scan_crop, scan_bin, detector_crop, detector_bin, mask
            What part is used.
        pixel_nm, q_pixel_invA, frame_interval_s, defocus_step_A, energy_keV, semiangle_mrad, qr_rotation_rad, qr_flip
            Calibration, which stands above what the file says; pixel sizes are one value or (row, col).

    Returns
    -------
    Datacube or Movie
        Its ``notes`` hold what the user must know of it. A PeakTable for the kind "disks".

    Raises
    ------
    OpenError
        When it cannot be opened, or not as what was asked for.
    """
    from napari_emdl.io.loading import apply_loading
    from napari_emdl.io.untold import settle

    how = open_params(kind, params, **options)
    if how.kind == "disks":
        return _disks(path)
    found, where = _found(path, how)
    found = settle(found, how)
    overrides = {name: getattr(how, name) for name in _CALIBRATION}
    wanted = cast(Kind | None, {"pattern": "datacube", "stack": "datacube"}.get(how.kind or "", how.kind))
    scan = None if how.dtype is not None else _scan_of(how.shape)
    if how.kind == "stack" and scan is None and how.dtype is None and len(found.data.shape) == 3 and found.scan is None:
        raise OpenError(f"{where or found.name} is a stack of {found.data.shape[0]} patterns; give the scan shape (rows, cols)")
    found, left = _some_frames(found, how)
    signal = make_signal(found, where, wanted, how.axes, scan, overrides)
    if how.kind == "pattern" and isinstance(signal, Datacube) and signal.n_patterns != 1:
        raise OpenError(f"{signal.name} holds {signal.n_patterns} patterns, not one; open it as a datacube or stack")
    signal = apply_loading(signal, left, None if how.mask is None else read_mask(how.mask))
    given = how.model_dump(exclude_defaults=True, mode="json")
    return replace(signal, metadata={**signal.metadata, "open_options": given}) if given else signal


def _some_frames(found: Found, how: OpenParams) -> tuple[Found, OpenParams]:
    """The frames of a stack that are asked for, and what is still to be done; other axis orders are cropped later."""
    if how.frames is None or len(found.data.shape) != 3 or (how.axes or "S")[0].upper() not in "STF":
        return found, how
    from napari_emdl.io.views import CroppedSource

    first, last = how.frames
    count = found.data.shape[0]
    if last > count:
        raise OpenError(f"{found.name} holds {count} frames; {first}:{last} does not lie in them")
    data = CroppedSource(found.data, [(first, last), *((0, n) for n in found.data.shape[1:])])
    axes = (replace(found.axes[0], size=last - first), *found.axes[1:])
    timing = None if found.timing is None else partial(_part_of, found.timing, first, last)
    return replace(found, data=data, axes=axes, scan=None, timing=timing), how.model_copy(update={"frames": None})


def _part_of(timing: Callable[[], Timing], first: int, last: int) -> Timing:
    return timing().part(first, last)


def read_mask(text: str | Path) -> NDArray[np.bool_]:
    """Mask of a file (any image that opens, .npy, FILE::DATASET): pixels that are not zero are missing.

    Raises
    ------
    OpenError
        When it is not an image.
    """
    path = Path(str(text).partition("::")[0]).expanduser()
    if path.suffix.lower() == ".npy" and path.is_file():
        values: NDArray[Any] = read_small_npy(path)
    else:
        opened = open(text, "image")
        if opened.nbytes > SMALL_ARRAY_BYTES:
            raise OpenError(f"{opened.name} is too large for a mask {opened.shape}")
        values = np.asarray(opened.data[...])
    values = np.squeeze(values)
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise OpenError(f"{path.name} holds {values.shape}, no mask of a detector or frame")
    return np.isnan(values) | (values != 0) if values.dtype.kind == "f" else values != 0


def _disks(path: Openable) -> PeakTable:
    from napari_emdl.io.results import load

    if not isinstance(path, (str, Path)):
        raise OpenError("peak lists are opened from one file")
    table = load(path)
    if not isinstance(table, PeakTable):
        raise OpenError(f"{Path(path).name} holds a {type(table).__name__}, no peak lists")
    return table


def _found(path: Any, how: OpenParams) -> tuple[Found, str]:
    """What the reader for `path` finds, and the name under which it is kept ("" for what is in memory)."""
    from napari_emdl.io.dispatch import main_file, read, sniff
    from napari_emdl.io.objects import found_in_object, is_object

    if is_object(path):
        return found_in_object(path), ""

    try:
        file, dataset, files = _paths(path)
        exists = bool(files) or file.exists()
    except (OSError, ValueError) as error:  # a name that no file can have
        raise OpenError(f"{str(path)[:200]} cannot be opened: {first_line(error)[:100]}") from error
    where = str(file) if dataset is None else f"{file}::{dataset}"
    if files:
        from napari_emdl.io.sequence import read_sequence

        missing = [p.name for p in files if not p.is_file()]
        if missing:
            raise OpenError(f"{missing[0]} does not exist")
        return read_sequence(files, file.name), where
    if not exists:
        raise OpenError(f"{file} is a link to a place that does not exist" if file.is_symlink() else f"{file} does not exist")
    if how.dtype is not None:
        from napari_emdl.io.formats.raw import RawLayout, read_raw

        if how.shape is None or not file.is_file():
            raise OpenError(f"{file.name}: raw binary needs a file and its full `shape` as well as `dtype`")
        if dataset is not None:
            raise OpenError(f"{file.name} is read as raw binary, which has no dataset {dataset!r}")
        sniff(file)
        return read_raw(file, how.shape, how.dtype, RawLayout(**{name: getattr(how, name) for name in _RAW})), where
    given = [name for name in _RAW if getattr(how, name)]
    if given:
        raise OpenError(f"`{given[0]}` is for raw binary; give `shape` and `dtype` as well, or leave it away")
    try:
        return read(main_file(file), dataset, how), where
    except PermissionError as error:
        raise OpenError(f"{file} may not be read: {first_line(error)}") from error
    except OSError as error:
        raise OpenError(f"{file} cannot be read: {first_line(error)}") from error


def open_datacube(path: Openable, **options: Any) -> Datacube:
    """Open as a 4D-STEM datacube (scan row, scan col, detector row, detector col).

    A lone pattern becomes a scan of 1 x 1. A stack of patterns needs ``shape=(rows, cols)`` unless the file says that it is one
    line of patterns. Options are those of :func:`open`.
    """
    signal = open(path, **{"kind": "datacube", **{k: v for k, v in options.items() if k != "kind" or v is not None}})
    if not isinstance(signal, Datacube):
        raise OpenError(f"{signal.name} was opened as {KIND_WORDS[signal.kind]}, not as a datacube")
    return signal


def open_movie(path: Openable, **options: Any) -> Movie:
    """Open as a movie (time, row, col), focal series or image, as its axes say. Options are those of :func:`open`."""
    signal = open(path, **options)
    if not isinstance(signal, Movie):
        raise OpenError(
            f"{signal.name} {signal.shape} is a datacube; use open_datacube, or give the axis order (such as `axes='TFYX'`)"
        )
    return signal
