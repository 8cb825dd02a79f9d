from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
from tests.conftest import make_class_folders

from classifier_training.core.errors import UserError
from classifier_training.data.checking.statistics import imbalance_ratio
from classifier_training.data.formats.image_folder import ImageFolder
from classifier_training.data.formats.jsonl import JSONL
from classifier_training.data.formats.table import Table
from classifier_training.data.load import load_data


def test_loaded_data_is_split_counted_and_measured(unsplit_folder: Path) -> None:
    loaded = load_data(ImageFolder(root=str(unsplit_folder)), seed=0)
    assert loaded.splits.class_names == ("blue", "green", "red")
    assert {name: len(table) for name, table in loaded.splits.tables.items()} == {"train": 18, "val": 6, "test": 6}
    assert loaded.image_sizes.shape == (30, 2)
    assert loaded.statistics["image_size"]["width"]["median"] == 40
    assert loaded.statistics["splits"]["train"]["class_counts"] == {"blue": 6, "green": 6, "red": 6}
    assert "3 classes" in loaded.words


def test_unreadable_files_end_the_run_or_are_skipped_and_counted(
    split_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("00.png", "01.png"):
        (split_folder / "train/blue" / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"00\.png.*1 more like it"):
        load_data(ImageFolder(root=str(split_folder)), seed=0)
    caplog.set_level(logging.WARNING)
    loaded = load_data(ImageFolder(root=str(split_folder), on_error="skip"), seed=0)
    assert loaded.splits.counts("train").tolist() == [6, 6, 4]
    assert "2 of 36 files" in caplog.text


def test_an_empty_class_ends_the_run_or_is_left_out(split_folder: Path) -> None:
    (split_folder / "train/white").mkdir()
    with pytest.raises(UserError, match="train/white"):
        load_data(ImageFolder(root=str(split_folder)), seed=0)
    loaded = load_data(ImageFolder(root=str(split_folder), on_error="skip"), seed=0)
    assert loaded.splits.class_names == ("blue", "green", "red")


def test_single_images_leave_nothing_to_validate_on(tmp_path: Path) -> None:
    make_class_folders(tmp_path / "d", {"blue": 1, "red": 1})
    with pytest.raises(UserError, match="no image is left for validation"):
        load_data(ImageFolder(root=str(tmp_path / "d")), seed=0)


def test_a_validation_split_of_other_classes_is_named(split_folder: Path) -> None:
    for name in ("blue", "green", "red"):
        (split_folder / "val" / name).rename(split_folder / "val" / f"my_{name}")
    with pytest.raises(UserError, match="only classes that train does not have: 'my_blue'"):
        load_data(ImageFolder(root=str(split_folder)), seed=0)


def test_imbalance_looks_at_classes_that_occur() -> None:
    import numpy as np

    assert imbalance_ratio(np.array([20, 0, 5])) == 4
    assert imbalance_ratio(np.array([0, 0])) == 1


def test_a_test_folder_without_class_folders_has_no_labels(
    split_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, path in enumerate(sorted((split_folder / "test").rglob("*.png"))):
        path.rename(split_folder / "test" / f"{number}.png")
    for name in ("blue", "green", "red"):
        (split_folder / "test" / name).rmdir()
    loaded = load_data(ImageFolder(root=str(split_folder)), seed=0)
    assert loaded.index.unlabelled == tuple(f"test/{number}.png" for number in range(9))
    assert set(loaded.splits.tables) == {"train", "val"}
    assert "in no class folder" not in caplog.text


def test_a_test_split_of_other_labels_has_no_labels(split_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("blue", "green", "red"):
        (split_folder / "test" / name).rename(split_folder / "test" / f"unknown {name}")
    loaded = load_data(ImageFolder(root=str(split_folder)), seed=0)
    assert len(loaded.index.unlabelled) == 9
    assert "its 9 images are taken as images without labels" in caplog.text
    assert {row["kind"]: row["num_files"] for row in loaded.statistics["folder"]["not_read"]} == {"unlabelled": 9}
    manifest = list(loaded.index.samples)
    resumed = load_data(ImageFolder(root=str(split_folder)), seed=0, manifest=manifest)
    assert resumed.index.unlabelled == loaded.index.unlabelled


def test_rows_of_the_split_test_may_have_no_label(split_folder: Path) -> None:
    rows = [
        f"{path.relative_to(split_folder)},{'' if 'test' in path.parts else path.parent.name},{path.parts[-3]}"
        for path in sorted(split_folder.rglob("*.png"))
    ]
    (split_folder / "labels.csv").write_text("\n".join(["path,label,split", *rows]))
    loaded = load_data(Table(root=str(split_folder)), seed=0)
    assert len(loaded.index.unlabelled) == 9
    assert loaded.splits.class_names == ("blue", "green", "red")


def test_images_that_alone_name_a_split_are_the_test_images(split_folder: Path) -> None:
    files = sorted(path.relative_to(split_folder) for path in split_folder.rglob("*.png"))
    held_out = {str(path) for path in files if path.parts[0] == "test"}
    rows = [f"{path},{path.parts[-2]},{'test' if str(path) in held_out else ''}" for path in files]
    (split_folder / "labels.csv").write_text("\n".join(["path,label,split", *rows]))
    lines = [
        json.dumps({"image": str(path), "label": path.parts[-2]} | ({"split": "test"} if str(path) in held_out else {}))
        for path in files
    ]
    (split_folder / "labels.jsonl").write_text("\n".join(lines))
    for source in (Table(root=str(split_folder)), JSONL(root=str(split_folder))):
        loaded = load_data(source, seed=0)
        assert not loaded.index.unlabelled
        assert set(loaded.index.paths[loaded.index.splits.where("test")]) == held_out
        assert set(loaded.splits.tables) == {"train", "val", "test"}


def test_no_test_split_is_made_where_none_is_wanted(unsplit_folder: Path, split_folder: Path) -> None:
    loaded = load_data(ImageFolder(root=str(unsplit_folder), test_fraction=0, val_fraction=0.2), seed=0)
    assert {name: len(table) for name, table in loaded.splits.tables.items()} == {"train": 24, "val": 6}
    folds = load_data(ImageFolder(root=str(unsplit_folder), test_fraction=0, fold=1, num_folds=3), seed=0)
    assert {name: len(table) for name, table in folds.splits.tables.items()} == {"train": 21, "val": 9}
    with pytest.raises(UserError, match="the data already has a test split"):
        load_data(ImageFolder(root=str(split_folder), test_fraction=0), seed=0)
    shutil.rmtree(split_folder / "test")
    assert set(load_data(ImageFolder(root=str(split_folder), test_fraction=0), seed=0).splits.tables) == {
        "train",
        "val",
    }
