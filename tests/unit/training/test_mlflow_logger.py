from __future__ import annotations

import logging
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.runs import make_run

from classifier_training.core.run_dir import RunDir
from classifier_training.registry.mlflow_outbox import Outbox
from classifier_training.training import mlflow_logger

pytest.importorskip("mlflow")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(make_run(tmp_path / "outputs", "2026-01-02/10-00-00"))


def test_without_a_server_training_does_not_wait_and_what_was_not_sent_is_counted(
    run: RunDir, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_logger, "END_SECONDS", {"success": 0.5, "failed": 0.5})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://me:TOPSECRET@127.0.0.1:{free.getsockname()[1]}"
        with caplog.at_level(logging.INFO, "classifier_training"):
            logger = mlflow_logger.MlflowLogger(run, uri, "bench", log_model=True)
            began = time.monotonic()
            for step in range(100):
                logger.log_metrics({"val/loss": 1.0, "val/acc_top1": 0.5}, step)
            assert time.monotonic() - began < 5
            logger.close("success")
            logger.upload()
    assert "200 metrics not sent" in caplog.text
    assert f"registry publish run={run.path}" in caplog.text
    assert "TOPSECRET" not in caplog.text
    assert Outbox(run, uri).num_unsent == 200
    assert not [path for path in run.path.rglob("*") if path.is_file() and b"TOPSECRET" in path.read_bytes()]


class Overloaded(BaseHTTPRequestHandler):
    """A server that has no connection to its database left, and says so as MLflow's does."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b'{"error_code": "BAD_REQUEST", "message": "QueuePool limit of size 5 overflow 10 reached"}'
        self.send_response(400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the standard library's name

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_server_that_is_overloaded_is_asked_again(
    run: RunDir, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_logger, "END_SECONDS", {"success": 0.5, "failed": 0.5})
    server = ThreadingHTTPServer(("127.0.0.1", 0), Overloaded)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with caplog.at_level(logging.INFO, "classifier_training"):
        logger = mlflow_logger.MlflowLogger(run, f"http://127.0.0.1:{server.server_port}", "bench", log_model=True)
        logger.log_metrics({"val/loss": 1.0}, 1)
        deadline = time.monotonic() + 30
        while "does not answer" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.05)
        logger.close("success")
    server.shutdown()
    server.server_close()
    assert "training goes on" in caplog.text
    assert "1 metric not sent" in caplog.text
