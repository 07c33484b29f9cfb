"""Every parameter, defined once: panels, command line, job files, provenance and cache keys are made from these models.

Each field has a description (the tooltip and the help text). Its ``json_schema_extra`` holds what forms need besides: "unit";
"advanced" (folded away in panels); "empty", the word for a value that is None ("auto" where the program then chooses, "not set"
where nothing does); "group", the tab it stands on; "file" (it names a file); "label", where the name does not say it.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

DiskMethod = Literal["fcunet", "fcunet-plain", "light", "template"]
Device = Literal["auto", "cpu", "cuda"]
Pair = tuple[float, float]


class Params(BaseModel):
    """Base of all parameter models: immutable, unknown names are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


NOT_SET = "not set"


def _field(
    default: Any,
    text: str,
    unit: str = "",
    advanced: bool = False,
    empty: str = "auto",
    group: str = "",
    file: bool = False,
    label: str = "",
    **bounds: Any,
) -> Any:
    extra: dict[str, Any] = {
        "unit": unit,
        "advanced": advanced,
        "empty": empty,
        "group": group,
        "file": file,
        "label": label,
    }
    return Field(default, description=text, json_schema_extra=extra, **bounds)


class RunParams(Params):
    """How a job runs; no effect on the result."""

    device: Device = _field(
        "auto", "Where networks run. auto uses the GPU if it can and says what it used; cuda fails if there is none"
    )
    batch: int | None = _field(None, "Patterns or frames per network call; empty chooses by memory", ge=1, le=4096)
    max_memory: str = _field("2GB", "Memory a job may take, such as 2GB or 500MB")
    workers: int | None = _field(None, "Worker threads; empty uses all cores", ge=1, le=1024)
    scheduler: str | None = _field(None, "Address of a Dask scheduler, such as tcp://host:8786; empty runs here", empty="none")
    resume: bool | None = _field(
        None, "True goes on with a partial result file, False starts again; empty refuses to overwrite another job's result"
    )

    @field_validator("max_memory")
    @classmethod
    def _parsable(cls, text: str) -> str:
        parse_bytes(text)
        return text

    @property
    def max_memory_bytes(self) -> int:
        """`max_memory` in bytes."""
        return parse_bytes(self.max_memory)


def parse_bytes(text: str) -> int:
    """Turn "2GB", "500 MB" or "1GiB" into bytes."""
    units = {
        "": 1,
        "B": 1,
        "KB": 10**3,
        "MB": 10**6,
        "GB": 10**9,
        "TB": 10**12,
        "KIB": 2**10,
        "MIB": 2**20,
        "GIB": 2**30,
        "TIB": 2**40,
    }
    compact = text.replace(" ", "").upper()
    number = compact.rstrip("KMGTIB")
    unit = compact[len(number) :]
    try:
        value = float(number) * units[unit]
    except (ValueError, KeyError):
        raise ValueError(f"cannot read {text!r} as a size; write it like 2GB or 500MB") from None
    if value <= 0:
        raise ValueError(f"a memory limit must be positive, got {text!r}")
    return int(value)


OpenKind = Literal["datacube", "pattern", "stack", "movie", "focal_series", "image", "disks"]


#: Tabs of the parameters of opening.
WHAT, PART, CALIBRATION, RAW = "What it is", "Part used", "Calibration", "Raw binary"
_FROM_FILE = "from the file"


class OpenParams(Params):
    """How a file is read: what it is where its own word is missing or wrong, and which part of it is taken."""

    kind: OpenKind | None = _field(
        None,
        "What the file is: datacube, one pattern, stack (of patterns, with the scan as shape), movie, focal series, image, or "
        "disks (peak lists only); empty is told by its axes",
        empty="as its axes say",
        group=WHAT,
    )
    axes: str | None = _field(
        None, "Order of the axes in the file, such as RCQK, TYX or TFYX", empty="as in the file", group=WHAT
    )
    shape: tuple[int, ...] | None = _field(
        None, "Scan rows,cols of a stack of patterns (one may be -1); full shape of raw binary", empty=NOT_SET, group=WHAT
    )
    frames: tuple[int, int] | None = _field(
        None, "First frame or pattern used of a stack, and the one after the last", empty="all", group=WHAT
    )
    drop_cols: tuple[int, int] | None = _field(
        None, "Fly-back columns left out at the start and at the end of each scan row", empty="none", group=PART
    )
    scan_crop: tuple[int, int, int, int] | None = _field(
        None, "Part of the scan used: row0, row1, col0, col1", empty="whole scan", group=PART
    )
    scan_bin: int = _field(1, "Scan positions added up along rows and cols", group=PART, ge=1, le=64)
    detector_crop: tuple[int, int, int, int] | None = _field(
        None, "Part of the detector or frame used: row0, row1, col0, col1", "px", empty="whole frame", group=PART
    )
    detector_bin: int = _field(1, "Detector or frame pixels added up along rows and cols", group=PART, ge=1, le=64)
    mask: str | None = _field(
        None,
        "File with the mask of the detector or frame, FILE or FILE::DATASET: pixels that are not 0 are missing",
        empty="none",
        group=PART,
        file=True,
    )
    pixel_nm: Pair | None = _field(
        None, "Scan step of a datacube, pixel size of an image (row, col)", "nm", empty=_FROM_FILE, group=CALIBRATION
    )
    q_pixel_invA: Pair | None = _field(None, "Size of a detector pixel (row, col)", "1/Å", empty=_FROM_FILE, group=CALIBRATION)
    frame_interval_s: float | None = _field(None, "Time from frame to frame", "s", empty=_FROM_FILE, group=CALIBRATION, gt=0)
    defocus_step_A: float | None = _field(None, "Step of a focal series", "Å", empty=_FROM_FILE, group=CALIBRATION)
    energy_keV: float | None = _field(None, "Beam energy", "keV", empty=_FROM_FILE, group=CALIBRATION, gt=0, le=3000)
    semiangle_mrad: float | None = _field(
        None, "Convergence semiangle", "mrad", empty=_FROM_FILE, group=CALIBRATION, gt=0, le=200
    )
    qr_rotation_rad: float | None = _field(
        None, "Rotation from scan axes to detector axes", "rad", empty=_FROM_FILE, group=CALIBRATION, ge=-7, le=7
    )
    qr_flip: bool | None = _field(
        None, "The detector axes are transposed against the scan axes", empty=_FROM_FILE, group=CALIBRATION
    )
    dtype: str | None = _field(
        None, "numpy type of raw binary, such as uint16 or >u2", advanced=True, empty="not raw binary", group=RAW
    )
    offset: int = _field(0, "Bytes before the array of raw binary", "bytes", advanced=True, group=RAW, ge=0)
    header_rows: int = _field(
        0, "Rows before every frame of raw binary that are not data", "px", advanced=True, group=RAW, ge=0, le=65536
    )
    footer_rows: int = _field(
        0, "Rows after every frame of raw binary that are not data", "px", advanced=True, group=RAW, ge=0, le=65536
    )
    frame_header: int = _field(0, "Bytes before every frame of raw binary", "bytes", advanced=True, group=RAW, ge=0, le=2**30)
    frame_footer: int = _field(0, "Bytes after every frame of raw binary", "bytes", advanced=True, group=RAW, ge=0, le=2**30)
    trailer: int = _field(0, "Bytes after the array of raw binary that are not data", "bytes", advanced=True, group=RAW, ge=0)

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


class ProbeParams(Params):
    """Where the vacuum probe comes from; the first that is given is used, else it is measured from the data themselves."""

    file: str | None = _field(None, "File with the vacuum probe, FILE or FILE::DATASET", empty=NOT_SET, file=True)
    radius_px: float | None = _field(None, "Disk radius of a synthetic probe", "px", empty=NOT_SET, gt=0.5, le=512)
    region: tuple[int, int, int, int] | None = _field(None, "Scan region of vacuum: row0, row1, col0, col1", empty=NOT_SET)
    edge_width_px: float = _field(0.5, "Width of the edge of a synthetic probe", "px", advanced=True, ge=0.1, le=50)


class TemplateParams(Params):
    """Template matching: how the correlation is made."""

    kernel: Literal["auto", "flat", "gaussian", "sigmoid"] = _field(
        "auto", "Shape subtracted from the probe so that the kernel sums to zero; auto chooses by the probe radius"
    )
    correlation: Literal["cross", "phase", "hybrid"] = _field("cross", "Cross, phase or hybrid correlation")
    corr_power: float = _field(
        0.86,
        "Exponent on the correlation's magnitude: 1 is cross, 0 is phase correlation (hybrid only)",
        advanced=True,
        ge=0,
        le=1,
    )
    subpixel: Literal["none", "parabola", "dft", "fit"] = _field(
        "fit", "Sub-pixel positions: parabola, upsampled DFT of the correlation, or a fit of the disk with free inner intensity"
    )


class DiskParams(Params):
    """Find Bragg disks."""

    method: DiskMethod = _field(
        "fcunet",
        "fcunet: FCU-Net and refiner; fcunet-plain: FCU-Net alone; light: fast, for CPUs and live view; template: correlation",
    )
    model: str | None = _field(None, "Model name or folder; empty takes the shipped one of the method")
    min_score: float | None = _field(None, "Least score of a disk; empty takes the method's default", ge=0)
    min_spacing_px: float | None = _field(None, "Least distance between disks; empty uses the probe radius", "px", ge=0)
    edge_px: float | None = _field(
        None, "Disks closer than this to the detector's edge are left out; empty uses the probe radius", "px", ge=0
    )
    max_disks: int = _field(400, "Most disks kept per pattern; the result says where there were more", ge=1, le=1000)
    refine_passes: int = _field(0, "Passes of the refiner; 0 chooses by the overlap of the disks", advanced=True, ge=0, le=8)
    flip_passes: bool = _field(
        False,
        "Find the disks in the pattern's three mirror images as well and average: four times the work; sigma is widened where "
        "the passes disagree",
        advanced=True,
    )
    probe: ProbeParams = ProbeParams()
    template: TemplateParams = TemplateParams()


class CalibrateParams(Params):
    """Origin, ellipticity and units of the diffraction patterns."""

    origin_model: Literal["plane", "parabola", "constant", "measured"] = _field(
        "plane", "How the measured centres are smoothed over the scan"
    )
    ellipticity: bool = _field(
        False,
        "Correct elliptical distortion, taking the crystal's lattice for square or hexagonal: without that knowledge an "
        "ellipse cannot be told from a strain",
    )
    distortion: Literal["auto", "none"] = _field(
        "auto",
        "Distortion of the projector beyond the ellipse (second and third order): auto measures it from the scan's own "
        "lattices and corrects the disks where that clearly helps",
    )
    standard: str | None = _field(
        None,
        "Strain result (.h5) of a standard recorded with the same projector settings: its distortion is used, and its ellipse "
        "where it was fitted with ellipticity",
        empty="none",
        file=True,
    )
    q_pixel_invA: float | None = _field(None, "Detector pixel size", "1/Å", empty=_FROM_FILE, gt=0)
    scan_step_nm: float | None = _field(None, "Scan step", "nm", empty=_FROM_FILE, gt=0)
    rotation_deg: float | None = _field(
        None,
        "Angle of the detector's row axis from the scan's row axis towards its col axis, as py4DSTEM's QR_rotation; turns the "
        "strain into the scan; empty takes the file's",
        "deg",
        empty=_FROM_FILE,
        ge=-360,
        le=360,
    )
    flip: bool | None = _field(
        None,
        "Detector rows and cols are interchanged before the rotation (mirror image); empty takes the file's",
        empty=_FROM_FILE,
    )
    origin: Pair | None = _field(
        None,
        "Origin (row, col) of all patterns; empty measures it from the central disk, or from the lattice under a beam stop",
        "px",
    )


class DiskLimits(Params):
    """What a disk must pass to be used; limits filter what was found, nothing is found anew."""

    min_score: float | None = _field(None, "Least score of a disk used", empty=NOT_SET, ge=0)
    min_intensity: float | None = _field(None, "Least intensity of a disk used", empty=NOT_SET, ge=0)
    max_sigma_px: float | None = _field(None, "Largest sigma of a disk used", "px", empty=NOT_SET, gt=0)
    min_spacing_px: float | None = _field(
        None, "Disks nearer than this to one of higher score are not used", "px", empty=NOT_SET, ge=0
    )
    edge_px: float | None = _field(
        None, "Disks nearer than this to the detector's edge are not used", "px", empty=NOT_SET, ge=0
    )


class RegionParams(Params):
    """Lattice and reference of one region of a scan with several lattices."""

    label: int = _field(1, "Its number in the label image", ge=1, le=255)
    name: str = _field("", "Name of the phase")
    g1: Pair | None = _field(None, "First lattice vector (row, col); empty finds it", "px")
    g2: Pair | None = _field(None, "Second lattice vector (row, col); empty finds it", "px")
    reference: tuple[int, int, int, int] | None = _field(
        None, "Unstrained scan region: row0, row1, col0, col1; empty uses the scan's reference or the median of the region"
    )
    reference_lattice: bool = _field(False, "Use g1 and g2 themselves as the unstrained lattice")


class StrainParams(DiskLimits):
    """Fit a lattice at every position and compare it with the reference."""

    g1: Pair | None = _field(None, "First lattice vector (row, col); empty finds it", "px")
    g2: Pair | None = _field(None, "Second lattice vector (row, col); empty finds it", "px")
    reference: tuple[int, int, int, int] | None = _field(
        None, "Unstrained scan region: row0, row1, col0, col1; empty uses the median of all"
    )
    reference_lattice: bool = _field(False, "Use g1 and g2 themselves as the unstrained lattice")
    axis_deg: float = _field(
        0.0,
        "Direction of the x axis of the strain, from the row axis towards the col axis; of the scan where rotation and flip "
        "are known, else of the detector",
        "deg",
        ge=-360,
        le=360,
    )
    fit: Literal["peaks", "pattern", "cepstrum"] = _field(
        "peaks",
        "peaks: to the positions of the disks; pattern: to the patterns themselves, all disks at once with whatever intensity "
        "inside; cepstrum: to the periods of each pattern, blunter, but independent of the disks; the last two take the "
        "datacube",
        label="Fit to",
    )
    check: Literal["none", "cepstrum", "pattern", "both"] = _field(
        "none",
        "Other fits that the map is checked by, with a map of where they differ; where they differ by more than their errors "
        "explain, sigma is widened. Takes the datacube",
        label="Check by",
    )
    min_disks: int = _field(5, "Fewest indexed disks for a fit; fewer leave the position masked", ge=3, le=100)
    max_index_error: float = _field(
        0.3, "Largest distance from a lattice point, in units of the shorter lattice vector", advanced=True, gt=0, le=0.5
    )
    regions: str | None = _field(
        None,
        "Label image over the scan (TIFF, PNG or .npy) for several lattices: every number above 0 is a region with a lattice "
        "and reference of its own, 0 is left out",
    )
    phases: tuple[RegionParams, ...] = _field((), "Lattice vectors and references of single regions")
    calibrate: CalibrateParams = CalibrateParams()

    @property
    def needs_patterns(self) -> bool:
        """Whether the fit goes through the datacube, which takes its time, and not through the peaks alone."""
        return self.fit != "peaks" or self.check != "none"


class ColumnParams(Params):
    """Find atomic columns in an image, movie or focal series."""

    model: str | None = _field(
        None, "Model name or folder, or 'log' for the classical Laplacian of Gaussian; empty takes the shipped one"
    )
    pixel_size_A: float | None = _field(
        None, "Pixel size; empty takes it from the file", "Å", empty=_FROM_FILE, gt=0.001, le=10
    )
    contrast: Literal["auto", "bright", "dark"] = _field("auto", "Atoms are bright or dark on the background")
    mode: Literal["auto", "hrtem", "stem"] = _field(
        "auto", "Kind of image: phase contrast (hrtem) or an annular detector (stem: HAADF, ADF); auto leaves it open"
    )
    frames: Literal["auto", "1", "3", "5", "7", "9"] = _field(
        "auto",
        "Neighbouring frames, moved onto each frame by the drift, that help at low dose; auto asks the movie",
        label="Average frames",
    )
    energy_keV: float | None = _field(None, "Beam energy, if known", "keV", empty=NOT_SET, gt=1, le=3000)
    cs_um: float | None = _field(None, "Spherical aberration Cs, if known", "µm", empty=NOT_SET, ge=-5000, le=5000)
    defocus_nm: float | None = _field(
        None, "Defocus C10, if known (positive is overfocus)", "nm", empty=NOT_SET, ge=-5000, le=5000
    )
    min_score: float | None = _field(
        None, "Least score of a column; empty takes the model's default for the contrast", ge=0, le=1
    )
    min_spacing_A: float = _field(0.8, "Least distance between columns", "Å", advanced=True, gt=0)

    @field_validator("frames", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value


class ColumnLimits(Params):
    """What a column must pass to be used; limits filter what was found, nothing is found anew."""

    min_score: float | None = _field(None, "Least score of a column used; empty takes the finder's default", ge=0, le=1)


class OccupancyParams(Params):
    """Follow every site through the movie."""

    method: Literal["hmm", "threshold"] = _field(
        "hmm", "hmm: hidden Markov model on the evidence at each site; threshold: nearest detection"
    )
    evidence: Literal["image", "finder"] = _field(
        "image",
        "image: what a column adds to the image, learned from the movie; finder: the finder's own logit at the site",
    )
    min_score: float | None = _field(
        None, "Least score of a detection used for the site list; empty takes the model's default", ge=0, le=1
    )
    min_site_fraction: float = _field(0.05, "A site must be seen in this fraction of the frames", ge=0, le=1)
    max_distance_A: float = _field(0.8, "Farthest a detection may lie from its site", "Å", gt=0)
    extrapolate: bool = _field(True, "Add empty lattice sites around the particle's surface")
    region: tuple[int, int, int, int] | None = _field(
        None, "Part of the first frame whose sites are followed: row0, row1, col0, col1; empty follows all", "px", empty="all"
    )
    frame_interval_s: float | None = _field(
        None, "Time from frame to frame; empty takes it from the file", "s", empty=_FROM_FILE, gt=0
    )
    dose_e_per_A2: float | None = _field(None, "Dose of a frame, given beside the rates", "e/Å2", empty=NOT_SET, gt=0)
