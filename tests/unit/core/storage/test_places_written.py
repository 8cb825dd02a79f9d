"""Files that are written wherever they are; those of a store are in `tests/e2e`, with a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from classifier_training.core.errors import UserError
from classifier_training.core.storage.places import list_names, new_file, read_bytes, remove_folder, write_bytes


def test_files_of_a_folder_are_written_listed_and_removed(tmp_path: Path) -> None:
    folder = f"{tmp_path}/new/folder"
    assert list_names(folder) == []
    write_bytes(f"{folder}/b.txt", b"first")
    write_bytes(f"{folder}/b.txt", b"second")
    with new_file(f"{folder}/a.txt") as temporary:
        temporary.write_bytes(b"third")
        assert list_names(folder) == ["b.txt"]
    write_bytes(f"{folder}/.hidden", b"")
    assert list_names(folder) == ["a.txt", "b.txt"]
    assert (read_bytes(f"{folder}/a.txt"), read_bytes(f"{folder}/b.txt")) == (b"third", b"second")
    remove_folder(folder)
    assert not Path(folder).exists()


def test_a_web_server_is_not_written_to() -> None:
    with pytest.raises(UserError, match="a: cannot be written to") as found:
        write_bytes("https://example.org/a", b"")
    assert "s3://" in found.value.expected
