"""Labels of fields: from their names, but where another word reads better."""

from __future__ import annotations

from typing import Any

from pydantic.fields import FieldInfo

#: Labels that read better than the field's name.
LABELS = {
    "min_score": "Least score",
    "min_spacing_px": "Spacing",
    "edge_px": "Edge",
    "max_disks": "Most disks",
    "min_intensity": "Least intensity",
    "q_pixel_invA": "Detector pixel",
    "scan_step_nm": "Scan step",
    "max_memory": "Memory",
    "cs_um": "Cs",
    "axis_deg": "x axis",
    "rotation_deg": "Rotation",
    "energy_keV": "Beam energy",
    "defocus_nm": "Defocus C10",
    "dose_e_per_A2": "Dose a frame",
    "min_site_fraction": "Least share of frames",
    "max_distance_A": "Farthest detection",
    "g1": "g1",
    "g2": "g2",
    "pixel_nm": "Scan step, pixel",
    "qr_rotation_rad": "Rotation",
    "qr_flip": "Flip",
    "semiangle_mrad": "Semiangle",
    "drop_cols": "Fly-back columns",
    "axes": "Axis order",
    "dtype": "Type",
}

_SUFFIXES = ("_px", "_invA", "_nm", "_A2", "_A", "_deg", "_mrad", "_rad", "_um", "_keV", "_s")


def label_of(name: str) -> str:
    """Field name as a person writes it."""
    if name in LABELS:
        return LABELS[name]
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name.replace("_", " ").capitalize()


def caption_of(name: str, info: FieldInfo) -> str:
    """Label of a field in forms."""
    return extra_of(info, "label", "") or label_of(name)


def extra_of(info: FieldInfo, key: str, default: Any) -> Any:
    """One of the entries that forms need beside the description."""
    extra = info.json_schema_extra
    return extra.get(key, default) if isinstance(extra, dict) else default
