"""Opening: sniff what a path is, read its axes and calibration, and give a lazy, calibrated signal."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from napari_emdl.errors import OpenError
from napari_emdl.io.axes import ORDER, Found, make_signal
from napari_emdl.signals import Datacube, Kind, Movie

Magic = Literal["hdf5", "tiff", "npy", "ser", "dm", "zip", "png", "jpeg", "tvips", "mrc", "mib", "blo", "emi", ""]


def split_dataset(path: str | Path) -> tuple[Path, str | None]:
    """Split ``FILE::DATASET`` into the file and the dataset's path inside it."""
    text = str(path)
    if "::" in text:
        file, _, dataset = text.rpartition("::")
        return Path(file).expanduser(), dataset.strip("/")
    return Path(text).expanduser(), None


def sniff(path: Path) -> Magic:
    """What a file is by its first bytes, whatever its name says."""
    try:
        with builtins.open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise OpenError(f"{path} cannot be read: {error.strerror}") from error
    if not head:
        raise OpenError(f"{path.name} is empty (0 bytes)")
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head[:4] == b"II\x97\x01":
        return "ser"
    if head.startswith(b"\x89PNG"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    return ""


def _read(path: Path, dataset: str | None) -> Found:
    """Dispatch on content."""
    magic = sniff(path)
    if magic == "tiff":
        from napari_emdl.io.tiffs import read_tiff

        return read_tiff(path, dataset)
    if magic == "hdf5":
        from napari_emdl.io.hdf5 import read_hdf5

        return read_hdf5(path, dataset)
    raise OpenError(f"{path.name} is of no known format; give shape and dtype to open it as raw binary")


def open(  # noqa: A001
    path: str | Path,
    kind: Kind | None = None,
    *,
    axes: str | None = None,
    shape: Sequence[int] | None = None,
    pixel_nm: float | tuple[float, float] | None = None,
    q_pixel_invA: float | tuple[float, float] | None = None,
    frame_interval_s: float | None = None,
    energy_keV: float | None = None,
    semiangle_mrad: float | None = None,
) -> Datacube | Movie:
    """Open a file."""
    file, dataset = split_dataset(path)
    if kind is not None and kind not in ORDER:
        raise OpenError(f"unknown kind {kind!r}: use one of {', '.join(ORDER)}")
    if not file.exists():
        raise OpenError(f"{file} does not exist")
    found = _read(file, dataset)
    scan = (int(shape[0]), int(shape[1])) if shape is not None else None
    overrides: dict[str, Any] = {
        "pixel_nm": _pair(pixel_nm),
        "q_pixel_invA": _pair(q_pixel_invA),
        "frame_interval_s": frame_interval_s,
        "energy_keV": energy_keV,
        "semiangle_mrad": semiangle_mrad,
    }
    return make_signal(found, str(path), kind, axes, scan, overrides)


def _pair(value: float | tuple[float, float] | None) -> tuple[float, float] | None:
    if value is None:
        return None
    return (float(value), float(value)) if isinstance(value, (int, float)) else (float(value[0]), float(value[1]))


def open_datacube(path: str | Path, **options: Any) -> Datacube:
    """Open a file as a 4D-STEM datacube (scan row, scan col, detector row, detector col); options as for :func:`open`."""
    signal = open(path, "datacube", **options)
    assert isinstance(signal, Datacube)
    return signal


def open_movie(path: str | Path, **options: Any) -> Movie:
    """Open a file as a movie (time, row, col), focal series or image, as its axes say; options as for :func:`open`."""
    signal = open(path, **options)
    if not isinstance(signal, Movie):
        raise OpenError(f"{signal.name} is a datacube; open it with open_datacube, or give kind='movie' and the axis order")
    return signal
