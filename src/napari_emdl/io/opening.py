"""Opening: find out what a path is, read its axes and calibration, and give a lazy, calibrated signal."""

from __future__ import annotations

import builtins
import re
from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import Any

from napari_emdl.base.errors import OpenError
from napari_emdl.base.signals import Datacube, Kind, Movie
from napari_emdl.io.axes import KIND_WORDS, ORDER, Found, make_signal
from napari_emdl.io.sources import first_line

Pair = float | tuple[float, float]
_PLAIN_IMAGES = ("png", "jpeg", "bmp", "gif")


def split_dataset(path: str | Path) -> tuple[Path, str | None]:
    """Split ``FILE::DATASET`` into the file and the dataset's path inside it."""
    text = str(path)
    if "::" in text:
        file, _, dataset = text.rpartition("::")
        return Path(file).expanduser(), dataset.strip("/")
    return Path(text).expanduser(), None


def sniff(path: Path) -> str:
    """What a file is by its first bytes, whatever its name says; "" when they tell nothing.

    Raises
    ------
    OpenError
        When the file is empty or cannot be read.
    """
    try:
        with builtins.open(path, "rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise OpenError(f"{path} cannot be read: {error.strerror}") from error
    if not head:
        raise OpenError(f"{path.name} is empty (0 bytes)")
    starts = {
        b"\x89HDF\r\n\x1a\n": "hdf5",
        b"II*\0": "tiff",
        b"MM\0*": "tiff",
        b"II+\0": "tiff",
        b"MM\0+": "tiff",
        b"\x93NUMPY": "npy",
        b"II\x97\x01": "ser",
        b"JK\x00\x02": "emi",
        b"\x89PNG": "png",
        b"\xff\xd8\xff": "jpeg",
        b"GIF8": "gif",
        b"PK\x03\x04": "zip",
        b"IMGBLO": "blo",
        b"MQ1,": "mib",
        b"\x00\x00\x00\x03\x00": "dm3",
        b"\x00\x00\x00\x04\x00\x00\x00\x00": "dm4",
    }
    for start, name in starts.items():
        if head.startswith(start):
            return name
    if head[208:211] == b"MAP":
        return "mrc"
    if head.startswith(b"BM") and len(head) > 54:
        return "bmp"
    return ""


def _main_file(path: Path) -> Path:
    """File to open for a companion: the .mib of a .hdr, part 000 of a split TVIPS recording."""
    if path.suffix.lower() == ".hdr" and path.with_suffix(".mib").is_file():
        return path.with_suffix(".mib")
    part = re.fullmatch(r"(.+_)\d{3}", path.stem)
    if path.suffix.lower() == ".tvips" and part and path.with_name(f"{part.group(1)}000{path.suffix}").is_file():
        return path.with_name(f"{part.group(1)}000{path.suffix}")
    return path


def _read(path: Path, dataset: str | None) -> Found:
    """Read a file or folder with the reader for what it is."""
    if path.is_dir():
        return _read_folder(path, dataset)
    magic = sniff(path)
    ending = path.suffix.lower()
    if magic == "hdf5":
        return _read_hdf5(path, ending, dataset)
    if magic == "tiff":
        from napari_emdl.io.formats.tiffs import read_tiff

        return read_tiff(path, dataset)
    if magic == "npy":
        from napari_emdl.io.formats.raw import read_npy

        return read_npy(path)
    if magic in ("ser", "emi"):
        from napari_emdl.io.formats.ser import read_emi, read_ser

        return read_ser(path) if magic == "ser" else read_emi(path, dataset)
    if magic in _PLAIN_IMAGES:
        from napari_emdl.io.sequence import read_sequence

        return read_sequence([path], path.stem)
    if magic == "zip" and ending == ".zip":
        from napari_emdl.io.formats.zarrs import read_zarr

        return read_zarr(path, dataset)
    return _read_vendor(path, magic, ending, dataset)


def _read_folder(path: Path, dataset: str | None) -> Found:
    from napari_emdl.io.formats.zarrs import is_zarr, read_zarr

    if path.suffix.lower() == ".zspy":
        from napari_emdl.io.formats.vendor import read_vendor

        return read_vendor(path, "zspy", dataset)
    if is_zarr(path):
        return read_zarr(path, dataset)
    from napari_emdl.io.sequence import read_folder

    return read_folder(path)


def _read_hdf5(path: Path, ending: str, dataset: str | None) -> Found:
    from napari_emdl.io.formats.hdf5 import open_h5, read_hdf5, written_by

    with open_h5(path) as file:
        writer = written_by(file)
    if writer in ("velox", "hyperspy"):
        from napari_emdl.io.formats.vendor import read_vendor

        return read_vendor(path, {"velox": "emd", "hyperspy": "hspy"}[writer], dataset)
    return read_hdf5(path, dataset)


def _read_vendor(path: Path, magic: str, ending: str, dataset: str | None) -> Found:
    from napari_emdl.io.formats.vendor import PLUGINS, read_vendor

    plugin = PLUGINS.get(f".{magic}") or PLUGINS.get(ending)
    unmistakable = {".dm3", ".dm4", ".mib", ".blo", ".hspy", ".emd"}
    if not magic and ending in unmistakable:
        raise OpenError(f"{path.name} is no {ending[1:]} file inside: its name has the wrong ending, or the file is damaged")
    if plugin is None:
        more = "HDF5, TIFF, .npy, zarr, DM3/DM4, Merlin, blockfile, TVIPS, MRC, SER/EMI, Velox and images can be opened"
        hint = "give shape and dtype to read it as raw binary" if ending in (".raw", ".bin", ".dat", "") else more
        wrong = ending in (".h5", ".hdf5", ".tif", ".tiff", ".npy", ".ser", ".emi", ".png", ".jpg")
        what = f"is no {ending[1:]} file inside (wrong ending, or damaged)" if wrong else "is of no known format"
        raise OpenError(f"{path.name} {what}; {hint}")
    if path.suffix.lower() != f".{magic}" and magic in ("dm3", "dm4", "mib", "blo", "mrc"):
        raise OpenError(f"{path.name} is a {magic} file by its content; rename it to end in .{magic}")
    return read_vendor(path, plugin, dataset)


def _paths(path: str | Path | Sequence[str | Path]) -> tuple[Path, str | None, list[Path]]:
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
    if len(shape) not in (2, 4) or any(int(n) < 1 for n in shape[:2]):
        raise OpenError(f"cannot use the shape {tuple(shape)}: give the scan as (rows, cols), or shape and dtype of raw binary")
    return int(shape[0]), int(shape[1])


def open(
    path: str | Path | Sequence[str | Path],
    kind: Kind | None = None,
    *,
    axes: str | None = None,
    shape: Sequence[int] | None = None,
    dtype: Any = None,
    offset: int = 0,
    pixel_nm: Pair | None = None,
    q_pixel_invA: Pair | None = None,
    frame_interval_s: float | None = None,
    defocus_step_A: float | None = None,
    energy_keV: float | None = None,
    semiangle_mrad: float | None = None,
    qr_rotation_rad: float | None = None,
    qr_flip: bool | None = None,
) -> Datacube | Movie:
    """Open a datacube, movie, focal series or image lazily and with its calibration.

    Parameters
    ----------
    path
        File, folder (image sequence, Gatan in-situ tree, zarr store), pattern with ``*``, list of image files, or
        ``FILE::DATASET`` for an array inside a file.
    kind
        "datacube", "movie", "focal_series" or "image"; told by the axes when None.
    axes
        Order of the axes in the file, one letter each: R C scan row and col, Q K detector row and col, T time, F focus,
        Y X image row and col, S scan position of a flat scan. Told by the file when None.
    shape
        (rows, cols) of the scan for a stack of patterns; the full shape (with `dtype`) for raw binary, one entry may be -1.
    dtype, offset
        numpy type and bytes before the array: reads the file as raw binary.
    pixel_nm
        Size of a real-space pixel in nm (scan step, or pixel of an image), one value or (row, col). Like all that follow it
        stands above what the file says.
    q_pixel_invA
        Size of a detector pixel in 1/angstrom, one value or (row, col).
    frame_interval_s, defocus_step_A
        Time from frame to frame; step of a focal series.
    energy_keV, semiangle_mrad
        Beam energy and convergence semiangle.
    qr_rotation_rad, qr_flip
        Rotation and transposition from scan axes to detector axes.

    Raises
    ------
    OpenError
        When it cannot be opened, or not as what was asked for.
    """
    if kind is not None and kind not in ORDER:
        raise OpenError(f"unknown kind {kind!r}; use one of {', '.join(ORDER)}")
    file, dataset, files = _paths(path)
    scan = None
    if files:
        from napari_emdl.io.sequence import read_sequence

        missing = [p.name for p in files if not p.is_file()]
        if missing:
            raise OpenError(f"{missing[0]} does not exist")
        found = read_sequence(files, file.name)
    elif not file.exists():
        raise OpenError(f"{file} does not exist")
    elif dtype is not None:
        from napari_emdl.io.formats.raw import read_raw

        if shape is None or file.is_dir():
            raise OpenError(f"{file.name}: raw binary needs a file and its full shape as well as dtype")
        sniff(file)
        found = read_raw(file, shape, dtype, offset)
    else:
        scan = _scan_of(shape)
        try:
            found = _read(_main_file(file), dataset)
        except PermissionError as error:
            raise OpenError(f"{file} may not be read: {first_line(error)}") from error
    overrides: dict[str, Any] = {
        "pixel_nm": _pair(pixel_nm, "pixel_nm"),
        "q_pixel_invA": _pair(q_pixel_invA, "q_pixel_invA"),
        "frame_interval_s": frame_interval_s,
        "defocus_step_A": defocus_step_A,
        "energy_keV": energy_keV,
        "semiangle_mrad": semiangle_mrad,
        "qr_rotation_rad": qr_rotation_rad,
        "qr_flip": qr_flip,
    }
    where = str(file) if dataset is None else f"{file}::{dataset}"
    return make_signal(found, where, kind, axes, scan, overrides)


def _pair(value: Pair | None, name: str) -> tuple[float, float] | None:
    if value is None:
        return None
    row, col = (value, value) if isinstance(value, (int, float)) else value
    if not (row > 0 and col > 0):
        raise OpenError(f"{name} must be positive, got {value}")
    return float(row), float(col)


def open_datacube(path: str | Path | Sequence[str | Path], **options: Any) -> Datacube:
    """Open as a 4D-STEM datacube (scan row, scan col, detector row, detector col).

    A lone pattern becomes a scan of 1 x 1. A stack of patterns needs ``shape=(rows, cols)`` unless the file says that it is one
    line of patterns. Options are those of :func:`open`.
    """
    signal = open(path, **{"kind": "datacube", **options})
    if not isinstance(signal, Datacube):
        raise OpenError(f"{signal.name} was opened as {KIND_WORDS[signal.kind]}, not as a datacube")
    return signal


def open_movie(path: str | Path | Sequence[str | Path], **options: Any) -> Movie:
    """Open as a movie (time, row, col), focal series or image, as its axes say. Options are those of :func:`open`."""
    signal = open(path, **options)
    if not isinstance(signal, Movie):
        raise OpenError(
            f"{signal.name} {signal.shape} is a datacube; use open_datacube, or give the axis order (such as axes='TFYX')"
        )
    return signal
