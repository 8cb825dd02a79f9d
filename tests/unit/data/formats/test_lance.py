"""Lance sets: what is written is what was there, one version a time, and a killed writer leaves nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import draw_picture

from classifier_training.core.errors import UserError
from classifier_training.core.storage.lance_rows import SetPlace, SetReader, open_set, read_many, set_place
from classifier_training.data.checking.statistics import scan_headers
from classifier_training.data.formats import lance_write
from classifier_training.data.formats.image_folder import AutoData, ImageFolder
from classifier_training.data.formats.lance_write import WrittenSet, write_set
from classifier_training.data.index import SampleIndex
from classifier_training.data.load import given_corrections, read_corrected, read_samples
from classifier_training.workflows.datasets.prepare import copy_corrections

pytest.importorskip("lance")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for number in range(12):
        split, label = ("train", "val")[number % 2], ("cat", "dog")[number // 2 % 2]
        draw_picture(root / split / label / f"{number:02d}.png", (90, 120, 60), seed=number, size=(20 + number, 16))
    return root


def write(root: Path, images: Path, on_error: str = "raise") -> WrittenSet:
    index = ImageFolder(root=str(images), on_error=on_error).read()  # type: ignore[arg-type]
    return write_set(str(root), index, on_error=on_error)  # type: ignore[arg-type]


def read(root: Path, version: int | None = None) -> SampleIndex:
    return AutoData(root=str(root), version=version).read()


def places(index: SampleIndex) -> list[str]:
    return [f"{index.root}/{sample.path}" for sample in index.samples]


def test_a_place_in_a_set() -> None:
    assert set_place("/a/b.lance") == SetPlace("/a/b.lance", None, "")
    assert set_place("/a/b.lance/@7/c/d.jpg") == SetPlace("/a/b.lance", 7, "c/d.jpg")
    assert set_place("s3:/bucket/b.lance/c/d.jpg") == SetPlace("s3://bucket/b.lance", None, "c/d.jpg")
    assert set_place("/a/b.lance.jpg") is None
    assert set_place("/a/b.jpg") is None


def test_a_set_has_the_rows_and_bytes_of_its_folder_in_their_order(images: Path, tmp_path: Path) -> None:
    written = write(tmp_path / "set.lance", images)
    assert (written.version, written.num_rows, written.num_new) == (1, 12, 12)
    index, before = read(tmp_path / "set.lance"), ImageFolder(root=str(images)).read()
    assert list(index.samples) == list(before.samples)
    assert read_many(places(index)) == [(images / sample.path).read_bytes() for sample in before.samples]
    columns = ["path", "width", "height", "num_bytes", "sha256"]
    for row in open_set(str(tmp_path / "set.lance")).to_table(columns=columns).to_pylist():
        content = (images / row["path"]).read_bytes()
        assert (row["num_bytes"], row["sha256"]) == (len(content), hashlib.sha256(content).digest())
        assert (row["width"], row["height"]) == (20 + int(Path(row["path"]).stem), 16)


def test_metadata_groups_and_images_without_labels_are_kept(images: Path, tmp_path: Path) -> None:
    table = images / "labels.csv"
    lines = [f"{path.relative_to(images)},{path.parent.name},{number % 3},{number}"
             for number, path in enumerate(sorted(images.rglob("*.png")))]  # fmt: skip
    table.write_text("\n".join(["path,label,group,age", *lines]))
    draw_picture(images / "test" / "new.png", (1, 2, 3), seed=1)
    before = AutoData(root=str(images)).read()
    write_set(str(tmp_path / "set.lance"), before, on_error="raise")
    after = read(tmp_path / "set.lance")
    assert list(after.samples) == list(before.samples)
    assert [sample.metadata for sample in after.samples] == [sample.metadata for sample in before.samples]
    assert after.unlabelled == before.unlabelled == ("test/new.png",)


def test_more_images_make_a_version_that_has_the_order_of_the_folder(images: Path, tmp_path: Path) -> None:
    root = tmp_path / "set.lance"
    write(root, images)
    earlier = read(root, 1)
    assert write(root, images).version == 1
    draw_picture(images / "train" / "cat" / "00a.png", (9, 9, 9), seed=50)
    draw_picture(images / "val" / "dog" / "99.png", (9, 9, 9), seed=51)
    (images / "train" / "cat" / "04.png").unlink()
    draw_picture(images / "train" / "dog" / "02.png", (200, 9, 9), seed=52)
    written = write(root, images)
    assert (written.version, written.num_rows, written.num_new, written.num_removed) == (2, 13, 3, 2)
    index, now = read(root), ImageFolder(root=str(images)).read()
    assert list(index.samples) == list(now.samples)
    assert read_many(places(index)) == [(images / sample.path).read_bytes() for sample in now.samples]
    assert list(read(root, 1).samples) == list(earlier.samples)
    assert all(isinstance(content, bytes) for content in read_many(places(earlier)))


def test_a_set_of_other_data_is_not_overwritten(images: Path, tmp_path: Path) -> None:
    write(tmp_path / "set.lance", images)
    shutil.move(images / "train", tmp_path / "other" / "train")
    shutil.move(tmp_path / "other" / "train" / "cat", tmp_path / "other" / "train" / "bird")
    shutil.move(tmp_path / "other" / "train" / "dog", tmp_path / "other" / "train" / "fox")
    with pytest.raises(UserError, match="holds other data"):
        write(tmp_path / "set.lance", tmp_path / "other")


def test_a_killed_writer_leaves_no_version_and_the_next_one_uses_its_files(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "set.lance"
    monkeypatch.setattr(lance_write, "BATCH_BYTES", 1)
    monkeypatch.setattr(lance_write, "FILE_BYTES", 1)
    monkeypatch.setattr(lance_write, "CHUNK", 3)
    whole, asked = lance_write._examined, []

    def dies(path: str, content: bytes | OSError) -> object:
        asked.append(path)
        if len(asked) > 8:
            raise KeyboardInterrupt
        return whole(path, content)

    monkeypatch.setattr(lance_write, "_examined", dies)
    with pytest.raises(KeyboardInterrupt):
        write(root, images)
    with pytest.raises(UserError, match="there is no Lance set"):
        read(root)
    monkeypatch.setattr(lance_write, "_examined", whole)
    written = write(root, images)
    assert (written.version, written.num_rows, written.num_resumed) == (1, 12, 8)
    assert read_many(places(read(root))) == [
        (images / sample.path).read_bytes() for sample in ImageFolder(root=str(images)).read().samples
    ]
    assert write(root, images).num_new == 0


def test_an_unreadable_file_stops_or_is_left_out(images: Path, tmp_path: Path) -> None:
    bad = images / "train" / "cat" / "bad.png"
    bad.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"bad\.png"):
        write(tmp_path / "set.lance", images)
    written = write(tmp_path / "set.lance", images, on_error="skip")
    assert [error.path for error in written.unreadable] == [str(bad)]
    assert written.num_rows == 12


def test_what_is_not_in_a_set_is_missing(images: Path, tmp_path: Path) -> None:
    root = tmp_path / "set.lance"
    write(root, images)
    (error,) = read_many([f"{root}/train/cat/none.png"])
    assert isinstance(error, FileNotFoundError)
    with pytest.raises(UserError, match="has no version 5"):
        read(root, 5)
    with pytest.raises(UserError, match="there is no Lance set"):
        read(tmp_path / "none.lance")
    with pytest.raises(UserError, match=r"data.version=3 has no effect"):
        read(images, 3)


def test_the_newest_version_is_pinned(images: Path, tmp_path: Path) -> None:
    root = tmp_path / "set.lance"
    write(root, images)
    source = AutoData(root=str(root)).pinned()
    assert source.version == 1
    draw_picture(images / "train" / "cat" / "30.png", (9, 9, 9), seed=50)
    write(root, images)
    assert len(source.read().samples) == 12
    assert len(read(root).samples) == 13
    assert AutoData(root=str(images)).pinned().version is None
    both = AutoData(root=[str(root), "/other"]).pinned()
    assert both.root == [f"{root}/@2", "/other"]


def test_corrections_beside_a_set_are_applied_and_come_with_it(images: Path, tmp_path: Path) -> None:
    content = hashlib.sha256((images / "train/cat/00.png").read_bytes()).hexdigest()
    lines = ["path,sha256,old,new,action", f"train/cat/00.png,{content},cat,dog,relabel", "train/cat/04.png,,cat,,drop"]
    (images / "corrections.csv").write_text("\n".join(lines) + "\n")
    source = AutoData(root=str(images))
    root = str(tmp_path / "set.lance")
    write_set(root, source.read(), on_error="raise")
    assert list(read_samples(AutoData(root=root)).samples) == list(source.read().samples)
    file = copy_corrections(root, given_corrections(source, source.read()))
    assert file == tmp_path / "set.corrections.csv"
    assert list(read_samples(AutoData(root=root)).samples) == list(read_samples(source).samples)
    assert len(read_samples(AutoData(root=root)).samples) == 11
    file.write_text(file.read_text().replace(content, "0" * 64))
    _, corrected = read_corrected(AutoData(root=root))
    assert corrected.counts["relabel"] == 0
    assert corrected.counts["ignored"] == 1


def test_copies_are_known_without_reading_an_image(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(images / "train/cat/00.png", images / "val/cat/copy.png")
    write(tmp_path / "set.lance", images)
    index = read(tmp_path / "set.lance")
    monkeypatch.setattr(SetReader, "take", None)
    scan = scan_headers(index)
    assert scan.copies() == [("train/cat/00.png", "val/cat/copy.png")]
    assert not scan.unreadable


def test_an_image_in_several_rows_of_a_batch_is_read_once(images: Path, tmp_path: Path) -> None:
    root = tmp_path / "set.lance"
    write(root, images)
    paths = places(read(root))
    order = np.array([3, 0, 3, 11, 0])
    assert read_many([paths[place] for place in order]) == [
        (images / os.path.relpath(paths[place], f"{root}/@1")).read_bytes() for place in order
    ]
