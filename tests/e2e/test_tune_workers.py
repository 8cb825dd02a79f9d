"""Searches by several processes: trials of dead ones, exact numbers of trials, and a database with a password."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import read_csv
from tests.server import Ended

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.core.errors import InterruptedRunError, UserError

optuna = pytest.importorskip("optuna")

pytestmark = pytest.mark.usefixtures("quick_runs")

TINY = (
    "model=cnn_v1", "data.image_size=16", "data.batch_size=8", "trainer.max_epochs=2", "trainer.accelerator=cpu",
    "recipe=none", "trainer.compile=false",
)  # fmt: skip


def opened(storage: str = "journal.log", **settings: Any) -> Any:
    from classifier_training.workflows.many_runs.tuning_study import Plan, open_study

    plan = Plan(name="a", directions=["maximize"], identity={}, max_epochs=3, pruner="none")
    return open_study(plan, storage, **settings)


def test_a_trial_of_a_dead_process_is_tried_again_with_its_values_and_not_forever() -> None:
    from classifier_training.workflows.many_runs.tuning_study import (
        MAX_RETRIES,
        OWNER,
        close_lost_trials,
        is_waiting,
        original_number,
    )

    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    study = opened()
    for attempt in range(MAX_RETRIES + 1):
        trial = study.ask()
        assert trial.suggest_float("lr", 0.0, 1.0) == study.trials[0].params["lr"]
        assert original_number(study.trials[trial.number]) == 0
        assert study.trials[trial.number].user_attrs == {}
        trial.report(0.5, attempt)
        assert len(study.trials[trial.number].intermediate_values) == attempt + 1
        trial.set_user_attr(OWNER, f"{platform.node()}:{gone.pid}")
        assert close_lost_trials(study) == [attempt]
        assert is_waiting(study) == (attempt < MAX_RETRIES)
    assert len(study.trials) == MAX_RETRIES + 1


DYING = """
import os, sys, time
from classifier_training.workflows.many_runs.tuning_study import Plan, open_study
study = open_study(
    Plan(name="a", directions=["maximize"], identity={}, max_epochs=3, pruner="none"), sys.argv[1], lost_seconds=3
)
def objective(trial):
    trial.suggest_float("lr", 0.0, 1.0)
    print("begun", flush=True)
    time.sleep(600)
study.optimize(objective, n_trials=1)
"""


def test_in_a_database_a_live_process_is_known_by_its_heartbeats() -> None:
    from classifier_training.workflows.many_runs.tuning_study import close_lost_trials, is_waiting

    study = opened("sqlite:///study.db", lost_seconds=3)
    process = subprocess.Popen([sys.executable, "-c", DYING, "sqlite:///study.db"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    time.sleep(5)
    assert close_lost_trials(study) == []
    assert is_waiting(study)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while close_lost_trials(study) != [0]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]


def test_random_values_depend_on_the_number_of_a_trial_alone() -> None:
    from classifier_training.workflows.many_runs.tuning_study import make_sampler

    def values(order: list[int], storage: str) -> dict[int, float]:
        study = opened(storage)
        trials = [study.ask() for _ in order]
        found = {}
        for number in order:
            study.sampler = make_sampler("random", seed=3, number=number)
            found[number] = trials[number].suggest_float("lr", 0.0, 1.0)
        return found

    assert values([0, 1, 2, 3], "one.log") == values([2, 0, 3, 1], "other.log")


def test_an_interrupted_trial_keeps_its_folder_and_is_resumed(split_folder: Path, tmp_path: Path) -> None:
    from classifier_training.workflows.many_runs.tuning_trials import run_trial

    reported: list[int] = []

    def report(epoch: int, score: float) -> bool:
        reported.append(epoch)
        if len(reported) == 2:
            raise InterruptedRunError(signal.SIGINT, "again")
        return False

    folder = tmp_path / "trial"
    words = [*TINY, f"data.root={split_folder}", "trainer.max_epochs=4"]
    with pytest.raises(InterruptedRunError):
        run_trial(words, {"optimizer.lr": 1e-3}, folder, report=report, times=False)
    assert len(list(folder.glob("*/*/config.yaml"))) == 1
    result = run_trial(words, {"optimizer.lr": 1e-3}, folder, report=report, times=False)
    assert result.num_epochs == 4
    # The epoch of the interruption is not repeated, or once where it was not saved.
    assert reported in ([0, 1, 2, 3], [0, 1, 1, 2, 3])
    assert not folder.exists()


def test_a_password_is_taken_out_of_a_url() -> None:
    from classifier_training.workflows.many_runs.tuning_study import without_password

    assert without_password("postgresql+psycopg://me:a%40b@host:5/db?x=1") == (
        "postgresql+psycopg://me@host:5/db?x=1", "a@b",
    )  # fmt: skip
    for url in ("postgresql+psycopg://me@host/db", "sqlite:///study.db"):
        assert without_password(url) == (url, None)


def test_several_machines_need_a_database(split_folder: Path) -> None:
    from classifier_training.conf.compose import compose
    from classifier_training.core.register import entry

    verb = entry("verb", "tune")
    with pytest.raises(UserError, match="storage=a journal file: the launcher may use several machines"):
        verb.run(compose(verb, [*TINY, f"data.root={split_folder}", "launcher=ray"]))


@pytest.fixture
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a database of this test's own, whose password is TOPSECRET."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs or os.getuid() != 0 or not shutil.which("su"):
        pytest.skip("PostgreSQL is not installed")
    folder = Path(f"/tmp/classifier-training-postgres-{os.getpid()}")  # of another user, who may not look into ours
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "password").write_text("TOPSECRET")
    shutil.chown(folder, "postgres")
    shutil.chown(folder / "password", "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(program: str, arguments: str) -> None:
        words = f"{programs[-1].with_name(program)} {arguments}"
        subprocess.run(["su", "postgres", "-c", words], check=True, stdout=subprocess.DEVNULL, cwd="/")

    run("initdb", f"-D {folder}/data -A scram-sha-256 -U tuner --pwfile={folder}/password")
    run("pg_ctl", f"-D {folder}/data -w -l {folder}/log -o '-p {port} -k {folder} -c listen_addresses=127.0.0.1' start")
    yield f"127.0.0.1:{port}/postgres"
    run("pg_ctl", f"-D {folder}/data -m immediate stop")
    shutil.rmtree(folder)


@pytest.mark.slow
def test_two_workers_share_a_database_and_nobody_reads_its_password(
    command: Callable[..., Ended], split_folder: Path, tmp_path: Path, postgres: str
) -> None:
    words = [*TINY, f"data.root={split_folder}", "trials=4", "jobs=2", "sampler=random", "pruner=none", "name=mine"]
    done = command("tune", *words, f"storage=postgresql+psycopg://tuner:TOPSECRET@{postgres}")
    assert done.code == 0, done.err
    assert "exit code" not in done.err
    rows = read_csv(tmp_path / "outputs/tuning/mine/trials.csv")
    assert [row["number"] for row in rows] == ["0", "1", "2", "3"]
    assert not list(tmp_path.glob("outputs/tuning/mine/trial-*"))
    assert "TOPSECRET" not in done.out + done.err
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"TOPSECRET" not in path.read_bytes(), path


@pytest.mark.slow
def test_a_killed_worker_loses_no_trial(split_folder: Path, tmp_path: Path) -> None:
    words = [*TINY, f"data.root={split_folder}", "trainer.max_epochs=20", "trials=1", "pruner=none", "name=mine"]
    start = [sys.executable, "-m", "classifier_training", "tune", *words]
    killed = subprocess.Popen(start)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("outputs/tuning/mine/trial-0000/*/*/checkpoints/last.ckpt")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    (log,) = tmp_path.glob("outputs/tuning/mine/trial-0000/*/*/train.log")
    with log.open() as followed:
        subprocess.run(start, check=True)
        # The folder is gone with the trial; what was open can be read still.
        assert "resume: training continues after step" in followed.read()
    (row,) = read_csv(tmp_path / "outputs/tuning/mine/trials.csv")
    assert row["state"] == "complete"
