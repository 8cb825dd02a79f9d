"""Tar files in the form of WebDataset."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from tests.conftest import draw_picture

from classifier_training.core.errors import UserError
from classifier_training.data.formats.image_folder import AutoData
from classifier_training.data.formats.webdataset import WebDataset, split_of_shard


def write_tar(file: Path, members: dict[str, bytes]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as opened:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))


@pytest.fixture
def contents(tmp_path: Path) -> list[bytes]:
    for number in range(8):
        draw_picture(tmp_path / "drawn" / f"{number}.png", (90, 120, 60), seed=number)
    return [(tmp_path / "drawn" / f"{number}.png").read_bytes() for number in range(8)]


def sample(number: int, content: bytes, label: bytes) -> dict[str, bytes]:
    fields = json.dumps({"player": number, "team": "red"}).encode()
    return {f"a/{number:04d}.png": content, f"a/{number:04d}.cls": label, f"a/{number:04d}.json": fields}


def test_images_labels_splits_and_fields_are_read_and_the_bytes_kept(tmp_path: Path, contents: list[bytes]) -> None:
    for place, name in enumerate(("train-000000.tar", "train-000001.tar", "val-000000.tar", "other.tar")):
        members = sample(2 * place, contents[2 * place], b"0") | sample(2 * place + 1, contents[2 * place + 1], b"1\n")
        write_tar(tmp_path / "set" / name, members)
    index = AutoData(root=str(tmp_path / "set")).read()
    assert [(item.split, item.label) for item in index.samples] == [
        ("train", "0"), ("train", "1"), ("train", "0"), ("train", "1"), ("val", "0"), ("val", "1"),
    ]  # fmt: skip
    assert [(index.root / item.path).read_bytes() for item in index.samples] == contents[:6]
    assert index.samples[1].metadata == {"player": 1, "team": "red"}
    assert AutoData(root=str(tmp_path / "set/train-000000.tar")).read().samples[0].split == ""


def test_the_label_may_be_a_field_or_a_number_of_a_class(tmp_path: Path, contents: list[bytes]) -> None:
    fields = [json.dumps({"label": name, "age": 3}).encode() for name in ("cat", "dog")]
    write_tar(
        tmp_path / "a.tar", {"1.png": contents[0], "1.json": fields[0], "2.png": contents[1], "2.json": fields[1]}
    )
    assert [item.label for item in AutoData(root=str(tmp_path / "a.tar")).read().samples] == ["cat", "dog"]
    ages = WebDataset(root=str(tmp_path / "a.tar"), label_field="age").read()
    assert [(item.label, item.metadata) for item in ages.samples] == [("3", {"label": "cat"}), ("3", {"label": "dog"})]
    (tmp_path / "names.txt").write_text("fish\ncow\n")
    write_tar(tmp_path / "b.tar", sample(0, contents[0], b"1") | sample(1, contents[1], b"0"))
    named = WebDataset(root=str(tmp_path / "b.tar"), class_names=str(tmp_path / "names.txt")).read()
    assert [item.label for item in named.samples] == ["cow", "fish"]


def test_a_sample_without_a_label_or_an_image_stops_or_is_left_out(tmp_path: Path, contents: list[bytes]) -> None:
    write_tar(tmp_path / "a.tar", sample(0, contents[0], b"1") | {"7.png": contents[1]} | {"8.cls": b"1"})
    with pytest.raises(UserError, match=r"a\.tar: 7: no label"):
        WebDataset(root=str(tmp_path / "a.tar")).read()
    assert len(WebDataset(root=str(tmp_path / "a.tar"), on_error="skip").read().samples) == 1


def test_a_cut_or_hostile_tar_file_is_refused(tmp_path: Path, contents: list[bytes]) -> None:
    write_tar(tmp_path / "a.tar", sample(0, contents[0], b"1") | sample(1, contents[1], b"1"))
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: len(contents[0]) + 2000])
    with pytest.raises(UserError, match="not a whole tar file"):
        WebDataset(root=str(tmp_path / "a.tar")).read()
    write_tar(tmp_path / "b.tar", {"../../1.png": contents[0], "../../1.cls": b"1"})
    with pytest.raises(UserError, match="leads out"):
        WebDataset(root=str(tmp_path / "b.tar")).read()
    assert not (tmp_path / "1.png").exists()


def test_splits_of_names() -> None:
    names = ("train-000012.tar", "imagenet-train.tar", "val_3.tar.gz", "validation-1.tgz", "Test.tar", "trainer-1.tar")
    assert [split_of_shard(Path(name)) for name in names] == ["train", "", "val", "val", "test", ""]
