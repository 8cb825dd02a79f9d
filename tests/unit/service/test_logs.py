"""The log as JSON lines."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import threading
import time

import pytest

from classifier_training.service import logs
from classifier_training.service.logs import json_log

log = logging.getLogger("classifier_training.service.something")


def test_each_message_is_a_line_with_its_fields_and_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("classifier_training").setLevel(logging.INFO)
    with json_log(dropped=lambda: None):
        log.info("line\nbreak of %s", "ü", extra={"fields": {"status": 200, "labels": ["a\u2028b"]}})
        log.info("https://user:hunter2@host/x")
        log.info("not for this log", extra={"detail": True})
        log.warning("damaged")
        log.warning("damaged")
        try:
            int("wrong")
        except ValueError:
            log.exception("failed")
    first, second, warning, third = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert {**first, "time": ""} == {
        "time": "", "level": "info", "message": "line\nbreak of ü", "status": 200, "labels": ["a\u2028b"],
    }  # fmt: skip
    assert first["time"].endswith("+00:00")
    assert (warning["level"], warning["message"]) == ("warning", "damaged")
    assert "hunter2" not in second["message"]
    assert "ValueError: invalid literal" in third["traceback"]


def test_who_reads_nothing_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "CAPACITY", 3)
    reading, writing = os.pipe()
    dropped: list[int] = []
    logging.getLogger("classifier_training").setLevel(logging.INFO)

    def drain() -> None:
        while os.read(reading, 2**20):
            pass

    reader = threading.Thread(target=drain, daemon=True)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        with json_log(dropped=lambda: dropped.append(1)):
            began = time.monotonic()
            for _ in range(50):
                log.info("x" * 20_000)
            assert time.monotonic() - began < 5, "the pipe is full, and the server goes on"
            assert len(dropped) > 20
            reader.start()
    reader.join(10)
    os.close(reading)


def test_a_reader_who_has_gone_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    logging.getLogger("classifier_training").setLevel(logging.INFO)
    dropped = []
    with json_log(dropped=lambda: dropped.append(1)):
        log.info("nobody")
    assert dropped == [1]
