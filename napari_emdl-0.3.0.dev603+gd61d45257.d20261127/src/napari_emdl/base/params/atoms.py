"""Parameters of finding columns and following their sites."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from napari_emdl.base.params.common import FROM_FILE, NOT_SET, Params, field


class ColumnParams(Params):
    """Find atomic columns in an image, movie or focal series."""

    model: str | None = field(
        None, "Model name or folder, or 'log' for the classical Laplacian of Gaussian; empty takes the shipped one"
    )
    pixel_size_A: float | None = field(None, "Pixel size; empty takes it from the file", "Å", empty=FROM_FILE, gt=0.001, le=10)
    contrast: Literal["auto", "bright", "dark"] = field("auto", "Atoms are bright or dark on the background")
    mode: Literal["auto", "hrtem", "stem"] = field(
        "auto", "Kind of image: phase contrast (hrtem) or an annular detector (stem: HAADF, ADF); auto leaves it open"
    )
    frames: Literal["auto", "1", "3", "5", "7", "9"] = field(
        "auto",
        "Neighbouring frames, moved onto each frame by the drift, that help at low dose; auto asks the movie",
        label="Average frames",
    )
    energy_keV: float | None = field(None, "Beam energy, if known", "keV", empty=NOT_SET, gt=1, le=3000)
    cs_um: float | None = field(None, "Spherical aberration Cs, if known", "µm", empty=NOT_SET, ge=-5000, le=5000)
    defocus_nm: float | None = field(
        None, "Defocus C10, if known (positive is overfocus)", "nm", empty=NOT_SET, ge=-5000, le=5000
    )
    min_score: float | None = field(
        None, "Least score of a column; empty takes the model's default for the contrast", ge=0, le=1
    )
    min_spacing_A: float = field(0.8, "Least distance between columns", "Å", advanced=True, gt=0)

    @field_validator("frames", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value


class ColumnLimits(Params):
    """What a column must pass to be used; limits filter what was found, nothing is found anew."""

    min_score: float | None = field(None, "Least score of a column used; empty takes the finder's default", ge=0, le=1)


class OccupancyParams(Params):
    """Follow every site through the movie."""

    method: Literal["hmm", "threshold"] = field(
        "hmm", "hmm: hidden Markov model on the evidence at each site; threshold: nearest detection"
    )
    evidence: Literal["image", "finder"] = field(
        "image",
        "image: what a column adds to the image, learned from the movie; finder: the finder's own logit at the site",
    )
    min_score: float | None = field(
        None, "Least score of a detection used for the site list; empty takes the model's default", ge=0, le=1
    )
    min_site_fraction: float = field(0.05, "A site must be seen in this fraction of the frames", ge=0, le=1)
    max_distance_A: float = field(0.8, "Farthest a detection may lie from its site", "Å", gt=0)
    extrapolate: bool = field(True, "Add empty lattice sites around the particle's surface")
    region: tuple[int, int, int, int] | None = field(
        None, "Part of the first frame whose sites are followed: row0, row1, col0, col1; empty follows all", "px", empty="all"
    )
    frame_interval_s: float | None = field(
        None, "Time from frame to frame; empty takes it from the file", "s", empty=FROM_FILE, gt=0
    )
    dose_e_per_A2: float | None = field(None, "Dose of a frame, given beside the rates", "e/Å2", empty=NOT_SET, gt=0)
