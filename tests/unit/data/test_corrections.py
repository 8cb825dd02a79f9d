from __future__ import annotations

import logging
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
from tests.conftest import make_class_folders

from classifier_training.core.errors import UserError
from classifier_training.core.run_dir import sha256
from classifier_training.data.corrections import (
    LabelCorrection,
    append_corrections,
    apply_corrections,
    edited_labels,
    read_corrections,
)
from classifier_training.data.formats.image_folder import ImageFolder
from classifier_training.data.load import load_data, read_corrected, read_samples
from classifier_training.data.samples import Sample, Samples
from classifier_training.data.splitting.manifest import write_manifest


def relabel(path: str, new: str, *, digest: str = "") -> LabelCorrection:
    return LabelCorrection(path=path, sha256=digest, old=path.split("/")[-2], new=new, action="relabel", who="me")


def test_labels_are_changed_samples_dropped_and_moved(split_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = split_folder / "corrections.csv"
    image = "train/blue/00.png"
    append_corrections(file, [relabel(image, "red", digest=sha256(split_folder / image))])
    append_corrections(
        file,
        [
            LabelCorrection(path="train/blue/01.png", old="blue", action="drop"),
            LabelCorrection(path="val/red/00.png", old="red", new="train", action="move"),
        ],
    )
    caplog.set_level(logging.INFO)
    loaded = load_data(ImageFolder(root=str(split_folder)), seed=0)
    assert loaded.splits.counts("train").tolist() == [6, 6, 6]
    assert loaded.splits.counts("val").tolist() == [3, 3, 2]
    assert "corrections: 1 label changed, 1 sample left out, 1 sample moved to another split" in caplog.text
    assert loaded.statistics["corrections"] == {"relabel": 1, "drop": 1, "move": 1, "ignored": 0}
    assert load_data(ImageFolder(root=str(split_folder), corrections=None), seed=0).splits.counts("val").sum() == 9


def test_a_random_split_is_the_same_for_all_other_images(unsplit_folder: Path) -> None:
    source = ImageFolder(root=str(unsplit_folder))
    before = {sample.path: sample.split for sample in load_data(source, seed=3).index.samples}
    append_corrections(
        unsplit_folder / "corrections.csv",
        [relabel("blue/00.png", "red"), LabelCorrection(path="green/04.png", old="green", action="drop")],
    )
    after = {sample.path: sample.split for sample in load_data(source, seed=3).index.samples}
    assert before.keys() - after.keys() == {"green/04.png"}
    assert all(before[path] == split for path, split in after.items())


def test_a_later_line_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    samples = [Sample("a/0.png", "a"), Sample("a/1.png", "a")]
    lines = [relabel("a/0.png", "b"), relabel("a/0.png", "c"), relabel("a/1.png", "b")]
    lines.append(LabelCorrection(path="a/1.png", old="a", action="keep"))
    assert [sample.label for sample in apply_corrections(tmp_path, samples, lines).samples] == ["c", "a"]


def test_lines_without_effect_are_named(split_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    append_corrections(
        split_folder / "corrections.csv",
        [
            relabel("train/blue/00.png", "red", digest="0" * 64),
            relabel("train/blue/99.png", "red"),
            LabelCorrection(path="train/blue/02.png", old="green", new="red", action="relabel"),
        ],
    )
    read_samples(ImageFolder(root=str(split_folder)))
    for words in (
        "train/blue/00.png was another image when it was looked at",
        "train/blue/99.png is not in the data",
        "train/blue/02.png has another label in the data now",
    ):
        assert words in caplog.text


def test_an_unreadable_image_can_be_dropped(split_folder: Path) -> None:
    (split_folder / "train/blue/00.png").write_bytes(b"")
    append_corrections(
        split_folder / "corrections.csv", [LabelCorrection(path="train/blue/00.png", old="blue", action="drop")]
    )
    assert load_data(ImageFolder(root=str(split_folder)), seed=0).splits.counts("train").tolist() == [7, 6, 4]


def test_each_of_several_folders_has_its_own(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_class_folders(tmp_path / name, {"blue": 4, "red": 4})
    append_corrections(tmp_path / "two/corrections.csv", [relabel("blue/00.png", "red")])
    samples = read_samples(ImageFolder(root=[str(tmp_path / "one"), str(tmp_path / "two")])).samples
    assert [sample.path for sample in samples if sample.path.split("/")[1] != sample.label] == ["two/blue/00.png"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("blue/0.png,,blue,red,relable,,,", "write relabel"),
        ("../0.png,,blue,red,relabel,,,", "leads out of the data folder"),
        ("blue/0.png,,blue,tets,move,,,", "one of train, val, test"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    file = tmp_path / "corrections.csv"
    append_corrections(file, [relabel("blue/0.png", "red")])
    file.write_text(file.read_text() + line)
    with pytest.raises(UserError, match=words) as caught:
        read_corrections(file)
    assert f"{file}:3" in str(caught.value)


def test_names_come_back_as_they_were(tmp_path: Path) -> None:
    file = tmp_path / "c.csv"
    odd = LabelCorrection(path='a, "b"/=1\n.png', old="", new="ü,\n", action="relabel", why="-- said 'no'")
    append_corrections(file, [odd])
    # A line that somebody wrote by hand may lack its end.
    file.write_bytes(file.read_bytes().removesuffix(b"\n"))
    append_corrections(file, [odd])
    assert read_corrections(file) == (odd, odd)


def test_lines_have_the_columns_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "corrections.csv"
    file.write_text("action,new,old,path\nrelabel,b,a,1.png\n")
    append_corrections(file, [LabelCorrection(path="2.png", old="a", new="c", action="relabel", who="ana")])
    assert file.read_text() == "action,new,old,path\nrelabel,b,a,1.png\nrelabel,c,a,2.png\n"
    file.write_text("action,old,path\n")
    with pytest.raises(UserError, match="no column 'new'"):
        append_corrections(file, [LabelCorrection(path="2.png", old="a", action="drop")])


def _append_many(file: Path, who: str) -> None:
    for number in range(100):
        append_corrections(file, [LabelCorrection(path=f"a/{number}.png", old="a", action="drop", who=who)])


def test_several_writers_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "corrections.csv"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append_many, args=(file, name)) for name in "xyz"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    lines = read_corrections(file)
    assert sorted((line.who, line.path) for line in lines) == sorted(
        (who, f"a/{number}.png") for who in "xyz" for number in range(100)
    )


def test_edits_of_a_table_become_lines_that_give_its_labels(split_folder: Path) -> None:
    file = split_folder / "corrections.csv"
    append_corrections(file, [relabel("train/blue/00.png", "red"), relabel("train/blue/01.png", "red")])
    index, corrected = read_corrected(ImageFolder(root=str(split_folder)))
    table = {sample.path: sample.label for sample in corrected.samples}
    assert edited_labels(index.root, index.samples, corrected, table.items(), why="") == ()
    # One correction is taken back, one is another now, and one is new.
    table |= {"train/blue/00.png": "blue", "train/blue/01.png": "green", "train/red/00.png": "green"}
    lines = edited_labels(index.root, index.samples, corrected, table.items(), why="edited")
    assert [(line.path, line.action, line.new) for line in lines] == [
        ("train/blue/00.png", "keep", ""),
        ("train/blue/01.png", "relabel", "green"),
        ("train/red/00.png", "relabel", "green"),
    ]
    assert lines[2].sha256 == sha256(split_folder / "train/red/00.png")
    append_corrections(file, lines)
    again, corrected = read_corrected(ImageFolder(root=str(split_folder)))
    assert {sample.path: sample.label for sample in corrected.samples} == table
    assert edited_labels(again.root, again.samples, corrected, table.items(), why="") == ()


def test_one_of_several_labels_of_an_image_can_be_edited(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"0")
    samples = [Sample("a.png", "cat"), Sample("a.png", "indoors")]
    nothing = apply_corrections(tmp_path, samples, [])
    (line,) = edited_labels(tmp_path, samples, nothing, [("a.png", "dog"), ("a.png", "indoors")], why="")
    assert (line.old, line.new) == ("cat", "dog")
    # Which of them was meant is not known here.
    assert edited_labels(tmp_path, samples, nothing, [("a.png", "dog"), ("a.png", "outdoors")], why="") == ()


def test_training_with_an_edited_table_says_how_its_labels_are_taken(
    split_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = read_samples(ImageFolder(root=str(split_folder)))
    file = tmp_path / "edited.csv"
    write_manifest(
        file, replace(index, samples=Samples.of((replace(index.samples[0], label="red"), *index.samples[1:])))
    )
    loaded = load_data(ImageFolder(root=str(split_folder), splits=str(file)), seed=0)
    assert {sample.label for sample in loaded.index.samples if sample.path == index.samples[0].path} == {"blue"}
    assert f"analyze data.root={index.root} data.splits={file} writes the file's labels as corrections" in caplog.text
