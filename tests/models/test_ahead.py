"""Networks opened ahead: the same sessions, each given once, errors raised to who asks."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from napari_emdl.base.errors import ModelError
from napari_emdl.models import ahead as ahead_module
from napari_emdl.models.ahead import Ahead
from napari_emdl.models.onnxfile import check_safe
from napari_emdl.models.registry import load_model, shipped_folder


def test_what_was_begun_is_opened_in_a_thread_and_given_once(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened_in = []
    made = ahead_module.Session

    def watched(*arguments: object) -> object:
        opened_in.append(threading.current_thread().name)
        return made(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ahead_module, "Session", watched)
    model, ahead = load_model(model_folder), Ahead()
    ahead.begin(model, "cpu", 1)
    first = ahead.session(model, "cpu", 1)
    assert opened_in == ["emdl-open-network"]
    second = ahead.session(model, "cpu", 1)
    assert second is not first and opened_in[1] == threading.current_thread().name
    assert ahead.session(model, "cpu", 2).threads == 2  # another one than was begun
    feeds = {"x": np.ones((1, 4)), "shift": np.ones(4)}
    np.testing.assert_allclose(first.run(feeds)["y"], second.run(feeds)["y"])


def test_an_error_waits_for_who_asks(model_folder: Path) -> None:
    model, ahead = load_model(model_folder), Ahead()
    model.network.write_bytes(b"no network")
    ahead.begin(model, "cpu", 1)
    with pytest.raises(ModelError, match="cannot be loaded"):
        ahead.session(model, "cpu", 1)


@pytest.mark.parametrize("folder", sorted(shipped_folder().iterdir()), ids=lambda folder: folder.name)
def test_networks_of_the_package_are_safe(folder: Path) -> None:
    """They are not looked into at each start, so here."""
    assert check_safe(folder / "model.onnx").n_nodes > 0
