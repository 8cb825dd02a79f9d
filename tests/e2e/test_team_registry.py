"""A team's registry on an MLflow server, from training to predictions, on the real command line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.conftest import SMALL
from tests.server import Ended

Command = Callable[..., Ended]

pytestmark = pytest.mark.usefixtures("quick_runs")

LOGGED = (*SMALL, "callbacks=[checkpoint,onnx_export]", "name=shapes", "logging=mlflow")


def metrics_of(uri: str, name: str = "val/loss") -> dict[str, list[int]]:
    """The steps of a metric, by the run there."""
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name("classifier-training")
    runs = client.search_runs([experiment.experiment_id])
    return {run.info.run_id: [one.step for one in client.get_metric_history(run.info.run_id, name)] for run in runs}


@pytest.mark.slow
def test_a_run_is_logged_resumed_promoted_and_used(command: Command, split_folder: Path, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    uri = f"sqlite:///{tmp_path}/team.db"
    env = {"MLFLOW_TRACKING_URI": uri, "CLASSIFIER_TRAINING_CACHE": str(tmp_path / "cache")}
    done = command("train", f"data.root={split_folder}", *LOGGED, env=env)
    assert done.code == 0, done.err
    (run,) = tmp_path.glob("outputs/shapes/*/*")
    done = command("train", f"resume={run}", "trainer.max_epochs=2", env=env)
    assert done.code == 0, done.err
    ((run_id, steps),) = metrics_of(uri).items()
    assert len(steps) == 2, "an epoch each"
    assert len(set(steps)) == 2
    client = mlflow.MlflowClient(uri, uri)
    found = client.get_run(run_id)
    assert found.info.status == "FINISHED"
    assert found.data.tags["resumed with trainer.max_epochs"] == "2"
    result = json.loads((run / "result.json").read_text())
    assert found.data.metrics["test/balanced_accuracy"] == pytest.approx(result["metrics"]["balanced_accuracy"])
    uploaded = client.list_artifacts(run_id)
    assert sum(item.path.startswith("bundle-") for item in uploaded) == 2, "of the run before it was resumed, too"

    promoted = command("registry", "promote", str(run), "production", "publish=mlflow", env=env)
    assert promoted.code == 0, promoted.err
    assert "shapes version 1, alias production" in promoted.out
    assert len(client.list_artifacts(run_id)) == len(uploaded), "the run has uploaded them"
    assert "mlflow:shapes/1" in command("registry", "list", "mlflow:shapes", env=env).out
    picture = next((split_folder / "test").rglob("*.png"))
    for reference in ("mlflow:shapes@production", "mlflow:shapes/1"):
        done = command("predict", str(picture), f"run={reference}", "output=there.json", env=env)
        assert done.code == 0, done.err
        done = command("predict", str(picture), f"run={run}", "output=here.json", env=env)
        assert (tmp_path / "there.json").read_bytes() == (tmp_path / "here.json").read_bytes()
    refused = command("evaluate", "run=mlflow:shapes@production", env=env)
    assert refused.code == 2
    assert "it is read-only" in refused.err
    done = command("evaluate", "run=mlflow:shapes@production", "output=evaluated", env=env)
    assert done.code == 0, done.err
    client.delete_run(run_id)
    deleted = command("train", f"resume={run}", "trainer.max_epochs=3", env=env)
    assert deleted.code == 2
    assert f"mlflow runs restore --run-id {run_id}" in deleted.err


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program `mlflow` with its server, which the extra does not install."""
    mlflow = pytest.importorskip("mlflow")
    folder = tmp_path_factory.mktemp("server") / "venv"
    python = folder / "bin/python"
    install = ["pip", "install", "--python", str(python), f"mlflow=={mlflow.__version__}"]
    for words in (["venv", str(folder)], install):
        done = subprocess.run(["uv", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"MLflow's server cannot be installed: {done.stderr}")
    return folder / "bin/mlflow"


class TeamServer:
    """An MLflow server that can be stopped and started again."""

    def __init__(self, program: Path, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{port}"
        self._words: list[str | Path] = [
            program, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{folder}/team.db", "--artifacts-destination", folder / "artifacts",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        self._process = subprocess.Popen(
            self._words, start_new_session=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 240
        while time.monotonic() < until:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
            except OSError:
                time.sleep(0.5)
            else:
                return
        raise AssertionError("the server does not start")

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def team_server(program: Path, tmp_path: Path) -> Iterator[TeamServer]:
    server = TeamServer(program, tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.mark.network
def test_a_server_that_goes_away_costs_no_metric_and_no_prediction(
    team_server: TeamServer, split_folder: Path, tmp_path: Path, command: Command
) -> None:
    env = {"MLFLOW_TRACKING_URI": team_server.uri, "CLASSIFIER_TRAINING_CACHE": str(tmp_path / "cache")}
    words = ["train", f"data.root={split_folder}", *LOGGED, "trainer.max_epochs=12"]

    def rows() -> list[Path]:
        return list(tmp_path.glob("outputs/shapes/*/*/mlflow/metrics.jsonl"))

    training = subprocess.Popen(
        [sys.executable, "-m", "classifier_training", *words], cwd=tmp_path, env={**os.environ, **env},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    # Four epochs, of two rows each.
    while training.poll() is None and sum(len(path.read_bytes().splitlines()) for path in rows()) < 8:
        time.sleep(0.05)
    team_server.stop()
    said = training.communicate()[0]
    assert training.returncode == 0, said
    assert "not sent to" in said
    (run,) = tmp_path.glob("outputs/shapes/*/*")
    assert f"registry publish run={run.relative_to(tmp_path)}" in said, "how the metrics get there later"
    assert (run / "result.json").is_file()

    picture = next((split_folder / "test").rglob("*.png"))
    away = command("predict", str(picture), "run=mlflow:shapes", env=env)
    assert away.code == 2
    assert "does not answer" in away.err
    team_server.start()
    done = command("registry", "publish", f"run={run.relative_to(tmp_path)}", env=env)
    assert done.code == 0, done.err
    ((_, steps),) = metrics_of(team_server.uri).items()
    assert len(steps) == len(set(steps)) == 12
    assert command("predict", str(picture), "run=mlflow:shapes", env=env).code == 0
    team_server.stop()
    offline = command("predict", str(picture), "run=mlflow:shapes", env=env)
    assert offline.code == 0, offline.err
    assert "used from the cache: version 1" in offline.err
