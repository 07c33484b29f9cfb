"""Topspin ``.app5`` (NanoMegas): a group of single patterns, each with its place in the scan, read pattern by pattern."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import h5py
import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import OpenError
from napari_emdl.io.axes import Axis, Found, pick
from napari_emdl.io.formats.h5meta import text_of
from napari_emdl.io.hdf5gate import Gate, check_dataset, read_small
from napari_emdl.io.sources import FramesSource

_GUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_XML_BYTES = 4 * 2**20


def is_app5(gate: Gate) -> bool:
    """True for the layout of Topspin: groups named by GUIDs with the metadata beside them."""
    return bool(_scans(gate))


def _scans(gate: Gate) -> dict[str, h5py.Group]:
    """Groups of numbered patterns by path, of one experiment or of several in one file."""
    found: dict[str, h5py.Group] = {}
    for name, item in gate.children(gate.file):
        if not _GUID.fullmatch(name) or not isinstance(item, h5py.Group):
            continue
        inner = {f"{name}/{n}": g for n, g in gate.children(item) if _GUID.fullmatch(n) and _is_scan(g, gate)}
        found |= {name: item} if _is_scan(item, gate) else inner
    return found


def _is_scan(group: Any, gate: Gate) -> TypeGuard[h5py.Group]:
    return isinstance(group, h5py.Group) and "0" in group and isinstance(gate.get("0/Data", group), h5py.Dataset)


@dataclass
class _Patterns:
    """Reads pattern i; reopens the file after unpickling."""

    path: Path
    group: str
    names: tuple[str, ...]
    _gate: Any = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_gate": None}

    def __call__(self, index: int) -> NDArray[Any]:
        if self._gate is None:
            self._gate = Gate(self.path)
        dataset = self._gate.item(f"{self.group}/{self.names[index]}/Data")
        check_dataset(dataset, self.path.name, self._gate.folder)
        return np.asarray(dataset[()])


def read_app5(gate: Gate) -> Found:
    """Open the scan of a Topspin file; several scans are listed in the error."""
    scans = _scans(gate)
    chosen = pick(scans, "scans", gate.path.name)
    group = scans[chosen]
    names = tuple(sorted((n for n in group if n.isdigit()), key=int))
    if names != tuple(str(i) for i in range(len(names))):
        raise OpenError(f"{gate.path.name} lacks patterns of the scan {chosen}; it is damaged")
    first = gate.item(f"{names[0]}/Data", group)
    if not isinstance(first, h5py.Dataset) or first.ndim != 2:
        raise OpenError(f"{gate.path.name}: the patterns of {chosen} are not images")
    check_dataset(first, gate.path.name, gate.folder)
    rows, cols, step_nm = _grid(gate, group, names)
    patterns = _Patterns(gate.path, group.name, names)
    source = FramesSource(patterns, (rows, cols), first.shape, first.dtype, gate.path.name)
    scale = _detector_scale(gate, group, names[0])
    axes = (
        Axis(rows, "y", step_nm[0], "nm", "R", True),
        Axis(cols, "x", step_nm[1], "nm", "C", True),
        Axis(first.shape[0], "ky", *scale[0], "Q", False),
        Axis(first.shape[1], "kx", *scale[1], "K", False),
    )
    facts = {"format": "Topspin .app5", "dataset": group.name}
    return Found(source, axes, name=gate.path.stem, metadata=facts, signal_type="diffraction")


def _xml(gate: Gate, group: h5py.Group, name: str) -> ElementTree.Element | None:
    item = gate.get(f"{name}/Metadata", group)
    if not isinstance(item, h5py.Dataset):
        return None
    text = text_of(read_small(item, gate.path.name, _XML_BYTES))
    try:
        return None if "<!ENTITY" in text else ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return None


def _position_m(gate: Gate, group: h5py.Group, name: str) -> tuple[float, float] | None:
    """(x, y) of a pattern in m."""
    root = _xml(gate, group, name)
    try:
        place = root[1][0][1]  # type: ignore[index]
        return float(place[0].text or "nan"), float(place[1].text or "nan")
    except (TypeError, IndexError, ValueError):
        return None


def _grid(gate: Gate, group: h5py.Group, names: tuple[str, ...]) -> tuple[int, int, tuple[float | None, float | None]]:
    """Scan rows, cols and step (nm): the first pattern whose y differs begins the second row."""
    start = _position_m(gate, group, names[0])
    if start is None or len(names) == 1:
        return 1, len(names), (None, None)
    step_x = step_y = None
    cols = len(names)
    for number, name in enumerate(names[1:], 1):
        place = _position_m(gate, group, name)
        if place is None:
            break
        if number == 1 and place[1] == start[1]:
            step_x = abs(place[0] - start[0]) * 1e9 or None
        if place[1] != start[1]:
            cols, step_y = number, abs(place[1] - start[1]) * 1e9 or None
            break
    if len(names) % cols:
        raise OpenError(
            f"{gate.path.name} holds {len(names)} patterns, no whole number of scan rows of {cols}; give `axes='SQK'` and "
            "`shape`"
        )
    return len(names) // cols, cols, (step_y, step_x)


def _detector_scale(gate: Gate, group: h5py.Group, name: str) -> tuple[tuple[float | None, str | None], ...]:
    """(step, unit) of the detector rows and cols."""
    root = _xml(gate, group, name)
    out: list[tuple[float | None, str | None]] = []
    for axis in (0, 1):
        try:
            entry = root[0][axis]  # type: ignore[index]
            out.append((float(entry[1].text or "nan"), entry[2][1].text))
        except (TypeError, IndexError, ValueError):
            out.append((None, None))
    return tuple(out)
