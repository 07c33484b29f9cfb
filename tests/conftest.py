"""Shared fixtures. Validation data lies outside the repository; tests that need it skip where it is absent."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with validation cases and real files (``cases``, ``real``, ``formats``)."""
    if not SHARED_DATA.is_dir():
        pytest.skip("validation data ../shared/data is not on this machine")
    return SHARED_DATA
