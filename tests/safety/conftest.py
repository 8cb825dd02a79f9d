"""Tiny runs that are killed, starved and lied to."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import make_class_folders
from tests.server import Warm


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that makes writes fail."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make writes fail with")
    target = tmp_path_factory.mktemp("faults") / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", target, source, "-ldl"], check=True)
    return target


@pytest.fixture(scope="module")
def warm(faults: Path) -> Iterator[Warm]:
    """Where runs are forked from; what makes writes fail sleeps until a run's environment wakes it."""
    with Warm(faults, draws=False) as server:
        yield server


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, split: 24 training images."""
    root = tmp_path_factory.mktemp("pictures")
    make_class_folders(root / "train", {"blue": 10, "green": 8, "red": 6})
    make_class_folders(root / "val", {"blue": 3, "green": 3, "red": 3})
    return root
