"""Shared fixtures. Validation data lies outside the repository; tests that need it skip where it is absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The same draws every time, so that a test fails for a change of ours only; `make test-random` draws anew.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("random", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with validation cases and real files (``cases``, ``real``, ``formats``)."""
    if not SHARED_DATA.is_dir():
        pytest.skip("validation data ../shared/data is not on this machine")
    return SHARED_DATA
