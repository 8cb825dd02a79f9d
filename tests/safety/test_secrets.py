"""What is secret in a command reaches its own end and is written down nowhere."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from tests.conftest import SMALL
from tests.server import Ended

pytestmark = pytest.mark.usefixtures("quick_runs")

SECRET = "TOPSECRET"


class Tracking(BaseHTTPRequestHandler):
    """As much of an MLflow server as a run that logs to one asks."""

    asked: list[str]
    artifacts: Path

    def do_GET(self) -> None:
        self.asked.append(f"{self.headers.get('Authorization')} {self.path}")
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        info = {"run_id": "1", "run_uuid": "1", "experiment_id": "1", "status": "RUNNING"}
        info["artifact_uri"] = self.artifacts.as_uri()
        answer = {
            "experiment": {"experiment_id": "1", "name": "x", "artifact_location": info["artifact_uri"]},
            "run": {"info": info, "data": {}},
        }
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    do_POST = do_GET  # noqa: N815 - the standard library's name

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def tracking(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    Tracking.asked, Tracking.artifacts = [], tmp_path / "artifacts"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Tracking)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("sweeps", [False, True], ids=["once", "multirun"])
def test_no_file_and_no_message_of_a_run_holds_a_secret(
    sweeps: bool, tracking: ThreadingHTTPServer, split_folder: Path, command: Callable[..., Ended], tmp_path: Path
) -> None:
    uri = f"http://me:{SECRET}@x@127.0.0.1:{tracking.server_port}/?token={SECRET}"
    loggers = "mlflow" if sweeps else "mlflow,wandb"
    words = [f"data.root={split_folder}", *SMALL, f"logging=[{loggers}]", f"logging.mlflow.tracking_uri='{uri}'"]
    env = {"HOME": str(tmp_path / "home"), "WANDB_MODE": "offline"}
    done = command("train", *(["--multirun"] if sweeps else []), *words, env=env)
    assert done.code == 0, done.err
    assert any(asked.startswith("Basic ") and SECRET in asked for asked in Tracking.asked), "the server was asked"
    assert not [text for text in (done.out, done.err) if SECRET in text]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    (config,) = tmp_path.glob("outputs/*/*/config.yaml")
    saved = yaml.safe_load(config.read_text())["logging"]["mlflow"]["tracking_uri"]
    assert saved == f"http://***@127.0.0.1:{tracking.server_port}/?token=***"
    assert "tracking_uri" in (config.parent / "report.html").read_text(), "the command to reproduce it"
    if sweeps:
        return
    # Without its secret the setting would lead elsewhere: it has to be typed again.
    again = command("train", f"resume={config.parent}", "trainer.max_epochs=2", env=env)
    assert again.code == 2
    assert "logging.mlflow.tracking_uri" in again.err
    assert "its secret was not saved" in again.err
    typed = ["trainer.max_epochs=2", f"logging.mlflow.tracking_uri='{uri}'"]
    assert command("train", f"resume={config.parent}", *typed, env=env).code == 0
