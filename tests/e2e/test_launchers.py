"""`launcher=ray` on a cluster of two nodes: jobs side by side, exit codes, Ctrl-C, and a worker that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from classifier_training.core.processes import is_held

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_runs")]

TINY = (
    "model=cnn_v1", "data.image_size=16", "data.batch_size=8", "trainer.max_epochs=1", "trainer.accelerator=cpu",
    "recipe=none", "trainer.compile=false", "callbacks=[checkpoint]",
)  # fmt: skip


@contextmanager
def two_nodes() -> Iterator[str]:
    """Give the address of a cluster of two nodes with one core each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster.address
    cluster.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with two_nodes() as address:
        yield address


def start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "classifier_training", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(found: Callable[[], object], *, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.nightly
def test_combinations_run_side_by_side_and_the_worst_exit_code_comes_back(split_folder: Path, address: str) -> None:
    words = [f"data.root={split_folder}", *TINY, "optimizer.lr=0.001,-1", "launcher=ray", f"launcher.address={address}"]
    done = start("train", "--multirun", *words)
    out, err = done.communicate()
    assert done.returncode == 2, err
    assert "exit code 2: optimizer.lr=-1" in out
    first, second = sorted(Path().glob("outputs/multirun/*/*/*/job.json"))
    assert json.loads(first.read_text())["exit_code"] == 0
    assert len(list(first.parent.rglob("result.json"))) == 1
    assert json.loads(second.read_text())["exit_code"] == 2


def test_a_job_survives_its_worker_and_ends_with_ctrl_c(split_folder: Path, address: str) -> None:
    words = [f"data.root={split_folder}", *TINY[:-1], "trainer.max_epochs=2000", "callbacks=[checkpoint]"]
    running = start("train", *words, "launcher=ray", f"launcher.address={address}")
    try:
        wait_for(lambda: list(Path().glob("outputs/jobs/*/*/*/checkpoints/last.ckpt")))
        (folder,) = Path().glob("outputs/jobs/train-*")
        (worker,) = [pid for pid in processes(f"ray::{folder.name}") if pid != os.getpid()]
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: "resume: training continues after step" in (folder / "job.log").read_text())
        assert len(list(folder.glob("*/*/config.yaml"))) == 1
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130, err
    assert "interrupted (SIGINT)" in err
    assert not is_held(folder / "job.lock")
    assert not list(folder.rglob("result.json"))


def processes(title: str) -> list[int]:
    """Find processes by the beginning of their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_text()
        except OSError:
            continue
        if text.startswith(title):
            found.append(int(path.parent.name))
    return found
