from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import draw_picture, make_class_folders

from classifier_training.core.errors import UserError
from classifier_training.data.checking.preflight import check_classes
from classifier_training.data.formats.image_folder import AutoData, ImageFolder
from classifier_training.data.formats.jsonl import JSONL
from classifier_training.data.sample_sets.builders import IMBALANCE_RATIO, Digits, split_digits


def test_a_split_folder_keeps_its_splits(split_folder: Path) -> None:
    index = ImageFolder(root=str(split_folder)).read()
    assert index.present_splits() == {"train", "val", "test"}
    assert len(index.samples) == 18 + 9 + 9
    assert index.samples[0].path == "train/blue/00.png"


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_validation_may_be_spelt_in_three_ways(tmp_path: Path, name: str) -> None:
    make_class_folders(tmp_path / "d/train", {"blue": 1, "red": 1})
    make_class_folders(tmp_path / "d" / name, {"blue": 1, "red": 1})
    assert ImageFolder(root=str(tmp_path / "d")).read().present_splits() == {"train", "val"}


def test_an_unsplit_folder_has_no_splits_and_finds_images_at_any_depth(unsplit_folder: Path) -> None:
    draw_picture(unsplit_folder / "red/session 1/ünï.JPG", (200, 0, 0), seed=0)
    (unsplit_folder / "red/notes.txt").write_text("not an image")
    (unsplit_folder / ".hidden").mkdir()
    index = ImageFolder(root=str(unsplit_folder)).read()
    assert index.present_splits() == set()
    assert sum(sample.label == "red" for sample in index.samples) == 11


def test_a_class_called_test_is_a_class_when_nothing_is_called_train(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    draw_picture(tmp_path / "test/a.png", (1, 2, 3), seed=0)
    draw_picture(tmp_path / "real/a.png", (1, 2, 3), seed=0)
    index = ImageFolder(root=str(tmp_path)).read()
    assert {sample.label for sample in index.samples} == {"test", "real"}
    assert index.present_splits() == set()
    assert "test is read as a class" in caplog.text


def test_splits_without_train_are_no_classes(tmp_path: Path) -> None:
    for split in ("val", "Test"):
        make_class_folders(tmp_path / "d" / split, {"blue": 1, "red": 1})
    with pytest.raises(UserError, match="looks like a split, but there is no train folder"):
        ImageFolder(root=str(tmp_path / "d")).read()


def test_a_class_called_train_is_not_taken_for_the_only_split(tmp_path: Path) -> None:
    for name in ("bus", "car", "train"):
        draw_picture(tmp_path / "d" / name / "a.png", (1, 2, 3), seed=0)
    with pytest.raises(UserError, match="train is read as a split, and beside it are folders of images: bus, car"):
        ImageFolder(root=str(tmp_path / "d")).read()


def test_splits_may_be_written_large_and_what_is_left_out_is_said(
    split_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("train", "val", "test"):
        (split_folder / name).rename(split_folder / name.capitalize())
    assert ImageFolder(root=str(split_folder)).read().present_splits() == {"train", "val", "test"}
    assert not caplog.text
    draw_picture(split_folder / "Train/stray.png", (1, 2, 3), seed=0)
    draw_picture(split_folder / "loose.png", (1, 2, 3), seed=0)
    draw_picture(split_folder / "extra/blue/a.png", (1, 2, 3), seed=0)
    assert len(ImageFolder(root=str(split_folder)).read().samples) == 36
    for words in ("Train: 1 image in no class folder left out", "the first: loose.png", "left out: extra"):
        assert words in caplog.text


def test_a_name_that_is_not_utf8_is_named(split_folder: Path) -> None:
    (split_folder / "train/blue").rename(split_folder / "train/bl\udcfce")
    with pytest.raises(UserError, match=r"bl\\udcfce") as caught:
        ImageFolder(root=str(split_folder)).read()
    str(caught.value).encode()


def test_an_empty_class_is_reported(split_folder: Path) -> None:
    (split_folder / "train/white").mkdir()
    index = ImageFolder(root=str(split_folder)).read()
    assert index.empty_classes == ("train/white",)
    (split_folder / "train").rename(split_folder.parent / "flat")
    unsplit = ImageFolder(root=str(split_folder.parent / "flat")).read()
    assert unsplit.empty_classes == ("white",)
    for found in (index, unsplit):
        assert "empty_class_folders" in {finding.code for finding in check_classes(found)}


@pytest.mark.parametrize("names", [("Training", "Testing"), ("training_set", "test_set"), ("TRAIN", "Validation")])
def test_folders_of_splits_have_several_names(split_folder: Path, names: tuple[str, str]) -> None:
    shutil.rmtree(split_folder / "val")
    for old, new in zip(("train", "test"), names, strict=True):
        (split_folder / old).rename(split_folder / new)
    index = ImageFolder(root=str(split_folder)).read()
    assert {sample.label for sample in index.samples} == {"red", "green", "blue"}
    assert "train" in index.present_splits()


def test_classes_that_lie_one_level_deeper_are_pointed_out(
    split_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (split_folder / "train").rename(split_folder / "day 1")
    (split_folder / "val").rename(split_folder / "day 2")
    shutil.rmtree(split_folder / "test")
    ImageFolder(root=str(split_folder)).read()
    assert "every class folder (day 1, day 2) holds the same folders (blue, green, red)" in caplog.text
    assert f"data.root=['{split_folder}/day 1','{split_folder}/day 2']" in caplog.text


@pytest.mark.parametrize(
    ("root", "words"), [(None, "missing"), ("nowhere", "does not exist"), ("file", "is a file"), (".", "no image")]
)
def test_a_root_that_is_no_data_is_named(tmp_path: Path, root: str | None, words: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=words):
        ImageFolder(root=root).read()


def test_rows_of_jsonl_are_samples_with_their_labels(jsonl_folder: Path) -> None:
    index = JSONL(root=str(jsonl_folder)).read()
    assert {sample.label for sample in index.samples} == {"", "7", "10"}
    assert index.present_splits() == {"train", "val", "test"}


def test_one_image_may_have_two_rows(jsonl_folder: Path) -> None:
    file = jsonl_folder / "train/annotations.jsonl"
    file.write_text(file.read_text() + json.dumps({"image": "blue_0.png", "suffix": "99"}) + "\n\n")
    rows = [sample for sample in JSONL(root=str(jsonl_folder)).read().samples if sample.path == "train/blue_0.png"]
    assert [row.label for row in rows] == ["", "99"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not JSON"),
        ("[1]", "list instead of an object"),
        ('{"suffix": "1"}', "no field 'image'"),
        ('{"image": "blue_0.png"}', "no field 'suffix'"),
        ('{"image": "blue_0.png", "suffix": null}', "'suffix' is null"),
        ('{"image": "none.png", "suffix": "1"}', "does not exist"),
        ('{"image": "../../secret.png", "suffix": "1"}', "out of the data folder"),
        ('{"image": "/etc/passwd", "suffix": "1"}', "out of the data folder"),
    ],
)
def test_a_wrong_row_is_named_by_file_and_line(jsonl_folder: Path, line: str, words: str) -> None:
    file = jsonl_folder / "train/annotations.jsonl"
    number = len(file.read_text().splitlines()) + 1
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(UserError, match=words) as caught:
        JSONL(root=str(jsonl_folder)).read()
    assert f"annotations.jsonl:{number}" in caught.value.came


def test_auto_looks(jsonl_folder: Path, split_folder: Path) -> None:
    assert {sample.label for sample in AutoData(root=str(jsonl_folder)).read().samples} == {"", "7", "10"}
    assert {sample.label for sample in AutoData(root=str(split_folder)).read().samples} == {"blue", "green", "red"}


def test_a_jsonl_file_is_data_by_itself(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/2.png"):
        draw_picture(tmp_path / "images" / name, (9, 9, 9), seed=1)
    rows = [
        {"path": "images/a/1.png", "label": "x", "split": "train", "group": 7, "camera": "left"},
        {"path": "images/b/2.png", "label": "", "split": "valid"},
    ]
    file = tmp_path / "list.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for source in (AutoData(root=str(file)), AutoData(root=str(tmp_path)), JSONL(file=str(file))):
        first, second = source.read().samples
        assert (first.path, first.label, first.split, first.group) == ("images/a/1.png", "x", "train", "7")
        assert first.metadata == {"camera": "left"}
        assert (second.label, second.split, second.metadata) == ("", "val", None)
    file.write_text(file.read_text().replace("valid", "later"))
    with pytest.raises(UserError, match=r"list\.jsonl:2: split 'later'"):
        AutoData(root=str(file)).read()


def test_auto_takes_notes_for_notes(split_folder: Path, jsonl_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (split_folder / "notes.jsonl").write_text('{"note": "hello"}\nnot JSON\n')
    assert {sample.label for sample in AutoData(root=str(split_folder)).read().samples} == {"blue", "green", "red"}
    assert "notes.jsonl has no row with an image" in caplog.text
    for file in jsonl_folder.rglob("*.jsonl"):
        file.write_text('{"file": "a.png"}\n')
    with pytest.raises(UserError, match="no field 'image'"):
        AutoData(root=str(jsonl_folder)).read()


def test_runs_and_reports_inside_the_data_are_no_class(unsplit_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = AutoData(root=str(unsplit_folder)).read()
    image = next(unsplit_folder.rglob("*.png"))
    for name, files in (
        ("outputs/2026-01-02/10-00-00", ("config.yaml", "run.lock", "golden/a.png")),
        ("data_report", ("findings.json", "quarantine.csv", "report.html", "a.png")),
        (f"{image.parent.name}/deep", ("config.yaml", "run.lock", "a.png")),
    ):
        for file in files:
            (unsplit_folder / name / file).parent.mkdir(parents=True, exist_ok=True)
            (unsplit_folder / name / file).write_bytes(image.read_bytes())
    read = AutoData(root=str(unsplit_folder)).read()
    assert list(read.samples) == list(before.samples)
    assert read.empty_classes == before.empty_classes
    assert "folders of runs and reports are no data, and are left out" in caplog.text
    assert read.files is not None
    assert sum(count.number for count in read.files.left_out if count.kind == "output") == 10


def test_rows_outside_the_splits_are_left_out_aloud(jsonl_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (jsonl_folder / "more.jsonl").write_text('{"image": "train/blue_0.png", "suffix": "7"}\n')
    assert all(sample.split for sample in JSONL(root=str(jsonl_folder)).read().samples)
    assert "1 row in files outside" in caplog.text


def test_digits_are_whole_in_validation_and_test_and_long_tailed_in_training() -> None:
    index = Digits().read()
    counts = {
        split: np.bincount([int(sample.label) for sample in index.samples if sample.split == split])
        for split in ("train", "val", "test")
    }
    assert counts["val"].min() >= 34
    assert (counts["val"] == counts["test"]).all()
    assert counts["train"][0] / counts["train"][9] == pytest.approx(IMBALANCE_RATIO, rel=0.15)
    assert (np.diff(counts["train"]) <= 0).all()
    assert Digits().read() == index


def test_the_digits_split_depends_on_nothing_but_the_labels() -> None:
    targets = np.repeat(np.arange(10), 20)
    assert (split_digits(targets) == split_digits(targets)).all()
