"""Extended headers that Thermo Fisher (FEI) programs put into MRC files: pixel size, mode, energy, time of each frame.

``FEI1`` and ``FEI2`` after the description that CCP-EM publishes (metadata blocks of fixed layout, each field valid where its
bit is set); before them, 128 bytes an image as tomography programs wrote.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from napari_emdl.base.timing import Timing, by_stamps

_OLD_SIZES = (128 * 1024, 128 * 8192)
_DAY_S = 86_400.0
#: Offsets in a block of the first mask of valid fields and of the fields used, with their bits.
_MASK, _STAMP, _TENSION, _PIXEL_X, _PIXEL_Y, _PROJECTION = 8, (12, 0), (84, 5), (156, 14), (164, 15), (248, 26)
_DIFFRACTION = 1
_LEAST_BLOCK = 252


@dataclass(frozen=True)
class FeiHeader:
    """What the extended header says.

    Attributes
    ----------
    pixel
        (row, col) pixel in m, or in 1/m for diffraction patterns; None when unknown.
    diffraction
        True for diffraction patterns.
    energy_keV
        Beam energy.
    block, blocks
        Bytes and number of metadata blocks, 0 where there are none.
    """

    pixel: tuple[float, float] | None = None
    diffraction: bool = False
    energy_keV: float | None = None
    block: int = 0
    blocks: int = 0


def read_fei(path: Path, head: bytes, size: int, order: str) -> FeiHeader:
    """Read the extended header of `size` bytes behind the header `head`; an empty one where it is none of FEI's."""
    kind = head[104:108]
    with path.open("rb") as file:
        file.seek(1024)
        first = file.read(min(max(size, 0), 1024))
    if kind in (b"FEI1", b"FEI2"):
        return _modern(first, size, order)
    if size in _OLD_SIZES and len(first) >= 48:
        pixel_m = struct.unpack(order + "f", first[44:48])[0]
        if 1e-13 < pixel_m < 1e-5:
            return FeiHeader(pixel=(pixel_m, pixel_m))
    return FeiHeader()


def _modern(first: bytes, size: int, order: str) -> FeiHeader:
    if len(first) < _LEAST_BLOCK:
        return FeiHeader()
    block = struct.unpack_from(order + "i", first)[0]
    if not _LEAST_BLOCK <= block <= 65536:
        return FeiHeader()
    mask = struct.unpack_from("<I", first, _MASK)[0]  # bit masks are little-endian in every file

    def value(field: tuple[int, int]) -> float | None:
        number = float(struct.unpack_from(order + "d", first, field[0])[0])
        return number if mask >> field[1] & 1 and np.isfinite(number) and number > 0 else None

    x, y, tension = value(_PIXEL_X), value(_PIXEL_Y), value(_TENSION)
    projection = struct.unpack_from(order + "i", first, _PROJECTION[0])[0] if mask >> _PROJECTION[1] & 1 else 0
    diffraction = projection == _DIFFRACTION and (x or 0.0) > 1.0  # a STEM image has its projector in diffraction mode, too
    return FeiHeader(
        pixel=(y, x) if x and y else None,
        diffraction=diffraction,
        energy_keV=tension / 1e3 if tension and 1e3 <= tension <= 3e6 else None,
        block=block,
        blocks=size // block,
    )


def fei_timing(path: Path, header: FeiHeader, count: int, order: str) -> Timing:
    """Interval and gaps by the time stamps (days) of the blocks, one a frame."""
    stamp = np.dtype(
        {"names": ["mask", "days"], "formats": ["<u4", order + "f8"], "offsets": [8, 12], "itemsize": header.block}
    )
    blocks = np.memmap(path, stamp, "r", 1024, (count,))
    if not (blocks["mask"] & 1).all():
        return Timing()
    return by_stamps(blocks["days"].astype(np.float64) * _DAY_S, 1e-3)


def timing_of(path: Path, header: FeiHeader, count: int, order: str) -> partial[Timing] | None:
    """Reads the timing when it is needed; None where there is not a block for every frame."""
    return partial(fei_timing, path, header, count, order) if 1 < count <= header.blocks else None
