"""Preferences of ours: napari is asked only where somebody changed one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from napari_emdl.gui.kit import session

napari_settings = pytest.importorskip("napari.settings")


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of plugins whose preferences napari was asked for; device is "cpu" there."""
    names: list[str] = []

    def preferences(plugin: str) -> SimpleNamespace:
        names.append(plugin)
        return SimpleNamespace(run=SimpleNamespace(device="cpu"))

    monkeypatch.setattr(napari_settings, "get_settings", lambda: SimpleNamespace(config_path=str(tmp_path / "settings.yaml")))
    monkeypatch.setattr(napari_settings, "get_plugin_settings", preferences, raising=False)
    return names


def test_nothing_was_changed(asked: list[str]) -> None:
    assert session.setting("run", "device", "auto") == "auto" and not asked


def test_a_changed_preference_is_kept_in_a_file(asked: list[str], tmp_path: Path) -> None:
    (tmp_path / "napari-emdl.yaml").write_text("run: {device: cpu}\n")
    assert session.setting("run", "device", "auto") == "cpu" and asked == ["napari-emdl"]


def test_a_preference_of_the_environment(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAPARI_RUN_DEVICE", "cpu")
    assert session.setting("run", "device", "auto") == "cpu"


def test_napari_that_keeps_no_settings_is_asked(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(napari_settings, "get_settings", lambda: SimpleNamespace(config_path=None))
    assert session.setting("run", "device", "auto") == "cpu"


def test_napari_writes_a_changed_preference_at_once(tmp_path: Path) -> None:
    """What the file tells us rests on this."""
    found = pytest.importorskip("napari.settings._plugin_config_generator").plugin_configuration_generator()
    settings = found["napari-emdl"](config_path=tmp_path / "napari-emdl.yaml")
    settings.run.device = "cpu"
    assert "cpu" in (tmp_path / "napari-emdl.yaml").read_text()
