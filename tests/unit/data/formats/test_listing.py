from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.conftest import draw_picture

from classifier_training.core.errors import UserError
from classifier_training.data.formats.image_folder import AutoData
from classifier_training.data.formats.jsonl import JSONL
from classifier_training.data.formats.listing import FileList
from classifier_training.data.formats.table import Table
from classifier_training.data.samples import Sample

ROWS = 'path,label,split,group,camera\nx/a.png,7,train,s1,c1\nx/b.png,,valid,s2,c2\n"y/c,\nd.png",8,test,,c1\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("x/a.png", "x/b.png", "y/c,\nd.png"):
        draw_picture(tmp_path / "d" / name, (1, 2, 3), seed=0)
    (tmp_path / "d/table.csv").write_text(ROWS)
    return tmp_path / "d"


EXPECTED = (
    Sample("x/a.png", "7", "train", "s1"),
    Sample("x/b.png", "", "val", "s2"),
    Sample("y/c,\nd.png", "8", "test", ""),
)


def test_a_table_gives_labels_splits_groups_and_metadata(folder: Path) -> None:
    index = Table(root=str(folder)).read()
    assert index.samples == EXPECTED
    assert index.root == folder
    assert [sample.metadata for sample in index.samples] == [{"camera": "c1"}, {"camera": "c2"}, {"camera": "c1"}]


def test_a_table_may_be_named_in_three_ways_and_is_seen_by_looking(folder: Path, tmp_path: Path) -> None:
    table = folder / "table.csv"
    outside = tmp_path / "elsewhere.csv"
    outside.write_text(ROWS)
    for source in (
        Table(root=str(table)),
        Table(file=str(table)),
        Table(root=str(folder), file=str(outside)),
        AutoData(root=str(folder)),
        AutoData(root=str(table)),
    ):
        assert source.read().samples == EXPECTED


def test_a_parquet_file_gives_the_same(folder: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.csv
    import pyarrow.parquet as pq

    options = pyarrow.csv.ParseOptions(newlines_in_values=True)
    read = pyarrow.csv.read_csv(folder / "table.csv", parse_options=options)
    labels = pa.array(["7", "", "8"])
    pq.write_table(read.set_column(1, "label", labels), folder / "table.parquet")
    assert Table(file=str(folder / "table.parquet")).read().samples == EXPECTED
    pq.write_table(read.set_column(1, "label", pa.array(["7", None, "8"])), folder / "table.parquet")
    with pytest.raises(UserError, match=r"table\.parquet, row 2: the label is null"):
        Table(file=str(folder / "table.parquet")).read()
    (folder / "table.parquet").write_text("no")
    with pytest.raises(UserError, match="not Parquet"):
        Table(file=str(folder / "table.parquet")).read()


def test_files_of_splits_are_splits(folder: Path) -> None:
    (folder / "table.csv").unlink()
    (folder / "train.csv").write_text("path,label\nx/a.png,7\n")
    (folder / "val.csv").write_text("path,label\nx/b.png,8\n")
    assert [sample.split for sample in Table(root=str(folder)).read().samples] == ["train", "val"]
    (folder / "other.csv").write_text("path,label\nx/b.png,8\n")
    with pytest.raises(UserError, match="holds 3 files of this kind") as caught:
        Table(root=str(folder)).read()
    key, _, advised = caught.value.remedy.partition("=")
    assert key == "data.root"
    assert [sample.path for sample in AutoData(root=advised).read().samples] == ["x/a.png"], "advice that works"


def test_a_table_to_submit_is_no_table_of_labels_beside_another(folder: Path) -> None:
    (folder / "table.csv").unlink()
    (folder / "Training_set.csv").write_text("filename,label\na.png,7\nb.png,8\n")
    (folder / "sample_submission.csv").write_text("filename,label\na.png,7\nb.png,7\n")
    for source in (AutoData(root=str(folder)), Table(root=str(folder))):
        assert [sample.label for sample in source.read().samples] == ["7", "8"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("x/none.png,7,train,,", "does not exist"),
        ("../secret.png,7,train,,", "out of the data folder"),
        ("/etc/passwd,7,train,,", "out of the data folder"),
        ("x/a.png,7,dev,,", "split 'dev'"),
        ("x/a.png,7", "fewer fields"),
        ("x/a.png,7,train,,,more", "more fields"),
    ],
)
def test_a_wrong_line_is_named(folder: Path, row: str, words: str) -> None:
    file = folder / "table.csv"
    file.write_text(f"{ROWS}{row}\n")
    with pytest.raises(UserError, match=words) as caught:
        Table(root=str(folder)).read()
    assert f"table.csv:{len(file.read_text().splitlines())}" in caught.value.came


def test_wrong_lines_are_skipped_and_counted_in_one_line(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "table.csv").write_text(f"{ROWS}x/none.png,7,train,,\n../a.png,7,train,,\n")
    assert len(Table(root=str(folder), on_error="skip").read().samples) == 3
    empty, message = (record.message for record in caplog.records if record.levelname == "WARNING")
    assert "1 row with an empty label, which is a class of its own" in empty
    assert "2 rows or files cannot be used and are left out; the first:" in message
    assert "table.csv:6" in message


def test_a_table_in_latin_1_is_named_by_line_or_read_as_told(folder: Path) -> None:
    draw_picture(folder / "x/é.png", (1, 2, 3), seed=0)
    (folder / "table.csv").write_bytes("path,label\nx/a.png,grün\nx/é.png,blau\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"table\.csv:2: not UTF-8 \(byte 0xfc in 'x/a\.png,grün") as caught:
        Table(root=str(folder)).read()
    assert "data.encoding=latin-1" in caught.value.remedy
    labels = [(sample.path, sample.label) for sample in Table(root=str(folder), encoding="latin-1").read().samples]
    assert labels == [("x/a.png", "grün"), ("x/é.png", "blau")]


def test_columns_may_have_other_names(folder: Path) -> None:
    (folder / "table.csv").write_text("\ufefffile,species\nx/a.png,cat\n", encoding="utf-8")
    for source in (
        Table(root=str(folder)),
        Table(root=str(folder), path_column="file", label_column="species"),
    ):
        assert source.read().samples == (Sample("x/a.png", "cat"),)
    with pytest.raises(UserError, match="no column 'flie' among 'file', 'species'") as caught:
        Table(root=str(folder), path_column="flie").read()
    assert caught.value.remedy == "data=csv data.path_column=file"


@pytest.mark.parametrize("mark", [";", "\t", "|", ","])
def test_columns_may_be_parted_by_any_usual_character(folder: Path, mark: str) -> None:
    (folder / "table.csv").write_text(f"path{mark}label\nx/a.png{mark}cat\nx/b.png{mark}dog\n")
    for source in (Table(root=str(folder)), AutoData(root=str(folder)), Table(root=str(folder), separator=mark)):
        assert source.read().samples == (Sample("x/a.png", "cat"), Sample("x/b.png", "dog"))


def test_a_list_of_files_takes_labels_from_folders(folder: Path, tmp_path: Path) -> None:
    (folder / "table.csv").unlink()
    (folder / "list.txt").write_text(f"x/a.png\r\n\n{folder}/x/b.png\n")
    expected = (Sample("x/a.png", "x"), Sample("x/b.png", "x"))
    for source in (
        FileList(root=str(folder)),
        FileList(file=str(folder / "list.txt")),
        FileList(root=str(folder / "list.txt")),
    ):
        assert source.read().samples == expected
    assert AutoData(root=str(folder / "list.txt")).read().samples == expected
    (folder / "list.txt").write_text("x/a.png\nloose.png\n")
    draw_picture(folder / "loose.png", (1, 2, 3), seed=0)
    with pytest.raises(UserError, match=r"list\.txt:2: 'loose\.png' is in no folder"):
        FileList(root=str(folder)).read()
    (folder / "list.txt").write_text(f"x/a.png\n{tmp_path}/other.png\n")
    with pytest.raises(UserError, match=r"list\.txt:2: the image path .* leads out"):
        FileList(root=str(folder)).read()


def test_a_table_of_something_else_does_not_hide_the_folders(folder: Path) -> None:
    (folder / "table.csv").write_text("time,temperature\n1,2\n")
    assert {sample.label for sample in AutoData(root=str(folder)).read().samples} == {"x", "y"}


def test_the_metadata_of_jsonl_rows_is_kept(jsonl_folder: Path) -> None:
    assert JSONL(root=str(jsonl_folder)).read().samples[1].metadata == {"player": 1}
    file = jsonl_folder / "train/annotations.jsonl"
    file.write_text(json.dumps({"image": "blue_0.png", "suffix": "7", "camera": "left"}) + "\n")
    (row,) = [sample for sample in JSONL(root=str(jsonl_folder)).read().samples if sample.split == "train"]
    assert row.metadata == {"camera": "left"}


def test_wrong_rows_of_jsonl_are_skipped_and_counted(jsonl_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = jsonl_folder / "train/annotations.jsonl"
    file.write_text(file.read_text() + '{"image": "x.png"}\n{\n{"image": "blue_0.png", "suffix": null}\n')
    assert len(JSONL(root=str(jsonl_folder), on_error="skip").read().samples) == 30
    assert "3 rows or files cannot be used" in caplog.text


def test_a_path_may_go_up_from_the_folder_of_its_list_but_not_out_of_the_data(split_folder: Path) -> None:
    image = sorted(split_folder.rglob("*.png"))[0].relative_to(split_folder).as_posix()
    (split_folder / "lists").mkdir()
    file = split_folder / "lists" / "rows.csv"
    file.write_text(f"path,label\n../{image},blue\n")
    (sample,) = Table(root=str(split_folder), file=str(file)).read().samples
    assert sample.path == image
    for wrong in (f"../../{split_folder.name}x/{image}", "../../../../../../../../etc/hostname"):
        file.write_text(f"path,label\n{wrong},blue\n")
        with pytest.raises(UserError, match=r"leads out of the data folder|no column has the paths"):
            Table(root=str(split_folder), file=str(file)).read()
