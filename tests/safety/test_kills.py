"""Whatever kills a run, the next start goes on as if nothing had happened."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tests.safety.runs import differences, folder_in, litter, outcome, words
from tests.server import Ended, Warm

from classifier_training.core.run_dir import RunDir
from classifier_training.training.checkpoint_files import find_newest, read_checkpoint

pytestmark = pytest.mark.timeout(3600)

SEED = 20_261_120


@pytest.fixture(scope="module")
def whole(warm: Warm, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], float]:
    """What a run that nothing happens to ends with, and how long it took."""
    folder = tmp_path_factory.mktemp("whole")
    started = time.monotonic()
    ended = warm.run(words(pictures, folder / "out"), cwd=folder)
    assert ended.code == 0, ended.err
    return outcome(folder_in(folder / "out")), time.monotonic() - started


def wait_for(pattern: str, output: Path, warm: Warm, pid: int) -> None:
    """Wait until a file is there, or the run has ended."""
    while not list(output.glob(pattern)) and not warm.has_ended(pid):
        time.sleep(0.005)


def resume(warm: Warm, output: Path) -> Ended:
    return warm.run(["train", f"resume={folder_in(output)}"], cwd=output)


def assert_as_whole(warm: Warm, output: Path, whole: tuple[dict[str, Any], float], where: str) -> None:
    """Go on with the run below a folder, and compare what it ends with."""
    resumed = resume(warm, output)
    assert resumed.code == 0, f"{where}: {resumed.err}"
    run = folder_in(output)
    assert differences(outcome(run), whole[0]) == [], where
    assert litter(run) == [], where


@pytest.mark.parametrize("count", [1, pytest.param(35, marks=pytest.mark.nightly)])
def test_a_run_killed_at_any_moment_ends_as_if_it_had_not_been(
    warm: Warm, pictures: Path, tmp_path: Path, whole: tuple[dict[str, Any], float], count: int
) -> None:
    draw = random.Random(SEED)
    for number in range(count):
        output = tmp_path / str(number)
        output.mkdir()
        pid = warm.start(words(pictures, output), cwd=output)
        wait_for("*/*/config.yaml", output, warm, pid)
        delay = draw.uniform(0, 0.8 * whole[1])
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
        warm.wait(pid)
        assert_as_whole(warm, output, whole, f"seed {SEED}, run {number}, killed after {delay:.3f} s")


@pytest.mark.parametrize("count", [1, pytest.param(15, marks=pytest.mark.nightly)])
def test_a_run_killed_inside_a_save_ends_as_if_it_had_not_been(
    warm: Warm, pictures: Path, tmp_path: Path, whole: tuple[dict[str, Any], float], count: int
) -> None:
    # A save is about 60 writes, fsyncs, links and renames; those after the data are the ones that matter.
    draw = random.Random(SEED + 1)
    for number in range(count):
        output = tmp_path / str(number)
        output.mkdir()
        at = draw.randrange(1, 200)
        fault = {"FAULT_ROOT": str(output), "FAULT_PART": "/checkpoints/", "FAULT_AT": str(at), "FAULT_ERRNO": "0"}
        ended = warm.run(words(pictures, output), cwd=output, env=fault)
        assert ended.code == -signal.SIGKILL, f"run {number} at {at}: {ended}"
        assert_as_whole(warm, output, whole, f"seed {SEED + 1}, run {number}, killed at call {at} of saving")


@pytest.mark.nightly
@pytest.mark.parametrize("count", [2, 5])
def test_a_run_killed_after_every_epoch_ends_as_if_it_had_not_been(
    warm: Warm, pictures: Path, tmp_path: Path, whole: tuple[dict[str, Any], float], count: int
) -> None:
    pid = warm.start(words(pictures, tmp_path, "callbacks.checkpoint.every_minutes=10"), cwd=tmp_path)
    for epoch in range(1, count):
        wait_for("*/*/config.yaml", tmp_path, warm, pid)
        metrics = folder_in(tmp_path) / "metrics.csv"
        while not warm.has_ended(pid) and not (metrics.is_file() and len(metrics.read_text().splitlines()) > epoch):
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
        warm.wait(pid)
        pid = warm.start(["train", f"resume={folder_in(tmp_path)}"], cwd=tmp_path)
    ended = warm.wait(pid)
    assert ended.code == 0, ended.err
    assert differences(outcome(folder_in(tmp_path)), whole[0]) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("count", [1, pytest.param(20, marks=pytest.mark.nightly)])
def test_a_signal_saves_and_leaves_in_ten_seconds(
    warm: Warm, pictures: Path, tmp_path: Path, whole: tuple[dict[str, Any], float], number: signal.Signals, count: int
) -> None:
    draw = random.Random(SEED + number)
    for turn in range(count):
        output = tmp_path / str(turn)
        output.mkdir()
        pid = warm.start(words(pictures, output, "callbacks.checkpoint.every_minutes=10"), cwd=output)
        wait_for("*/*/checkpoints/last.ckpt", output, warm, pid)
        time.sleep(draw.uniform(0, 0.3 * whole[1]))
        if warm.has_ended(pid):
            assert warm.wait(pid).code == 0
            continue
        os.kill(pid, number)
        sent = time.monotonic()
        ended = warm.wait(pid)
        assert time.monotonic() - sent < 10
        assert ended.code in (0, 128 + number), ended.err
        assert "Traceback" not in ended.err
        if ended.code:
            assert_as_whole(warm, output, whole, f"seed {SEED + number}, signal {turn}")


def test_a_second_signal_leaves_at_once(warm: Warm, pictures: Path, tmp_path: Path) -> None:
    more = ("trainer.max_epochs=5000", "callbacks.checkpoint.every_seconds=1000", "data.batch_size=24")
    pid = warm.start(words(pictures, tmp_path, *more), cwd=tmp_path)
    wait_for("*/*/metrics.csv", tmp_path, warm, pid)
    os.kill(pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGCONT)
    ended = warm.wait(pid)
    assert ended.code in (130, 143)
    assert "a second signal leaves at once" in ended.err
    assert "interrupted (" not in ended.err


@pytest.fixture(scope="module")
def begun(warm: Warm, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, to be copied and gone on with."""
    folder = tmp_path_factory.mktemp("begun")
    ended = warm.run(words(pictures, folder, "trainer.max_epochs=1"), cwd=folder)
    assert ended.code == 0, ended.err
    return folder_in(folder)


@pytest.mark.parametrize("kind", ["write", "fsync", "rename"])
@pytest.mark.parametrize("number", [errno.ENOSPC, pytest.param(errno.EIO, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("count", [1, pytest.param(30, marks=pytest.mark.nightly)])
def test_a_disk_that_is_full_or_broken_leaves_the_checkpoint_before(
    warm: Warm, begun: Path, tmp_path: Path, kind: str, number: int, count: int
) -> None:
    first = (begun / "checkpoints/last.ckpt").read_bytes()
    for at in range(1, count + 1):
        where = f"{errno.errorcode[number]} at {kind} {at}"
        run = tmp_path / str(at) / begun.relative_to(begun.parents[1])
        shutil.copytree(begun, run)
        fault = {
            "FAULT_ROOT": str(run), "FAULT_PART": "/checkpoints", "FAULT_KIND": kind, "FAULT_AT": str(at),
            "FAULT_ERRNO": str(number), **({"FAULT_STAYS": "1"} if number == errno.ENOSPC else {}),
        }  # fmt: skip
        longer = ["train", f"resume={run}", "trainer.max_epochs=5"]
        ended = warm.run(longer, cwd=tmp_path, env=fault)
        assert ended.code == 2, f"{where}: {ended}"
        assert os.strerror(number) in ended.err, where
        assert "Traceback" not in ended.err, f"{where}: {ended.err}"
        found = find_newest(RunDir(run), at_epoch_end=False)
        assert found is not None, where
        assert read_checkpoint(found.path)["global_step"] == found.entry.step
        if at == 1:
            assert first in [path.read_bytes() for path in (run / "checkpoints").glob("*.ckpt")], where
        again = warm.run(longer, cwd=tmp_path)
        assert again.code == 0, f"{where}: {again.err}"
        assert litter(run) == [], where
        shutil.rmtree(tmp_path / str(at))


def test_a_run_that_was_killed_before_it_was_saved_begins_again(
    warm: Warm, pictures: Path, tmp_path: Path, whole: tuple[dict[str, Any], float]
) -> None:
    fault = {"FAULT_ROOT": str(tmp_path), "FAULT_PART": "/checkpoints/", "FAULT_AT": "1", "FAULT_ERRNO": "0"}
    ended = warm.run(words(pictures, tmp_path), cwd=tmp_path, env=fault)
    assert ended.code == -signal.SIGKILL
    resumed = resume(warm, tmp_path)
    assert re.search("at the beginning: nothing was saved", resumed.err)
    assert differences(outcome(folder_in(tmp_path)), whole[0]) == []


@pytest.mark.nightly
@pytest.mark.parametrize("workers", [1, 2])
def test_loader_processes_see_the_rest_of_an_epoch_after_a_kill(
    warm: Warm, pictures: Path, tmp_path: Path, whole: tuple[dict[str, Any], float], workers: int
) -> None:
    fault = {"FAULT_ROOT": str(tmp_path), "FAULT_PART": "step.ckpt", "FAULT_AT": "100", "FAULT_ERRNO": "0"}
    ended = warm.run([*words(pictures, tmp_path), f"data.num_workers={workers}"], cwd=tmp_path, env=fault)
    assert ended.code == -signal.SIGKILL, ended
    assert_as_whole(warm, tmp_path, whole, f"{workers} workers")
