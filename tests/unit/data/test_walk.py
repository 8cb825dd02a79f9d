from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.conftest import draw_picture, make_class_folders

from classifier_training.core.errors import UserError
from classifier_training.data.formats.image_folder import ImageFolder
from classifier_training.data.formats.jsonl import JSONL


def paths(root: Path, **settings: object) -> list[str]:
    source = ImageFolder(root=str(root), **settings)  # type: ignore[arg-type]
    return [sample.path for sample in source.read().samples]


def test_what_systems_leave_beside_pictures_is_no_data(tmp_path: Path) -> None:
    make_class_folders(tmp_path / "d", {"blue": 1, "red": 1})
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._00.png"):
        (tmp_path / "d/red" / name).write_bytes(b"x")
    draw_picture(tmp_path / "d/__MACOSX/red/00.png", (0, 0, 0), seed=0)
    assert paths(tmp_path / "d") == ["blue/00.png", "red/00.png"]


def test_names_may_hold_anything_that_utf8_has(tmp_path: Path) -> None:
    make_class_folders(tmp_path / "d", {"blue": 1})
    for name in ("a\nb.png", "日本.png", "e\u0301.PNG", "100%.png"):
        draw_picture(tmp_path / "d/red" / name, (0, 0, 0), seed=0)
    assert {path.removeprefix("red/") for path in paths(tmp_path / "d")[1:]} == {
        "a\nb.png", "日本.png", "e\u0301.PNG", "100%.png",
    }  # fmt: skip


def test_a_link_out_of_the_root_is_refused_skipped_or_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_class_folders(tmp_path / "d", {"blue": 2, "red": 2})
    draw_picture(tmp_path / "elsewhere/secret.png", (0, 0, 0), seed=0)
    (root / "red/out.png").symlink_to(tmp_path / "elsewhere/secret.png")
    with pytest.raises(UserError, match=r"red/out\.png is a link that leads out of the data folder"):
        paths(root)
    assert len(paths(root, on_error="skip")) == 4
    assert "1 rows or files cannot be used and are left out" in caplog.text
    assert "red/out.png" in paths(root, follow_links=True)


def test_a_linked_folder_is_named_or_followed_and_a_loop_ends(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make_class_folders(tmp_path / "d", {"blue": 2, "red": 2})
    (root / "red/again").symlink_to(root / "red")
    (root / "azure").symlink_to(root / "blue")
    (root / "red/inside.png").symlink_to(root / "blue/00.png")
    assert [path for path in paths(root) if "azure" in path] == []
    assert "links to folders are not followed (data.follow_links=true follows them)" in caplog.text
    found = paths(root, follow_links=True)
    assert [path for path in found if path.startswith("azure")] == ["azure/00.png", "azure/01.png"]
    assert "red/inside.png" in found
    assert len(found) == 7
    assert "links to a folder above them are not followed" in caplog.text


def test_a_link_to_itself_hides_no_other_file_of_its_folder(tmp_path: Path) -> None:
    root = make_class_folders(tmp_path / "d", {"blue": 2, "red": 2})
    (root / "red/circle.png").symlink_to(root / "red/circle.png")
    # It is a file that cannot be read, as a damaged one.
    assert paths(root) == ["blue/00.png", "blue/01.png", "red/00.png", "red/01.png", "red/circle.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_without_permission_is_named_or_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make_class_folders(tmp_path / "d", {"blue": 2, "red": 2})
    draw_picture(root / "red/closed/a.png", (0, 0, 0), seed=0)
    (root / "red/closed").chmod(0)
    try:
        with pytest.raises(UserError, match="red/closed: Permission denied"):
            paths(root)
        assert len(paths(root, on_error="skip")) == 4
        assert "red/closed: Permission denied" in caplog.text
    finally:
        (root / "red/closed").chmod(0o755)


def test_annotations_may_not_lead_out_by_a_link(tmp_path: Path, jsonl_folder: Path) -> None:
    draw_picture(tmp_path / "elsewhere/secret.png", (0, 0, 0), seed=0)
    (jsonl_folder / "train/more").symlink_to(tmp_path / "elsewhere")
    file = jsonl_folder / "train/annotations.jsonl"
    file.write_text(file.read_text() + '{"image": "more/secret.png", "suffix": "7"}\n')
    with pytest.raises(UserError, match="more is a link that leads out"):
        JSONL(root=str(jsonl_folder)).read()
    assert len(JSONL(root=str(jsonl_folder), on_error="skip").read().samples) == 30
    assert len(JSONL(root=str(jsonl_folder), follow_links=True).read().samples) == 31


def test_roots_are_put_together_below_what_holds_them(tmp_path: Path) -> None:
    first = make_class_folders(tmp_path / "a/first", {"blue": 2, "red": 1})
    second = make_class_folders(tmp_path / "b", {"red": 2, "green": 1})
    index = ImageFolder(root=[str(first), str(second)]).read()
    assert index.root == tmp_path
    assert [sample.path for sample in index.samples if sample.label == "red"] == [
        "a/first/red/00.png", "b/red/00.png", "b/red/01.png",
    ]  # fmt: skip
    for roots in ([first, first], [tmp_path / "a", first]):
        with pytest.raises(UserError, match="one of which contains the other"):
            ImageFolder(root=[*map(str, roots)]).read()
    with pytest.raises(UserError, match="names no folder"):
        ImageFolder(root=[]).read()
    make_class_folders(tmp_path / "c/train", {"blue": 1, "red": 1})
    mixed = ImageFolder(root=[str(first), str(tmp_path / "c")]).read()
    assert [sample.split for sample in mixed.samples] == ["", "", "", "train", "train"]
