"""Tables as people have them: Kaggle's ids, no header, columns of 0 and 1, several that may be the label."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import draw_picture, make_class_folders

from classifier_training.core.errors import UserError
from classifier_training.data.formats.image_folder import AutoData
from classifier_training.data.formats.table import Table
from classifier_training.data.index import SampleIndex


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    """train.csv with id and breed for train/ID.jpg; test/ and test.csv without labels; a file to submit."""
    root = tmp_path / "kaggle"
    for number in range(6):
        draw_picture(root / f"train/{number:03d}.jpg", (1, 2, 3), seed=number)
    for number in range(2):
        draw_picture(root / f"test/{number:03d}.jpg", (1, 2, 3), seed=50 + number)
    labels = "".join(f"{number:03d},{'cat' if number % 2 else 'dog'}\n" for number in range(6))
    (root / "train.csv").write_text("id,breed\n" + labels)
    (root / "test.csv").write_text("id\n000\n001\n")
    (root / "sample_submission.csv").write_text("id,breed\n000,cat\n001,cat\n")
    return root


def pairs(index: SampleIndex) -> list[tuple[str, str]]:
    return [(sample.path, sample.label) for sample in index.samples]


EXPECTED = [(f"train/{number:03d}.jpg", "cat" if number % 2 else "dog") for number in range(6)]
UNLABELLED = ("test/000.jpg", "test/001.jpg")


def test_the_folder_of_a_kaggle_competition_is_read_as_it_comes(kaggle: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    index = AutoData(root=str(kaggle)).read()
    assert pairs(index) == EXPECTED
    assert {sample.split for sample in index.samples} == {"train"}
    assert index.unlabelled == UNLABELLED
    said = "paths from column 'id' (data.folder=train data.suffix=.jpg), labels from column 'breed'"
    assert f"{kaggle}/train.csv: {said}" in caplog.text
    assert index.files is not None
    assert index.files.num_files == 6 + 2 + 3


def test_the_table_alone_finds_the_folder_of_its_images(kaggle: Path) -> None:
    for name in ("test.csv", "sample_submission.csv"):
        (kaggle / name).unlink()
    (kaggle / "train.csv").rename(kaggle / "labels.csv")
    for source in (
        AutoData(root=str(kaggle)),
        AutoData(root=str(kaggle / "labels.csv")),
        Table(root=str(kaggle), folder="train", suffix=".jpg"),
        Table(root=str(kaggle), path_column="id", label_column="breed"),
    ):
        index = source.read()
        assert pairs(index) == EXPECTED
        assert index.unlabelled == UNLABELLED, "a folder called test whose images no row names"
        assert {sample.split for sample in index.samples} == {""}


def test_settings_for_names_are_obeyed(kaggle: Path) -> None:
    with pytest.raises(UserError, match=r"the image 'nowhere/000\.jpg' does not exist"):
        Table(root=str(kaggle / "train.csv"), folder="nowhere", suffix=".jpg").read()
    with pytest.raises(UserError, match=r"the image 'train/000\.png' does not exist"):
        Table(root=str(kaggle / "train.csv"), folder="train", suffix=".png").read()
    (kaggle / "train.csv").write_text("id,breed\n000.JPG,cat\n001.jpg,dog\n")
    (kaggle / "train/000.jpg").rename(kaggle / "train/000.JPG")
    assert pairs(Table(root=str(kaggle / "train.csv"), folder="train/", suffix=".jpg").read()) == [
        ("train/000.JPG", "cat"), ("train/001.jpg", "dog"),
    ]  # fmt: skip


def test_train_images_and_test_images_are_no_classes_beside_a_table(kaggle: Path) -> None:
    (kaggle / "train").rename(kaggle / "train_images")
    (kaggle / "test").rename(kaggle / "test_images")
    (kaggle / "test.csv").unlink()
    index = AutoData(root=str(kaggle)).read()
    assert pairs(index) == [(path.replace("train/", "train_images/"), label) for path, label in EXPECTED]


def test_a_table_of_sizes_beside_class_folders_changes_nothing(tmp_path: Path) -> None:
    root = make_class_folders(tmp_path / "d", {"blue": 3, "red": 3})
    rows = "".join(f"{name}/{number:02d}.png,40\n" for name in ("blue", "red") for number in range(3))
    (root / "sizes.csv").write_text("image,width\n" + rows)
    assert {sample.label for sample in AutoData(root=str(root)).read().samples} == {"blue", "red"}


def test_a_table_may_have_no_header(kaggle: Path) -> None:
    rows = "".join(f"{path},{label}\n" for path, label in EXPECTED)
    (kaggle / "list.csv").write_text(rows)
    assert pairs(Table(root=str(kaggle / "list.csv")).read()) == EXPECTED
    (kaggle / "list.csv").write_text(rows.replace(",cat", ",cat,7").replace(",dog", ",dog,8"))
    with pytest.raises(UserError, match="2 columns may be the label: 'column2', 'column3'") as caught:
        Table(root=str(kaggle / "list.csv")).read()
    assert caught.value.remedy == "data=csv data.label_column=column2"
    assert pairs(Table(root=str(kaggle / "list.csv"), label_column="column2").read()) == EXPECTED


def test_columns_of_0_and_1_are_labels(kaggle: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    rows = "".join(f"{number:03d},{number % 2}.0,{(number + 1) % 2}.0\n" for number in range(6))
    (kaggle / "train.csv").write_text("image,cat,dog\n" + rows)
    index = Table(root=str(kaggle / "train.csv")).read()
    assert pairs(index) == EXPECTED
    assert index.samples[0].metadata is None
    assert "labels from 2 columns of 0 and 1" in caplog.text
    (kaggle / "train.csv").write_text("image,cat,dog\n" + rows.replace("000,0.0,1.0", "000,1,1"))
    with pytest.raises(UserError, match="images with more than one label") as caught:
        Table(root=str(kaggle / "train.csv")).read()
    assert caught.value.remedy.startswith("data=csv data.label_column=cat ")
    (kaggle / "train.csv").write_text("image,cat,dog\n" + rows.replace("000,0.0,1.0", "000,0,0"))
    with pytest.raises(UserError, match=r"train\.csv:2: 0 of the 2 columns of 0 and 1 are 1"):
        Table(root=str(kaggle / "train.csv")).read()
    assert len(Table(root=str(kaggle / "train.csv"), on_error="skip").read().samples) == 5


def test_several_columns_that_may_be_the_label_are_named_with_the_likeliest(kaggle: Path) -> None:
    rows = "".join(f"l{number},{number:03d},{'cat' if number % 2 else 'dog'},{30 + number}\n" for number in range(6))
    (kaggle / "train.csv").write_text("lesion,image_id,dx,age\n" + rows)
    with pytest.raises(UserError, match="3 columns may be the label: 'lesion', 'dx', 'age'") as caught:
        Table(root=str(kaggle / "train.csv")).read()
    assert caught.value.remedy == "data=csv data.label_column=dx"
    index = Table(root=str(kaggle / "train.csv"), label_column="dx").read()
    assert pairs(index) == EXPECTED
    assert index.samples[0].metadata == {"lesion": "l0", "age": "30"}


def test_a_table_without_paths_or_labels_is_told_what_it_lacks(kaggle: Path) -> None:
    (kaggle / "train.csv").write_text("time,temperature\n1,2\n")
    with pytest.raises(UserError, match=r"no column has the paths of images below .*'time', 'temperature'"):
        Table(root=str(kaggle / "train.csv")).read()
    (kaggle / "train.csv").write_text("id\n000\n001\n")
    with pytest.raises(UserError, match=r"train\.csv: no column with labels among 'id'"):
        Table(root=str(kaggle / "train.csv")).read()


def test_paths_of_another_computer_and_of_windows_are_found(kaggle: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for beginning in ("/home/me/photos/train/", "train\\", "C:\\Users\\me\\train\\", "/kaggle/input/x/train/"):
        rows = "".join(f"{beginning}{path[6:]},{label}\n" for path, label in EXPECTED)
        (kaggle / "train.csv").write_text("path,label\n" + rows)
        assert pairs(Table(root=str(kaggle / "train.csv")).read()) == EXPECTED
    assert "without '/kaggle/input/x/'" in caplog.text
    for number, (path, _) in enumerate(EXPECTED):
        (kaggle / "train" / str(number % 2)).mkdir(exist_ok=True)
        (kaggle / path).rename(kaggle / "train" / str(number % 2) / "same.jpg" if number < 2 else kaggle / path)
    (kaggle / "train.csv").write_text("path,label\n/x/0/same.jpg,cat\n/x/1/same.jpg,dog\n")
    assert pairs(Table(root=str(kaggle / "train.csv")).read()) == [
        ("train/0/same.jpg", "cat"), ("train/1/same.jpg", "dog"),
    ]  # fmt: skip


def test_a_table_may_be_in_utf_16(kaggle: Path) -> None:
    text = (kaggle / "train.csv").read_text().replace(",", "\t").replace("dog", "dög")
    (kaggle / "train.csv").write_bytes(text.encode("utf-16"))
    assert {label for _, label in pairs(Table(root=str(kaggle / "train.csv")).read())} == {"cat", "dög"}


def test_ids_of_no_file_are_told_with_the_settings_that_help(kaggle: Path) -> None:
    (kaggle / "train.csv").write_text("id,label\n900,cat\n901,dog\n")
    with pytest.raises(UserError, match="no column has the paths of images") as caught:
        Table(root=str(kaggle / "train.csv")).read()
    assert caught.value.remedy == "data=csv data.path_column=id data.folder=FOLDER data.suffix=.jpg"


def test_a_column_of_splits_may_have_another_name(kaggle: Path) -> None:
    rows = "".join(
        f"{number:03d},{'cat' if number % 2 else 'dog'},{'valid' if number > 3 else 'train'}\n" for number in range(6)
    )
    (kaggle / "train.csv").write_text("id,label,set\n" + rows)
    index = Table(root=str(kaggle / "train.csv")).read()
    assert [sample.split for sample in index.samples] == ["train"] * 4 + ["val"] * 2
    (kaggle / "train.csv").write_text("id,label,set\n" + rows.replace("valid", "b"))
    assert {sample.split for sample in Table(root=str(kaggle / "train.csv")).read().samples} == {""}
