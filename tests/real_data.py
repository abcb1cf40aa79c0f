"""Real data for tests: found beside the repository, or the test is skipped with a message."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def real_data(name: str) -> Path:
    """The folder or file ``name`` under $QUANTUNET_DATA, or under ``../shared/data`` beside the repository root."""
    root = os.environ.get("QUANTUNET_DATA")
    folder = Path(root) if root else Path(__file__).resolve().parents[2] / "shared" / "data"
    path = folder / name
    if not path.exists():
        pytest.skip(f"real data {name!r} is not here: set QUANTUNET_DATA to the folder that holds it")
    return path
