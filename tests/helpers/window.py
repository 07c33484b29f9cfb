"""A display for the window tests: the one that is there, else Xvfb, else the tests are skipped, naming what is missing."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SMALL = {"shape": (6, 8), "detector": (64, 64)}


@pytest.fixture(scope="session", autouse=True)
def display(request: pytest.FixtureRequest) -> Iterator[str]:
    """Name of an X display with GL; Qt's "offscreen" has no GL and will not do.

    Compiled shaders and matplotlib's list of fonts are kept, as a user's are: each test has a cache of its own else.
    """
    os.environ.setdefault("MESA_SHADER_CACHE_DIR", str(request.config.cache.mkdir("emdl_shaders")))
    os.environ.setdefault("MPLCONFIGDIR", str(request.config.cache.mkdir("emdl_fonts")))
    if sys.platform != "linux":
        yield ""
        return
    os.environ.pop("QT_QPA_PLATFORM", None)
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        yield os.environ.get("DISPLAY", "")
        return
    if shutil.which("Xvfb") is None:
        pytest.skip("window tests need a display: set DISPLAY, or install xvfb and libgl1 (apt-get install xvfb libgl1)")
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "1366x768x24", "+extension", "GLX", "-nolisten", "tcp"],
        pass_fds=[write],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    with os.fdopen(read) as pipe:
        number = pipe.readline().strip()
    if not number:
        server.wait(5)
        pytest.skip("Xvfb is there but does not start; try: Xvfb :99 -screen 0 1366x768x24")
    os.environ["DISPLAY"] = f":{number}"
    yield os.environ["DISPLAY"]
    server.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(5)
    os.environ.pop("DISPLAY", None)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs are kept in a folder of the test, not in the user's cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    monkeypatch.setenv("LOCALAPPDATA", str(folder))
    return folder


@pytest.fixture(autouse=True)
def threads_end_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of panels that a test before left open do not wait for requests while this one counts its own."""
    from napari_emdl.gui.kit import worker

    monkeypatch.setattr(worker, "LINGER_S", 1.0)


@pytest.fixture(autouse=True)
def nobody_listens_late(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A job is listened to before it starts: a quick one has sent its result when a listener comes later, and none hears it."""
    from napari_emdl.gui.kit import worker

    late: list[str] = []

    def connect_notify(job: worker.Job, _signal: Any) -> None:
        caller = sys._getframe(1)
        if job._thread.ident is not None and "napari_emdl" in caller.f_code.co_filename:
            late.append(f"{Path(caller.f_code.co_filename).name}:{caller.f_lineno}")

    monkeypatch.setattr(worker.Job, "connectNotify", connect_notify, raising=False)
    yield
    assert not late, f"listens to a job that was started before: {late}"


@pytest.fixture(autouse=True)
def speaks_like_a_window(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No label names an option as Python or the command line do."""
    from qtpy.QtWidgets import QLabel

    odd: list[str] = []
    set_text = QLabel.setText

    def heard(label: QLabel, text: str) -> None:
        if re.search(r"(?<![\w-])--[a-z]|`[A-Za-z_]\w*(=[^`]*)?`", text):
            odd.append(text)
        set_text(label, text)

    monkeypatch.setattr(QLabel, "setText", heard)
    yield
    assert not odd, f"not in the window's words: {odd}"


@pytest.fixture
def wait_until(qtbot: Any) -> Callable[..., None]:
    """Run the event loop until a condition holds; fails after `timeout_s`."""

    def wait(condition: Callable[[], Any], timeout_s: float = 90.0, what: str = "") -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"waited {timeout_s} s in vain{f' for {what}' if what else ''}"
            qtbot.wait(10)

    return wait


@pytest.fixture(scope="session")
def small_sample(request: pytest.FixtureRequest) -> Any:
    """The package's sample datacube with few, small patterns, and its truth; kept between runs while its source is the same."""
    from napari_emdl.samples import bloch
    from napari_emdl.samples import diffraction as samples

    source = b"".join(Path(module.__file__).read_bytes() for module in (samples, bloch))
    kept = request.config.cache.mkdir("emdl_sample") / f"{hashlib.sha256(source).hexdigest()[:16]}.pickle"
    if not kept.exists():
        # two processes of pytest-xdist may both make it: the last one renames over an equal file
        unfinished = kept.with_suffix(f".{os.getpid()}")
        unfinished.write_bytes(pickle.dumps(samples.strained_datacube(**SMALL)))
        unfinished.replace(kept)
    return pickle.loads(kept.read_bytes())


@pytest.fixture(scope="session")
def tiled_cube(small_sample: Any) -> Any:
    """Datacube with a larger scan, the sample's patterns repeated."""
    from napari_emdl.base.signals import in_memory

    cube, _ = small_sample
    return in_memory(np.tile(np.asarray(cube.data), (3, 3, 1, 1)), "datacube", cube.calibration, name="tiled")
