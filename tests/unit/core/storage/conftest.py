"""A folder of small files, as it lies in a store."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A local folder of small files, those in NAMES of the test's module."""
    for number, name in enumerate(request.module.NAMES):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(range(100 + number)))
    return tmp_path / "set"
