"""Vendor formats through RosettaSciIO, lazily: DM, blockfile, Velox and what HyperSpy writes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from napari_emdl.base.errors import OpenError
from napari_emdl.base.reading import first_line, one_line
from napari_emdl.base.signals import Calibration
from napari_emdl.base.units import parse_unit
from napari_emdl.io.axes import Axis, Found, pick
from napari_emdl.io.sources import ArraySource, RawSource, RecordSource, Source

#: File name ending -> RosettaSciIO module.
PLUGINS: Mapping[str, str] = {
    ".dm3": "digitalmicrograph",
    ".dm4": "digitalmicrograph",
    ".blo": "blockfile",
    ".mrcz": "mrcz",
    ".emd": "emd",
    ".hspy": "hspy",
    ".prz": "pantarhei",
}
#: Read at once: the lazy reader takes packed bytes for values.
_WHOLE = {"pantarhei"}
_TITANX_NOTE = (
    "recorded on a TitanX: its patterns lag behind the scan by two columns, which py4DSTEM moves and this program leaves"
)
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
            return reader.file_reader(str(path), lazy=plugin not in _WHOLE)
    except ImportError as error:
        raise OpenError(f"{path.name} needs a library that is not installed ({first_line(error)})") from error
    except MemoryError as error:
        raise OpenError(f"{path.name} declares an array larger than memory; it is damaged") from error
    except NotImplementedError as error:
        if "RGBA" not in str(error):
            raise OpenError(f"{path.name} is of a kind that is not read ({first_line(error)})") from error
        raise OpenError(f"{path.name} holds a coloured picture, not counts; open the camera's own image") from error
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
    with one_line(path.name, f"{path.suffix or plugin} file"):
        return _read(path, plugin, dataset)


def _read(path: Path, plugin: str, dataset: str | None) -> Found:
    images = images_of(_signals(path, plugin), path.name)
    number = choose_image(images, dataset, path.name)
    signal = images[number]
    source = _raw_source(path, plugin, signal) or ArraySource(_Opener(path, plugin, number), path.name)
    found = found_in_signal(signal, source, plugin, path.stem)
    if plugin == "emd" and len(found.axes) == 3:
        from napari_emdl.io.formats.velox import velox_timing

        return replace(found, timing=partial(velox_timing, path, source.shape))
    return found


def images_of(signals: Sequence[dict[str, Any]], name: str) -> dict[int, dict[str, Any]]:
    """The signals of a file that are images, by their number."""
    images = {i: s for i, s in enumerate(signals) if len(s["data"].shape) >= 2 and not _spectral(s)}
    if not images:
        raise OpenError(f"{name} holds no images" + (", only spectra" if signals else ""))
    return images


def found_in_signal(signal: Mapping[str, Any], source: Source, plugin: str, name: str) -> Found:
    """What a signal as RosettaSciIO and HyperSpy describe it holds.

    Parameters
    ----------
    signal
        Its ``data``, ``axes`` (in the order of the array), ``metadata`` and, where they are there, ``original_metadata`` and
        ``mapping``.
    source
        Reads the data.
    plugin, name
        Format, and how a layer of it is called.
    """
    axes = tuple(_axis(axis, size) for axis, size in zip(signal["axes"], signal["data"].shape, strict=True))
    metadata = signal.get("metadata", {})
    signal_type = "diffraction" if _get(metadata, "Signal.signal_type") in _DIFFRACTION else ""
    facts = {"format": plugin} | {
        k: _get(metadata, f"General.{k}") for k in ("title", "date", "time") if _get(metadata, f"General.{k}")
    }
    axes = _name_time(axes, signal)
    notes: tuple[str, ...] = ()
    scan = None
    if plugin == "digitalmicrograph" and len(axes) == 4:
        axes, notes = _dm_scan(axes, signal)
    elif plugin == "digitalmicrograph" and len(axes) == 3 and (scan := _titanx_scan(signal)) is not None:
        signal_type, notes = "diffraction", (_TITANX_NOTE,)
    return Found(source, axes, _calibration(signal, metadata), name, None, facts, signal_type, notes=notes, scan=scan)


def _titanx_scan(signal: Mapping[str, Any]) -> tuple[int, int] | None:
    """(rows, cols) of a scan that NCEM's TitanX keeps as a stack, its shape in tags of its own."""
    tags = _get(signal.get("original_metadata", {}), "ImageList.TagGroup0.ImageTags.4D STEM Tags") or {}
    try:
        shape = int(tags["Scan shape Y"]), int(tags["Scan shape X"])
    except (KeyError, TypeError, ValueError):
        return None
    return shape if min(shape) > 0 and shape[0] * shape[1] <= signal["data"].shape[0] else None


def _dm_scan(axes: tuple[Axis, ...], signal: Mapping[str, Any]) -> tuple[tuple[Axis, ...], tuple[str, ...]]:
    """Letters of a 4D-STEM scan of DigitalMicrograph, and what must be said of them.

    Units tell which axes are the scan. Without them, GMS before 3.4 stores a diffraction spectrum image with the scan axes
    fastest, like every spectrum image; later versions put the tag "Data Order Swapped" where the detector axes are fastest.
    """
    dimensions = [parsed[0] if (parsed := parse_unit(axis.units)) else "" for axis in axes]
    reciprocal = [i for i, d in enumerate(dimensions) if d in ("reciprocal", "angle")]
    lengths = [i for i, d in enumerate(dimensions) if d == "length"]
    if len(reciprocal) == 2 or len(lengths) > 2:
        return axes, ()
    tags = _get(signal.get("original_metadata", {}), "ImageList.TagGroup0.ImageTags") or {}
    form = str(_get(tags, "Meta Data.Format") or "")
    swapped = bool(_get(tags, "Meta Data.Data Order Swapped"))
    if len(lengths) == 2:
        scan = lengths
    elif form.startswith("Diffraction"):
        scan = [0, 1] if swapped else [2, 3]
    elif swapped:
        scan = [0, 1]
    else:
        order = " x ".join(str(axis.size) for axis in axes)
        return axes, (
            f"the file does not say which of its axes ({order}) are the scan; if they are the last two, give `axes='QKRC'`",
        )
    letters = dict(zip(scan, "RC", strict=True)) | dict(zip([i for i in range(4) if i not in scan], "QK", strict=True))
    return tuple(replace(axis, letter=letters[i], navigate=i in scan) for i, axis in enumerate(axes)), ()


def choose_image(images: Mapping[int, dict[str, Any]], dataset: str | None, name: str) -> int:
    """Number of the image to open: the one named by its title or number, else the only one of the most axes."""
    titles = {i: str(_get(s.get("metadata", {}), "General.title") or i) for i, s in images.items()}
    if dataset is not None:
        named = [number for number, title in titles.items() if dataset == title]
        if len(named) == 1:
            return named[0]
        if dataset.isdigit() and int(dataset) in titles:
            return int(dataset)
        if named:
            raise OpenError(f"{name} holds several images {dataset!r}; choose one by its number: {', '.join(map(str, named))}")
        raise OpenError(f"{name} has no image {dataset!r}; it holds {', '.join(titles.values())}")
    # Previews and single images beside a stack do not make a file ambiguous.
    most = max(len(s["data"].shape) for s in images.values())
    large = {i: t for i, t in titles.items() if len(images[i]["data"].shape) == most}
    labels = {f"{t}" if list(large.values()).count(t) == 1 else str(i): i for i, t in large.items()}
    return labels[pick(labels, "images", name)]


def _spectral(signal: Mapping[str, Any]) -> bool:
    """True for spectra and spectrum images: one signal axis alone, or one that is an energy or a wavelength."""
    axes = signal["axes"]
    if all(a.get("navigate") is not None for a in axes) and sum(not a["navigate"] for a in axes) == 1:
        return True
    return any(str(a.get("units") or "") in ("eV", "keV") or str(a.get("name") or "").startswith("Energy") for a in axes)


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
    if plugin == "blockfile":
        offset = _get(original, "blockfile_header.Data_offset_2")
        return RecordSource(path, data.shape[:-2], data.shape[-2:], data.dtype, 6, int(offset)) if offset is not None else None
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
