from __future__ import annotations

from pathlib import Path

import pytest

from classifier_training.core.errors import UserError
from classifier_training.inference.sorting import SortBy, Sorter, fit_file_name, safe_name
from classifier_training.inference.sources import FileSource, FolderSource, GlobSource, SeveralSources, VideoSource

ODD = ["", ".", "..", "a", ".a", "a.", "a ", "a/b", "a%2Fb", "%empty", "a\nb", "a\\b", "/", "%2E", "ü", "é" * 200]


def test_every_label_gets_a_legal_folder_of_its_own(tmp_path: Path) -> None:
    names = [safe_name(label) for label in ODD]
    assert len(set(names)) == len(ODD)
    for name in names:
        (tmp_path / name).mkdir()
    assert len(list(tmp_path.iterdir())) == len(ODD)
    assert safe_name("cat") == "cat"
    assert safe_name("") == "%empty"
    assert safe_name("..") == "%2E%2E"


def test_a_long_name_keeps_its_ending() -> None:
    assert fit_file_name("a.jpg") == "a.jpg"
    cut = [fit_file_name("é" * 130 + f"{number}.jpg") for number in range(2)]
    assert cut[0] != cut[1]
    assert all(name.endswith(".jpg") and len(name.encode()) <= 240 for name in cut)


@pytest.fixture
def source(tmp_path: Path) -> FolderSource:
    for name in ("a.jpg", "x/a.jpg", "y/a.jpg", "b.jpg"):
        (tmp_path / "im" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "im" / name).write_text(name)
    return FolderSource(str(tmp_path / "im"))


def sort(source: FolderSource, folder: Path, by: SortBy) -> dict[str, str]:
    sorter = Sorter(str(folder), by, source)
    for item in source:
        sorter.place(item, None if item.name == "b.jpg" else "a/b")
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def test_each_of_several_sources_is_looked_at(source: FolderSource, tmp_path: Path) -> None:
    other, clip = FileSource(str(tmp_path / "b.jpg")), VideoSource(str(tmp_path / "a.mp4"), None)
    deep, flat = GlobSource(str(tmp_path / "im/**/*.jpg")), GlobSource(str(tmp_path / "im/*.jpg"))
    for one in (source, deep):
        with pytest.raises(UserError, match="lies in the source"):
            Sorter(str(tmp_path / "im" / "sorted"), "copy", SeveralSources((other, one)))
    with pytest.raises(UserError, match="video"):
        Sorter(str(tmp_path / "out"), "copy", SeveralSources((other, clip)))
    with pytest.raises(UserError, match="s3://bucket/photos is in a remote store"):
        Sorter(str(tmp_path / "out"), "copy", FolderSource("s3://bucket/photos"))
    Sorter(str(tmp_path / "im" / "sorted"), "copy", flat)


@pytest.mark.parametrize("by", ["copy", "link"])
def test_files_of_one_name_lie_side_by_side_and_sorting_again_changes_nothing(
    source: FolderSource, tmp_path: Path, by: SortBy
) -> None:
    expected = {f"a%2Fb/{name}": name for name in ("a.jpg", "x/a.jpg", "y/a.jpg")}
    folder = tmp_path / "sorted"
    assert sort(source, folder, by) == expected
    assert (folder / "a%2Fb/a.jpg").is_symlink() == (by == "link")
    inodes = {path: path.lstat().st_ino for path in folder.rglob("*")}
    assert sort(source, folder, by) == expected
    assert {path: path.lstat().st_ino for path in folder.rglob("*")} == inodes


def test_a_link_gives_way_to_a_copy_and_a_changed_file_lies_beside_the_old_one(
    source: FolderSource, tmp_path: Path
) -> None:
    folder = tmp_path / "sorted"
    sort(source, folder, "link")
    sort(source, folder, "copy")
    assert not (folder / "a%2Fb/a.jpg").is_symlink()
    (tmp_path / "im/a.jpg").write_text("changed")
    assert sort(source, folder, "copy")["a%2Fb/a.jpg"] == "a.jpg"
    (beside,) = (folder / "a%2Fb").glob("a~*.jpg")
    assert beside.read_text() == "changed"
    (tmp_path / "im/a.jpg").write_text("changed again")
    sort(source, folder, "copy")
    assert [path.read_text() for path in (folder / "a%2Fb").glob("a~*.jpg")] == ["changed again"]


@pytest.mark.parametrize("by", ["copy", "link"])
def test_no_file_of_somebody_else_is_written_over(source: FolderSource, tmp_path: Path, by: SortBy) -> None:
    data = tmp_path / "data/a%2Fb"
    data.mkdir(parents=True)
    (data / "a.jpg").write_text("an original")
    found = sort(source, tmp_path / "data", by)
    assert found["a%2Fb/a.jpg"] == "an original"
    assert len(found) == 4
    # The sorted folder as the source: every image is where it belongs already.
    before = {path: path.lstat().st_ino for path in data.rglob("*.jpg")}
    sorter = Sorter(str(tmp_path / "data"), "link", FolderSource(str(data)))
    for item in FolderSource(str(data), follow_links=True):
        sorter.place(item, "a/b")
    assert {path: path.lstat().st_ino for path in data.rglob("*.jpg")} == before


def test_a_file_that_has_gone_is_told_and_the_others_are_sorted(
    source: FolderSource, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    items = list(source)
    (tmp_path / "im/a.jpg").unlink()
    sorter = Sorter(str(tmp_path / "sorted"), "copy", source)
    for item in items:
        sorter.place(item, "c")
    assert "no longer exists" in caplog.text
    assert len([path for path in (tmp_path / "sorted").rglob("*") if path.is_file()]) == 3


def test_a_folder_that_cannot_be_sorted_into_is_refused(source: FolderSource, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lies in the source"):
        Sorter(f"{source.path}/sorted", "copy", source)
    with pytest.raises(UserError, match="cannot be written"):
        Sorter(f"{source.path}/a.jpg/sorted", "copy", FileSource("x.jpg"))
    with pytest.raises(UserError, match="video"):
        Sorter(str(tmp_path / "sorted"), "copy", VideoSource("x.mp4", None))
