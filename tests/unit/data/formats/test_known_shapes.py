"""Data in the shapes that people download: folders around folders, and tables with columns of every kind."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from tests.conftest import draw_picture

from classifier_training.core.errors import UserError
from classifier_training.data.formats.image_folder import AutoData
from classifier_training.data.formats.table import Table
from classifier_training.data.index import SampleIndex


def images(root: Path, names: Iterable[str]) -> None:
    for number, name in enumerate(names):
        draw_picture(root / name, (10, 20, 30), seed=number)


def table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def read(root: Path) -> SampleIndex:
    return AutoData(root=str(root)).read()


def counts(index: SampleIndex) -> dict[tuple[str, str], int]:
    return dict(Counter((sample.split, sample.label) for sample in index.samples))


TWO_SPLITS = {(split, label): 1 for split in ("train", "test") for label in ("cat", "dog")}


@pytest.mark.parametrize(
    "shape",
    [
        "chest_xray/{split}/{label}/0.png", "seg_{split}/seg_{split}/{label}/0.png",
        "alphabet_{split}/alphabet_{split}/{label}/0.png", "{split}ing_set/{split}ing_set/{label}/0.png",
    ],
)  # fmt: skip
def test_folders_around_the_classes_are_no_classes(tmp_path: Path, shape: str) -> None:
    images(tmp_path, [shape.format(split=split, label=label) for split, label in TWO_SPLITS])
    assert counts(read(tmp_path)) == TWO_SPLITS


def test_a_train_folder_alone_is_a_split(tmp_path: Path) -> None:
    images(tmp_path, ["train/cat/0.png", "train/dog/0.png"])
    assert counts(read(tmp_path)) == {("train", "cat"): 1, ("train", "dog"): 1}


def test_images_to_predict_beside_splits_are_of_none(tmp_path: Path) -> None:
    images(tmp_path, [f"seg_{split}/seg_{split}/{label}/0.png" for split, label in TWO_SPLITS])
    images(tmp_path, ["seg_pred/seg_pred/0.png"])
    assert counts(read(tmp_path)) == TWO_SPLITS


def test_classes_that_are_called_like_splits_stay_classes(tmp_path: Path) -> None:
    names = ["bullet_train", "express_train", "crash_test"]
    images(tmp_path, [f"{name}/0.png" for name in names])
    assert counts(read(tmp_path)) == {("", name): 1 for name in names}


def test_a_train_folder_that_lies_deeper_is_named(tmp_path: Path) -> None:
    images(tmp_path, ["Plants/Plants/train/a/0.png", "Plants/Plants/valid/a/0.png", "test/test/0.png"])
    with pytest.raises(UserError) as found:
        read(tmp_path)
    assert found.value.remedy == f"data.root={tmp_path}/Plants/Plants, which has one"


def test_numbers_of_classes_are_no_names_of_files(tmp_path: Path) -> None:
    images(tmp_path / "a", [f"imgs/{number}.png" for number in range(6)])
    table(tmp_path / "a/data.csv", ["label", "img_path"], [(number % 3, f"{number}.png") for number in range(6)])
    assert counts(read(tmp_path / "a")) == {("", "0"): 2, ("", "1"): 2, ("", "2"): 2}
    names = [f"{split}/{name}/{number}.png" for split in ("train", "test") for name in ("a", "b") for number in (0, 1)]
    images(tmp_path / "b", names)
    header = ["class id", "filepaths", "labels", "data set"]
    rows = [(int("/b/" in name), name, name.split("/")[1], name.split("/")[0]) for name in names]
    table(tmp_path / "b/sports.csv", header, rows)
    expected = {(split, label): 2 for split in ("train", "test") for label in ("a", "b")}
    assert counts(read(tmp_path / "b")) == counts(Table(root=str(tmp_path / "b/sports.csv")).read()) == expected


def test_a_table_over_folders_of_splits_has_their_splits(tmp_path: Path) -> None:
    names = [f"{split}/{label}/0.png" for split, label in TWO_SPLITS]
    images(tmp_path, names)
    table(tmp_path / "labels.csv", ["path", "label"], [(name, name.split("/")[1]) for name in names])
    assert counts(read(tmp_path)) == TWO_SPLITS


@pytest.mark.parametrize("name", ["{label}.png", "images/{label}.png"])
@pytest.mark.parametrize("form", ["metadata.csv", "metadata.jsonl", "_classes.csv"])
def test_a_table_beside_the_images_of_each_split_has_their_labels(tmp_path: Path, form: str, name: str) -> None:
    images(tmp_path, [f"{split}/{name.format(label=label)}" for split, label in TWO_SPLITS])
    for split in ("train", "test"):
        file, names = tmp_path / split / form, {name.format(label=label): label for label in ("cat", "dog")}
        if form == "metadata.csv":
            table(file, ["file_name", "label"], names.items())
        elif form == "_classes.csv":
            rows = [(name, int(label == "cat"), int(label == "dog")) for name, label in names.items()]
            table(file, ["filename", " cat", " dog"], rows)
        else:
            lines = [json.dumps({"file_name": name, "label": label}) for name, label in names.items()]
            file.write_text("\n".join(lines))
    assert counts(read(tmp_path)) == TWO_SPLITS


def test_a_table_beside_class_folders_of_a_split_is_none_of_labels(tmp_path: Path) -> None:
    names = [f"{split}/{label}/0.png" for split, label in TWO_SPLITS]
    images(tmp_path, names)
    table(tmp_path / "train/metadata.csv", ["file_name", "camera"], [("cat/0.png", "a"), ("dog/0.png", "b")])
    assert counts(read(tmp_path)) == TWO_SPLITS


def test_parquet_files_with_the_images_inside_are_answered_with_what_reads_them(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "data").mkdir()
    held = pa.table({"image": [{"bytes": b"x", "path": "a.png"}], "label": [0]})
    pq.write_table(held, tmp_path / "data/train-00000-of-00001.parquet")
    with pytest.raises(UserError, match="column 'image' holds the images themselves") as found:
        read(tmp_path)
    assert found.value.remedy.endswith(f"data=huggingface data.name={tmp_path}")
    with pytest.raises(UserError, match="column 'image' holds the images themselves"):
        read(tmp_path / "data/train-00000-of-00001.parquet")
    # Bytes beside a column of paths are of something else.
    images(tmp_path / "b", ["cat.png", "dog.png"])
    rows = {"path": ["cat.png", "dog.png"], "label": ["cat", "dog"], "thumbnail": [b"1", b"2"]}
    pq.write_table(pa.table(rows), tmp_path / "b/set.parquet")
    assert counts(read(tmp_path / "b/set.parquet")) == {("", "cat"): 1, ("", "dog"): 1}


def test_images_in_parts_and_a_table_with_many_columns(tmp_path: Path) -> None:
    images(tmp_path, [f"images_part_{1 + number // 6}/ISIC_{number}.png" for number in range(12)])
    rows = [(f"L{number // 2}", f"ISIC_{number}", ("nv", "mel")[number % 2], 50 + number % 5) for number in range(12)]
    table(tmp_path / "metadata.csv", ["lesion_id", "image_id", "dx", "age"], rows)
    with pytest.raises(UserError, match="3 columns may be the label: 'lesion_id', 'dx', 'age'") as found:
        read(tmp_path)
    assert found.value.remedy == "data=csv data.label_column=dx"
    assert counts(Table(root=str(tmp_path), label_column="dx").read()) == {("", "nv"): 6, ("", "mel"): 6}


def test_labels_of_training_images_are_not_put_on_test_images(tmp_path: Path) -> None:
    images(tmp_path, [f"{folder}/{number}.png" for folder in ("Test", "Train") for number in range(4)])
    table(tmp_path / "labels.csv", ["id", "label"], [(number, "ab"[number % 2]) for number in range(4)])
    assert {sample.path.split("/")[0] for sample in read(tmp_path).samples} == {"Train"}


def test_flags_and_empty_columns_are_no_classes(tmp_path: Path) -> None:
    names = [f"im/{number}.png" for number in range(8)]
    images(tmp_path, names)
    species = [(name, "ab"[number % 2]) for number, name in enumerate(names)]
    table(tmp_path / "x.csv", ["image", "species", "", ""], [(*row, "", "") for row in species])
    assert counts(read(tmp_path)) == {("", "a"): 4, ("", "b"): 4}
    flags = [(*row, int(number % 3 == 0), int(number % 4 == 0)) for number, row in enumerate(species)]
    table(tmp_path / "x.csv", ["image", "species", "is_night", "is_blurry"], flags)
    with pytest.raises(UserError, match="3 columns may be the label") as found:
        read(tmp_path)
    assert found.value.remedy == "data=csv data.label_column=species"


def test_blanks_after_commas_and_lines_of_another_width(tmp_path: Path) -> None:
    names = [f"im/{number}.png" for number in range(4)]
    images(tmp_path, names)
    lines = [f"{name}, {'ab'[number % 2]}" for number, name in enumerate(names)]
    (tmp_path / "x.csv").write_text("\n".join(["image, label", *lines, f"{names[0]}, a, b"]))
    with pytest.raises(UserError, match="more fields than the header has"):
        read(tmp_path)
    assert counts(AutoData(root=str(tmp_path), on_error="skip").read()) == {("", "a"): 2, ("", "b"): 2}


def test_small_copies_of_network_disks_are_no_images(tmp_path: Path) -> None:
    images(tmp_path, ["cat/0.png", "dog/0.png", "cat/@eaDir/0.png/SYNOPHOTO_THUMB_XL.png", "$RECYCLE.BIN/0.png"])
    assert counts(read(tmp_path)) == {("", "cat"): 1, ("", "dog"): 1}
