from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from classifier_training.core.errors import UserError
from classifier_training.data.index import SampleIndex, tabulate
from classifier_training.data.replay import (
    EarlierRun,
    find_moved,
    keep_splits,
    refuse_alike,
    refuse_nothing_new,
    replayed_rows,
)
from classifier_training.data.samples import Sample, Samples

BEFORE = (
    Sample("cat/0.png", "cat", "train"), Sample("cat/1.png", "cat", "train", "g"), Sample("dog/0.png", "dog", "train"),
    Sample("dog/1.png", "dog", "val"), Sample("cat/2.png", "cat", "test"),
)  # fmt: skip


def earlier(root: Path) -> EarlierRun:
    return EarlierRun(
        path=Path("run"), samples=Samples.of(BEFORE), class_names=("dog", "cat"), roots=(str(root / "old"),)
    )


def index(root: Path, *more: Sample, without: tuple[str, ...] = ()) -> SampleIndex:
    """The images of the run in the folder old, as a form of data reads them, and others."""
    old = [Sample(f"old/{row.path}", row.label) for row in BEFORE if row.path not in without]
    return SampleIndex(root, Samples.of([*more, *old]))


def test_old_images_keep_splits_and_groups_and_new_ones_are_open(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    data = index(tmp_path, Sample("new/ant/0.png", "ant"), Sample("new/cat/9.png", "cat", "val"))
    found = keep_splits(data, earlier(tmp_path), tmp_path / "old", takes_others=False)
    splits = {row.path: row.split for row in found.samples}
    assert splits == {
        "new/ant/0.png": "", "new/cat/9.png": "val", **{f"old/{row.path}": row.split for row in BEFORE},
    }  # fmt: skip
    assert {row.path: row.group for row in found.samples}["old/cat/1.png"] == "g"
    is_old = replayed_rows(found, earlier(tmp_path), tmp_path / "old")
    assert {path for path, one in zip(found.paths, is_old, strict=True) if one} == {
        "old/cat/0.png", "old/cat/1.png", "old/dog/0.png",
    }  # fmt: skip


def test_a_corrected_label_is_new_to_the_network(tmp_path: Path) -> None:
    rows = [Sample(f"old/{row.path}", row.label, row.split) for row in BEFORE]
    rows[0] = Sample("old/cat/0.png", "dog", "train")
    data = SampleIndex(tmp_path, Samples.of(rows))
    is_old = replayed_rows(data, earlier(tmp_path), tmp_path / "old")
    assert is_old.tolist() == [False, True, True, False, False]
    refuse_nothing_new(data, is_old, earlier(tmp_path))
    with pytest.raises(UserError, match="no training image that is new"):
        refuse_nothing_new(data, np.array([True, True, True, False, False]), earlier(tmp_path))


def test_other_images_in_the_old_folder_are_left_out_or_new(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    data = index(tmp_path, Sample("old/cat/77.png", "cat"), Sample("new/ant/0.png", "ant"))
    left = keep_splits(data, earlier(tmp_path), tmp_path / "old", takes_others=False)
    assert "old/cat/77.png" not in set(left.paths)
    assert "new/ant/0.png" in set(left.paths)
    taken = keep_splits(data, earlier(tmp_path), tmp_path / "old", takes_others=True)
    assert {row.path: row.split for row in taken.samples}["old/cat/77.png"] == ""


def test_a_new_folder_between_those_of_the_run_is_no_part_of_it(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    before = EarlierRun(
        path=Path("run"),
        samples=Samples.of([Sample("one/cat/0.png", "cat", "train"), Sample("two/dog/0.png", "dog", "train")]),
        class_names=("cat", "dog"),
        roots=(str(tmp_path / "one"), str(tmp_path / "two")),
    )
    rows = [Sample("one/cat/0.png", "cat"), Sample("third/ant/0.png", "ant"), Sample("two/dog/0.png", "dog")]
    found = keep_splits(SampleIndex(tmp_path, Samples.of(rows)), before, tmp_path, takes_others=False)
    assert [row.split for row in found.samples] == ["train", "", "train"]


def test_what_is_gone_is_said_and_a_class_without_images_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "old").mkdir()
    caplog.set_level(logging.INFO)
    keep_splits(
        index(tmp_path, without=("cat/0.png", "cat/2.png")), earlier(tmp_path), tmp_path / "old", takes_others=False
    )
    assert "2 of the 5 images" in caplog.text
    assert "easily forgotten: cat 1" in caplog.text
    assert "1 held-out image fewer" in caplog.text
    with pytest.raises(UserError, match="of dog no training image is left"):
        keep_splits(index(tmp_path, without=("dog/0.png",)), earlier(tmp_path), tmp_path / "old", takes_others=False)


@pytest.mark.parametrize(("name", "is_alike"), [("Cat", True), ("c a-t", True), ("cats", False), ("cat", False)])
def test_names_that_differ_in_nothing_that_counts_are_refused(tmp_path: Path, name: str, *, is_alike: bool) -> None:
    if not is_alike:
        refuse_alike([name, "dog"], earlier(tmp_path))
        return
    with pytest.raises(UserError, match="written almost like cat") as caught:
        refuse_alike([name, "dog"], earlier(tmp_path))
    assert f"rename the folder or label {name} to cat" in caught.value.remedy


def test_a_run_is_found_at_another_place(tmp_path: Path) -> None:
    for row in BEFORE:
        (tmp_path / "there" / row.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "there" / row.path).touch()
    (tmp_path / "new").mkdir()
    paths = [row.path for row in BEFORE]
    assert find_moved(paths, [str(tmp_path / "new"), str(tmp_path / "there")]) == (tmp_path / "there").resolve()
    assert find_moved(paths, [str(tmp_path / "new")]) is None


def test_old_classes_are_numbered_first() -> None:
    rows = [Sample(f"{name}/0.png", name, "train") for name in ("ant", "cat", "dog")]
    data = SampleIndex(Path("/data"), Samples.of(rows))
    assert tabulate(data, ("dog", "cat")).class_names == ("dog", "cat", "ant")
    assert tabulate(data, ("dog", "gone")).class_names == ("dog", "ant", "cat")
    assert tabulate(data).class_names == ("ant", "cat", "dog")
