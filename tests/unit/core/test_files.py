from __future__ import annotations

import os
from pathlib import Path

from classifier_training.core.files import remove_oldest, size_bytes


def test_what_was_not_used_for_the_longest_time_goes_first_and_a_lost_file_is_no_error(tmp_path: Path) -> None:
    for age, name in enumerate("abcd"):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (1_000_000 - age, 1_000_000 - age))
    files = [*tmp_path.iterdir(), tmp_path / "gone"]
    remove_oldest(files, limit=40)
    assert size_bytes(tmp_path) == 40
    remove_oldest(files, limit=25, keep=tmp_path / "d")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "d"]
    assert size_bytes(tmp_path / "gone") == 0
