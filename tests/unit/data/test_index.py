from __future__ import annotations

import logging
from pathlib import Path

import pytest

from classifier_training.core.errors import UserError
from classifier_training.data.index import SampleIndex, resolve_root, tabulate
from classifier_training.data.samples import Sample


def make(*rows: tuple[str, str, str]) -> SampleIndex:
    return SampleIndex(Path("/data"), tuple(Sample(*row) for row in rows))


def test_classes_come_from_training_alone_sorted_as_strings_the_empty_one_first() -> None:
    data = tabulate(make(("a", "10", "train"), ("b", "9", "train"), ("c", "", "train"), ("d", "10", "val")))
    assert data.class_names == ("", "10", "9")
    assert data.tables["val"].targets.tolist() == [1]
    assert data.tables["val"].paths == ["/data/d"]
    assert data.counts("train").tolist() == [1, 1, 1]
    assert data.counts("test").tolist() == [0, 0, 0]


def test_a_label_that_training_lacks_is_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    data = tabulate(make(("a", "x", "train"), ("b", "y", "train"), ("c", "w", "val"), ("d", "y", "val")))
    assert data.class_names == ("x", "y")
    assert data.tables["val"].targets.tolist() == [1]
    assert "'w'" in caplog.text
    assert "no image of x" in caplog.text


def test_one_class_is_nothing_to_learn() -> None:
    with pytest.raises(UserError, match=r"1 class\(es\): 'x'"):
        tabulate(make(("a", "x", "train"), ("b", "x", "train")))


def test_rows_can_be_taken_away() -> None:
    index = make(("a", "x", "train"), ("b", "x", "train")).without({"a"})
    assert [sample.path for sample in index.samples] == ["b"]


def test_a_file_in_the_place_of_a_folder_is_called_a_file(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(UserError, match="is a file, not a folder") as caught:
        resolve_root(str(tmp_path / "photo.jpg"))
    assert "the folder that holds the class folders" in caught.value.remedy
