"""Parameters of opening a file."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import field_validator

from napari_emdl.base.params.common import FROM_FILE, NOT_SET, Pair, Params, field

OpenKind = Literal["datacube", "pattern", "stack", "movie", "focal_series", "image", "disks"]


#: Tabs of the parameters of opening.
WHAT, PART, CALIBRATION, RAW = "What it is", "Part used", "Calibration", "Raw binary"


class OpenParams(Params):
    """How a file is read: what it is where its own word is missing or wrong, and which part of it is taken."""

    kind: OpenKind | None = field(
        None,
        "What the file is: datacube, one pattern, stack (of patterns, with the scan as shape), movie, focal series, image, or "
        "disks (peak lists only); empty is told by its axes",
        empty="as its axes say",
        group=WHAT,
    )
    axes: str | None = field(
        None, "Order of the axes in the file, such as RCQK, TYX or TFYX", empty="as in the file", group=WHAT
    )
    shape: tuple[int, ...] | None = field(
        None, "Scan rows,cols of a stack of patterns (one may be -1); full shape of raw binary", empty=NOT_SET, group=WHAT
    )
    frames: tuple[int, int] | None = field(
        None, "First frame or pattern used of a stack, and the one after the last", empty="all", group=WHAT
    )
    drop_cols: tuple[int, int] | None = field(
        None, "Fly-back columns left out at the start and at the end of each scan row", empty="none", group=PART
    )
    scan_crop: tuple[int, int, int, int] | None = field(
        None, "Part of the scan used: row0, row1, col0, col1", empty="whole scan", group=PART
    )
    scan_bin: int = field(1, "Scan positions added up along rows and cols", group=PART, ge=1, le=64)
    detector_crop: tuple[int, int, int, int] | None = field(
        None, "Part of the detector or frame used: row0, row1, col0, col1", "px", empty="whole frame", group=PART
    )
    detector_bin: int = field(1, "Detector or frame pixels added up along rows and cols", group=PART, ge=1, le=64)
    mask: str | None = field(
        None,
        "File with the mask of the detector or frame, FILE or FILE::DATASET: pixels that are not 0 are missing",
        empty="none",
        group=PART,
        file=True,
    )
    pixel_nm: Pair | None = field(
        None, "Scan step of a datacube, pixel size of an image (row, col)", "nm", empty=FROM_FILE, group=CALIBRATION
    )
    q_pixel_invA: Pair | None = field(None, "Size of a detector pixel (row, col)", "1/Å", empty=FROM_FILE, group=CALIBRATION)
    frame_interval_s: float | None = field(None, "Time from frame to frame", "s", empty=FROM_FILE, group=CALIBRATION, gt=0)
    defocus_step_A: float | None = field(None, "Step of a focal series", "Å", empty=FROM_FILE, group=CALIBRATION)
    energy_keV: float | None = field(None, "Beam energy", "keV", empty=FROM_FILE, group=CALIBRATION, gt=0, le=3000)
    semiangle_mrad: float | None = field(
        None, "Convergence semiangle", "mrad", empty=FROM_FILE, group=CALIBRATION, gt=0, le=200
    )
    qr_rotation_rad: float | None = field(
        None, "Rotation from scan axes to detector axes", "rad", empty=FROM_FILE, group=CALIBRATION, ge=-7, le=7
    )
    qr_flip: bool | None = field(
        None, "The detector axes are transposed against the scan axes", empty=FROM_FILE, group=CALIBRATION
    )
    dtype: str | None = field(
        None, "numpy type of raw binary, such as uint16 or >u2", advanced=True, empty="not raw binary", group=RAW
    )
    offset: int = field(0, "Bytes before the array of raw binary", "bytes", advanced=True, group=RAW, ge=0)
    header_rows: int = field(
        0, "Rows before every frame of raw binary that are not data", "px", advanced=True, group=RAW, ge=0, le=65536
    )
    footer_rows: int = field(
        0, "Rows after every frame of raw binary that are not data", "px", advanced=True, group=RAW, ge=0, le=65536
    )
    frame_header: int = field(0, "Bytes before every frame of raw binary", "bytes", advanced=True, group=RAW, ge=0, le=2**30)
    frame_footer: int = field(0, "Bytes after every frame of raw binary", "bytes", advanced=True, group=RAW, ge=0, le=2**30)
    trailer: int = field(0, "Bytes after the array of raw binary that are not data", "bytes", advanced=True, group=RAW, ge=0)

    @field_validator("pixel_nm", "q_pixel_invA", mode="before")
    @classmethod
    def _both_ways(cls, value: Any) -> Any:
        alone = value[0] if isinstance(value, (tuple, list)) and len(value) == 1 else value
        return (alone, alone) if isinstance(alone, (int, float)) and not isinstance(alone, bool) else value

    @field_validator("pixel_nm", "q_pixel_invA")
    @classmethod
    def _positive(cls, value: Pair | None) -> Pair | None:
        if value is not None and not (0 < value[0] < math.inf and 0 < value[1] < math.inf):
            raise ValueError(f"must be positive, got {value}")
        return value

    @field_validator("dtype", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if value is None or isinstance(value, str):
            return value
        return getattr(value, "str", None) or getattr(value, "__name__", None) or str(value)

    @field_validator("frames", "scan_crop", "detector_crop")
    @classmethod
    def _not_empty(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (min(value) < 0 or any(a >= b for a, b in zip(value[::2], value[1::2], strict=True))):
            raise ValueError(f"the end must be larger than the start, got {value}")
        return value

    @field_validator("drop_cols")
    @classmethod
    def _not_negative(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and min(value) < 0:
            raise ValueError(f"columns to leave out are counted, got {value}")
        return value
