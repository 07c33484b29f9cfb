"""Writing files: only to a new name or over a file of ours, whole or not at all, and never by way of a link or a device."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py

from napari_emdl.base.errors import EmdlError
from napari_emdl.io.sources import first_line

_PREFIX, _SUFFIX = ".emdl-", ".tmp"
_LEFT_OVER_S = 24 * 3600.0  # a temporary file this old belongs to a process that was killed
_HDF5_MARK = b"\x89HDF\r\n\x1a\n"


def check_output(path: str | Path) -> Path:
    """Refuse a result file that cannot or must not be written, before any work is done.

    Parameters
    ----------
    path
        File the result will be written to.

    Returns
    -------
    Path
        The same with ``~`` replaced.

    Raises
    ------
    EmdlError
        When it is a folder, a device, a pipe, or a file that is not a result of napari-emdl; when its folder is missing or
        read-only; when the file system does not take the name.
    """
    target = Path(path).expanduser()
    try:
        status = os.stat(target)
    except FileNotFoundError:
        _check_new(target)
        return target
    except (OSError, ValueError) as error:
        raise EmdlError(f"cannot write {_shown(target)}: {_reason(error)}; give another output") from error
    if stat.S_ISDIR(status.st_mode):
        raise EmdlError(f"{target} is a folder; give a file name such as {target.name}/result.h5")
    if not stat.S_ISREG(status.st_mode):
        raise EmdlError(f"{target} is a device or a pipe, not a file; give another output")
    if status.st_size and not is_own_result(target):
        raise EmdlError(f"{target} exists and is not a result of napari-emdl; delete it or give another output")
    if not os.access(target.parent, os.W_OK):
        raise EmdlError(f"the folder {target.parent} is read-only; give another output")
    return target


def is_own_result(path: Path) -> bool:
    """Whether a file is a result written by napari-emdl, or by py4DSTEM in the same form (EMD 1.0)."""
    try:
        with open(path, "rb") as file:
            if file.read(len(_HDF5_MARK)) != _HDF5_MARK:
                return False
        with h5py.File(path, "r", locking=False) as file:
            return "emdl_result" in file.attrs
    except (OSError, RuntimeError):
        return False


def _check_new(target: Path) -> None:
    folder = target.parent
    if not target.name:
        raise EmdlError(f"{target} has no file name; give one such as result.h5")
    if not folder.is_dir():
        raise EmdlError(f"the folder {folder} does not exist; make it or give another output")
    if not os.access(folder, os.W_OK):
        raise EmdlError(f"the folder {folder} is read-only; give another output")
    if os.path.lexists(target):
        raise EmdlError(f"{target} is a link that leads nowhere; delete it or give another output")
    try:  # the partial result has the longest name
        descriptor = os.open(f"{target}.part", os.O_RDONLY)
    except FileNotFoundError:
        return
    except OSError as error:
        raise EmdlError(f"cannot write {_shown(target)}: {_reason(error)}; give another name") from error
    os.close(descriptor)


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Path of a temporary file beside `target` that takes its place when the block ends well, and is removed when not.

    Raises
    ------
    EmdlError
        In one line, when it cannot be written; a file that was there before stays.
    """
    if target.is_dir():
        raise EmdlError(f"{target} is a folder; give a file name")
    if target.exists() and not target.is_file():
        raise EmdlError(f"{target} is a device or a pipe, not a file; give another output")
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        clear_left_over(target.parent)
        handle, name = tempfile.mkstemp(prefix=_PREFIX, suffix=_SUFFIX, dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except (OSError, RuntimeError) as error:
        # h5py reports a full disk as RuntimeError or OSError, depending on where it notices.
        kept = "; the file that was there is unchanged" if target.exists() else ""
        raise EmdlError(f"cannot write {_shown(target)}: {_reason(error)}{kept}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_hdf5(target: Path, fill: Callable[[h5py.File], None]) -> None:
    """Write an HDF5 file whole or not at all.

    The file is built in memory and then written in one go: the HDF5 library can end the process (SIGSEGV) when the disk
    fills up under an open file, a plain write cannot.

    Parameters
    ----------
    target
        File to write; replaced when it exists.
    fill
        Puts the content into an empty, open file.

    Raises
    ------
    EmdlError
        When it cannot be written; a file that was there before stays.
    """
    # HDF5 knows files in memory by their names: two of one name at a time would be one file opened twice
    with h5py.File(f"{target.name}-{uuid.uuid4().hex}", "w", driver="core", backing_store=False) as file:
        fill(file)
        file.flush()
        image = file.id.get_file_image()
    with atomic_path(target) as temporary, open(temporary, "wb") as out:
        out.write(image)


def clear_left_over(folder: Path) -> None:
    """Remove temporary files that killed processes left in a folder more than a day ago."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if entry.name.startswith(_PREFIX) and entry.name.endswith(_SUFFIX):
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode) and time.time() - status.st_mtime > _LEFT_OVER_S:
                        os.unlink(entry.path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _reason(error: BaseException) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)


def _shown(target: Path) -> str:
    text = str(target)
    return text if len(text) <= 120 else f"{text[:80]}...{text[-30:]}"
