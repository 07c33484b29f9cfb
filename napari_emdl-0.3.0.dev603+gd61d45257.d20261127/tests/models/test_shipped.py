"""Every shipped model passes its own test, is small enough for the package, and says what it was trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_emdl.models.registry import load_model, shipped_folder
from napari_emdl.models.session import Session

FOLDERS = sorted(folder for folder in shipped_folder().glob("*") if folder.is_dir()) if shipped_folder().is_dir() else []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_shipped_model(folder: Path) -> None:
    model = load_model(folder, "shipped")
    assert model.card.license == "BSD-3-Clause" and model.card.description
    assert model.card.emdl.ranges, "the card must name the training ranges"
    assert (model.card.weights.onnx.opset_version or 0) >= 17
    off = Session(model, "cpu", threads=1).test()
    assert off is not None, "shipped models have test tensors"
    assert off < 1e-3
