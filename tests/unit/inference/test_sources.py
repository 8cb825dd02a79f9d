from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import draw_picture

from classifier_training.core.errors import UserError
from classifier_training.inference import listing
from classifier_training.inference.sources import find_source, read_frames

cv2 = pytest.importorskip("cv2")


def write_video(path: Path, num_frames: int = 30, rate: int = 10) -> Path:
    writer = cv2.VideoWriter(
        str(path), cv2.VideoWriter_fourcc(*"mp4v" if path.suffix == ".mp4" else "MJPG"), rate, (64, 48)
    )
    assert writer.isOpened()
    for number in range(num_frames):
        writer.write(np.full((48, 64, 3), (255 - 8 * number, 0, 8 * number), np.uint8))
    writer.release()
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "im"
    for name in ("b.png", "a.JPG", "sub/b.png", "sub/deep/c.png", ".hidden.png", ".git/x.png", "notes.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def names(source: str) -> list[str]:
    return [item.name for item in find_source(source)]


def test_a_folder_is_searched_to_its_end_in_order(folder: Path) -> None:
    found = find_source(str(folder))
    assert [item.name for item in found] == ["a.JPG", "b.png", "sub/b.png", "sub/deep/c.png"]
    assert [item.path for item in found][2] == str(folder / "sub/b.png")
    assert found.count() == 4


def test_a_table_is_no_image_and_its_folder_is_named(folder: Path) -> None:
    (folder / "labels.csv").write_text("path,label\na.JPG,cat\n")
    with pytest.raises(UserError, match="a table, which is not read") as found:
        find_source(str(folder / "labels.csv"))
    assert str(folder) in found.value.remedy


def test_a_glob_takes_what_matches(folder: Path) -> None:
    assert names(f"{folder}/**/*.png") == ["b.png", "sub/b.png", "sub/deep/c.png"]
    assert names(f"{folder}/sub/*") == ["b.png"]
    assert names(f"{folder}/[ab].*") == ["a.JPG", "b.png"]
    assert find_source(f"{folder}/**/*.png").count() == 3


def test_a_file_whose_name_looks_like_a_glob_is_a_file(folder: Path) -> None:
    (folder / "[1].png").write_bytes(b"x")
    assert names(f"{folder}/[1].png") == ["[1].png"]


def test_several_sources_give_each_image_once_under_names_of_their_own(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/b.png").write_bytes(b"x")
    given = [f"{folder}/b.png", f"{tmp_path}/other/b.png", f"{folder}/sub", f"{folder}/sub/b.png", f"{folder}/**/c.png"]
    found = find_source([*given, given[0]])
    assert [item.name for item in found] == ["im/b.png", "other/b.png", "im/sub/b.png", "im/sub/deep/c.png"]
    assert found.count() == 4
    assert names(given[0]) == ["b.png"]
    with pytest.raises(UserError, match=r"nowhere\.png: there is no such file"):
        find_source([given[0], "nowhere.png"])
    with pytest.raises(UserError, match="no image in this folder"):
        (tmp_path / "empty").mkdir()
        find_source([given[0], f"{tmp_path}/empty"])
    with pytest.raises(UserError, match=r"every_s=2: source=.*, .* are no video"):
        find_source(given[:2], every_s=2)
    assert find_source([*given[:1], f"{folder}/sub"], follow_links=True).count() == 3


def test_a_list_names_files_beside_itself_or_anywhere(folder: Path, tmp_path: Path) -> None:
    listed = folder / "list.txt"
    listed.write_bytes(b"\xef\xbb\xbfb.png\n\n  sub/b.png\r\n/elsewhere/b.png\n../im2/#1 b.png\ncaf\xe9.png")
    found = list(find_source(str(listed)))
    assert [item.path for item in found] == [
        f"{folder}/b.png",
        f"{folder}/sub/b.png",
        "/elsewhere/b.png",
        f"{folder}/../im2/#1 b.png",
        os.fsdecode(bytes(folder) + b"/caf\xe9.png"),
    ]
    assert [item.name for item in found][:4] == [
        "b.png",
        "sub/b.png",
        "_/elsewhere/b.png",
        f"_{tmp_path}/im2/#1 b.png",
    ]
    assert find_source(str(listed)).count() == 5


@pytest.mark.parametrize("ending", ["mp4", "avi"])
def test_a_video_gives_its_frames_with_their_times(tmp_path: Path, ending: str) -> None:
    clip = write_video(tmp_path / f"clip.{ending}")
    every = list(find_source(str(clip)))
    assert len(every) == 30
    assert every[25].path == f"{clip}#t=2.50"
    assert every[25].name == f"clip.{ending}#t=2.50"
    some = list(find_source(str(clip), every_s=1.25))
    assert [item.name.partition("=")[2] for item in some] == ["0.00", "1.30", "2.50"]
    first, last = (item.pixels for item in (every[0], every[-1]))
    assert first is not None
    assert last is not None
    assert first.shape == (48, 64, 3)
    assert first.mean((0, 1)) @ [-1, 0, 1] > 200, "the first frame is blue, in RGB"
    assert last.mean((0, 1)) @ [-1, 0, 1] < -150, "the last one is red"


def test_frames_of_a_fast_video_have_different_names(tmp_path: Path) -> None:
    items = list(find_source(str(write_video(tmp_path / "a.avi", num_frames=60, rate=240))))
    assert len({item.name for item in items}) == len(items) == 60
    assert items[0].name == "a.avi#t=0.00"
    assert items[1].name == "a.avi#t=0.00-2"


def test_a_gap_in_a_video_is_not_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Camera:
        """Ten frames a second from the fifth second on, with a gap of ten seconds."""

        times = (*np.arange(5.0, 7.0, 0.1), *np.arange(17.0, 19.0, 0.1))
        now = -1

        def __init__(self, path: str) -> None:
            """Open whatever there is."""

        def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
            return True

        def grab(self) -> bool:
            self.now += 1
            return self.now < len(self.times)

        def get(self, what: int) -> float:
            return 1000 * self.times[self.now] if what == cv2.CAP_PROP_POS_MSEC else 0.0

        def retrieve(self) -> tuple[bool, np.ndarray]:
            return True, np.zeros((4, 4, 3), np.uint8)

        def release(self) -> None:
            """Have nothing to close."""

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    assert [round(seconds, 1) for seconds, _ in read_frames("any.mp4", every_s=0.5)] == [
        5.0, 5.5, 6.0, 6.5, 17.0, 17.5, 18.0, 18.5,
    ]  # fmt: skip


def test_a_video_that_cannot_be_read_is_one_item_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    (item,) = find_source(str(tmp_path / "clip.mp4"))
    assert item.error == "cannot be read as a video"


def test_seconds_between_frames_need_a_video(folder: Path) -> None:
    with pytest.raises(UserError, match=r"every_s=2: .* is no video"):
        find_source(str(folder), every_s=2)


@pytest.mark.parametrize(
    ("source", "why"),
    [("nowhere", "no such file"), ("*.png", "no image matches"), ("empty", "no image in"), ("e.txt", "no line")],
)
def test_a_source_without_images_is_refused(tmp_path: Path, source: str, why: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "e.txt").write_text("\n \n")
    with pytest.raises(UserError, match=why):
        find_source(source)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_an_item_with_the_reason(folder: Path) -> None:
    (folder / "sub").chmod(0)
    errors = [item.error for item in find_source(str(folder)) if item.error]
    (folder / "sub").chmod(0o700)
    assert errors == ["the folder cannot be read (Permission denied)"]


def test_folders_that_link_in_a_circle_end(folder: Path) -> None:
    (folder / "sub/loop").symlink_to(folder)
    assert len(names(str(folder))) == 4
    draw_picture(folder / "sub/z.png", (1, 2, 3), seed=0)
    assert len(names(str(folder))) == 5


@pytest.fixture
def linked(folder: Path, tmp_path: Path) -> Path:
    """The folder with links out of it, to folders of its own, and to one of its files."""
    draw_picture(tmp_path / "elsewhere/secret.png", (0, 0, 0), seed=0)
    (folder / "out.png").symlink_to(tmp_path / "elsewhere/secret.png")
    (folder / "sub/out").symlink_to(tmp_path / "elsewhere")
    (folder / "twice").symlink_to(folder / "sub/deep")
    (folder / "same.png").symlink_to(folder / "b.png")
    return folder


INSIDE = ["a.JPG", "b.png", "same.png", "sub/b.png", "sub/deep/c.png"]


@pytest.mark.parametrize("pattern", ["", "/**"], ids=["folder", "glob"])
def test_links_out_of_a_folder_and_to_folders_are_counted_or_followed(
    pattern: str, linked: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = find_source(f"{linked}{pattern}")
    for _ in range(2):
        assert sorted(item.name for item in found) == INSIDE
    (out,) = [text for text in caplog.messages if "lead out" in text]
    assert "2 links that lead out of the folder are not followed (follow_links=true follows them)" in out
    assert f"{linked}/out.png" in out
    (inside,) = [text for text in caplog.messages if "to folders" in text]
    assert f"1 links to folders are not followed (follow_links=true follows them): {linked}/twice" in inside
    followed = find_source(f"{linked}{pattern}", follow_links=True)
    assert sorted(item.name for item in followed) == sorted([*INSIDE, "out.png", "sub/out/secret.png", "twice/c.png"])


def test_a_glob_below_the_working_folder_has_the_same_rule(linked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(linked)
    (linked / "d").symlink_to(linked / "sub")
    assert names("*/b.png") == names("./*/b.png") == names(f"../{linked.name}//*/b.png") == ["sub/b.png"]
    assert [item.name for item in find_source("*/b.png", follow_links=True)] == ["d/b.png", "sub/b.png"]


def test_what_a_user_names_is_followed_wherever_it_leads(linked: Path, tmp_path: Path) -> None:
    assert names(f"{linked}/out.png") == ["out.png"]
    assert names(f"{linked}/sub/out") == ["secret.png"]
    assert names(f"{linked}/sub/out/*.png") == ["secret.png"]
    (tmp_path / "l.txt").write_text(f"{linked}/out.png")
    assert len(names(str(tmp_path / "l.txt"))) == 1


def test_a_folder_with_nothing_but_links_out_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    draw_picture(tmp_path / "elsewhere/secret.png", (0, 0, 0), seed=0)
    (tmp_path / "im").mkdir()
    (tmp_path / "im/a.png").symlink_to(tmp_path / "elsewhere/secret.png")
    with pytest.raises(UserError, match="no image in this folder"):
        find_source(str(tmp_path / "im"))
    assert "1 links that lead out" in caplog.text


def test_following_links_is_refused_where_there_are_none(folder: Path) -> None:
    with pytest.raises(UserError, match="follow_links=true has no effect"):
        find_source(str(folder / "b.png"), follow_links=True)


def test_a_folder_is_walked_through_once_and_an_unreadable_part_of_it_is_an_item(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanned: list[str] = []
    scandir = os.scandir

    def counted(path: str) -> object:
        scanned.append(str(path))
        if str(path).endswith("/sub"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counted)
    found = find_source(f"{folder}/")
    for _ in range(2):
        assert [(item.path, item.name, item.error) for item in found] == [
            (f"{folder}/a.JPG", "a.JPG", None),
            (f"{folder}/b.png", "b.png", None),
            (f"{folder}/sub", "sub", "the folder cannot be read (Permission denied)"),
        ]
    assert found.count() == 3
    assert sorted(path for path in scanned if ".git" not in path) == [str(folder), f"{folder}/sub"]


def test_the_first_images_are_read_while_the_folder_is_still_searched(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on = threading.Event()
    scandir = os.scandir

    def slow(path: str) -> object:
        if str(path).endswith("/deep"):
            assert may_go_on.wait(60)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", slow)
    monkeypatch.setattr(listing, "WALK_SECONDS", 0.01)
    found = find_source(str(folder))
    items = iter(found)
    assert [next(items).name for _ in range(2)] == ["a.JPG", "b.png"]
    assert found.count() is None
    may_go_on.set()
    assert [item.name for item in items] == ["sub/b.png", "sub/deep/c.png"]
    assert found.count() == 4


def test_an_error_of_the_walk_is_raised_where_the_images_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: str) -> None:
        raise ValueError(path)

    monkeypatch.setattr(os, "scandir", broken)
    with pytest.raises(ValueError, match=str(folder)):
        find_source(str(folder))
