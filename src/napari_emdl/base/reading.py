"""Small files that may be damaged or hostile: arrays, YAML, and one line for whatever a reader raises."""

from __future__ import annotations

import ast
import json
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import Cancelled, EmdlError, OpenError

#: What readers raise where they took for granted what is not there.
_STUMBLES = (TypeError, AttributeError, LookupError, AssertionError, UnboundLocalError)
#: Most bytes of an array that is read whole (probe, labels, mask, a table of a project).
SMALL_ARRAY_BYTES = 256 * 2**20
#: Most characters, nesting and aliases of a YAML file of ours.
YAML_BYTES, YAML_DEPTH, YAML_ALIASES, YAML_NODES = 4 * 2**20, 40, 100, 200_000
_NPY_HEADER_BYTES = 64 * 1024
#: Members of a zip file that unpack to more than this many times their size are not data.
_MOST_UNPACKED = 50


@contextmanager
def one_line(name: str, what: str = "file", error: type[EmdlError] = OpenError) -> Iterator[None]:
    """Turn whatever a reader raises on damaged input into one line; our own errors pass.

    Parameters
    ----------
    name
        File name for the message.
    what
        What it should have been, such as "TIFF" or "result".
    error
        Class raised.
    """
    try:
        yield
    except (EmdlError, Cancelled):
        raise
    except MemoryError as caught:
        raise error(f"{name} declares an array larger than memory; it is damaged") from caught
    except RecursionError as caught:
        raise error(f"{name} is nested too deeply for a {what}") from caught
    except Exception as caught:  # readers raise anything on damaged files
        raise error(f"{name} is not a readable {what} ({first_line(caught)}); is it truncated or damaged?") from caught


def first_line(error: BaseException) -> str:
    """First line of an error's text, or its type, cut to a readable length; no Python where a reader stumbled over the file."""
    if isinstance(error, _STUMBLES):
        return "what it holds does not fit together"
    text = (str(error).strip().splitlines() or [""])[0]
    return (text or type(error).__name__)[:200]


def npy_header(file: BinaryIO, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, Fortran order, type) of a .npy stream, read without its array; the stream then stands at the array.

    Raises
    ------
    OpenError
        When it is not a .npy stream, its header is unreasonable, or it holds Python objects.
    """
    with one_line(name, ".npy file"):
        version = np.lib.format.read_magic(file)
        width = 2 if version == (1, 0) else 4
        length = int.from_bytes(file.read(width), "little")
        if not 0 < length <= _NPY_HEADER_BYTES:
            raise OpenError(f"{name} has a .npy header of {length} bytes; it is damaged")
        header = ast.literal_eval(file.read(length).decode("latin-1"))
        dtype: np.dtype[Any] = np.lib.format.descr_to_dtype(header["descr"])
        shape = tuple(int(n) for n in header["shape"])
        if dtype.hasobject or dtype.itemsize == 0:
            raise OpenError(f"{name} holds Python objects, not an array of numbers")
        if any(n < 0 for n in shape) or len(shape) > 16:
            raise OpenError(f"{name} says that its array has shape {shape}; it is damaged")
        return shape, bool(header["fortran_order"]), dtype


def check_small(shape: tuple[int, ...], dtype: np.dtype[Any], name: str, limit: int = SMALL_ARRAY_BYTES) -> int:
    """Bytes of an array that is to be read whole.

    Raises
    ------
    OpenError
        When they are more than `limit`.
    """
    nbytes = int(dtype.itemsize)
    for n in shape:
        nbytes *= int(n)
    if nbytes > limit:
        size = " x ".join(map(str, shape))
        raise OpenError(
            f"{name} says that it holds {size} values ({nbytes / 2**20:.0f} MB), more than belong there; it is damaged"
        )
    return nbytes


def read_small_npy(source: str | Path | BinaryIO, name: str | None = None, limit: int = SMALL_ARRAY_BYTES) -> NDArray[Any]:
    """Read a .npy file or stream whole: header first, then not more than `limit` bytes; never pickled objects.

    Raises
    ------
    OpenError
        In one line, when it is no such file or too large.
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        try:
            with path.open("rb") as file:
                return read_small_npy(file, name or path.name, limit)
        except OSError as caught:
            raise OpenError(f"{path} cannot be read: {caught.strerror or first_line(caught)}") from caught
    label = name or "the array"
    shape, fortran, dtype = npy_header(source, label)
    nbytes = check_small(shape, dtype, label, limit)
    raw = source.read(nbytes)
    if len(raw) != nbytes:
        raise OpenError(f"{label} is truncated: {shape} of {dtype} needs {nbytes} bytes, it has {len(raw)}")
    values = np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")
    return values.astype(dtype.newbyteorder("="))


def read_small_npz(path: Path, name: str, limit: int = SMALL_ARRAY_BYTES) -> NDArray[Any]:
    """Read the array `name` of a .npz file, as :func:`read_small_npy` does."""
    with one_line(path.name, ".npz file"), zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        return read_small_npy(cast(BinaryIO, file), f"{path.name}::{name}", limit)


def read_npz(source: str | Path | BinaryIO, name: str | None = None, limit: int = SMALL_ARRAY_BYTES) -> dict[str, NDArray[Any]]:
    """Read every array of a .npz file or stream, not more than `limit` bytes in all; never pickled objects.

    Raises
    ------
    OpenError
        In one line, when it is no such file or too large.
    """
    label = name or (Path(source).name if isinstance(source, (str, Path)) else "the arrays")
    out: dict[str, NDArray[Any]] = {}
    with one_line(label, ".npz file"), zipfile.ZipFile(source) as archive:
        for member in archive.namelist():
            with archive.open(member) as file:
                key = member.removesuffix(".npy")
                out[key] = read_small_npy(cast(BinaryIO, file), f"{label}::{key}", limit)
                limit -= out[key].nbytes
    return out


def read_json(path: Path) -> Any:
    """Read JSON of ours, of at most as many bytes as our YAML.

    Raises
    ------
    OpenError
        In one line.
    """
    with one_line(path.name, "JSON file"), path.open("rb") as file:
        raw = file.read(YAML_BYTES + 1)
        if len(raw) > YAML_BYTES:
            raise OpenError(f"{path.name} has more than {YAML_BYTES} bytes, more than napari-emdl writes")
        return json.loads(raw)


def read_yaml(source: str | Path | bytes, name: str | None = None) -> Any:
    """Read YAML of ours within limits of size, nesting and aliases.

    Parameters
    ----------
    source
        File (a Path), or the text itself.
    name
        For messages.

    Raises
    ------
    OpenError
        In one line, with the place of a mistake.
    """
    import yaml  # most commands read none

    label = name or (source.name if isinstance(source, Path) else "the YAML")
    raw = _yaml_text(source, label)
    if len(raw) > YAML_BYTES:
        raise OpenError(f"{label} has {len(raw)} characters; settings have at most {YAML_BYTES}")
    try:
        # the safe loader in C is ten times as fast where PyYAML was built with it
        loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        _check_yaml(raw, label, loader)
        return yaml.load(raw, Loader=loader)
    except EmdlError:
        raise
    except yaml.MarkedYAMLError as caught:
        if "nesting depth" in str(caught.problem):  # the C library has a limit of its own
            raise OpenError(_too_deep(label)) from caught
        mark = caught.problem_mark
        where = f" (line {mark.line + 1})" if mark is not None else ""
        raise OpenError(f"{label} is not valid YAML: {caught.problem or first_line(caught)}{where}") from caught
    except Exception as caught:  # bad dates, surrogates and the like
        raise OpenError(f"{label} is not valid YAML ({first_line(caught)})") from caught


def _too_deep(label: str) -> str:
    return f"{label} is nested deeper than {YAML_DEPTH} levels, more than any settings file needs"


def _yaml_text(source: str | Path | bytes, label: str) -> str:
    if isinstance(source, Path):
        try:
            if source.stat().st_size > 4 * YAML_BYTES:
                raise OpenError(f"{label} has {source.stat().st_size} bytes; settings have at most {YAML_BYTES}")
            source = source.read_bytes()
        except OSError as caught:
            raise OpenError(f"{label} cannot be read: {caught.strerror or first_line(caught)}") from caught
    if isinstance(source, bytes):
        try:
            return source.decode("utf-8")
        except UnicodeDecodeError as caught:
            raise OpenError(f"{label} is not valid YAML: it is not UTF-8 text") from caught
    return source


def _check_yaml(text: str, label: str, loader: Any) -> None:
    """Refuse bombs on the stream of tokens, before anything is built."""
    import yaml

    depth = aliases = 0
    opening = (
        yaml.BlockSequenceStartToken,
        yaml.BlockMappingStartToken,
        yaml.FlowSequenceStartToken,
        yaml.FlowMappingStartToken,
    )
    closing = (yaml.BlockEndToken, yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken)
    for number, token in enumerate(yaml.scan(text, Loader=loader)):
        depth += isinstance(token, opening) - isinstance(token, closing)
        aliases += isinstance(token, yaml.AliasToken)
        if depth > YAML_DEPTH:
            raise OpenError(_too_deep(label))
        if aliases > YAML_ALIASES:
            raise OpenError(f"{label} has more than {YAML_ALIASES} aliases, more than any settings file needs")
        if number > YAML_NODES:
            raise OpenError(f"{label} has more than {YAML_NODES} parts, more than any settings file needs")


def parse_xml(text: str | bytes, name: str, limit: int = 16 * 2**20) -> ElementTree.Element:
    """Read XML of limited size without entities of its own.

    Raises
    ------
    OpenError
        In one line.
    """
    if len(text) > limit:
        raise OpenError(f"{name} has {len(text)} characters of XML; more than {limit} are not read")
    mark = b"<!ENTITY" if isinstance(text, bytes) else "<!ENTITY"
    if mark in text:  # type: ignore[operator]
        raise OpenError(f"{name} defines entities in its XML, which no file of an instrument does; it is not read")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, RecursionError) as caught:
        raise OpenError(f"{name} holds no readable XML ({first_line(caught)})") from caught


def check_zip(archive: zipfile.ZipFile, name: str) -> None:
    """Refuse a zip file whose members unpack to implausibly much.

    Raises
    ------
    OpenError
        In one line, naming the member.
    """
    members = archive.infolist()
    if len(members) > 10_000:
        raise OpenError(f"{name} holds {len(members)} files; napari-emdl did not write it")
    for member in members:
        if member.file_size > max(SMALL_ARRAY_BYTES, _MOST_UNPACKED * member.compress_size):
            size = member.file_size / 2**20
            raise OpenError(f"{name}: {member.filename} unpacks {member.compress_size} bytes to {size:.0f} MB; it is not read")
