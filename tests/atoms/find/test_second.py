"""Whose columns are taken where two networks looked at an image."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from napari_emdl.atoms.find import second
from napari_emdl.base.caveats import Caveats
from napari_emdl.base.params import ColumnParams

SHEET = 24.6  # px, the lattice parameter of graphene at .1 A


def honeycomb(both: bool) -> np.ndarray:
    """Atoms (n, 2) of a sheet, or of one of its two sublattices."""
    i, j = np.meshgrid(np.arange(12), np.arange(12), indexing="ij")
    cells = np.stack([i.ravel(), j.ravel()], axis=1) @ (SHEET * np.array([[1, 0], [0.5, np.sqrt(0.75)]]))
    return np.concatenate([cells, cells + SHEET * np.array([0.5, np.sqrt(1 / 12)])]) if both else cells


def finder(points: np.ndarray, contrast: str, confidence: float) -> Any:
    """What is asked of a finder that has found these columns."""
    return SimpleNamespace(
        sampled_spots=[(points, np.ones(len(points)))], default_min_score=0.5, passing=float(len(points)), pixel_A=0.1,
        contrast=contrast, contrast_confidence=confidence, contrast_evidence={}, caveats=Caveats(),
    )  # fmt: skip


def taken(monkeypatch: pytest.MonkeyPatch, first: Any, other: Any, told: Any) -> Any:
    """The finder that is taken; `told` is the first network's with the second one's contrast."""
    model, asked = SimpleNamespace(name="columns"), SimpleNamespace(name="columns_scanned")
    monkeypatch.setattr("napari_emdl.models.registry.shipped_models", lambda *_: [asked])
    image = SimpleNamespace(kind="image", n_foci=1)
    return second.confirmed(first, model, image, ColumnParams(), lambda m, _: other if m is asked else told)  # type: ignore[arg-type]


def test_the_rest_of_a_lattice_is_taken_though_one_sublattice_repeats_better(monkeypatch: pytest.MonkeyPatch) -> None:
    half, whole = finder(honeycomb(False), "bright", 0.6), finder(honeycomb(True), "bright", 0.995)
    assert second._order(half) > second._order(whole) + 0.03
    assert taken(monkeypatch, half, whole, half) is whole
    shifted = finder(honeycomb(True) + np.array([0, 9.0]), "bright", 0.995)  # none of the first one's columns among them
    assert taken(monkeypatch, half, shifted, half) is half


@pytest.mark.parametrize(("before", "after", "counts"), [(0.8, 0.95, True), (0.8, 0.89, False), (0.95, 0.96, False)])
def test_a_likelier_contrast_counts(monkeypatch: pytest.MonkeyPatch, before: float, after: float, counts: bool) -> None:
    dark, bright = finder(honeycomb(False) + np.array([0, 14.2]), "dark", before), finder(honeycomb(True), "bright", after)
    assert (taken(monkeypatch, dark, bright, finder(honeycomb(False), "bright", before)) is bright) is counts
