"""Vendor formats through RosettaSciIO, lazily: DM, Merlin, blockfile, TVIPS, MRC, Velox and what HyperSpy writes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from napari_emdl.base.errors import OpenError
from napari_emdl.base.signals import Calibration
from napari_emdl.io.axes import Axis, Found, pick
from napari_emdl.io.sources import ArraySource, RawSource, RecordSource, Source, first_line

#: File name ending -> RosettaSciIO module.
PLUGINS: Mapping[str, str] = {
    ".dm3": "digitalmicrograph",
    ".dm4": "digitalmicrograph",
    ".mib": "quantumdetector",
    ".blo": "blockfile",
    ".tvips": "tvips",
    ".mrc": "mrc",
    ".mrcs": "mrc",
    ".ali": "mrc",
    ".mrcz": "mrcz",
    ".emd": "emd",
    ".hspy": "hspy",
    ".zspy": "zspy",
    ".prz": "pantarhei",
    ".de5": "emd",
    ".xml": "empad",
    ".app5": "topspin",
}
_DIFFRACTION = {"diffraction", "electron_diffraction"}


@contextmanager
def _quiet() -> Iterator[None]:
    """Readers log and warn about metadata that does not matter here."""
    logger = logging.getLogger("rsciio")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _signals(path: Path, plugin: str) -> list[dict[str, Any]]:
    try:
        reader = import_module(f"rsciio.{plugin}")  # before quieting: its import sets its own log level
        with _quiet():
            return reader.file_reader(str(path), lazy=True)
    except ImportError as error:
        raise OpenError(f"{path.name} needs a library that is not installed ({first_line(error)})") from error
    except MemoryError as error:
        raise OpenError(f"{path.name} declares an array larger than memory; it is damaged") from error
    except Exception as error:  # the readers raise anything on damaged files
        raise OpenError(
            f"{path.name} cannot be read as a {path.suffix or plugin} file ({first_line(error)}); is it truncated?"
        ) from error


@dataclass(frozen=True)
class _Opener:
    """Gives the dask array of one signal of a file; picklable."""

    path: Path
    plugin: str
    number: int

    def __call__(self) -> Any:
        return _signals(self.path, self.plugin)[self.number]["data"]


def read_vendor(path: Path, plugin: str, dataset: str | None = None) -> Found:
    """Open a file with a RosettaSciIO reader.

    Parameters
    ----------
    path
        File.
    plugin
        Module of RosettaSciIO.
    dataset
        Title or number of the signal, for files with several.
    """
    signals = _signals(path, plugin)
    images = {i: s for i, s in enumerate(signals) if len(s["data"].shape) >= 2 and not _spectral(s)}
    if not images:
        raise OpenError(f"{path.name} holds no images" + (", only spectra" if signals else ""))
    number = _choose(images, dataset, path.name)
    signal = images[number]
    axes = tuple(_axis(axis, size) for axis, size in zip(signal["axes"], signal["data"].shape, strict=True))
    metadata = signal.get("metadata", {})
    signal_type = "diffraction" if _get(metadata, "Signal.signal_type") in _DIFFRACTION else ""
    facts = {"format": plugin} | {
        k: _get(metadata, f"General.{k}") for k in ("title", "date", "time") if _get(metadata, f"General.{k}")
    }
    source = _raw_source(path, plugin, signal) or ArraySource(_Opener(path, plugin, number), path.name)
    return Found(source, _name_time(axes, signal), _calibration(signal, metadata), path.stem, None, facts, signal_type)


def _choose(images: Mapping[int, dict[str, Any]], dataset: str | None, name: str) -> int:
    titles = {i: str(_get(s.get("metadata", {}), "General.title") or i) for i, s in images.items()}
    if dataset is not None:
        for number, title in titles.items():
            if dataset in (title, str(number)):
                return number
        raise OpenError(f"{name} has no image {dataset!r}; it holds {', '.join(titles.values())}")
    # Previews and single images beside a stack do not make a file ambiguous.
    most = max(len(s["data"].shape) for s in images.values())
    large = {i: t for i, t in titles.items() if len(images[i]["data"].shape) == most}
    labels = {f"{t}" if list(large.values()).count(t) == 1 else str(i): i for i, t in large.items()}
    return labels[pick(labels, "images", name)]


def _spectral(signal: Mapping[str, Any]) -> bool:
    """True for spectra and spectrum images: the signal axis is an energy or a wavelength."""
    return any(
        str(a.get("units") or "") in ("eV", "keV") or str(a.get("name") or "").startswith("Energy") for a in signal["axes"]
    )


def _axis(axis: Mapping[str, Any], size: int) -> Axis:
    units = axis.get("units")
    units = units if isinstance(units, str) else None
    scale = axis.get("scale")
    # A scale of 1 without a unit is what readers put where the file has none.
    scale = float(scale) if scale is not None and units else None
    return Axis(int(size), str(axis.get("name") or ""), scale, units, navigate=bool(axis.get("navigate")))


def _name_time(axes: tuple[Axis, ...], signal: Mapping[str, Any]) -> tuple[Axis, ...]:
    """Readers of formats without navigation flags mark no axis: the last two are then the image."""
    if len(axes) > 2 and not any(a.navigate for a in axes):
        return tuple(Axis(a.size, a.name, a.scale, a.units, a.letter, i < len(axes) - 2) for i, a in enumerate(axes))
    return axes


def _raw_source(path: Path, plugin: str, signal: Mapping[str, Any]) -> Source | None:
    """Formats whose metadata tells where the frames lie are read without dask, which takes ten times as long a frame.

    None for the others, and for types that must be unpacked.
    """
    data, original = signal["data"], signal.get("original_metadata", {})
    if data.dtype.kind not in "biuf":
        return None
    if plugin == "digitalmicrograph":
        offset = _get(original, "ImageList.TagGroup0.ImageData.Data.offset")
        packed = _get(original, "ImageList.TagGroup0.ImageData.DataType") in (5, 27, 28)
        return RawSource(path, data.shape, data.dtype, int(offset)) if offset is not None and not packed else None
    if plugin == "quantumdetector":
        facts = original["mib_properties"]
        stored = np.dtype(facts["dtype"]).newbyteorder(">")
        return RecordSource(path, data.shape[:-2], data.shape[-2:], stored, facts["head_size"], facts["offset"], flip=True)
    if plugin == "blockfile":
        offset = _get(original, "blockfile_header.Data_offset_2")
        return RecordSource(path, data.shape[:-2], data.shape[-2:], data.dtype, 6, int(offset)) if offset is not None else None
    if plugin == "mrc":
        beyond = _get(original, "std_header.NEXT")
        return RawSource(path, data.shape, data.dtype, 1024 + int(np.ravel(beyond)[0])) if beyond is not None else None
    return None


def _get(tree: Any, key: str) -> Any:
    """Value at a dotted key of nested mappings, None when it is not there."""
    for part in key.split("."):
        if not isinstance(tree, Mapping) or part not in tree:
            return None
        tree = tree[part]
    return tree


def _calibration(signal: Mapping[str, Any], metadata: Mapping[str, Any]) -> Calibration:
    """Beam energy, semiangle and frame time, from the metadata or by the reader's own mapping of the vendor's tags."""
    values = {
        "energy": _get(metadata, "Acquisition_instrument.TEM.beam_energy"),
        "semiangle": _get(metadata, "Acquisition_instrument.TEM.convergence_angle"),
    }
    for key, (target, convert) in dict(signal.get("mapping") or {}).items():
        name = {"beam_energy": "energy", "convergence_angle": "semiangle"}.get(str(target).rpartition(".")[2])
        raw = _get(signal.get("original_metadata", {}), key)
        if name is None or values[name] is not None or raw is None:
            continue
        try:
            values[name] = convert(raw) if convert else raw
        except (TypeError, ValueError, KeyError):
            continue
    return Calibration().override(
        "file", energy_keV=_positive(values["energy"], 1.0, 3000.0), semiangle_mrad=_positive(values["semiangle"], 1e-3, 200.0)
    )


def _positive(value: Any, low: float, high: float) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if low <= number <= high else None
