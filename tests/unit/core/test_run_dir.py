from __future__ import annotations

import csv
import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from classifier_training.core.errors import UserError
from classifier_training.core.run_dir import RunDir, atomic_path, remove_orphans, sha256, staged, write_csv, write_json

if TYPE_CHECKING:
    from pathlib import Path


def test_a_folder_is_made_by_day_and_time(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, category="slides", name="first")
    assert re.fullmatch(r"slides/first/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d", run.path.relative_to(tmp_path).as_posix())
    assert run.epoch(3).name == "epoch_003"


def test_a_run_knows_the_folder_of_all_runs(tmp_path: Path) -> None:
    for config in ({}, {"name": "rooms"}, {"category": "a/b", "name": "rooms"}):
        run = RunDir.create(tmp_path / "outputs", **config)
        assert run.root(config) == tmp_path / "outputs"
    moved = RunDir(tmp_path / "kept/best")
    assert moved.root({"name": "rooms"}) == tmp_path / "kept"


def test_runs_of_one_second_get_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        paths = list(pool.map(lambda _: RunDir.create(tmp_path).path, range(32)))
    assert len(set(paths)) == 32


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make the run folder"):
        RunDir.create(tmp_path / "file")


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"old": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]


def test_nan_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_tables_quote_what_needs_it(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ("path", "label"), [("a,b.png", 'say "hi"')])
    assert (tmp_path / "a.csv").read_text() == 'path,label\n"a,b.png","say ""hi"""\n'
    assert len(sha256(tmp_path / "a.csv")) == 64


def test_a_safe_table_has_an_apostrophe_before_what_a_spreadsheet_runs(tmp_path: Path) -> None:
    row = ("=1", "+1", "-1", "@a", "\t=1", "\r=1", "\n=1", "\uff1d1", "a=1", "", None, -1, "'", 'a";=1')
    write_csv(tmp_path / "a.csv", ("=h",), [row], is_safe=True)
    with (tmp_path / "a.csv").open(newline="") as file:
        header, cells = csv.reader(file)
    assert header == ["'=h"]
    assert cells == [*(f"'{cell}" for cell in row[:8]), "a=1", "", "", "-1", "'", 'a";=1']
    assert '"a"";=1"' in (tmp_path / "a.csv").read_text(), "no cell ends early where columns are parted otherwise"


@pytest.mark.parametrize("setting", [{"name": "../x"}, {"category": "/abs"}, {"name": "a/../../x"}])
def test_a_run_stays_below_its_output_folder(tmp_path: Path, setting: dict[str, str]) -> None:
    with pytest.raises(UserError, match="leads out of"):
        RunDir.create(tmp_path / "outputs", **setting)
    assert RunDir.create(tmp_path / "outputs", name="a/b").path.is_relative_to(tmp_path / "outputs/a/b")


def test_files_made_together_take_their_places_together(tmp_path: Path) -> None:
    folder = tmp_path / "new/folder"
    with staged(folder) as staging:
        (staging / "a.txt").write_text("1")
        (staging / "b").mkdir()
        (staging / "b/old.txt").write_text("1")
        assert [item.name for item in folder.iterdir()] == [staging.name]
    (folder / "other.txt").write_text("1")
    with staged(folder) as staging:
        (staging / "a.txt").write_text("2")
        (staging / "b").mkdir()
        (staging / "b/new.txt").write_text("2")
    assert (folder / "a.txt").read_text() == "2"
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")) == [
        "a.txt", "b", "b/new.txt", "other.txt",
    ]  # fmt: skip


def test_files_made_together_leave_nothing_when_one_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/a.txt").write_text("old")
    for name, left in (("kept", ["a.txt"]), ("new", None)):
        with pytest.raises(RuntimeError), staged(tmp_path / name) as staging:
            (staging / "a.txt").write_text("half")
            raise RuntimeError
        found = [item.name for item in (tmp_path / name).iterdir()] if (tmp_path / name).exists() else None
        assert found == left
    assert (tmp_path / "kept/a.txt").read_text() == "old"


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".staged.1-abc.tmp/b").mkdir(parents=True)
    (tmp_path / ".staged.1-abc.tmp/.a.txt.1-abc.tmp").write_text("half")
    (tmp_path / ".a.txt.1-abc.tmp").write_text("half")
    (tmp_path / "a.txt").write_text("whole")
    remove_orphans(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["a.txt"]


@pytest.mark.parametrize("name", [".hidden", "a/.b", "pets:v1"])
def test_a_run_has_a_name_that_it_is_found_by(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run would be found by that name"):
        RunDir.create(tmp_path, name=name)
