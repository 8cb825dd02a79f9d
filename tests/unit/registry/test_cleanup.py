from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.runs import make_run

from classifier_training.core.errors import UserError
from classifier_training.core.processes import hold, is_held, work_in
from classifier_training.core.run_dir import RunDir
from classifier_training.registry import cleanup as removing
from classifier_training.workflows.registering.sub_verbs import cleanup, promote_run

if TYPE_CHECKING:
    from collections.abc import Iterator


def age(folder: Path, *, days: float) -> None:
    """Set the times of everything in a folder back."""
    then = time.time() - days * 86_400
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (then, then), follow_symlinks=False)


def test_it_says_what_would_go_and_removes_it_when_told(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    for hour in (9, 10, 11, 12):
        make_run(outputs, f"2026-01-02/{hour:02d}-00-00")
    make_run(outputs, "2026-01-02/13-00-00", model="resnet50")
    promote_run(run="resnet18:v1", alias="production")
    dry = cleanup(keep=2)
    assert [removal.path.name for removal in dry.removals] == ["10-00-00"]
    assert dry.spared == ("outputs/2026-01-02/09-00-00: promoted",)
    assert "nothing was removed" in str(dry)
    assert (outputs / "2026-01-02/10-00-00").is_dir()
    done = cleanup(keep=2, apply=True)
    assert done.freed_bytes
    assert "freed" in str(done)
    assert sorted(path.name for path in (outputs / "2026-01-02").iterdir()) == [
        "09-00-00", "11-00-00", "12-00-00", "13-00-00",
    ]  # fmt: skip
    assert "nothing to clean up" in str(cleanup(keep=5))


def test_versions_are_counted_on_each_data_set(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    for hour, data in enumerate(("cats", "dogs", "cats", "dogs"), start=10):
        make_run(outputs, f"2026-01-02/{hour}-00-00", data=f"/{data}")
    found = cleanup(keep=1)
    assert [removal.path.name for removal in found.removals] == ["11-00-00", "10-00-00"]
    assert "newest of resnet18 on /cats" in str(found)


def test_logs_of_old_searches_go_and_what_they_found_stays(tmp_path: Path) -> None:
    old, new = (tmp_path / f"outputs/tuning/{name}" for name in ("old", "new"))
    for folder in (old, new):
        folder.mkdir(parents=True)
        for name in ("tuning.json", "trials.csv", "journal.log"):
            (folder / name).write_text("{}")
    make_run(tmp_path / "outputs", "2026-01-02/10-00-00")
    age(old, days=10)
    assert [removal.path for removal in cleanup(log_days=7).removals] == [Path("outputs/tuning/old/journal.log")]
    cleanup(log_days=0, apply=True)
    assert {path.name for path in old.iterdir()} == {"tuning.json", "trials.csv"}
    # One that was written to a moment ago may still be searching.
    assert (new / "journal.log").exists()


def test_failed_runs_go_unless_a_process_is_at_work_or_was_just_now(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    failed = make_run(outputs, "2026-01-02/10-00-00", finished=False)
    running = make_run(outputs, "2026-01-02/11-00-00", finished=False)
    fresh = make_run(outputs, "2026-01-02/12-00-00", finished=False)
    damaged = make_run(outputs, "2026-01-02/13-00-00")
    (damaged / "model.onnx").unlink()
    # Its weights can be exported again.
    kept = make_run(outputs, "2026-01-02/14-00-00")
    (kept / "model_info.json").write_text("{")
    elsewhere = tmp_path / "precious"
    elsewhere.mkdir()
    (elsewhere / "thesis.txt").write_text("years of work")
    (failed / "link").symlink_to(elsewhere)
    with work_in(RunDir(running)):
        for folder in (failed, running, damaged, kept):
            age(folder, days=1)
        result = cleanup(failed=True, apply=True)
        assert any("11-00-00: a process is at work" in words for words in result.spared)
        assert any("12-00-00: wrote" in words for words in result.spared)
        assert not failed.exists()
        assert not damaged.exists()
        assert any("14-00-00: damaged" in words and "weights are there" in words for words in result.spared)
        assert kept.is_dir()
        assert running.is_dir()
        assert fresh.is_dir()
        assert (elsewhere / "thesis.txt").exists()
        with pytest.raises(UserError, match="is writing to this run"), work_in(RunDir(running)):
            pass
    cleanup(failed=True, apply=True)
    assert not running.exists()


def test_a_run_at_work_elsewhere_may_remove_its_files_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").write_bytes(bytes(5000))
    (run / "checkpoints" / ".last.ckpt.tmp").write_bytes(bytes(5000))
    walk = os.walk

    def late(path: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        for folder, names, files in walk(path):
            for name in files:
                if name.endswith(".tmp"):
                    Path(folder, name).unlink()
            yield folder, names, files

    monkeypatch.setattr(os, "walk", late)
    assert removing._last_write(run) <= time.time()
    assert removing._size(run) >= 5000


def test_old_logs_go_and_results_stay(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    old = make_run(outputs, "2026-01-02/10-00-00")
    (old / "tensorboard").mkdir()
    (old / "tensorboard/events").write_text("x")
    new = make_run(outputs, "2026-01-02/11-00-00")
    age(old, days=10)
    result = cleanup(log_days=7, apply=True)
    assert {removal.path.name for removal in result.removals} == {"train.log", "tensorboard"}
    assert not (old / "train.log").exists()
    assert not (old / "tensorboard").exists()
    assert (old / "model.onnx").exists()
    assert (new / "train.log").exists()


def test_what_an_interrupted_clean_up_left_is_removed(tmp_path: Path) -> None:
    make_run(tmp_path / "outputs", "2026-01-02/10-00-00").rename(tmp_path / "outputs/2026-01-02/.10-00-00.removing")
    assert len(cleanup(failed=True, apply=True).removals) == 1
    assert not list((tmp_path / "outputs/2026-01-02").iterdir())


def test_it_wants_to_be_told_what_may_go(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to remove is named"):
        cleanup(apply=True)


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_held(path)
    code = (
        "import sys,time; from pathlib import Path; from classifier_training.core.processes import hold\n"
        "with hold(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert is_held(path)
    with hold(path, wait=False) as free:
        assert not free
    process.kill()
    process.communicate()
    with hold(path):
        assert is_held(path)
    assert not is_held(path)
