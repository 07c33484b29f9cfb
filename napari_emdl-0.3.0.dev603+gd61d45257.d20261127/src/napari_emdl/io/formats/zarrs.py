"""zarr stores: what abTEM writes, and arrays by path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_emdl.base.errors import OpenError
from napari_emdl.base.reading import one_line
from napari_emdl.base.signals import Calibration
from napari_emdl.io.axes import Axis, Found, pick
from napari_emdl.io.sources import MAX_CHUNK_BYTES, ArraySource

_ABTEM_LETTERS = {"DiffractionPatterns": ("Q", "K"), "Images": ("Y", "X")}


def is_zarr(path: Path) -> bool:
    """True for a folder that is a zarr store."""
    return path.is_dir() and any((path / name).is_file() for name in (".zgroup", ".zarray", "zarr.json", ".zattrs"))


@dataclass(frozen=True)
class _Opener:
    path: Path
    dataset: str

    def __call__(self) -> Any:
        import zarr

        store = zarr.open(str(self.path), mode="r")
        return store[self.dataset] if self.dataset else store


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
    import zarr

    store: Any = zarr.open(str(path), mode="r")
    if not hasattr(store, "attrs") or (hasattr(store, "shape") and hasattr(store, "dtype")):
        return _found(path, store, "", {})
    attributes = dict(store.attrs)
    if dataset is None:
        names = [n for n, a in _arrays(store) if len(a.shape) >= 2 and a.dtype.kind in "biufc"]
        most = max((len(store[n].shape) for n in names), default=0)
        dataset = pick([n for n in names if len(store[n].shape) == most], "arrays", path.name)
    try:
        array = store[dataset]
    except KeyError as error:
        held = ", ".join(n for n, _ in _arrays(store))
        raise OpenError(f"{path.name} has no array {dataset!r}; it holds {held or 'none'}") from error
    return _found(path, array, dataset, attributes)


def list_arrays(path: Path) -> list[tuple[str, tuple[int, ...], Any]]:
    """Arrays of a store that can be images: (name, shape, type)."""
    import zarr

    with one_line(path.name, "zarr store"):
        store: Any = zarr.open(str(path), mode="r")
        held = () if hasattr(store, "shape") else _arrays(store)
        return [(n, tuple(a.shape), a.dtype) for n, a in held if len(a.shape) >= 2 and a.dtype.kind in "biuf"]


def _arrays(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in sorted(group):
        item = group[name]
        if hasattr(item, "shape"):
            yield prefix + name, item
        else:
            yield from _arrays(item, f"{prefix}{name}/")


def _found(path: Path, array: Any, dataset: str, attributes: Mapping[str, Any]) -> Found:
    piece = float(np.prod([float(n) for n in getattr(array, "chunks", None) or (1,)])) * array.dtype.itemsize
    if piece > MAX_CHUNK_BYTES:
        raise OpenError(
            f"{path.name} is packed in pieces of {piece / 2**20:.0f} MB, and at most {MAX_CHUNK_BYTES // 2**20} MB can be read "
            "at once; pack it anew, a frame a piece"
        )
    number = dataset.removeprefix("array")
    source = ArraySource(_Opener(path, dataset), path.name)
    keywords = attributes.get(f"kwargs{number}")
    if isinstance(keywords, Mapping):
        axes, calibration, signal_type = _abtem(keywords, str(attributes.get(f"type{number}", "")), source.shape)
        return Found(source, axes, calibration, path.stem, None, {"format": "abTEM zarr"}, signal_type)
    return Found(source, tuple(Axis(n) for n in source.shape), name=path.stem, metadata={"format": "zarr"})


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
