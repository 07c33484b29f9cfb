"""Parameters of finding disks and fitting strain."""

from __future__ import annotations

from typing import Literal

from napari_emdl.base.params.common import FROM_FILE, NOT_SET, Pair, Params, field

DiskMethod = Literal["fcunet", "fcunet-plain", "light", "template"]


class ProbeParams(Params):
    """Where the vacuum probe comes from; the first that is given is used, else it is measured from the data themselves."""

    file: str | None = field(None, "File with the vacuum probe, FILE or FILE::DATASET", empty=NOT_SET, file=True)
    radius_px: float | None = field(None, "Disk radius of a synthetic probe", "px", empty=NOT_SET, gt=0.5, le=512)
    region: tuple[int, int, int, int] | None = field(None, "Scan region of vacuum: row0, row1, col0, col1", empty=NOT_SET)
    edge_width_px: float = field(0.5, "Width of the edge of a synthetic probe", "px", advanced=True, ge=0.1, le=50)


class TemplateParams(Params):
    """Template matching: how the correlation is made."""

    kernel: Literal["auto", "flat", "gaussian", "sigmoid"] = field(
        "auto", "Shape subtracted from the probe so that the kernel sums to zero; auto chooses by the probe radius"
    )
    correlation: Literal["cross", "phase", "hybrid"] = field("cross", "Cross, phase or hybrid correlation")
    corr_power: float = field(
        0.86,
        "Exponent on the correlation's magnitude: 1 is cross, 0 is phase correlation (hybrid only)",
        advanced=True,
        ge=0,
        le=1,
    )
    subpixel: Literal["none", "parabola", "dft", "fit"] = field(
        "fit", "Sub-pixel positions: parabola, upsampled DFT of the correlation, or a fit of the disk with free inner intensity"
    )


class DiskParams(Params):
    """Find Bragg disks."""

    method: DiskMethod = field(
        "fcunet",
        "fcunet: FCU-Net and refiner; fcunet-plain: FCU-Net alone; light: fast, for CPUs and live view; template: correlation",
    )
    model: str | None = field(None, "Model name or folder; empty takes the shipped one of the method")
    min_score: float | None = field(None, "Least score of a disk; empty takes the method's default", ge=0)
    min_spacing_px: float | None = field(None, "Least distance between disks; empty uses the probe radius", "px", ge=0)
    edge_px: float | None = field(
        None, "Disks closer than this to the detector's edge are left out; empty uses the probe radius", "px", ge=0
    )
    max_disks: int = field(400, "Most disks kept per pattern; the result says where there were more", ge=1, le=1000)
    refine_passes: int = field(0, "Passes of the refiner; 0 chooses by the overlap of the disks", advanced=True, ge=0, le=8)
    flip_passes: bool = field(
        False,
        "Find the disks in the pattern's three mirror images as well and average: four times the work; sigma is widened where "
        "the passes disagree",
        advanced=True,
    )
    probe: ProbeParams = ProbeParams()
    template: TemplateParams = TemplateParams()


class CalibrateParams(Params):
    """Origin, ellipticity and units of the diffraction patterns."""

    origin_model: Literal["plane", "parabola", "constant", "measured"] = field(
        "plane", "How the measured centres are smoothed over the scan"
    )
    ellipticity: bool = field(
        False,
        "Correct elliptical distortion, taking the crystal's lattice for square or hexagonal: without that knowledge an "
        "ellipse cannot be told from a strain",
    )
    distortion: Literal["auto", "none"] = field(
        "auto",
        "Distortion of the projector beyond the ellipse (second and third order): auto measures it from the scan's own "
        "lattices and corrects the disks where that clearly helps",
    )
    standard: str | None = field(
        None,
        "Strain result (.h5) of a standard recorded with the same projector settings: its distortion is used, and its ellipse "
        "where it was fitted with ellipticity",
        empty="none",
        file=True,
    )
    q_pixel_invA: float | None = field(None, "Detector pixel size", "1/Å", empty=FROM_FILE, gt=0)
    scan_step_nm: float | None = field(None, "Scan step", "nm", empty=FROM_FILE, gt=0)
    rotation_deg: float | None = field(
        None,
        "Angle of the detector's row axis from the scan's row axis towards its col axis, as py4DSTEM's QR_rotation; turns the "
        "strain into the scan; empty takes the file's",
        "deg",
        empty=FROM_FILE,
        ge=-360,
        le=360,
    )
    flip: bool | None = field(
        None,
        "Detector rows and cols are interchanged before the rotation (mirror image); empty takes the file's",
        empty=FROM_FILE,
    )
    origin: Pair | None = field(
        None,
        "Origin (row, col) of all patterns; empty measures it from the central disk, or from the lattice under a beam stop",
        "px",
    )


class DiskLimits(Params):
    """What a disk must pass to be used; limits filter what was found, nothing is found anew."""

    min_score: float | None = field(None, "Least score of a disk used", empty=NOT_SET, ge=0)
    min_intensity: float | None = field(None, "Least intensity of a disk used", empty=NOT_SET, ge=0)
    max_sigma_px: float | None = field(None, "Largest sigma of a disk used", "px", empty=NOT_SET, gt=0)
    min_spacing_px: float | None = field(
        None, "Disks nearer than this to one of higher score are not used", "px", empty=NOT_SET, ge=0
    )
    edge_px: float | None = field(None, "Disks nearer than this to the detector's edge are not used", "px", empty=NOT_SET, ge=0)


class RegionParams(Params):
    """Lattice and reference of one region of a scan with several lattices."""

    label: int = field(1, "Its number in the label image", ge=1, le=255)
    name: str = field("", "Name of the phase")
    g1: Pair | None = field(None, "First lattice vector (row, col); empty finds it", "px")
    g2: Pair | None = field(None, "Second lattice vector (row, col); empty finds it", "px")
    reference: tuple[int, int, int, int] | None = field(
        None, "Unstrained scan region: row0, row1, col0, col1; empty uses the scan's reference or the median of the region"
    )
    reference_lattice: bool = field(False, "Use g1 and g2 themselves as the unstrained lattice")


class StrainParams(DiskLimits):
    """Fit a lattice at every position and compare it with the reference."""

    g1: Pair | None = field(None, "First lattice vector (row, col); empty finds it", "px")
    g2: Pair | None = field(None, "Second lattice vector (row, col); empty finds it", "px")
    reference: tuple[int, int, int, int] | None = field(
        None, "Unstrained scan region: row0, row1, col0, col1; empty uses the median of all"
    )
    reference_lattice: bool = field(False, "Use g1 and g2 themselves as the unstrained lattice")
    axis_deg: float = field(
        0.0,
        "Direction of the x axis of the strain, from the row axis towards the col axis; of the scan where rotation and flip "
        "are known, else of the detector",
        "deg",
        ge=-360,
        le=360,
    )
    fit: Literal["auto", "both", "peaks", "pattern", "cepstrum"] = field(
        "auto",
        "peaks: to the positions of the disks; pattern: to the patterns themselves, all disks at once with whatever intensity "
        "inside; both: to peaks and patterns, each by its error; cepstrum: to the periods of each pattern, blunter, but "
        "independent of the disks; auto: both where the datacube is at hand and it does not take too long, else peaks. All "
        "but peaks take the datacube",
        label="Fit to",
    )
    check: Literal["none", "cepstrum", "pattern", "both"] = field(
        "none",
        "Other fits that the map is checked by, with a map of where they differ; where they differ by more than their errors "
        "explain, sigma is widened. Takes the datacube",
        label="Check by",
    )
    min_disks: int = field(5, "Fewest indexed disks for a fit; fewer leave the position masked", ge=3, le=100)
    max_index_error: float = field(
        0.3, "Largest distance from a lattice point, in units of the shorter lattice vector", advanced=True, gt=0, le=0.5
    )
    regions: str | None = field(
        None,
        "Label image over the scan (TIFF, PNG or .npy) for several lattices: every number above 0 is a region with a lattice "
        "and reference of its own, 0 is left out",
    )
    lattices: Literal["auto", "one"] = field(
        "auto",
        "auto: where many positions with disks do not lie on the scan's lattice (grains, phases, precipitates), other lattices "
        "are looked for, each with a region and a zero of its own; one: a single lattice",
    )
    phases: tuple[RegionParams, ...] = field((), "Lattice vectors and references of single regions")
    calibrate: CalibrateParams = CalibrateParams()

    @property
    def needs_patterns(self) -> bool:
        """Whether the fit cannot do without the datacube."""
        return self.fit not in ("auto", "peaks") or self.check != "none"

    @property
    def takes_patterns(self) -> bool:
        """Whether the fit goes through the datacube where it is at hand, which takes its time."""
        return self.fit != "peaks" or self.check != "none"
