from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from classifier_training.core.errors import UserError
from classifier_training.data.formats.image_folder import ImageFolder
from classifier_training.data.load import load_data
from classifier_training.data.splitting.manifest import write_manifest
from classifier_training.data.splitting.splits import give_splits


def test_splits_of_a_file_are_taken_whatever_the_seed(unsplit_folder: Path, tmp_path: Path) -> None:
    first = load_data(ImageFolder(root=str(unsplit_folder), group="re:/0*(\\d)\\."), seed=1).index
    write_manifest(tmp_path / "splits.csv", first)
    source = ImageFolder(root=str(unsplit_folder), splits=str(tmp_path / "splits.csv"))
    assert load_data(source, seed=2).index.samples == first.samples


def test_missing_and_further_images_are_told(
    unsplit_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "splits.csv"
    file.write_text("path,label,split\nblue/00.png,cyan,train\nred/00.png,red,valid\ngone.png,red,train\n")
    index = ImageFolder(root=str(unsplit_folder)).read()
    with pytest.raises(UserError, match=r"1 of its 3 images are not in .*: gone\.png"):
        give_splits(index, file, "raise")
    given = give_splits(index, file, "skip")
    assert [(sample.path, sample.label, sample.split) for sample in given.samples] == [
        ("blue/00.png", "blue", "train"), ("red/00.png", "red", "val"),
    ]  # fmt: skip
    for words in ("1 of its images are missing", "28 images are not in it", "1 images have another label"):
        assert words in caplog.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,kind\na,b\n", "no columns path and split, but file, kind"),
        ("path,split\nblue/00.png,dev\n", r"splits\.csv:2: path 'blue/00.png', split 'dev'"),
        ("path,split\nblue/00.png,test\n", "no training images"),
        ("path,split\nnowhere.png,train\n", "1 of its 1 images are not in"),
    ],
)
def test_a_file_that_gives_no_splits_is_named(unsplit_folder: Path, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "splits.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        give_splits(ImageFolder(root=str(unsplit_folder)).read(), tmp_path / "splits.csv", "skip")


@pytest.mark.parametrize("setting", [{"val_fraction": 0.2}, {"group_duplicates": True}, {"fold": 0, "num_folds": 2}])
def test_a_wish_beside_a_file_of_splits_is_an_error(unsplit_folder: Path, setting: dict[str, float]) -> None:
    source = ImageFolder(root=str(unsplit_folder), splits="/x/splits.csv", **setting)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"has no effect: data\.splits defines"):
        load_data(source, seed=0)


def test_copies_stay_on_one_side_of_a_drawn_split(unsplit_folder: Path) -> None:
    for number in range(10):
        shutil.copyfile(unsplit_folder / f"blue/0{number}.png", unsplit_folder / f"red/copy_{number}.png")
    index = load_data(ImageFolder(root=str(unsplit_folder)), seed=0).index
    sides = {sample.path: sample.split for sample in index.samples}
    assert all(sides[f"blue/0{number}.png"] == sides[f"red/copy_{number}.png"] for number in range(10))
    assert set(sides.values()) == {"train", "val", "test"}


def test_copies_stay_on_one_side_of_a_validation_split_cut_from_train(
    unsplit_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "given"
    shutil.copytree(unsplit_folder, root / "train")
    caplog.set_level(logging.INFO)
    load_data(ImageFolder(root=str(root)), seed=0)
    assert "twin" not in caplog.text
    for number in range(10):
        shutil.copyfile(root / f"train/blue/0{number}.png", root / f"train/blue/copy_{number}.png")
    loaded = load_data(ImageFolder(root=str(root)), seed=0)
    sides = {sample.path: sample.split for sample in loaded.index.samples}
    assert all(sides[f"train/blue/0{number}.png"] == sides[f"train/blue/copy_{number}.png"] for number in range(10))
    assert len(loaded.copies) == 10


def test_images_that_look_alike_stay_on_one_side_when_asked(unsplit_folder: Path) -> None:
    photograph = Image.fromarray(load_sample_image("china.jpg"))
    for number in range(10):
        part = photograph.crop((30 * number, 20 * number, 30 * number + 300, 20 * number + 200))
        part.save(unsplit_folder / f"green/photo_{number}.png")
        part.resize((150, 100)).save(unsplit_folder / f"red/smaller_{number}.jpg", quality=80)
    index = load_data(ImageFolder(root=str(unsplit_folder), group_duplicates=True), seed=0).index
    sides = {sample.path: sample.split for sample in index.samples}
    assert all(sides[f"green/photo_{number}.png"] == sides[f"red/smaller_{number}.jpg"] for number in range(10))


def test_groups_that_are_classes_leave_nothing_to_validate(unsplit_folder: Path) -> None:
    with pytest.raises(UserError, match="no group is left for validation"):
        load_data(ImageFolder(root=str(unsplit_folder), group="parent"), seed=0)
