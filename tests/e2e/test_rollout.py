"""A roll-out as a user types it: serve, labels, verdict, promotion and the way back, while requests are answered."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import pytest
from tests.served import jpeg, write_run
from tests.server import Ended

from classifier_training.core.errors import CheckFailedError
from classifier_training.core.run_dir import RunDir, sha256
from classifier_training.workflows.registering.rollout import rollback
from classifier_training.workflows.registering.sub_verbs import promote_run

pytestmark = pytest.mark.usefixtures("quick_runs")

COLOURS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200)}


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number in (1, 2, 3):
        write_run(tmp_path / "outputs", f"2026-01-02/1{number}-00-00", seed=number, score=0.8 + number / 100)
    promote_run(run="colours:v1", alias="production")
    return tmp_path / "outputs"


@contextmanager
def serving(*words: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run `serve` in a process of its own; gives its port."""
    command = [sys.executable, "-m", "classifier_training", "serve", "port=0", "reload_s=0.1", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    lines = iter(process.stdout.readline, b"")
    try:
        address = next((json.loads(line)["address"] for line in lines if b'"started"' in line), None)
        assert address is not None, process.stderr and process.stderr.read().decode()
        # Its log is read on, so that it never waits for a reader.
        threading.Thread(target=lambda: [None for _ in lines], daemon=True).start()
        yield int(address.rpartition(":")[2]), process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(60) == 0
        except subprocess.TimeoutExpired:
            # Where its threads hang.
            process.send_signal(signal.SIGABRT)
            assert process.stderr is not None
            raise AssertionError(process.stderr.read().decode()) from None
        finally:
            process.kill()


class Load:
    """Clients that ask as fast as they get answers, each over a connection that it keeps.

    Attributes:
        failed: what went wrong.
        labels: label that was returned, by request id.
    """

    def __init__(self, port: int, clients: int = 3) -> None:
        self.failed: list[str] = []
        self.truths: dict[str, str] = {}
        self.labels: dict[str, str] = {}
        self._port, self._ended = port, threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self, client: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        images = {name: jpeg(colour) for name, colour in COLOURS.items()}
        number = 0
        while not self._ended.is_set():
            name = list(images)[number % 3]
            request_id = f"{client}-{number}"
            try:
                headers = {"content-type": "image/jpeg", "x-request-id": request_id}
                connection.request("POST", "/classify", images[name], headers)
                response = connection.getresponse()
                body = response.read()
                if response.status != 200 or response.headers["x-request-id"] != request_id:
                    self.failed.append(f"{response.status} {body!r}")
                self.truths[request_id] = name
                self.labels[request_id] = json.loads(body)["label"]
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                self.failed.append(f"{type(error).__name__}: {error}")
                return
            number += 1


def read(port: int, path: str, body: bytes | None = None) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET" if body is None else "POST", path, body)
        response = connection.getresponse()
        text = response.read().decode()
        assert response.status == 200, text
        return text
    finally:
        connection.close()


def wait_for(port: int, text: str) -> None:
    """Wait until the metrics have a line that begins so."""
    for _ in range(600):
        if any(line.startswith(text) for line in read(port, "/metrics").splitlines()):
            return
        time.sleep(0.05)
    raise AssertionError(f"{text} not in {read(port, '/metrics')}")


@pytest.mark.parametrize("times", [4, pytest.param(50, marks=pytest.mark.nightly)])
def test_reloads_and_a_canary_under_load_fail_no_request(outputs: Path, times: int) -> None:
    with serving("production", "canary=colours:v2", "share=0.3", "record=records") as (port, _), Load(port) as load:
        for number in range(times):
            # Now the one before, now the one after: the canary is compared with either.
            if number % 2:
                rollback(alias="production")
            else:
                promote_run(run="colours:v3", alias="production")
            wait_for(port, f'classifier_reloads_total{{arm="production",result="done"}} {number + 1}.0')
        asked = len(load.labels)
        while len(load.labels) < asked + 20 and not load.failed:
            time.sleep(0.01)
        arms = read(port, "/metrics")
    assert load.failed == []
    assert load.labels == {one: load.truths[one] for one in load.labels}
    assert 'arm="canary",label="red"' in arms
    lines = [json.loads(line) for file in Path("records/rollout").iterdir() for line in file.read_text().splitlines()]
    recorded = Counter(line["id"] for line in lines if "id" in line)
    assert set(recorded.values()) == {1}
    assert set(recorded) == set(load.labels)
    pairs = {(line["present"]["run"], line["new"]["run"]) for line in lines if "schema" in line}
    assert pairs == {("colours:v1", "colours:v2"), ("colours:v3", "colours:v2")}


def test_a_canary_is_judged_promoted_and_ends(outputs: Path, command: Callable[..., Ended]) -> None:
    with serving("production", "canary=colours:v2", "share=0.5", "record=records") as (port, _):
        with Load(port, clients=2) as load:
            while len(load.labels) < 300 and not load.failed:
                time.sleep(0.01)
        send_labels(port, load.truths)
        # Both are right on every image, so nothing decides, and a margin of 20 points does.
        undecided = command("registry", "verdict", "records")
        assert undecided.code == 4, undecided.err
        assert "no difference is seen" in undecided.out
        with pytest.raises(CheckFailedError, match="roll-out: keep on: no difference is seen"):
            promote_run(run="colours:v2", alias="production", rollout="records")
        decided = command("registry", "verdict", "records", "margin=0.2")
        assert decided.code == 0, decided.out + decided.err
        assert 'classifier_rollout_active{arm="canary"} 1.0' in read(port, "/metrics")
        # The line that it says to type is obeyed.
        (line,) = [line for line in decided.out.splitlines() if "registry promote" in line]
        promoted = command(*shlex.split(line.partition("classifier-training ")[2]))
        assert promoted.code == 0, promoted.err
        wait_for(port, 'classifier_rollout_active{arm="canary"} 0.0')
        assert "colours:v2" in read(port, "/")
        rollback(alias="production")
        wait_for(port, 'classifier_rollout_active{arm="canary"} 1.0')


def test_a_worse_shadow_is_rolled_back_by_the_verdict_while_it_serves(
    outputs: Path, command: Callable[..., Ended]
) -> None:
    run = RunDir(outputs / "colours/2026-01-02/12-00-00")
    before = sha256(run.onnx)
    model = onnx.load(run.onnx)
    (weights,) = [one for one in model.graph.initializer if one.name == "weights"]
    weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights)[:, ::-1].copy(), "weights"))
    onnx.save(model, run.onnx)
    run.model_info.write_text(run.model_info.read_text().replace(before, sha256(run.onnx)))
    with serving("production", "shadow=colours:v2", "record=records") as (port, _):
        with Load(port, clients=1) as load:
            while len(load.labels) < 300 and not load.failed:
                time.sleep(0.02)
        send_labels(port, load.truths)
        assert load.failed == []
        assert load.labels == {one: load.truths[one] for one in load.labels}
        found = command("registry", "verdict", "records")
        assert found.code == 1, found.out + found.err
        assert "roll back: the new run is worse: 0 images gained" in found.out
        assert "agreement is not accuracy" in found.out
        wait_for(port, 'classifier_rollout_active{arm="shadow"} 0.0')


def test_settings_of_a_roll_out_that_has_no_second_run_are_refused(
    outputs: Path, command: Callable[..., Ended]
) -> None:
    assert "share=0.5 without another run" in command("serve", "production", "share=0.5").err
    both = command("serve", "production", "canary=colours:v2", "shadow=colours:v3")
    assert (both.code, "one new run at a time" in both.err) == (2, True)
    assert "canary=nothing: there is no such folder" in command("serve", "production", "canary=nothing", "port=0").err
    assert command("registry", "verdict", "records").code == 2


def send_labels(port: int, truths: dict[str, str]) -> None:
    labels = [{"id": one, "label": truth} for one, truth in truths.items()]
    for first in range(0, len(labels), 1000):
        read(port, "/feedback", json.dumps(labels[first : first + 1000]).encode())
