"""What is kept of the files of a data set: nothing is read twice, and nothing that has changed is believed."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import COLOURS, draw_picture

from classifier_training.core import images
from classifier_training.core.runtime import cache_dir
from classifier_training.data.checking import known_files
from classifier_training.data.checking.known_files import FileTable
from classifier_training.data.checking.preflight import exact_copies


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLASSIFIER_TRAINING_CACHE", str(tmp_path / "cache"))
    # Otherwise nothing would be kept of files that a test has just written.
    monkeypatch.setattr(known_files, "FRESH_NS", 0)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are opened, in any order."""
    names: list[str] = []
    for function in ("read_start", "hash_file"):

        def record(path: str, *rest: object, original: object = getattr(known_files, function)) -> object:
            names.append(Path(path).name)
            return original(path, *rest)  # type: ignore[operator]

        monkeypatch.setattr(known_files, function, record)
    return names


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six images, of which two pairs are copies: one small, and one of more than the first bytes."""
    root = tmp_path / "data"
    for number in range(2):
        draw_picture(root / f"small{number}.png", COLOURS["red"], seed=number, size=(10 + number, 8))
        draw_picture(root / f"large{number}.png", COLOURS["red"], seed=number, size=(80, 60))
        assert (root / f"large{number}.png").stat().st_size > known_files.START_BYTES
    shutil.copy(root / "small0.png", root / "small_copy.png")
    shutil.copy(root / "large0.png", root / "large_copy.png")
    return root


COPIES = [("large0.png", "large_copy.png"), ("small0.png", "small_copy.png")]


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def table(root: Path) -> FileTable:
    """A start: the headers are read, and copies looked for."""
    found = FileTable(root, names(root))
    found.read_headers()
    found.copies()
    return found


def sizes(found: FileTable) -> dict[str, tuple[int, int]]:
    pairs = zip(found.rows["width"].tolist(), found.rows["height"].tolist(), strict=True)
    return dict(zip(found.paths, pairs, strict=True))


def overwrite(path: Path, content: bytes) -> None:
    """Change a file's bytes in place; its size, name and time of modification stay."""
    before = path.stat()
    assert len(content) == before.st_size
    # Kernels take the time every few milliseconds.
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        path.write_bytes(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_a_second_start_opens_no_file(data: Path, opened: list[str]) -> None:
    first = table(data)
    assert set(opened) == set(names(data))
    opened.clear()
    second = table(data)
    assert opened == []
    assert second.rows.tobytes() == first.rows.tobytes()
    assert second.copies() == first.copies() == exact_copies(data, names(data)) == COPIES
    assert sizes(second)["small1.png"] == (11, 8)


def test_small_files_are_opened_once(data: Path, opened: list[str]) -> None:
    table(data)
    assert sorted(name for name in opened if name.startswith("small")) == [
        "small0.png", "small1.png", "small_copy.png",
    ]  # fmt: skip


def test_a_file_that_is_written_over_is_read_again(data: Path, opened: list[str]) -> None:
    path = data / "small0.png"
    image = np.asarray(Image.open(path)).copy()
    Image.fromarray(image).save(path, compress_level=0)
    table(data)
    image[0, 0] += 1
    Image.fromarray(image).save(data / "other.png", compress_level=0)
    content = (data / "other.png").read_bytes()
    (data / "other.png").unlink()
    opened.clear()
    overwrite(path, content)
    assert [one for one in table(data).copies() if "small0.png" in one] == []
    assert opened == ["small0.png"]


def test_only_new_files_are_read_and_those_that_are_gone_are_forgotten(data: Path, opened: list[str]) -> None:
    table(data)
    opened.clear()
    draw_picture(data / "a_new.png", COLOURS["blue"], seed=9, size=(5, 4))
    (data / "small0.png").unlink()
    found = table(data)
    assert opened == ["a_new.png"]
    assert sizes(found)["a_new.png"] == (5, 4)
    assert found.copies() == COPIES[:1]


def test_a_file_that_cannot_be_read_is_tried_again(data: Path) -> None:
    path = data / "small0.png"
    content = path.read_bytes()
    path.write_bytes(b"x" * len(content))
    for _ in range(2):
        found = FileTable(data, names(data))
        (error,) = found.read_headers().values()
        assert error.path == str(path)
    overwrite(path, content)
    assert FileTable(data, names(data)).read_headers() == {}


def test_a_file_that_changed_a_moment_ago_is_not_remembered(
    data: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_files, "FRESH_NS", 300_000_000)
    time.sleep(0.31)
    draw_picture(data / "new.png", COLOURS["blue"], seed=9)
    table(data)
    opened.clear()
    table(data)
    assert opened == ["new.png"]


def test_two_selections_of_one_folder_know_both(data: Path, opened: list[str]) -> None:
    some, others = names(data)[:3], names(data)[3:]
    for paths in (some, others):
        FileTable(data, paths).read_headers()
    opened.clear()
    for paths in (some, others, names(data)):
        assert FileTable(data, paths).read_headers() == {}
    assert opened == []


@pytest.mark.parametrize("content", [b"", b"no archive", "cut"])
def test_a_damaged_cache_is_written_anew(data: Path, content: bytes | str, opened: list[str]) -> None:
    table(data)
    (stored,) = (cache_dir() / "files").glob("*.npz")
    whole = stored.read_bytes()
    stored.write_bytes(whole[: len(whole) // 2] if isinstance(content, str) else content)
    opened.clear()
    assert sizes(table(data))["small1.png"] == (11, 8)
    assert set(opened) == set(names(data))
    opened.clear()
    table(data)
    assert opened == []


def test_without_a_cache_folder_everything_is_read(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLASSIFIER_TRAINING_CACHE", str(data / "small0.png"))
    for _ in range(2):
        assert table(data).copies() == COPIES


def test_the_cache_is_bounded(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_files, "MAX_BYTES", 1)
    table(data)
    shutil.copytree(data, tmp_path / "again")
    table(tmp_path / "again")
    (stored,) = (cache_dir() / "files").glob("*.npz")
    assert stored == known_files._cache_file(tmp_path / "again")


def _start(root: Path, where: str) -> None:
    with Path(where).open("a") as file:
        file.write(f"{table(root).copies() == COPIES} {os.getpid()}\n")


def test_processes_that_start_together_agree(data: Path, tmp_path: Path) -> None:
    said = tmp_path / "said"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_start, args=(data, str(said))) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    lines = said.read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["True"] * 4
    assert FileTable(data, names(data)).read_headers() == {}


def test_of_two_processes_one_reads(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_files, "MANY", 1)
    context = multiprocessing.get_context("fork")
    entered, go, read = context.Event(), context.Event(), context.Value("i", 0)
    original = images.read_start

    def slow(path: str, number: int, content: None) -> object:
        entered.set()
        go.wait(30)
        with read.get_lock():
            read.value += 1
        return original(path, number, content)

    monkeypatch.setattr(known_files, "read_start", slow)
    processes = [context.Process(target=_start, args=(data, str(tmp_path / "said"))) for _ in range(2)]
    processes[0].start()
    assert entered.wait(30)
    processes[1].start()
    time.sleep(0.3)
    go.set()
    for process in processes:
        process.join()
    assert read.value == len(names(data))
    assert (tmp_path / "said").read_text().count("True") == 2
