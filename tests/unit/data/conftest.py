"""What the tests of the pixel store share."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import draw_picture

SIZES = [(40, 30), (30, 40), (200, 9), (5, 7), (16, 16), (23, 23), (90, 61)]


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    found = [tmp_path / "images" / f"{number}.png" for number in range(len(SIZES))]
    for number, (path, size) in enumerate(zip(found, SIZES, strict=True)):
        draw_picture(path, (90, 120, 60), seed=number, size=size)
    return list(map(str, found))
