"""Pixel size and frame times of TIFF files: OME, ImageJ, DM, microscopes' own tags, and plain resolution."""

from __future__ import annotations

import contextlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from typing import Any

from napari_emdl.base.errors import OpenError
from napari_emdl.base.reading import parse_xml
from napari_emdl.base.timing import Timing, by_stamps
from napari_emdl.base.units import parse_unit

_RESOLUTION_UNIT = {2: "inch", 3: "cm"}
#: Units of printers, and the pixel (nm) from which on resolutions in them are a printer's.
_PRINTERS, _PRINTED_NM = ("inch", "inches", "cm"), 1000.0

Scales = dict[str, tuple[float, str]]


def scales_of(file: Any, series: Any, number: int) -> tuple[Scales, list[str]]:
    """Axis letter -> (step, unit), and what must be said of it.

    Parameters
    ----------
    file, series
        Of tifffile.
    number
        Of the series, which is that of the image in OME's metadata.
    """
    page = series.keyframe
    tags = page.tags
    if file.is_ome:
        return _ome_scales(file.ome_metadata, number), []
    if 65003 in tags and 65009 in tags:
        return _dm_scales(tags, series.axes[0]), []
    if vendor := _vendor_scales(page):
        return vendor, []
    if file.is_imagej:
        return _imagej_scales(file.imagej_metadata or {}, series.axes, tags), []
    unit = _RESOLUTION_UNIT.get(_tag(tags, "ResolutionUnit"))
    return ({} if unit is None else _resolution(tags, unit, unit)), []


def _dm_scales(tags: Any, first: str) -> Scales:
    """DigitalMicrograph: units 65003-65005 and scales 65009-65011 of x, y, z."""
    out: Scales = {}
    for letter, unit_tag, scale in (("X", 65003, 65009), ("Y", 65004, 65010), (first, 65005, 65011)):
        if unit_tag in tags and scale in tags and isinstance(tags[unit_tag].value, str) and letter not in out:
            out[letter] = (float(tags[scale].value), tags[unit_tag].value)
    return out


def _resolution(tags: Any, unit_x: str, unit_y: str) -> Scales:
    """Pixel size by the resolution tags, which count pixels a unit."""
    out: Scales = {}
    for letter, name, unit in (("Y", "YResolution", unit_y), ("X", "XResolution", unit_x)):
        pixels, per = _tag(tags, name) or (0, 0)
        parsed = parse_unit(unit)
        # 72 or 300 dots an inch are for printers, in inches as in cm, and say nothing about the specimen
        printed = parsed is not None and unit in _PRINTERS and pixels and per / pixels * parsed[1] > _PRINTED_NM
        if pixels and per and not printed:
            out[letter] = (per / pixels, unit)
    return out


def _imagej_scales(imagej: Mapping[str, Any], axes: str, tags: Any) -> Scales:
    """ImageJ and Fiji: the unit of x holds for all axes that name no other."""
    unit = str(imagej.get("unit") or "")
    out = _resolution(tags, unit, str(imagej.get("yunit") or unit)) if unit else {}
    if imagej.get("finterval"):
        time = {"T": (float(imagej["finterval"]), str(imagej.get("tunit", "s")))}
        # a stack whose only other axis is Z or C is a movie, see _name_stack_axes
        out |= time | {letter: time["T"] for letter in "ZC" if "T" not in axes}
    if imagej.get("spacing") and "T" in axes:
        out["Z"] = (float(imagej["spacing"]), str(imagej.get("zunit", unit)))
    return out


def _vendor_scales(page: Any) -> Scales:
    """Pixel size in m that Thermo Fisher (FEI), Olympus (SIS) and Zeiss write into tags of their own."""
    fei = page.tags.get(34682) or page.tags.get(34680)  # FEI_HELIOS, FEI_SFEG
    scan = fei.value.get("Scan") if fei is not None and isinstance(fei.value, Mapping) else None
    sis = page.tags.get(33560)
    sis_value = sis.value if sis is not None and isinstance(sis.value, Mapping) else {}
    for values, cols, rows in ((scan or {}, "PixelWidth", "PixelHeight"), (sis_value, "pixelsizex", "pixelsizey")):
        x, y = values.get(cols), values.get(rows)
        if isinstance(x, float) and isinstance(y, float) and min(x, y) > 0:
            return {"X": (x, "m"), "Y": (y, "m")}
    zeiss = page.tags.get(34118)  # CZ_SEM: the fourth number is the pixel of a display of 1024 columns
    numbers = zeiss.value.get("") if zeiss is not None and isinstance(zeiss.value, Mapping) else None
    if isinstance(numbers, tuple) and len(numbers) > 3 and isinstance(numbers[3], float) and numbers[3] > 0:
        pixel_m = numbers[3] * 1024 / page.shape[1]
        return {"X": (pixel_m, "m"), "Y": (pixel_m, "m")}
    return {}


def _tag(tags: Any, name: str) -> Any:
    tag = tags.get(name)
    return None if tag is None else (int(tag.value) if isinstance(tag.value, int) else tag.value)


def _ome_pixels(xml: str, number: int) -> ElementTree.Element | None:
    """Entry of image `number`; of the only one where there is one."""
    try:
        found = parse_xml(xml, "the OME metadata").findall(".//{*}Image/{*}Pixels")
    except OpenError:
        return None
    return found[number] if number < len(found) else found[0] if len(found) == 1 else None


def _ome_scales(xml: str, number: int) -> Scales:
    pixels = _ome_pixels(xml, number)
    if pixels is None:
        return {}
    out: Scales = {}
    for letter, size, unit, default in (
        ("X", "PhysicalSizeX", "PhysicalSizeXUnit", "µm"),
        ("Y", "PhysicalSizeY", "PhysicalSizeYUnit", "µm"),
        ("Z", "PhysicalSizeZ", "PhysicalSizeZUnit", "µm"),
        ("T", "TimeIncrement", "TimeIncrementUnit", "s"),
    ):
        if size in pixels.attrib:
            with contextlib.suppress(ValueError):
                out[letter] = (float(pixels.attrib[size]), pixels.attrib.get(unit, default))
    return out


def ome_timing(xml: str, number: int, frames: int) -> Timing:
    """Interval and gaps by ``DeltaT``, the time of every plane after the start."""
    pixels = _ome_pixels(xml, number)
    if pixels is None:
        return Timing()
    times: dict[int, float] = {}
    for plane in pixels.findall("{*}Plane"):
        unit = parse_unit(plane.attrib.get("DeltaTUnit", "s"))
        with contextlib.suppress(ValueError, KeyError):
            if unit is not None and unit[0] == "time":
                times.setdefault(int(plane.attrib["TheT"]), float(plane.attrib["DeltaT"]) * unit[1])
    known = [times[t] for t in range(frames) if t in times]
    return by_stamps(known) if len(known) == frames else Timing()
