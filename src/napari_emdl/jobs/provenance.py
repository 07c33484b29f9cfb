"""Where a result comes from: parameters, input, model, versions, device. Written into every result file."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from napari_emdl.base.signals import Signal

_PACKAGES = ("napari-emdl", "numpy", "scipy", "h5py", "onnxruntime-gpu", "onnxruntime", "rosettasciio")
_MEGABYTE = 1 << 20
#: Parts that say how and when the job ran, not what it computes.
_NOT_FINGERPRINTED = ("date", "versions", "provider", "run", "note", "range_note", "caveats")


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
    """Hex digest of what determines the result: parameters, input and model, not date, versions or device."""
    relevant = {name: value for name, value in facts.items() if name not in _NOT_FINGERPRINTED}
    return hashlib.sha256(json.dumps(relevant, sort_keys=True, default=_jsonable).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter for the numbers."""
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
        facts |= {"size_bytes": status.st_size, "mtime": status.st_mtime, "sha256_ends": _sha256_of_ends(path)}
    elif path is not None and path.is_dir():
        facts |= _folder_facts(path)
    else:
        facts["sha256_ends"] = _sha256_of_array(signal)
    return facts


def _sha256_of_ends(path: Path) -> str:
    """Checksum of the first and the last megabyte: tells files apart without reading hundreds of gigabytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        digest.update(file.read(_MEGABYTE))
        size = path.stat().st_size
        if size > _MEGABYTE:
            file.seek(max(_MEGABYTE, size - _MEGABYTE))
            digest.update(file.read(_MEGABYTE))
    return digest.hexdigest()


def _folder_facts(folder: Path) -> dict[str, Any]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = [path.stat().st_size for path in files]
    digest = hashlib.sha256()
    for path, size in zip(files, sizes, strict=True):
        digest.update(f"{path.relative_to(folder).as_posix()} {size}\n".encode())
    for path in files[:1] + files[-1:]:
        digest.update(_sha256_of_ends(path).encode())
    return {"size_bytes": sum(sizes), "n_files": len(files), "sha256_ends": digest.hexdigest()}


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
