"""Which devices networks can run on, and why one cannot be had."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import os
import platform
import re
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"
NO_GPU = "no NVIDIA driver and no NVIDIA GPU on this computer"
#: onnxruntime's level that lets nothing but fatal errors through: it prints pages when CUDA is missing, which we say in a line.
_ORT_FATAL, _ORT_ERROR = 4, 3


@dataclass(frozen=True)
class Device:
    """A device by the name used for ``--device``.

    Attributes
    ----------
    name
        "cpu" or "cuda".
    label
        Human name.
    provider
        onnxruntime's execution provider.
    available
        Whether networks can run on it.
    problem
        Why not and what to do; "" when available.
    memory_bytes
        Memory of the device, None when unknown.
    """

    name: str
    label: str
    provider: str
    available: bool
    problem: str = ""
    memory_bytes: int | None = None

    def __str__(self) -> str:
        memory = f", {self.memory_bytes / 2**30:.0f} GiB" if self.memory_bytes else ""
        return f"{self.name}: {self.label}{memory}" + ("" if self.available else f" - not usable: {self.problem}")


@functools.cache
def ort() -> Any:
    """The onnxruntime module, imported when first needed, its CUDA libraries loaded once and its chatter silenced."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(_ORT_ERROR)
    with contextlib.suppress(AttributeError):
        onnxruntime.disable_telemetry_events()
    return onnxruntime


@contextlib.contextmanager
def quiet_ort() -> Any:
    """Silence onnxruntime's own error log: what matters is raised and said in one line."""
    ort().set_default_logger_severity(_ORT_FATAL)
    try:
        yield
    finally:
        ort().set_default_logger_severity(_ORT_ERROR)


@functools.cache
def missing_cuda_libraries() -> tuple[str, ...]:
    """CUDA and cuDNN libraries that onnxruntime needs and does not find; loads them (once) where they are."""
    if not hasattr(ort(), "preload_dlls"):
        return ()
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        ort().preload_dlls()
    return tuple(re.findall(r"Failed to load (\S+?):? ", said.getvalue()))


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _driver_problem() -> str:
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return "no NVIDIA driver on this computer; install the driver, or use `device='cpu'`"
    count = ctypes.c_int(0)
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if code or not count.value:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = (
            f" (CUDA_VISIBLE_DEVICES={hidden!r} hides GPUs)" if hidden is not None else f" (driver says {code})" if code else ""
        )
        return f"the NVIDIA driver finds no GPU{why}; run nvidia-smi to see, or use `device='cpu'`"
    return ""


def gpu_present() -> bool:
    """Whether this computer has an NVIDIA GPU, usable or not: its driver finds one, or one is on the bus without a driver."""
    if not _driver_problem():
        return True
    for device in Path("/sys/bus/pci/devices").glob("*"):
        with contextlib.suppress(OSError):
            display = (device / "class").read_text().startswith("0x03")
            if display and (device / "vendor").read_text().strip() == "0x10de":
                return True
    return False


def cpu_note(problem: str) -> str:
    """Why "auto" runs on the CPU: `problem`, or that there is nothing else on this computer."""
    return f"running on the CPU: {problem if gpu_present() else NO_GPU}"


def is_warning(note: str) -> bool:
    """True when a note of a session tells more than that the computer has no GPU, which is nothing to mend."""
    return bool(note.replace(f"running on the CPU: {NO_GPU}", "").strip("; "))


def cuda_problem() -> str:
    """Why CUDA cannot be had and what to do, in one line; "" when nothing is known to stand against it."""
    if _installed("onnxruntime") and _installed("onnxruntime-gpu"):
        return (
            "both onnxruntime and onnxruntime-gpu are installed and hide each other; "
            "run 'pip uninstall -y onnxruntime onnxruntime-gpu' and then 'pip install onnxruntime-gpu'"
        )
    if CUDA_PROVIDER not in ort().get_available_providers():
        if sys.platform == "darwin":
            return "there is no CUDA on macOS; use `device='cpu'`"
        return (
            "the installed onnxruntime has no CUDA; run 'pip uninstall -y onnxruntime' and then 'pip install onnxruntime-gpu'"
        )
    if problem := _driver_problem():
        return problem
    if missing := missing_cuda_libraries():
        return f"CUDA libraries are missing ({', '.join(missing)}); run \"pip install 'napari-emdl[cuda]'\""
    return ""


def devices() -> list[Device]:
    """All devices this program knows, usable or not."""
    import psutil

    from napari_emdl.jobs.executor import available_cores

    cores = available_cores()
    label = f"{platform.processor() or platform.machine()}, {cores} core{'s' if cores > 1 else ''}"
    cpu = Device("cpu", label, CPU_PROVIDER, True, memory_bytes=psutil.virtual_memory().total)
    problem = cuda_problem()
    name, memory = ("NVIDIA GPU", None) if problem else _gpu_name_and_memory()
    return [cpu, Device("cuda", name, CUDA_PROVIDER, not problem, problem, memory)]


def _gpu_name_and_memory() -> tuple[str, int | None]:
    driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    handle, text, size = ctypes.c_int(0), ctypes.create_string_buffer(256), ctypes.c_size_t(0)
    if driver.cuDeviceGet(ctypes.byref(handle), 0):
        return "NVIDIA GPU", None
    driver.cuDeviceGetName(text, len(text), handle)
    driver.cuDeviceTotalMem_v2(ctypes.byref(size), handle)
    return text.value.decode(errors="replace") or "NVIDIA GPU", size.value or None
