"""The one gate through which HDF5 files are opened: filters, links, virtual datasets, and what must not be followed.

HDF5 may name other files in three ways. External links and virtual datasets are followed when the file they name lies in the
folder of the file or below it (detector masters do so), and refused elsewhere. External raw storage makes any file on the
disk look like an array; it is always refused. Pieces (chunks) that unpack to more than a frame can have are refused as well,
since HDF5 unpacks whole pieces.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from napari_emdl.base.errors import OpenError
from napari_emdl.base.reading import SMALL_ARRAY_BYTES, check_small, first_line
from napari_emdl.base.unpacking import check_unpacks
from napari_emdl.io.sources import MAX_CHUNK_BYTES

#: Most objects looked at in a file, levels of groups, and links followed to reach one object.
MAX_OBJECTS, MAX_DEPTH, MAX_LINKS = 200_000, 64, 16
#: Deflate packs zeros 1:1032 at most.
MOST_DEFLATED = 1032
#: Filters that pack: twice the same in one pipeline multiplies what a few bytes unpack to.
_PACKING = {1, 4, 32000, 32001, 32004, 32008, 32013, 32015, 32017, 32018, 32022, 32024, 32026}
_FILTER_NAMES = {
    32000: "LZF",
    32001: "Blosc",
    32004: "LZ4",
    32008: "bitshuffle",
    32013: "ZFP",
    32015: "zstd",
    32017: "SZ",
    32024: "SZ3",
    32026: "Blosc2",
}


def open_h5(path: str | Path) -> h5py.File:
    """Open an HDF5 file for reading with all filters known, with one clear line when that fails."""
    with contextlib.suppress(ImportError):
        import hdf5plugin  # noqa: F401 (makes bitshuffle, LZ4, zstd, Blosc and others known to HDF5)
    path = Path(path)
    try:
        return h5py.File(path, "r")
    except OSError as error:
        text = first_line(error)
        why = "it is truncated" if "truncated" in text else "it is damaged, or another program is writing it"
        raise OpenError(f"{path.name} cannot be opened as HDF5: {why} ({text})") from error


def is_hdf5(path: Path) -> bool:
    """True for HDF5 files, also behind a user block of 512 bytes or more (MATLAB v7.3)."""
    try:
        with path.open("rb") as file:
            place = 0
            while place <= 2**20:
                file.seek(place)
                head = file.read(8)
                if head == b"\x89HDF\r\n\x1a\n":
                    return True
                if len(head) < 8:
                    return False
                place = place * 2 or 512
    except OSError:
        return False
    return False


def inside(folder: Path, named: str) -> Path | None:
    """The file `named` in an HDF5 file of `folder`, None when it lies elsewhere."""
    target = Path(named)
    target = target if target.is_absolute() else folder / target
    resolved = target.resolve()
    return resolved if resolved.is_relative_to(folder.resolve()) else None


class Gate:
    """An HDF5 file opened for reading, and the files it links to.

    Parameters
    ----------
    path
        File.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.folder = self.path.resolve().parent
        self.file = open_h5(self.path)
        self._others: dict[Path, h5py.File] = {}

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and those it links to."""
        for file in (*self._others.values(), self.file):
            file.close()

    def get(self, name: str, group: h5py.Group | None = None) -> h5py.Dataset | h5py.Group | None:
        """Dataset or group at a path, None when there is none or a link to it is refused."""
        try:
            return self.item(name, group)
        except (OpenError, KeyError, OSError, RuntimeError):
            return None

    def item(self, name: str, group: h5py.Group | None = None) -> h5py.Dataset | h5py.Group:
        """Dataset or group at a path, following links that may be followed.

        Raises
        ------
        KeyError
            When there is none.
        OpenError
            When a link leads elsewhere.
        """
        at: Any = self.file if group is None else group
        steps = [part for part in name.split("/") if part]
        links = 0
        while steps:
            part = steps.pop(0)
            if not isinstance(at, h5py.Group):
                raise KeyError(name)
            link = at.get(part, getlink=True)
            if link is None:
                raise KeyError(name)
            if isinstance(link, h5py.HardLink):
                at = at[part]
                continue
            links += 1
            if links > MAX_LINKS:
                raise OpenError(f"{self.path.name}: the links to {name} run in a circle")
            if isinstance(link, h5py.ExternalLink):
                at = self._other(link.filename, f"{at.name.rstrip('/')}/{part}", at.file)
            elif link.path.startswith("/"):
                at = at.file
            steps = [step for step in link.path.split("/") if step] + steps
        return at

    def _other(self, named: str, where: str, source: h5py.File) -> h5py.File:
        folder = Path(source.filename).resolve().parent
        target = inside(self.folder, str(Path(named) if Path(named).is_absolute() else folder / named))
        if target is None:
            raise OpenError(
                f"{self.path.name} links to {named} ({where}), which does not lie in its folder; links are followed in the "
                "folder of the file and below it only: open that file itself"
            )
        if not target.is_file():
            raise OpenError(f"{self.path.name} keeps {where} in {named}, which is not there; put both files into one folder")
        if target == self.path.resolve():
            return self.file
        if target not in self._others:
            self._others[target] = open_h5(target)
        return self._others[target]

    def children(self, group: h5py.Group) -> Iterator[tuple[str, h5py.Dataset | h5py.Group]]:
        """Members of a group that can be reached, by name."""
        for name in group:
            item = self.get(name, group)
            if item is not None:
                yield name, item

    def refused(self, group: h5py.Group | None = None) -> list[str]:
        """Why members of a group cannot be reached, one line each."""
        lines = []
        at = self.file if group is None else group
        for name in at:
            try:
                self.item(name, at)
            except OpenError as error:
                lines.append(str(error))
            except (KeyError, OSError, RuntimeError):
                continue
        return lines

    def datasets(self, group: h5py.Group | None = None) -> Iterator[tuple[str, h5py.Dataset]]:
        """All datasets that can be reached from a group with their paths, each once."""
        seen: set[tuple[int, int]] = set()
        budget = MAX_OBJECTS

        def walk(at: h5py.Group, prefix: str, depth: int) -> Iterator[tuple[str, h5py.Dataset]]:
            nonlocal budget
            for name, item in self.children(at):
                budget -= 1
                if budget < 0:
                    raise OpenError(f"{self.path.name} holds more than {MAX_OBJECTS} objects; name one with ::DATASET")
                info = h5py.h5o.get_info(item.id)
                key = (info.fileno, info.addr)
                if key in seen:
                    continue
                seen.add(key)
                if isinstance(item, h5py.Dataset):
                    yield prefix + name, item
                elif isinstance(item, h5py.Group) and depth < MAX_DEPTH:
                    yield from walk(item, f"{prefix}{name}/", depth + 1)

        yield from walk(self.file if group is None else group, "", 0)


def check_dataset(dataset: h5py.Dataset, name: str, folder: Path) -> None:
    """Refuse a dataset that reads other files it must not read, needs an unknown filter, or unpacks to too much.

    Parameters
    ----------
    dataset
        To be read.
    name
        File name for messages.
    folder
        Folder of the file: virtual datasets may be made of files in it and below.

    Raises
    ------
    OpenError
        In one line.
    """
    if dataset.external:
        raise OpenError(
            f"{name}: the values of {dataset.name} lie in another file ({dataset.external[0][0]}) as external raw storage, "
            "which is not read; copy the dataset into the file with h5repack"
        )
    if dataset.is_virtual:
        _check_virtual(dataset, name, folder)
    _check_filters(dataset, name)
    if dataset.chunks:
        nbytes = int(np.prod([int(n) for n in dataset.chunks], dtype=np.float64)) * dataset.dtype.itemsize
        if nbytes > MAX_CHUNK_BYTES:
            raise OpenError(
                f"{name}: {dataset.name} is packed in pieces of {nbytes / 2**20:.0f} MB, and not more than "
                f"{MAX_CHUNK_BYTES // 2**20} MB can be read at once; pack it anew, a frame a piece, with h5repack"
            )


def _check_filters(dataset: h5py.Dataset, name: str) -> None:
    pipeline = dataset.id.get_create_plist()
    filters = [pipeline.get_filter(i) for i in range(pipeline.get_nfilters())]
    codes = [entry[0] for entry in filters]
    for code, *_, text in filters:
        if not h5py.h5z.filter_avail(code):
            label = _FILTER_NAMES.get(code) or (text.decode("ascii", "replace").strip() if text else "") or "unknown"
            raise OpenError(f"{name} is packed with the HDF5 filter {label} ({code}), which is missing; install hdf5plugin")
    packing = [code for code in codes if code in _PACKING]
    if len(packing) != len(set(packing)) or len(codes) > 8:
        raise OpenError(f"{name}: {dataset.name} is packed {len(packing)} times over; it is damaged, or made to fill memory")


def _check_virtual(dataset: h5py.Dataset, name: str, folder: Path) -> None:
    parts = dataset.virtual_sources()
    for number, part in enumerate(parts):
        if part.file_name == ".":
            continue
        target = inside(folder, part.file_name.replace("%b", "0"))
        if target is None:
            raise OpenError(
                f"{name}: {dataset.name} is made of {part.file_name}, which lies elsewhere; virtual datasets are read "
                "from the folder of the file and below it only"
            )
        if not target.is_file():
            raise OpenError(
                f"{name}: {dataset.name} is made of {part.file_name}, which is not there; put the files into one folder"
            )
        if number < 256:
            with Gate(target) as source:
                inner = source.get(part.dset_name)
                if isinstance(inner, h5py.Dataset):
                    if inner.is_virtual:
                        raise OpenError(f"{name}: {dataset.name} is made of virtual datasets; open {target.name} itself")
                    check_dataset(inner, target.name, target.parent)


def check_pieces(dataset: h5py.Dataset, name: str, index: tuple[Any, ...]) -> None:
    """Refuse pieces that are made to fill memory: larger packed than unpacked, or unpacking to more than a piece has."""
    pipeline = None if not dataset.chunks or dataset.is_virtual else dataset.id.get_create_plist()
    if pipeline is None or not pipeline.get_nfilters():
        return
    unpacked = int(np.prod(dataset.chunks, dtype=np.int64)) * dataset.dtype.itemsize
    deflated = any(pipeline.get_filter(i)[0] == h5py.h5z.FILTER_DEFLATE for i in range(pipeline.get_nfilters()))
    label = f"{name}: a piece of {dataset.name}"
    for corner in _corners(index, dataset.chunks):
        try:
            packed = dataset.id.get_chunk_info_by_coord(corner).size
        except (ValueError, RuntimeError, OSError):  # the piece was never written
            continue
        if packed > 1.1 * unpacked + 4096:
            raise OpenError(f"{label} is larger packed than unpacked; it is damaged")
        if deflated and packed * MOST_DEFLATED > unpacked + SMALL_ARRAY_BYTES:
            check_unpacks(dataset.id.read_direct_chunk(corner)[1], unpacked, label)


def check_whole(dataset: h5py.Dataset, name: str) -> None:
    """:func:`check_pieces` for all pieces of a dataset that is small in the file, as one made to fill memory is."""
    if dataset.chunks and dataset.id.get_storage_size() < SMALL_ARRAY_BYTES:
        check_pieces(dataset, name, tuple(slice(0, n) for n in dataset.shape))


def _corners(index: tuple[Any, ...], chunks: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """First items of the pieces in which a selection lies."""
    ranges = []
    for part, size in zip(index, chunks, strict=True):
        first, stop = (part.start, part.stop) if isinstance(part, slice) else (part, part + 1)
        ranges.append(range(first // size * size, max(stop, first + 1), size))
    yield from itertools.product(*ranges)


def refuse_foreign_storage(file: h5py.File, name: str) -> None:
    """Refuse a result or project that names other files at all: ours never do.

    Raises
    ------
    OpenError
        In one line, naming the link or dataset.
    """
    count = 0
    datasets: list[str] = []

    def visit(path: str, link: Any) -> str | None:
        """Why the walk ends: an exception would be lost in HDF5."""
        nonlocal count
        count += 1
        if count > MAX_OBJECTS:
            return f"{name} holds more than {MAX_OBJECTS} objects; napari-emdl did not write it"
        if isinstance(link, h5py.ExternalLink):
            return f"{name} links to another file ({path}), which no result does; it is not read"
        if isinstance(link, h5py.HardLink):
            datasets.append(path)
        return None

    why = file.visititems_links(visit)
    if why:
        raise OpenError(why)
    for path in datasets:
        item = file.get(path)
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise OpenError(f"{name} keeps {path} in another file, which no result does; it is not read")
            _check_filters(item, name)
            if item.shape and item.nbytes > MOST_DEFLATED * item.id.get_storage_size() + SMALL_ARRAY_BYTES:
                raise OpenError(
                    f"{name}: {path} names {item.nbytes / 1e6:,.0f} MB but the file does not hold them; it is damaged"
                )
            if item.shape:
                check_whole(item, name)


def read_small(dataset: h5py.Dataset, name: str, limit: int = SMALL_ARRAY_BYTES, selection: Any = ()) -> Any:
    """Read a small dataset whole (or a selection of it): header first, nothing of other files, never more than `limit` bytes.

    Raises
    ------
    OpenError
        In one line.
    """
    check_dataset(dataset, name, Path(dataset.file.filename).resolve().parent)
    if dataset.shape is None:
        raise OpenError(f"{name}: {dataset.name} is empty; the file is damaged")
    if selection == ():
        check_small(dataset.shape, dataset.dtype, f"{name}: {dataset.name}", limit)
    try:
        return dataset[selection]
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise OpenError(f"{name}: {dataset.name} cannot be read ({first_line(error)}); the file is damaged") from error
