"""What the services of compose.yaml run, without Docker: the same words, with the test's folder in place of /work."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import SMALL
from tests.server import Ended

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parents[2] / "compose.yaml").read_text())[
    "services"
]

pytestmark = pytest.mark.usefixtures("quick_runs")


def words(service: str) -> list[str]:
    return [word.replace("/work/", "") for word in (*SERVICES[service]["entrypoint"], *SERVICES[service]["command"])]


def test_the_services_train_predict_and_show_curves(
    command: Callable[..., Ended], split_folder: Path, tmp_path: Path
) -> None:
    environment = SERVICES["train"]["environment"]
    _, *train = words("train")
    done = command(*train, f"data.root={split_folder}", *SMALL, "name=auto", env=environment)
    assert done.code == 0, done.err
    (run,) = (path.parent for path in tmp_path.glob("outputs/images/*/*/config.yaml"))
    assert yaml.safe_load((run / "config.yaml").read_text())["name"] == "images"
    assert list(run.glob("tensorboard/**/events.*"))

    shutil.copytree(split_folder / "test/red", tmp_path / "input")
    _, *predict = words("predict")
    done = command(*predict, env=environment)
    assert done.code == 0, done.err
    written = sorted((tmp_path / "out").rglob("*.json"))
    assert len(written) == 3
    prediction = json.loads(written[0].read_text())
    assert prediction["path"].endswith(".png")
    assert [top["probability"] for top in prediction["top_k"]] == sorted(
        (top["probability"] for top in prediction["top_k"]), reverse=True
    )
    assert len(prediction["top_k"]) == 3

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shown = [port if word == "6006" else word for word in words("tensorboard")]
    assert shutil.which(shown[0])
    with (
        (tmp_path / "said").open("w") as said,
        subprocess.Popen(shown, cwd=tmp_path, stdout=said, stderr=said) as board,
    ):
        try:
            assert str(run.relative_to(tmp_path / "outputs") / "tensorboard") in runs_of(port)
        finally:
            board.terminate()


def runs_of(port: str) -> list[str]:
    """Names of the runs that TensorBoard shows, once it has read some."""
    for _ in range(120):
        time.sleep(0.5)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/data/runs") as answer:
                found: list[str] = json.load(answer)
        except OSError:
            continue
        if found:
            return found
    return []


def test_a_logger_of_the_environment_that_does_not_exist_is_named(
    command: Callable[..., Ended], split_folder: Path
) -> None:
    done = command("train", f"data.root={split_folder}", env={"CLASSIFIER_TRAINING_LOGGING": "tensorboad"})
    assert done.code == 2
    assert "CLASSIFIER_TRAINING_LOGGING=tensorboad: there is no logger 'tensorboad'" in done.err
    assert "export CLASSIFIER_TRAINING_LOGGING=tensorboard" in done.err
