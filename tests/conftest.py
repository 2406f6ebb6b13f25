"""Shared fixtures: real recordings, skipped with a reason where a clone has none."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("the folder of real recordings, ../shared/data, is not here")
    return SHARED
