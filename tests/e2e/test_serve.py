"""`serve` as a process: the answers of `predict`, a promotion, signals, and the service of compose.yaml."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tritonclient.http as triton
import yaml
from tests.conftest import COLOURS, draw_picture
from tests.served import CLASS_NAMES, ask, form, jpeg, write_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.server import Ended

pytestmark = pytest.mark.usefixtures("quick_runs")

ROOT = Path(__file__).parents[2]
SERVE = [sys.executable, "-m", "classifier_training", "serve"]


class Server:
    """A server that was started by its command line."""

    def __init__(self, words: list[str], cwd: Path) -> None:
        self.lines: list[dict[str, Any]] = []
        self._said = (cwd / "serve.err").open("w+")
        self.process = subprocess.Popen(words, cwd=cwd, stdout=subprocess.PIPE, stderr=self._said, text=True)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        started = self.line("started")
        self.port = int(started["address"].rpartition(":")[2])

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def line(self, message: str, *, seconds: float = 120) -> dict[str, Any]:
        """The first line of the log that says something, once it is there."""
        for _ in range(int(seconds / 0.05)):
            for line in list(self.lines):
                if re.search(message, line["message"]):
                    return line
            if self.process.poll() is not None and not self._reader.is_alive():
                break
            time.sleep(0.05)
        self._said.seek(0)
        raise AssertionError(f"{message!r} was not said: {self.lines} {self._said.read()}")

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(30)
        self._reader.join(10)
        return code


@contextmanager
def served(cwd: Path, *words: str, command: list[str] = SERVE) -> Iterator[Server]:
    server = Server([*command, *words], cwd)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.wait()


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """The folder of two runs, in the test's working folder."""
    for number, at in enumerate(("2026-01-01/10-00-00", "2026-01-02/10-00-00")):
        write_run(tmp_path / "outputs", at, seed=number, score=0.9 + 0.01 * number)
    return tmp_path / "outputs"


def test_answers_are_those_of_predict_byte_by_byte_and_of_tritons_client(
    outputs: Path, tmp_path: Path, command: Callable[..., Ended]
) -> None:
    for number, (name, colour) in enumerate(COLOURS.items()):
        draw_picture(tmp_path / f"images/{name}.png", colour, seed=number)
    (tmp_path / "images/bad.jpg").write_bytes(b"no image")
    settings = ("top_k=2", "threshold=0.9", "unknown=true", "reject.foreign=true")
    done = command(
        "predict", "images", "run=colours:v1", "output=found.jsonl", "data.batch_size=1", "probabilities=true",
        *settings,
    )  # fmt: skip
    assert done.code == 3, done.err
    expected = (tmp_path / "found.jsonl").read_bytes().splitlines()
    paths = [json.loads(line)["path"] for line in expected]
    with served(tmp_path, "colours:v1", "port=0", "max_batch=1", "probabilities=true", *settings) as server:
        body, headers = form([(path, (tmp_path / path).read_bytes()) for path in paths])
        status, _, text = ask(server.port, "POST", "/classify", body, headers)
        assert status == 200
        assert text == b"[" + b", ".join(expected) + b"]"
        assert {json.loads(line)["rejected"] for line in expected} == {True, False, None}
        for path, line in zip(paths, expected, strict=True):
            one = ask(server.port, "POST", f"/classify?path={path}", (tmp_path / path).read_bytes())
            assert one[0] == (400 if b"bad.jpg" in line else 200)
            assert b"bad.jpg" in line or one[2] == line
        good = [(tmp_path / path).read_bytes() for path in paths if "bad" not in path]
        given = triton.InferInput("image", [3], "BYTES")
        given.set_data_from_numpy(np.array(good, dtype=object))
        found = triton.InferenceServerClient(f"127.0.0.1:{server.port}").infer("classifier", [given])
        shares = [json.loads(line)["probabilities"] for line in expected if b"bad.jpg" not in line]
        assert found.as_numpy("probabilities").tolist() == [[row[name] for name in CLASS_NAMES] for row in shares]
        assert server.end() == 0
    assert [line["message"] for line in server.lines if line["message"] != "request"] == ["started", "ending", "ended"]
    # The log says what happened, and holds no image.
    first = server.line("request")
    assert (first["status"], first["images"], len(first["labels"])) == (200, 4, 4)
    assert max(len(json.dumps(line)) for line in server.lines) < 1000


def test_a_promoted_run_is_taken_over_under_load(outputs: Path, tmp_path: Path, command: Callable[..., Ended]) -> None:
    assert command("registry", "promote", "colours:v1", "alias=production").code == 0
    image, statuses, is_over = jpeg((120, 100, 140)), [], threading.Event()
    with served(tmp_path, "production", "port=0", "reload_s=0.1") as server:

        def send() -> None:
            while not is_over.is_set():
                statuses.append(ask(server.port, "POST", "/classify", image)[0])

        clients = [threading.Thread(target=send) for _ in range(2)]
        for client in clients:
            client.start()
        before = json.loads(ask(server.port, "GET", "/v2/models/classifier")[2])
        done = command("registry", "promote", "colours:v2", "alias=production")
        assert done.code == 0, done.err
        said = server.line("answers in place of")
        assert said["message"] == "production: colours:v2 answers in place of colours:v1"
        time.sleep(0.3)
        is_over.set()
        for client in clients:
            client.join()
        after = json.loads(ask(server.port, "GET", "/v2/models/classifier")[2])
        assert (before["versions"], after["versions"]) == (["1"], ["2"])
        assert before["parameters"]["sha256"] != after["parameters"]["sha256"]
        assert set(statuses) == {200}
        assert server.end(signal.SIGINT) == 0


def test_sigterm_finishes_what_is_under_way_and_says_that_it_is_not_ready(outputs: Path, tmp_path: Path) -> None:
    with served(tmp_path, "latest", "port=0", "drain_s=1.5") as server:
        image = jpeg((200, 40, 40))

        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as slow:
            head = f"POST /classify HTTP/1.1\r\nhost: x\r\ncontent-length: {len(image)}\r\n\r\n".encode()
            slow.sendall(head + image[:100])
            time.sleep(0.2)
            server.process.send_signal(signal.SIGTERM)
            server.line("ending")
            # Requests are still taken for drain_s, and readiness says no.
            assert ask(server.port, "GET", "/v2/health/ready")[0] == 503
            assert ask(server.port, "GET", "/v2/models/classifier/ready")[0] == 503
            assert ask(server.port, "GET", "/v2/health/live")[0] == 200
            assert ask(server.port, "POST", "/classify", image)[0] == 200
            time.sleep(1.7)
            with pytest.raises(OSError, match="refused"):
                ask(server.port, "GET", "/v2/health/live")
            slow.sendall(image[100:])
            answer = b""
            while part := slow.recv(10_000):
                answer += part
            assert answer.startswith(b"HTTP/1.1 200")
            assert b'"label": "red"' in answer
        assert server.wait() == 0


def test_a_second_signal_ends_it_at_once(outputs: Path, tmp_path: Path) -> None:
    with served(tmp_path, "latest", "port=0", "drain_s=60") as server:
        server.process.send_signal(signal.SIGTERM)
        server.line("ending")
        began = time.monotonic()
        assert server.end() == 128 + signal.SIGTERM
        assert time.monotonic() - began < 30


def test_what_cannot_be_served_is_said_before_it_listens(
    outputs: Path, tmp_path: Path, command: Callable[..., Ended]
) -> None:
    for words, expected in (
        (("serve", "productoin"), "there is no such folder, and no run of that name or alias"),
        (("serve", "latest", "port=0", "reject.precision=0.9"), "reject.precision"),
        (("serve", "latest", "port=0", "host=no.such.host.invalid"), "host=no.such.host.invalid"),
        (("serve", "latest", "name=a/b"), "name"),
    ):
        done = command(*words)
        assert done.code == 2
        assert expected in done.err
        assert done.out == ""


def test_the_service_of_compose_answers_under_uv(outputs: Path, tmp_path: Path) -> None:
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["serve"]
    assert service["user"].startswith("${USER_ID:-1000}")
    words = [
        re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", word).replace("port=8080", "port=0")
        for word in (*service["entrypoint"], *service["command"])
    ]
    assert words[:3] == ["classifier-training", "serve", "run=latest"]
    under_uv = [uv, "run", "--no-sync", "--project", str(ROOT)]
    with served(tmp_path, *words, command=under_uv) as server:
        check = service["healthcheck"]["test"]
        assert check[:3] == ["CMD", "python", "-c"]
        asked = check[3].replace("8080", str(server.port))
        assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0
        assert json.loads(ask(server.port, "POST", "/classify", jpeg((30, 60, 200)))[2])["label"] == "blue"
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as metrics:
            assert b"classifier_predictions_total" in metrics.read()
        assert server.end() == 0
