"""`launcher=slurm` on a Slurm cluster of this machine: exit codes, preemption, the time limit, and Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster

SCRIPT = Path(__file__).parents[2] / "scripts/cluster/slurm_localhost.sh"

TINY = (
    "model=cnn_v1", "data.image_size=16", "data.batch_size=8", "trainer.accelerator=cpu", "recipe=none",
    "trainer.compile=false", "callbacks=[checkpoint]",
)  # fmt: skip


@contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """A cluster with this machine as both of its nodes."""
    if os.getuid() != 0 or not shutil.which("slurmctld") or not shutil.which("sbatch"):
        pytest.skip("needs root and Slurm's programs: apt-get install slurm-wlm munge")
    subprocess.run([SCRIPT, "start", folder, "2"], check=True, timeout=120)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        yield
        subprocess.run(["scancel", "--me"], check=False)
        subprocess.run([SCRIPT, "stop", folder], check=True)


@pytest.fixture(scope="module", autouse=True)
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with cluster(tmp_path_factory.mktemp("slurm")):
        yield


def start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "classifier_training", *words, "launcher=slurm"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(found: Callable[[], object], *, seconds: float = 700.0) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def only(pattern: str) -> Path | None:
    found = list(Path().glob(pattern))
    assert len(found) <= 1, found
    return found[0] if found else None


def resumes(text: str) -> int:
    return text.count("resume: training continues after step")


def test_combinations_are_an_array_and_the_worst_exit_code_comes_back(split_folder: Path) -> None:
    words = [f"data.root={split_folder}", *TINY, "trainer.max_epochs=1", "optimizer.lr=0.001,-1"]
    done = start("train", "--multirun", *words, "launcher.partition=main")
    out, err = done.communicate()
    assert done.returncode == 2, err
    assert "exit code 2: optimizer.lr=-1" in out
    first, second = sorted(Path().glob("outputs/multirun/*/*/*/job.json"))
    assert json.loads(first.read_text())["exit_code"] == 0
    assert len(list(first.parent.rglob("result.json"))) == 1
    assert json.loads(second.read_text())["exit_code"] == 2
    log = (first.parent / "job.log").read_text()
    assert "srun" not in log, "Lightning has taken itself for a task of Slurm"


def test_what_slurm_refuses_is_said(split_folder: Path) -> None:
    done = start("train", f"data.root={split_folder}", *TINY, "launcher.partition=nowhere")
    _, err = done.communicate()
    assert done.returncode == 2
    assert "invalid partition specified: nowhere" in err


def test_a_preempted_job_is_resumed_and_ctrl_c_cancels_it(split_folder: Path) -> None:
    cores = f"launcher.cores={os.cpu_count()}"
    running = start("train", f"data.root={split_folder}", *TINY, "trainer.max_epochs=100000", cores)
    try:
        wait_for(lambda: only("outputs/jobs/*/*/*/checkpoints/last.ckpt"))
        log = only("outputs/jobs/*/job.log")
        assert log is not None
        subprocess.run(
            [
                "sbatch",
                "--partition=urgent",
                f"--cpus-per-task={os.cpu_count()}",
                "--output=/dev/null",
                "--wrap=sleep 1",
            ],
            check=True,
        )
        wait_for(lambda: resumes(log.read_text()))
        assert "the run is saved at the end of this step" in log.read_text()
        rows = (only("outputs/jobs/*/*/*/metrics.csv") or Path()).read_text().splitlines()[1:]
        epochs = [int(row.partition(",")[0]) for row in rows]
        assert epochs == sorted(set(epochs)), "an epoch was trained twice"
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=200)
    finally:
        running.kill()
    assert running.returncode == 130, err
    assert not subprocess.run(["squeue", "--noheader"], check=True, capture_output=True).stdout
    assert only("outputs/jobs/*/*/*/result.json") is None


def test_a_job_at_its_time_limit_is_saved_and_queued_again(split_folder: Path) -> None:
    words = [f"data.root={split_folder}", *TINY, "trainer.max_epochs=100000", "launcher.time=4m"]
    running = start("train", *words)
    try:
        log = Path("none")
        wait_for(lambda: only("outputs/jobs/*/job.log"))
        log = only("outputs/jobs/*/job.log") or log
        wait_for(lambda: resumes(log.read_text()))
        assert "the run is saved at the end of this step" in log.read_text()
        assert running.poll() is None
        running.send_signal(signal.SIGTERM)
        _, err = running.communicate(timeout=200)
    finally:
        running.kill()
    assert running.returncode == 143, err


def test_a_job_that_is_cancelled_elsewhere_is_a_failure(split_folder: Path) -> None:
    running = start("train", f"data.root={split_folder}", *TINY, "trainer.max_epochs=100000")
    wait_for(lambda: only("outputs/jobs/*/*/*/metrics.csv"))
    subprocess.run(["scancel", "--me"], check=True)
    out, err = running.communicate(timeout=300)
    assert running.returncode == 1, err
    assert "has left the queue without a result: CANCELLED" in out


def test_verbs_of_many_runs_train_there(split_folder: Path) -> None:
    words = [word for word in TINY[1:] if not word.startswith("callbacks")] + ["trainer.max_epochs=1"]
    for started, ended in (
        (["compare", str(split_folder), *words, "models=[cnn_v1,student]"], "outputs/comparison/leaderboard.csv"),
        (["train", str(split_folder), *words, TINY[0], "data.num_folds=2"], "outputs/2*/*/evaluation/out_of_fold.csv"),
        (["distill", "outputs/comparison/jobs/cnn_v1*/*/*", *words], "outputs/distillation/*/*/taught/*/*/result.json"),
    ):
        running = start(*(str(next(iter(Path().glob(word)))) if "*" in word else word for word in started))
        out, err = running.communicate(timeout=900)
        assert running.returncode == 0, out + err
        assert list(Path().glob(ended)), "\n".join(map(str, sorted(Path("outputs").rglob("*"))))
