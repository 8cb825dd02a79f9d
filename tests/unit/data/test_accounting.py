from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import draw_picture, make_class_folders
from tests.phone import num_files, phone_folder

from classifier_training.core.errors import UserError
from classifier_training.core.image_files import reads_heif
from classifier_training.data.accounting import BY_ENDING, KINDS, FolderFiles, ending_of, kind_of
from classifier_training.data.formats.downloads import HuggingFaceData
from classifier_training.data.formats.image_folder import AutoData, ImageFolder
from classifier_training.data.formats.jsonl import JSONL
from classifier_training.data.formats.listing import FileList
from classifier_training.data.formats.source import DataSource
from classifier_training.data.formats.table import Table
from classifier_training.data.load import load_data
from classifier_training.inference.sources import find_source

pytest.importorskip("pillow_heif")


@pytest.fixture
def without_heif(phone: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As where the extra is not installed."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    reads_heif.cache_clear()
    yield
    monkeypatch.undo()
    reads_heif.cache_clear()


@pytest.fixture
def phone(tmp_path: Path) -> Path:
    return phone_folder(tmp_path / "phone")


def numbers(files: FolderFiles | None) -> dict[str, int]:
    assert files is not None
    return {kind: sum(count.number for count in counts) for kind, counts in files.by_kind().items()}


def listed(root: Path) -> list[str]:
    return [sample.path for sample in ImageFolder(root=str(root)).read().samples]


def test_every_file_of_a_folder_is_read_or_counted_by_kind(phone: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    index = ImageFolder(root=str(phone)).read()
    assert index.files is not None
    assert index.files.num_read == len(index.samples) == 2 * 11 + 1
    assert index.files.num_files == num_files(phone)
    assert numbers(index.files) == {
        "raw": 2, "other_image": 1, "video": 1, "archive": 2, "pdf": 1, "no_ending": 2, "loose": 1, "other": 3,
        "hidden": 6,
    }  # fmt: skip
    said = [record.message for record in caplog.records if "files" in record.message]
    assert len(said) == 2, "one line on what may be missed, one on the rest"
    assert f"23 of {num_files(phone)} files are read as images; not read: 2 RAW photos (.cr2, .dng)" in said[0]
    assert "3 files of other kinds (.aae, .json, .txt), 6 hidden or system files" in said[1]


@pytest.mark.usefixtures("without_heif")
def test_heic_photos_without_the_extra_are_counted_with_the_command_that_helps(
    phone: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = ImageFolder(root=str(phone)).read()
    assert numbers(index.files)["heif"] == 6
    assert index.files is not None
    assert index.files.num_files == num_files(phone)
    assert "not read: 6 HEIC photos (.heic): uv sync --extra heif" in caplog.text
    assert "pip install 'classifier-training[heif]'" in caplog.text
    for path in phone.rglob("*.JPG"):
        path.unlink()
    with pytest.raises(
        UserError, match=r"1 class folder without an image: blue; not read in blue: 3 HEIC photos"
    ) as caught:
        load_data(ImageFolder(root=str(phone)), seed=0)
    assert "uv sync --extra heif" in caught.value.remedy
    (phone / "red/IMG_0000.avif").unlink()
    with pytest.raises(UserError, match=r"no image in any class folder; not read: 6 HEIC photos") as caught:
        ImageFolder(root=str(phone)).read()
    assert "uv sync --extra heif" in caught.value.remedy


def sources(root: Path, form: str) -> DataSource:
    names = listed(root)
    if form == "files":
        (root / "list.txt").write_text("".join(f"{name}\n" for name in names[:-2]))
        return FileList(root=str(root), file=str(root / "list.txt"))
    if form == "csv":
        rows = [f"{name},{name.partition('/')[0]}\n" for name in names[:-2]]
        (root / "labels.csv").write_text("path,label\n" + "".join(rows))
        return Table(root=str(root))
    if form == "jsonl":
        rows = [json.dumps({"image": name, "suffix": name.partition("/")[0]}) + "\n" for name in names[:-2]]
        (root / "labels.jsonl").write_text("".join(rows))
        return JSONL(root=str(root))
    return AutoData(root=str(root))


@pytest.mark.parametrize("form", ["auto", "files", "csv", "jsonl"])
def test_whatever_lists_the_images_the_numbers_add_up(phone: Path, form: str) -> None:
    source = sources(phone, form)
    files = source.read().files
    assert files is not None
    assert files.num_files == num_files(phone)
    if form == "auto":
        assert numbers(files)["loose"] == 1
    else:
        assert numbers(files)["unlisted"] == 3
        assert numbers(files)["labels"] == 1
    folder = load_data(source, seed=0).statistics["folder"]
    assert folder["num_files"] == folder["num_read"] + sum(row["num_files"] for row in folder["not_read"])
    assert folder["num_files"] == num_files(phone)


def test_images_that_cannot_be_read_and_links_count(phone: Path, tmp_path: Path) -> None:
    (phone / "blue/broken.jpg").write_bytes(b"no image")
    draw_picture(tmp_path / "elsewhere/x/1.png", (1, 2, 3), seed=1)
    (phone / "blue/out.png").symlink_to(tmp_path / "elsewhere/x/1.png")
    (phone / "red/folder").symlink_to(phone / "blue")
    folder = load_data(ImageFolder(root=str(phone), on_error="skip"), seed=0).statistics["folder"]
    kinds = [row["kind"] for row in folder["not_read"]]
    assert (kinds.count("unreadable"), kinds.count("link")) == (1, 2)
    # rglob follows no links to folders, and counts the link itself as none.
    assert folder["num_files"] == num_files(phone) + 1
    assert folder["num_files"] == folder["num_read"] + sum(row["num_files"] for row in folder["not_read"])
    followed = ImageFolder(root=str(phone), follow_links=True).read().files
    assert followed is not None
    assert followed.num_read == 12 + 2 * 13, "a file that is reached in two ways is read twice"


def test_folders_beside_train_and_images_that_no_split_has_are_counted(tmp_path: Path) -> None:
    make_class_folders(tmp_path / "d/train", {"blue": 3, "red": 3})
    make_class_folders(tmp_path / "d/val", {"blue": 1, "green": 2, "red": 1})
    make_class_folders(tmp_path / "d/extra", {"blue": 2})
    draw_picture(tmp_path / "d/train/loose.png", (1, 2, 3), seed=5)
    folder = load_data(ImageFolder(root=str(tmp_path / "d")), seed=0).statistics["folder"]
    assert {row["kind"]: row["num_files"] for row in folder["not_read"]} == {"beside": 2, "loose": 1, "unused": 2}
    assert folder["num_files"] == 13


def test_several_folders_are_counted_as_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_class_folders(tmp_path / name, {"blue": 2, "red": 2})
        (tmp_path / name / "notes.txt").write_text("x")
    files = ImageFolder(root=[str(tmp_path / "a"), str(tmp_path / "b")]).read().files
    assert files is not None
    assert (files.num_read, files.num_files) == (8, 10)
    assert files.left_out[0].first == "a/notes.txt"


def test_a_local_folder_of_hugging_face_is_counted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf_cache")
    root = make_class_folders(tmp_path / "set", {"blue": 3, "red": 3})
    for name in ("blue/IMG_1.HEIC", "red/IMG_2.mov", "notes.txt"):
        (root / name).write_bytes(b"x")
    for _ in range(2):
        files = HuggingFaceData(name=str(root)).read().files
        assert files is not None
        assert (files.num_read, files.num_files) == (6, 9)
        assert numbers(files) == {"video": 1, "unlisted": 1, "other": 1}


def test_predict_counts_the_same_folder(phone: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    source = find_source(str(phone))
    assert source.count() == 2 * 11 + 2
    assert f"24 of {num_files(phone)} files are read as images; not read: 2 RAW photos" in caplog.text
    files = find_source(f"{phone}/**/*").files()  # type: ignore[attr-defined]
    assert files.num_read == 24
    # A pattern does not match hidden names.
    assert files.num_files == num_files(phone) - 4


@pytest.mark.usefixtures("without_heif")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("blue/IMG_0000.HEIC", "a HEIC photo needs pillow-heif, which is not installed: uv sync --extra heif"),
        ("blue/IMG_1.CR2", "is a RAW photo, which is not read: magick mogrify -format jpg"),
        ("bill.pdf", "is a PDF, which is not read: pdftoppm"),
        ("blue/more photos.zip", "is an archive, which is not read: unpack them, for example with unzip"),
    ],
)
def test_predict_says_what_a_file_needs(phone: Path, name: str, words: str) -> None:
    from classifier_training.core.image_files import UnreadableImageError
    from classifier_training.core.images import read_rgb

    (phone / "list.txt").write_text(f"{name}\n")
    for source in (str(phone / name), str(phone / "list.txt")):
        (item,) = find_source(source)
        error = item.error
        if error is None:
            with pytest.raises(UnreadableImageError) as caught:
                read_rgb(item.path)
            error = caught.value.reason
        assert words in error


@pytest.mark.usefixtures("without_heif")
def test_predict_names_what_a_folder_without_images_holds(phone: Path) -> None:
    shutil.rmtree(phone / "red")
    (phone / "loose.jpg").unlink()
    for path in phone.rglob("*.JPG"):
        path.unlink()
    with pytest.raises(UserError, match="no image in this folder; not read: 3 HEIC photos") as caught:
        find_source(str(phone))
    assert caught.value.remedy.startswith("uv sync --extra heif")


@pytest.mark.parametrize(
    ("name", "ending", "kind"),
    [
        ("a/b.NEF", ".nef", "raw"), ("a.b/c", "", "no_ending"), ("Mr. Smith", "", "no_ending"),
        ("x.json", ".json", "other"), ("a.tar.gz", ".gz", "archive"),
        ("a.M4V", ".m4v", "video"), ("a.Heic", ".heic", "heif"),
    ],
)  # fmt: skip
def test_kinds_go_by_the_ending(name: str, ending: str, kind: str) -> None:
    assert (ending_of(name), kind_of(name)) == (ending, kind)


def test_no_ending_has_two_kinds() -> None:
    assert len(BY_ENDING) == sum(len(kind.endings.split()) for kind in KINDS.values())
