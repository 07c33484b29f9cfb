"""zarr stores: what abTEM writes, OME-Zarr, arrays with the names of xarray, and arrays by path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from napari_emdl.base.errors import OpenError
from napari_emdl.base.reading import one_line
from napari_emdl.base.signals import Calibration
from napari_emdl.io.axes import Axis, Found, pick
from napari_emdl.io.views import TransposedSource
from napari_emdl.io.zarrsource import ZarrSource, open_store

_ABTEM_LETTERS = {"DiffractionPatterns": ("Q", "K"), "Images": ("Y", "X")}


def is_zarr(path: Path) -> bool:
    """True for a folder that is a zarr store."""
    return path.is_dir() and any((path / name).is_file() for name in (".zgroup", ".zarray", "zarr.json", ".zattrs"))


def read_zarr(path: Path, dataset: str | None = None) -> Found:
    """Open an array of a zarr store lazily.

    Parameters
    ----------
    path
        Folder or zip file.
    dataset
        Path of the array in the store; needed where it holds several.
    """
    with one_line(path.name, "zarr store"):
        return _read(path, dataset)


def _read(path: Path, dataset: str | None) -> Found:
    store: Any = open_store(path)
    if not hasattr(store, "attrs") or (hasattr(store, "shape") and hasattr(store, "dtype")):
        return _found(path, "", {})
    attributes = dict(store.attrs)
    if (scene := _scene(store)) is not None and dataset is None:
        return _found_scene(path, *scene)
    if dataset is None:
        names = [n for n, a in _arrays(store) if len(a.shape) >= 2 and a.dtype.kind in "biufc"]
        most = max((len(store[n].shape) for n in names), default=0)
        dataset = pick([n for n in names if len(store[n].shape) == most], "arrays", path.name)
    try:
        store[dataset]
    except KeyError as error:
        held = ", ".join(n for n, _ in _arrays(store))
        raise OpenError(f"{path.name} has no array {dataset!r}; it holds {held or 'none'}") from error
    return _found(path, dataset, attributes)


def list_arrays(path: Path) -> list[tuple[str, tuple[int, ...], Any]]:
    """Arrays of a store that can be images: (name, shape, type)."""
    with one_line(path.name, "zarr store"):
        store: Any = open_store(path)
        held = () if hasattr(store, "shape") else _arrays(store)
        return [(n, tuple(a.shape), a.dtype) for n, a in held if len(a.shape) >= 2 and a.dtype.kind in "biuf"]


def _arrays(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in sorted(group):
        item = group[name]
        if hasattr(item, "shape"):
            yield prefix + name, item
        else:
            yield from _arrays(item, f"{prefix}{name}/")


def _found(path: Path, dataset: str, attributes: Mapping[str, Any]) -> Found:
    number = dataset.removeprefix("array")
    source = ZarrSource(path, dataset)
    keywords = attributes.get(f"kwargs{number}")
    if isinstance(keywords, Mapping):
        axes, calibration, signal_type = _abtem(keywords, str(attributes.get(f"type{number}", "")), source.shape)
        return Found(source, axes, calibration, path.stem, None, {"format": "abTEM zarr"}, signal_type)
    axes = _named_axes(path, dataset, source.shape)
    return Found(source, axes, name=path.stem, metadata={"format": "zarr"})


def _scene(store: Any) -> tuple[str, Mapping[str, Any]] | None:
    """Group and description of the only OME-Zarr image of a store, which may lie one group down (bioformats2raw)."""
    groups = {"": store} | {f"{name}/": store[name] for name in store if not hasattr(store[name], "shape")}
    found = []
    for prefix, group in groups.items():
        attributes = dict(getattr(group, "attrs", {}))
        inner = attributes.get("ome")
        scales = (inner if isinstance(inner, Mapping) else attributes).get("multiscales")
        if isinstance(scales, list) and scales and isinstance(scales[0], Mapping) and scales[0].get("datasets"):
            found.append((prefix, scales[0]))
    return found[0] if len(found) == 1 else None


def _found_scene(path: Path, prefix: str, scene: Mapping[str, Any]) -> Found:
    """The largest level of an OME-Zarr image with its axes."""
    level = scene["datasets"][0]
    source = ZarrSource(path, f"{prefix}{level['path']}")
    told = scene.get("axes") or "tczyx"[-len(source.shape) :]
    named = [axis if isinstance(axis, Mapping) else {"name": axis} for axis in told]
    if len(named) != len(source.shape):
        raise OpenError(f"{path.name} names {len(named)} axes for an array of {len(source.shape)}; it is damaged")
    steps = next((t["scale"] for t in level.get("coordinateTransformations") or () if t.get("type") == "scale"), ())
    steps = steps if len(steps) == len(named) else [None] * len(named)
    letters = {"t": "T", "y": "Y", "x": "X"}
    axes = []
    for size, axis, step in zip(source.shape, named, steps, strict=True):
        name, units = str(axis.get("name", "")), axis.get("unit")
        known = isinstance(units, str) and units
        axes.append(Axis(size, name, _float(step) if known else None, units if known else None, letters.get(name.lower(), "")))
    keep = [i for i, axis in enumerate(axes) if axis.size > 1 or axis.letter]  # channels and planes of one are no axes
    data = source if len(keep) == len(axes) else TransposedSource(source, keep)
    return Found(data, tuple(axes[i] for i in keep), name=path.stem, metadata={"format": "OME-Zarr"})


def _named_axes(path: Path, dataset: str, shape: tuple[int, ...]) -> tuple[Axis, ...]:
    """Axes with the names, steps and units that xarray keeps; plain ones where it does not."""
    store: Any = open_store(path)
    array = store[dataset] if dataset else store
    names = dict(getattr(array, "attrs", {})).get("_ARRAY_DIMENSIONS") or getattr(array, "dimension_names", None)
    if not dataset or not isinstance(names, (list, tuple)) or len(names) != len(shape):
        return tuple(Axis(n) for n in shape)
    folder = dataset.rpartition("/")[0]
    axes = []
    for size, name in zip(shape, names, strict=True):
        place = f"{folder}/{name}".lstrip("/")
        known = store[place] if isinstance(name, str) and place in store else None
        units = dict(getattr(known, "attrs", {})).get("units")
        if known is None or tuple(getattr(known, "shape", ())) != (size,) or size < 2 or not isinstance(units, str):
            axes.append(Axis(size, str(name or "")))
            continue
        first = ZarrSource(path, place)[0:2]
        axes.append(Axis(size, str(name), float(first[1] - first[0]) if first.dtype.kind in "iuf" else None, units))
    return tuple(axes)


def _abtem(keywords: Mapping[str, Any], kind: str, shape: tuple[int, ...]) -> tuple[tuple[Axis, ...], Calibration, str]:
    """Axes and calibration of an abTEM measurement: ensemble axes first, then the two axes of the pattern or image."""
    axes = []
    scans = iter("RC")
    for size, axis in zip(shape, keywords.get("ensemble_axes_metadata") or (), strict=False):
        scan = axis.get("type") == "ScanAxis"
        letter = next(scans, "") if scan and kind == "DiffractionPatterns" else ""
        letter = "F" if "defocus" in str(axis.get("label", "")).lower() or axis.get("label") == "C10" else letter
        axes.append(Axis(size, str(axis.get("label", "")), _float(axis.get("sampling")), axis.get("units"), letter, True))
    sampling = keywords.get("sampling") or (None, None)
    units = "1/Å" if kind == "DiffractionPatterns" else "Å"
    for size, step, letter in zip(shape[len(axes) :], sampling, _ABTEM_LETTERS.get(kind, ("", "")), strict=False):
        axes.append(Axis(size, "", _float(step), units, letter, False))
    axes.extend(Axis(size) for size in shape[len(axes) :])
    metadata = keywords.get("metadata") or {}
    energy_eV, semiangle = _float(metadata.get("energy")), _float(metadata.get("semiangle_cutoff"))
    calibration = Calibration().override(
        "file", energy_keV=energy_eV / 1e3 if energy_eV else None, semiangle_mrad=semiangle if semiangle else None
    )
    return tuple(axes), calibration, "diffraction" if kind == "DiffractionPatterns" else ""


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and value == value else None
