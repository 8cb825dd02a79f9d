"""How far a run is, from the files of its folder."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
import yaml

from classifier_training import cli  # noqa: F401 - fills the register and the table of metrics
from classifier_training.core.processes import work_in
from classifier_training.core.run_dir import RunDir
from classifier_training.workflows.reviewing import live
from classifier_training.workflows.reviewing.live import Runs, read_history, read_log, read_status, signature

if TYPE_CHECKING:
    from pathlib import Path

STARTED = "2026-01-02 10:00:00,000 INFO classifier_training.workflows.training.fit: "


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run of ten planned epochs that has not begun any."""
    found = RunDir(tmp_path / "2026-01-02" / "10-00-00")
    found.path.mkdir(parents=True)
    set_up(found)
    log(found, "training: up to 10 epochs of 5 steps")
    return found


def set_up(run: RunDir, model: str = "resnet18", transfer: str = "auto") -> None:
    settings = {"model": {"type": model}, "transfer": {"type": transfer}, "trainer": {"max_epochs": 10}}
    run.config.write_text(yaml.safe_dump({**settings, "monitor": "val/balanced_accuracy"}))


def log(run: RunDir, words: str, level: str = "INFO") -> None:
    with run.log.open("a") as file:
        file.write(f"{STARTED.replace('INFO', level)}{words}\n")


def record(run: RunDir, scores: list[float], *, seconds: float = 20.0) -> None:
    rows = [f"{epoch},{score},{1 - score},{seconds},100,512" for epoch, score in enumerate(scores)]
    header = "epoch,val/balanced_accuracy,val/loss,epoch_seconds,images_per_second,peak_memory_mb"
    run.metrics.write_text("\n".join([header, *rows]) + "\n")
    os.utime(run.metrics, (1000, 1000))


def test_a_running_run_is_in_one_phase_after_the_other(run: RunDir) -> None:
    with work_in(run):
        status = read_status(run)
        assert (status.state, status.phase, status.epochs_planned) == ("running", "preparing", 10)
        assert status.ends_at is None
        record(run, [0.5, 0.8, 0.7])
        status = read_status(run)
        assert (status.state, status.phase, status.epochs_done) == ("running", "training", 3)
        assert status.best == (0.8, 1)
        assert status.ends_at == pytest.approx(1000 + 7 * 20)
        assert (status.images_per_second, status.trained_seconds, status.memory_mb) == (100, 60, 512)
        assert status.can_stop
        run.stop_request.touch()
        assert read_status(run).is_asked_to_stop
        log(run, "training has ended: stopped on request after 3 of 10 epochs")
        status = read_status(run)
        assert (status.phase, status.reason) == ("ending", "stopped on request after 3 of 10 epochs")
        assert not status.can_stop
        # It is resumed: what ended training before says nothing now.
        log(run, "resume: training continues after step 15, from last.ckpt")
        assert read_status(run).phase == "training"


def test_without_its_process_a_run_was_interrupted_or_has_failed(run: RunDir) -> None:
    record(run, [0.5])
    assert (read_status(run).state, read_status(run).reason) == ("interrupted", "")
    log(run, "the run was interrupted: interrupted (SIGINT)", "WARNING")
    assert (read_status(run).state, read_status(run).reason) == ("interrupted", "interrupted (SIGINT)")
    log(run, "the run has failed: CUDA out of memory\nTraceback (most recent call last):\n  somewhere", "ERROR")
    status = read_status(run)
    assert (status.state, status.reason) == ("failed", "CUDA out of memory")
    assert not status.can_stop


def test_a_finished_run_says_what_ended_it(run: RunDir) -> None:
    record(run, [0.5, 0.6])
    run.result.write_text(json.dumps({"ended": "all 2 epochs are done"}))
    with work_in(run):  # as an evaluation does
        assert (read_status(run).state, read_status(run).reason) == ("finished", "all 2 epochs are done")


@pytest.mark.parametrize(("model", "transfer"), [("svm", "auto"), ("resnet18", "linear_probe")])
def test_what_is_fitted_at_once_cannot_be_stopped(run: RunDir, model: str, transfer: str) -> None:
    set_up(run, model, transfer)
    with work_in(run):
        assert read_status(run).epochs_planned is None
        assert not read_status(run).can_stop


def test_a_run_that_is_to_end_in_time_has_the_epochs_of_its_newest_plan(run: RunDir) -> None:
    parts = [{"from_epoch": 0, "max_epochs": 7, "num_batches": 5}, {"from_epoch": 1, "max_epochs": 4, "num_batches": 5}]
    phase = {"from_epoch": 0, "is_constant": False}
    run.decisions.write_text(json.dumps({"phase": phase, "weights": None, "parts": parts}))
    assert read_status(run).epochs_planned == 4


@pytest.mark.parametrize(
    ("file", "content"),
    [("metrics.csv", "epoch,lr\n0,high\n"), ("config.yaml", "[1, 2"), ("config.yaml", "model: 3\ntrainer: 4\n"),
     ("result.json", "{"), ("decisions.json", "{}")],
)  # fmt: skip
def test_a_damaged_file_is_named(run: RunDir, file: str, content: str) -> None:
    (run.path / file).write_text(content)
    status = read_status(run)
    assert status.state == "damaged"
    assert status.reason


def test_the_best_epoch_is_the_first_of_equals_by_the_direction_of_the_metric(run: RunDir) -> None:
    record(run, [0.5, 0.8, 0.8])
    history = read_history(run)
    assert history.best("val/balanced_accuracy") == (0.8, 1)
    assert history.best("val/loss") == (1 - 0.8, 1)
    run.metrics.write_text("epoch,val/balanced_accuracy\n0,\n1,0.5\n2,\n")
    history = read_history(run)
    assert history.best("val/balanced_accuracy") == (0.5, 1)
    assert history.last("val/balanced_accuracy") is None
    assert history.best("val/acc_top1") is None
    assert history.num_epochs == 3


def test_a_file_is_read_again_only_when_it_has_changed(run: RunDir) -> None:
    record(run, [0.5])
    before = live._history.cache_info().misses
    for _ in range(5):
        read_status(run)
    assert live._history.cache_info().misses == before + 1
    tag = signature(run)
    assert signature(run) == tag
    record(run, [0.5, 0.6])
    assert signature(run) != tag
    assert read_history(run).num_epochs == 2
    assert live._history.cache_info().misses == before + 2
    tags = {signature(run)}
    with work_in(run):
        tags.add(signature(run))
        run.stop_request.touch()
        tags.add(signature(run))
    assert len(tags) == 3


def test_of_a_long_log_the_end_is_read(run: RunDir) -> None:
    with run.log.open("ab") as file:
        file.write(b"x" * 5_000_000 + b"\n")
        file.write(f"{STARTED}broken \udcff bytes\n".encode("utf-8", "surrogateescape"))
    log(run, "two\nlines", "WARNING")
    lines = read_log(run)
    assert [(line.level, line.text) for line in lines] == [("INFO", "broken � bytes"), ("WARNING", "two\nlines")]
    assert lines[0].at == "2026-01-02 10:00:00"


def test_links_lead_to_nothing(run: RunDir, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "train.log").write_text(f"{STARTED}secret\n")
    (outside / "classification_report.json").write_text('{"split": "test"}')
    run.log.unlink()
    run.log.symlink_to(outside / "train.log")
    run.evaluation.symlink_to(outside)
    assert read_log(run) == []
    assert live.values_of(run, run.classification_report) == {}
    # Folders of runs may themselves be behind a link.
    (tmp_path / "link").symlink_to(run.path.parent)
    behind = RunDir(tmp_path / "link" / run.path.name)
    assert live.values_of(behind, behind.config)["trainer"] == {"max_epochs": 10}


def test_a_run_that_has_just_begun_is_found(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    assert runs.records() == []
    begun = RunDir(tmp_path / "2026-01-02" / "10-00-00")
    begun.path.mkdir(parents=True)
    set_up(begun)
    assert runs.find("2026-01-02/10-00-00") is not None
    assert runs.find("2026-01-02/11-00-00") is None
