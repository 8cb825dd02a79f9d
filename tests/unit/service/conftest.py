"""One model for all tests of serving."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.served import make_service, running, write_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("served") / "model.onnx")


@pytest.fixture(scope="module")
def port(model: Path) -> Iterator[int]:
    with running(make_service(model).app()) as found:
        yield found
