"""Tiny runs that are killed, starved and lied to."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import make_class_folders
from tests.server import Warm


@pytest.fixture(scope="session")
def drawing(faults: Path | None, forked_commands: Warm) -> Warm:
    """Where runs are forked from that draw their figures, and whose writes can be made to fail."""
    if faults is None:
        pytest.skip("no C compiler to make writes fail with")
    return forked_commands


@pytest.fixture(scope="session")
def warm(drawing: Warm) -> Warm:
    """Where runs are forked from that draw nothing."""
    return drawing.quick()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, split: 24 training images."""
    root = tmp_path_factory.mktemp("images")
    make_class_folders(root / "train", {"blue": 10, "green": 8, "red": 6})
    make_class_folders(root / "val", {"blue": 3, "green": 3, "red": 3})
    return root
