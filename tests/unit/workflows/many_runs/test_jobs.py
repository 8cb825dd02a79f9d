"""Processes side by side: outcomes, reasons, interruptions, locks."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from pathlib import Path

import pytest

from classifier_training.core.errors import InterruptedRunError
from classifier_training.core.runtime import num_cores, share_of_cores
from classifier_training.workflows.many_runs.jobs import run_jobs
from classifier_training.workflows.many_runs.launch.base import JobSpec, failure_words, read_outcome
from classifier_training.workflows.many_runs.launch.local import visible_gpus


def job(folder: Path, *words: str) -> JobSpec:
    return JobSpec(name=folder.name, folder=folder, words=words)


def test_one_that_fails_leaves_the_others_and_says_why(tmp_path: Path) -> None:
    jobs = [job(tmp_path / "good", "--version"), job(tmp_path / "bad", "trian"), job(tmp_path / "done", "trian")]
    jobs[2].folder.mkdir()
    jobs[2].record.write_text('{"exit_code": 0, "seconds": 1.0, "words": ["trian"]}')
    outcomes = run_jobs(jobs, num_parallel=2, remedy="again")
    good, bad = outcomes["good"], outcomes["bad"]
    assert good is not None
    assert bad is not None
    assert (good.exit_code, good.reason) == (0, "")
    assert bad.reason == "exit code 2: classifier-training trian: there is no verb of that name"
    assert outcomes["done"] is None
    assert read_outcome(jobs[1].record) == bad
    jobs[1].record.write_text('{"exit_code": ')
    assert read_outcome(jobs[1].record) is None


def test_reasons_are_in_words() -> None:
    assert failure_words(-signal.SIGKILL, "") == "ended by SIGKILL, as by a system that runs out of memory"
    assert failure_words(1, "a\nValueError: no\n") == "exit code 1: ValueError: no"
    assert failure_words(2, "error: x: bad\n  expected: y\n  to do: z\n") == "exit code 2: x: bad"
    assert failure_words(3, "") == "exit code 3"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_what_waits_and_is_told(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "held"
    folder.mkdir()
    # As the child of a start that was killed would.
    with (folder / "job.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        threading.Timer(0.5, os.kill, (os.getpid(), number)).start()
        with pytest.raises(InterruptedRunError) as found:
            run_jobs([job(folder, "--version")], num_parallel=1, remedy="again")
    assert found.value.exit_code == 128 + number
    assert found.value.remedy == "again"
    assert not (folder / "job.json").exists()


def test_gpus_are_taken_from_what_may_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-5")
    assert visible_gpus() == ["2", "GPU-5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert visible_gpus() == []


def test_a_share_of_the_cores_reaches_us_and_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in share_of_cores(1).items():
        monkeypatch.setenv(name, value)
    assert num_cores() == 1
    assert os.environ["OMP_NUM_THREADS"] == "1"
