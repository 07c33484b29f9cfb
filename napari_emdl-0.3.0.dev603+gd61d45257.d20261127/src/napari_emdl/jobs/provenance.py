"""Where a result comes from: parameters, input, model, versions, device. Written into every result file."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from napari_emdl.base.signals import Signal

_PACKAGES = ("napari-emdl", "numpy", "scipy", "h5py", "onnxruntime-gpu", "onnxruntime", "rosettasciio")
_MEGABYTE = 1 << 20
_SAMPLES = 16
#: Parts that say how and when the job ran, not what it computes.
_NOT_FINGERPRINTED = ("date", "versions", "provider", "run", "note", "range_note", "caveats")
#: Entries that say where something lies; its content is in the record as a checksum.
_PLACES = ("path", "name", "file", "dataset", "mtime")


def provenance(
    params: Mapping[str, Any],
    signal: Signal | None = None,
    model: Mapping[str, Any] | None = None,
    provider: str = "",
    **more: Any,
) -> dict[str, Any]:
    """Facts that make a result traceable, ready for JSON.

    Parameters
    ----------
    params
        All parameters of the computation, as ``model.model_dump()`` gives them.
    signal
        The input.
    model
        Name, version and sha256 of the network, None for classical methods.
    provider
        Execution provider that really ran, such as ``CPUExecutionProvider``; "" for classical methods.
    more
        Further entries, such as ``run=...`` or ``note=...``.
    """
    facts = {
        "params": dict(params),
        "input": input_facts(signal) if signal is not None else None,
        "model": dict(model) if model else None,
        "provider": provider,
        "versions": versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **more,
    }
    return json.loads(json.dumps(facts, default=_jsonable))


def fingerprint(facts: Mapping[str, Any]) -> str:
    """Hex digest of what determines the result: parameters and the content of input and model.

    Date, versions and device do not count, nor does where a file lies or when it was touched.
    """
    relevant = _without_places({name: value for name, value in facts.items() if name not in _NOT_FINGERPRINTED})
    return hashlib.sha256(json.dumps(relevant, sort_keys=True, default=_jsonable).encode()).hexdigest()


def _without_places(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_places(item) for name, item in value.items() if name not in _PLACES}
    return value


def input_changed(record: Mapping[str, Any], signal: Signal) -> str:
    """A line that says so when the input is not what it was when `record` was made, else "".

    Parameters
    ----------
    record
        What :func:`provenance` gave before the computation.
    signal
        The input.
    """
    before = record.get("input") or {}
    path = str(signal.path or "")
    try:
        after = input_facts(signal)
    except OSError as error:
        return f"the input {path} could not be read again after the run ({error.strerror}); check the result"
    same = all(before.get(name) == after.get(name) for name in ("size_bytes", "sha256_sampled"))
    return "" if same else f"the input {path or signal.name} changed during the run; run it again"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter for the numbers."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def input_facts(signal: Signal) -> dict[str, Any]:
    """Path, size, time and a quick checksum of the input, and how it was understood."""
    calibration = {name: getattr(signal.calibration, name) for name in signal.calibration.__dataclass_fields__}
    facts: dict[str, Any] = {
        "path": str(signal.path),
        "name": signal.name,
        "kind": signal.kind,
        "shape": list(signal.shape),
        "dtype": signal.dtype.str,
        "calibration": calibration,
    }
    if signal.metadata.get("open_options"):
        facts["open_options"] = dict(signal.metadata["open_options"])
    path = Path(signal.path) if signal.path else None
    if path is not None and path.is_file():
        status = path.stat()
        facts |= {"size_bytes": status.st_size, "mtime": status.st_mtime, "sha256_sampled": sampled_sha256(path)}
    elif path is not None and path.is_dir():
        facts |= _folder_facts(path)
    else:
        facts["sha256_sampled"] = _sha256_of_array(signal)
    return facts


def sampled_sha256(path: Path) -> str:
    """Checksum of 16 pieces of a megabyte, spread evenly over a file: all of a small one.

    Tells files apart without reading hundreds of gigabytes.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        size = path.stat().st_size
        pieces = min(_SAMPLES, -(-size // _MEGABYTE))
        for piece in range(pieces):
            start = (size - _MEGABYTE) * piece // (pieces - 1) if pieces > 1 else 0
            file.seek(start)
            digest.update(file.read(_MEGABYTE))
    return digest.hexdigest()


def _folder_facts(folder: Path) -> dict[str, Any]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = [path.stat().st_size for path in files]
    digest = hashlib.sha256()
    for path, size in zip(files, sizes, strict=True):
        digest.update(f"{path.relative_to(folder).as_posix()} {size}\n".encode())
    for path in files[:: max(1, len(files) // _SAMPLES)] + files[-1:]:
        digest.update(sampled_sha256(path).encode())
    return {"size_bytes": sum(sizes), "n_files": len(files), "sha256_sampled": digest.hexdigest()}


def _sha256_of_array(signal: Signal) -> str:
    """Checksum of the first and the last image of an array in memory."""
    digest = hashlib.sha256()
    leading = signal.shape[:-2]
    if 0 not in leading:
        for index in (tuple(0 for _ in leading), tuple(n - 1 for n in leading)):
            image = signal.data[index] if leading else signal.data[:, :]
            digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def _jsonable(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (set, tuple)):
        return list(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "model_dump"):
        return value.model_dump()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
