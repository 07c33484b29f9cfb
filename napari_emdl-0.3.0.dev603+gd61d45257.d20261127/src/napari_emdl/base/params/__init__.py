"""Every parameter, defined once: panels, command line, job files, provenance and cache keys are made from these models.

Each field has a description (the tooltip and the help text). Its ``json_schema_extra`` holds what forms need besides: "unit";
"advanced" (folded away in panels); "empty", the word for a value that is None ("auto" where the program then chooses, "not set"
where nothing does); "group", the tab it stands on; "file" (it names a file); "label", where the name does not say it.
"""

from napari_emdl.base.params.atoms import ColumnLimits, ColumnParams, OccupancyParams
from napari_emdl.base.params.common import Device, Pair, Params, RunParams, parse_bytes
from napari_emdl.base.params.diffraction import (
    CalibrateParams,
    DiskLimits,
    DiskMethod,
    DiskParams,
    ProbeParams,
    RegionParams,
    StrainParams,
    TemplateParams,
)
from napari_emdl.base.params.opening import CALIBRATION, PART, RAW, WHAT, OpenKind, OpenParams

__all__ = [
    "CALIBRATION", "PART", "RAW", "WHAT", "CalibrateParams", "ColumnLimits", "ColumnParams", "Device", "DiskLimits",
    "DiskMethod", "DiskParams", "OccupancyParams", "OpenKind", "OpenParams", "Pair", "Params", "ProbeParams", "RegionParams",
    "RunParams", "StrainParams", "TemplateParams", "parse_bytes",
]  # fmt: skip
