"""Two processes that train one run: what they end with, and what becomes of one when the other dies."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from tests.safety.runs import differences, folder_in, outcome
from tests.server import Warm

from classifier_training.core.processes import is_held
from classifier_training.core.run_dir import RunDir

pytestmark = pytest.mark.timeout(600)

STOPS_IN_SECONDS = 60.0


def has_callbacks(words: tuple[str, ...]) -> bool:
    return any(word.startswith("callbacks=") for word in words)


def words(pictures: Path, output: Path, *more: str) -> list[str]:
    """Train a network without batch norm and dropout, in batches of eight.

    By SGD: Adam's steps are as long where a gradient is 0 but for rounding, which two processes round otherwise.
    """
    return [
        "train", f"data.root={pictures}", f"output={output}", "model=timm", "model.name=test_vit",
        "model.pretrained=false",
        "data.image_size=32", "data.batch_size=8", "optimizer=sgd", "optimizer.lr=0.05", "trainer.max_epochs=3",
        "trainer.accelerator=cpu", "trainer.precision=32", "trainer.compile=false",
        "callbacks.checkpoint.every_seconds=0", *(() if has_callbacks(more) else ("callbacks=[checkpoint]",)), *more,
    ]  # fmt: skip


TOGETHER = ("trainer=ddp", "trainer.num_devices=2")


def train(warm: Warm, pictures: Path, output: Path, *more: str) -> RunDir:
    ended = warm.run(words(pictures, output, *more), cwd=output.parent)
    assert ended.code == 0, ended.err
    return RunDir(folder_in(output))


def rows(run: RunDir) -> list[dict[str, str]]:
    with run.metrics.open() as file:
        return list(csv.DictReader(file))


def losses(run: RunDir) -> list[float]:
    return [float(row["val/loss"]) for row in rows(run)]


@pytest.mark.parametrize(
    "settings",
    [
        ("imbalance=weights",),
        pytest.param(("imbalance=sampler", "callbacks=[checkpoint,ema]"), marks=pytest.mark.nightly),
        pytest.param(("imbalance=none", "trainer.accumulate_grad_batches=2"), marks=pytest.mark.nightly),
        pytest.param(("imbalance=weights", "loss=focal", "data.store=off", "data.num_workers=1"),
                     marks=pytest.mark.nightly),
    ],
)  # fmt: skip
def test_two_processes_end_with_the_weights_of_one(
    warm: Warm, drawing: Warm, pictures: Path, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    # The processes of torchrun are started anew, and draw.
    alone = train(drawing, pictures, tmp_path / "alone", *settings)
    together = train(warm, pictures, tmp_path / "together", *settings, *TOGETHER)

    expected, found = (torch.load(run.last_checkpoint, weights_only=True) for run in (alone, together))
    for name, weights in expected["state_dict"].items():
        torch.testing.assert_close(found["state_dict"][name], weights, rtol=1e-4, atol=1e-6, msg=name)
    # Every image is validated once, so the figures are the same, and not of a part or with some counted twice.
    for one, two in zip(rows(alone), rows(together), strict=True):
        for name in ("train/loss", "train/acc_top1", "val/loss", "val/acc_top1", "val/balanced_accuracy"):
            assert float(two[name]) == pytest.approx(float(one[name]), rel=1e-4), name
    assert json.loads(together.result.read_text())["metrics"] == pytest.approx(
        json.loads(alone.result.read_text())["metrics"], rel=1e-4
    )
    # Only the first of the two writes.
    files = [{path.relative_to(run.path) for path in run.path.rglob("*")} for run in (alone, together)]
    assert files[0] == files[1]


@pytest.mark.nightly
def test_thawing_layers_learn_alike_in_two_processes(warm: Warm, pictures: Path, tmp_path: Path) -> None:
    origin = train(warm, pictures, tmp_path / "origin")
    settings = (f"init_from={origin.path}", "transfer=progressive_unfreezing", "trainer.max_epochs=4")
    alone = train(warm, pictures, tmp_path / "alone", *settings)
    together = train(warm, pictures, tmp_path / "together", *settings, *TOGETHER)
    assert losses(together) == pytest.approx(losses(alone), rel=1e-4)


def ranks_of(agent: int) -> dict[int, int]:
    """The processes that an agent of torchrun has started: their numbers by rank."""
    found = {}
    for pid in Path(f"/proc/{agent}/task/{agent}/children").read_text().split():
        named = dict(word.partition(b"=")[::2] for word in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
        if b"RANK" in named:
            found[int(named[b"RANK"])] = int(pid)
    return found


def start(warm: Warm, pictures: Path, output: Path) -> tuple[int, int, int, RunDir]:
    """Start two processes that train for long; returns the agent, rank 0 and 1 once they have trained an epoch."""
    output.mkdir()
    agent = warm.start(words(pictures, output, "trainer.max_epochs=5000", *TOGETHER), cwd=output)
    deadline = time.monotonic() + 120
    while not list(output.glob("*/*/checkpoints/last.ckpt")):
        assert time.monotonic() < deadline
        assert not warm.has_ended(agent)
        time.sleep(0.05)
    ranks = ranks_of(agent)
    return agent, ranks[0], ranks[1], RunDir(folder_in(output))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for_end(pid: int) -> float:
    started = time.monotonic()
    while is_alive(pid):
        assert time.monotonic() - started < STOPS_IN_SECONDS
        time.sleep(0.05)
    return time.monotonic() - started


def test_the_leader_stops_in_words_when_a_follower_dies(warm: Warm, pictures: Path, tmp_path: Path) -> None:
    agent, leader, follower, run = start(warm, pictures, tmp_path / "out")
    os.kill(follower, signal.SIGKILL)
    wait_for_end(leader)
    ended = warm.wait(agent)
    assert ended.code not in (0, -signal.SIGKILL)
    assert "process 1 of 2: ended by SIGKILL" in ended.err
    assert "Traceback" not in ended.err
    assert f"resume={run.path}" in ended.err


@pytest.mark.nightly
@pytest.mark.parametrize("victim", [0, 1])
def test_all_end_when_rank_0_or_the_agent_is_killed_and_the_run_goes_on(
    warm: Warm, pictures: Path, tmp_path: Path, victim: int
) -> None:
    agent, leader, follower, run = start(warm, pictures, tmp_path / "out")
    os.kill((leader, agent)[victim], signal.SIGKILL)
    for pid in (leader, follower):
        wait_for_end(pid)
    warm.wait(agent)
    assert not is_held(run.lock)
    done = len(rows(run))
    ended = warm.run(["train", f"resume={run.path}", f"trainer.max_epochs={done + 2}"], cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert len(rows(run)) == done + 2


@pytest.mark.nightly
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("receiver", [0, 1, 2])
def test_a_signal_to_any_of_them_saves_and_ends_all(
    warm: Warm, pictures: Path, tmp_path: Path, number: signal.Signals, receiver: int
) -> None:
    *pids, run = start(warm, pictures, tmp_path / "out")
    os.kill(pids[receiver], number)
    # Rank 0 does not know which signal another process has received.
    assert warm.wait(pids[0]).code == 128 + (signal.SIGTERM if receiver == 2 else number)
    assert not any(is_alive(pid) for pid in pids[1:])
    assert run.resumable


@pytest.mark.nightly
def test_a_request_stops_both_after_the_same_epoch(warm: Warm, pictures: Path, tmp_path: Path) -> None:
    agent, _, follower, run = start(warm, pictures, tmp_path / "out")
    ended = warm.run(["registry", "stop", f"output={tmp_path / 'out'}"], cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert warm.wait(agent).code == 0
    assert not is_alive(follower)
    result = json.loads(run.result.read_text())
    assert result["ended"] == f"stopped on request after {len(rows(run))} of 5000 epochs"
    assert not run.stop_request.exists()
    assert not is_held(run.lock)


@pytest.mark.nightly
def test_two_processes_that_were_killed_end_as_if_they_had_not_been(warm: Warm, pictures: Path, tmp_path: Path) -> None:
    whole = train(warm, pictures, tmp_path / "whole", *TOGETHER)
    output = tmp_path / "killed"
    output.mkdir()
    pid = warm.start(words(pictures, output, *TOGETHER), cwd=output)
    while not list(output.glob("*/*/checkpoints/last.ckpt")) and not warm.has_ended(pid):
        time.sleep(0.005)
    os.kill(ranks_of(pid)[0], signal.SIGKILL)
    warm.wait(pid)
    ended = warm.run(["train", f"resume={folder_in(output)}"], cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert differences(outcome(folder_in(output)), outcome(whole.path)) == []


def test_a_process_too_many_is_refused_in_words(warm: Warm, pictures: Path, tmp_path: Path) -> None:
    for more, said in (
        (("trainer.num_devices=64",), "trainer.num_devices=64: this process sees"),
        (("trainer=ddp",), "trainer.num_devices=auto: there are no CUDA GPUs to be counted"),
        ((*TOGETHER, "data.batch_size=1"), "of the 1 images of a batch a process would have 0"),
    ):
        ended = warm.run([word for word in words(pictures, tmp_path / "out") if "batch_size" not in word]
                         + list(more), cwd=tmp_path)  # fmt: skip
        assert ended.code == 2, ended.err
        assert said in ended.err
