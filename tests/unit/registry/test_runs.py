from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from classifier_training.core.errors import UserError
from classifier_training.core.processes import work_in
from classifier_training.core.run_dir import RunDir
from classifier_training.registry.runs import find_model, find_run, find_unfinished, unfinished_runs


def finish(folder: Path, *, value: float, at: int, metric: str = "val/balanced_accuracy") -> Path:
    folder.mkdir(parents=True)
    info = {"training_info": {"best_metric": {"name": metric, "value": value}}}
    (folder / "model_info.json").write_text(json.dumps(info))
    os.utime(folder / "model_info.json", (at, at))
    return folder


def test_words_stand_for_runs(tmp_path: Path) -> None:
    good = finish(tmp_path / "outputs/slides/2026-01-01/10-00-00", value=0.9, at=1000)
    new = finish(tmp_path / "outputs/2026-01-02/10-00-00", value=0.8, at=2000)
    damaged = finish(tmp_path / "outputs/2026-01-01/09-00-00", value=0.0, at=500) / "model_info.json"
    damaged.write_text("{")
    os.utime(damaged, (500, 500))
    assert find_run("latest").path.resolve() == new
    assert find_run("best").path.resolve() == good
    assert find_run(str(good)).path == good


def test_the_name_of_a_class_does_not_turn_the_best_into_the_worst(tmp_path: Path) -> None:
    finish(tmp_path / "outputs/2026-01-01/10-00-00", value=0.2, at=1000, metric="val/acc_class_gloss")
    good = finish(tmp_path / "outputs/2026-01-01/11-00-00", value=0.9, at=1000, metric="val/acc_class_gloss")
    assert find_run("best").path.resolve() == good
    finish(tmp_path / "losses/2026-01-01/10-00-00", value=2.0, at=1000, metric="val/loss")
    good = finish(tmp_path / "losses/2026-01-01/11-00-00", value=0.1, at=1000, metric="val/loss")
    assert find_run("best", output="losses").path.resolve() == good


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished run") as caught:
        find_run("latest")
    assert "run=FOLDER" in caught.value.remedy
    with pytest.raises(UserError, match="no such folder"):
        find_run("outputs/nowhere")


def test_a_model_is_a_run_or_a_file(tmp_path: Path) -> None:
    run = finish(tmp_path / "outputs/2026-01-01/10-00-00", value=0.9, at=1000)
    (run / "model_int8.onnx").write_bytes(b"x")
    assert find_model("latest").resolve() == run
    assert find_model(str(run / "model_int8.onnx")) == run / "model_int8.onnx"
    with pytest.raises(UserError, match="no such file"):
        find_model("nowhere.onnx")


def unfinished(folder: Path, *checkpoints: str, ago: float) -> Path:
    """Write what a run that began some seconds ago and was ended soon has left."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 1\n")
    for name in checkpoints:
        (folder / "checkpoints" / name).write_text("")
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (time.time() - ago, time.time() - ago))
    return folder


@pytest.mark.parametrize("find", [find_run, find_model, find_unfinished])
def test_a_folder_of_runs_is_said_to_be_one_and_the_advice_works(
    find: Callable[[str], RunDir | Path], tmp_path: Path
) -> None:
    for name in ("2026-01-01/10-00-00", "2026-01-02/10-00-00"):
        begin(tmp_path / "some" / name, "seed: 1\n")
    with pytest.raises(UserError, match="some: a folder of 2 runs, and no run itself") as error:
        find("some")
    assert "2026-01-02/10-00-00, " in error.value.expected
    found = find(error.value.remedy.partition("=")[2])
    assert str(found.path if isinstance(found, RunDir) else found) == "some/2026-01-02/10-00-00"


def test_an_unfinished_run_has_no_result(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no unfinished run"):
        find_unfinished("latest")
    for day, ago in (("2026-01-01", 3000), ("2026-01-02", 2000)):
        unfinished(tmp_path / "outputs" / day / "10-00-00", "last.ckpt", ago=ago)
    finish(tmp_path / "outputs/2026-01-03/10-00-00", value=1, at=3000)
    # Ended without an export.
    done = unfinished(tmp_path / "outputs/2026-01-04/10-00-00", "last.ckpt", ago=10)
    (done / "result.json").write_text("{}")
    assert find_unfinished("latest").path.parent.name == "2026-01-02"
    assert find_unfinished("outputs/2026-01-01/10-00-00").path.parent.name == "2026-01-01"
    with pytest.raises(UserError, match=r"config\.yaml does not exist"):
        find_unfinished("outputs/2026-01-03/10-00-00")


def test_the_latest_unfinished_run_of_a_name_is_found(tmp_path: Path) -> None:
    unfinished(tmp_path / "outputs/2026-01-03/10-00-00", "last.ckpt", ago=10)
    unfinished(tmp_path / "outputs/rooms/2026-01-01/10-00-00", "last.ckpt", ago=3000)
    newest = unfinished(tmp_path / "outputs/rooms/2026-01-02/10-00-00", "last.ckpt", ago=2000)
    assert find_unfinished("rooms").path.resolve() == newest
    finish(tmp_path / "outputs/done/2026-01-01/10-00-00", value=1, at=3000)
    with pytest.raises(UserError, match="resume=done: no unfinished run"):
        find_unfinished("done")


@pytest.mark.parametrize("checkpoints", [(), ("previous.ckpt",), ("step.ckpt",)])
def test_the_latest_is_the_newest_unfinished_run_saved_or_not_and_is_named_with_its_age(
    checkpoints: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    unfinished(tmp_path / "outputs/2026-01-01/10-00-00", "last.ckpt", ago=9000)
    newest = unfinished(tmp_path / "outputs/2026-01-02/10-00-00", *checkpoints, ago=600)
    assert find_unfinished("latest").path.resolve() == newest
    assert "resume=latest: outputs/2026-01-02/10-00-00, last written to 10 minutes ago" in caplog.text


def test_a_latest_run_that_is_being_written_to_is_refused_and_no_older_one_is_taken(tmp_path: Path) -> None:
    older = unfinished(tmp_path / "outputs/2026-01-01/10-00-00", "last.ckpt", ago=9000)
    newest = unfinished(tmp_path / "outputs/2026-01-02/10-00-00", ago=600)
    with work_in(RunDir(newest)), pytest.raises(UserError) as caught:
        find_unfinished("latest")
    assert f"process {os.getpid()} is writing to the latest run, outputs/2026-01-02/10-00-00" in caught.value.came
    assert f"resume={older.relative_to(tmp_path)}" in caught.value.remedy
    assert find_unfinished("latest").path.resolve() == newest


def test_a_finished_run_without_its_checkpoint_is_refused_and_another_start_is_offered(tmp_path: Path) -> None:
    run = unfinished(tmp_path / "outputs/2026-01-01/10-00-00", "best.ckpt", ago=10)
    (run / "result.json").write_text("{}")
    with pytest.raises(UserError, match=r"the run is finished, and .*last\.ckpt is gone") as caught:
        find_unfinished("outputs/2026-01-01/10-00-00")
    assert "init_from=outputs/2026-01-01/10-00-00" in caught.value.remedy
    (run / "checkpoints/previous.ckpt").write_text("")
    assert find_unfinished("outputs/2026-01-01/10-00-00").path.resolve() == run


def begin(folder: Path, config: str, *, finished: bool = False) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints/last.ckpt").write_text("")
    (folder / "config.yaml").write_text(config)
    if finished:
        (folder / "result.json").write_text("{}")
    return folder


def test_unfinished_runs_are_found_newest_first_but_those_that_are_written_to(tmp_path: Path) -> None:
    begin(tmp_path / "2026-01-01/10-00-00", "seed: 1\n")
    newest = begin(tmp_path / "2026-01-02/10-00-00", "seed: 1\n")
    begin(tmp_path / "2026-01-03/10-00-00", "seed: 1\n", finished=True)
    (tmp_path / "2026-01-05/10-00-00").mkdir(parents=True)
    assert [run.path.parent.name for run in unfinished_runs(tmp_path)] == ["2026-01-02", "2026-01-01"]
    assert not list(unfinished_runs(tmp_path / "nowhere"))
    with work_in(RunDir(newest)):
        assert [run.path.parent.name for run in unfinished_runs(tmp_path)] == ["2026-01-01"]


def test_a_thousand_runs_are_looked_through_at_once(tmp_path: Path) -> None:
    for number in range(1000):
        begin(tmp_path / f"2026-01-{number % 28 + 1:02d}/{number:06d}", "seed: 1\n" * 80, finished=number % 10 > 0)
    seconds, walks = [], []
    for _ in range(3):
        started = time.thread_time()
        assert len(list(unfinished_runs(tmp_path))) == 100
        found = time.thread_time()
        assert len(list(os.walk(tmp_path))) > 1000
        seconds.append(found - started)
        walks.append(time.thread_time() - found)
    # It takes about half of the time of a walk through all names; a file that is read in every run takes far more.
    assert min(seconds) < 2 * min(walks)
