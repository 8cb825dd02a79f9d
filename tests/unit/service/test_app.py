"""`POST /classify`, its limits, and what is counted and logged of a request."""

from __future__ import annotations

import json
import logging
import socket
import struct
import threading
import time
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.served import ask, form, jpeg, make_service, running

from classifier_training.inference.predictor import Predictor
from classifier_training.inference.rejection import RejectRule
from classifier_training.inference.rows import RowSettings, to_json, to_row
from classifier_training.service.engine import PRODUCTION, Engine
from classifier_training.service.settings import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.service.observing import Answer

RED, BLUE = jpeg((200, 40, 40)), jpeg((30, 60, 200), seed=1)


def png_header(width: int, height: int, *, size: int = 1000) -> bytes:
    """A PNG that says it has so many pixels, with that many bytes of them."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", np.random.default_rng(0).bytes(size)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def error_of(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, str]:
    found = json.loads(answer[2])
    assert list(found) == ["error"]
    return answer[0], found["error"]


def test_an_image_is_answered_with_the_row_of_predict(port: int, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "röd.jpg"
    path.write_bytes(RED)
    (expected,) = Predictor(model).predict([path])
    row = to_json(to_row(replace(expected, path="röd.jpg"), probabilities=False)).encode()
    for kind in ("image/jpeg", "application/octet-stream", "application/x-www-form-urlencoded", "", "IMAGE/x; a=b"):
        status, headers, text = ask(port, "POST", "/classify?path=r%C3%B6d.jpg", RED, {"content-type": kind})
        assert (status, headers["content-type"], text) == (200, "application/json", row)


def test_several_files_are_answered_in_their_order_with_errors_in_their_rows(port: int, model: Path) -> None:
    body, headers = form([("a.jpg", RED), ("b.txt", b"no image"), ("sub/c.png", BLUE)])
    status, _, text = ask(port, "POST", "/classify", body, headers)
    rows = json.loads(text)
    assert status == 200
    assert [row["path"] for row in rows] == ["a.jpg", "b.txt", "sub/c.png"]
    assert [row["label"] for row in rows] == ["red", None, "blue"]
    assert rows[1]["error"] == "is not an image, or is empty or damaged"
    assert rows[2]["confidence"] == Predictor(model)(BLUE).confidence
    body, headers = form([("b.txt", b"no image")])
    assert error_of(ask(port, "POST", "/classify", body, headers))[0] == 400


@pytest.mark.parametrize(
    ("body", "kind", "status", "words"),
    [
        (b"", "image/png", 400, "the body is empty"),
        (b"x", "text/html", 415, "content-type 'text/html': expected image/"),
        (b"{}", "application/json", 415, "application/json"),
        (b"hello", "image/png", 400, "is not an image"),
        (RED[:-100], "image/jpeg", 400, "damaged"),
        (b"x", "multipart/form-data", 400, "without a boundary"),
        (b"x", f"multipart/form-data; boundary={'b' * 300}", 400, "without a boundary"),
        (b"x", "multipart/form-data; boundary=b", 400, "is no multipart/form-data"),
        (form([("a.jpg", RED), ("b.jpg", RED)])[0][:-200], form([])[1]["content-type"], 400, "ends within a part"),
        (b"--b--\r\n", "multipart/form-data; boundary=b", 400, "without a file"),
        (form([])[0], form([])[1]["content-type"], 400, "without a file"),
        (png_header(8000, 7000, size=600_000), "image/png", 413, "8000 x 7000 pixels: at most 50,000,000 are decoded"),
        (png_header(20_000, 5_000), "image/png", 400, "100,000,000 pixels out of 1,"),
        (png_header(60_000, 60_000), "image/png", 400, "more than 178,956,970 pixels"),
    ],
    ids=range(14),
)
def test_a_wrong_body_is_refused(port: int, body: bytes, kind: str, status: int, words: str) -> None:
    found = error_of(ask(port, "POST", "/classify", body, {"content-type": kind}))
    assert found[0] == status
    assert words in found[1]


def test_compressed_bodies_are_refused(port: int) -> None:
    found = error_of(ask(port, "POST", "/classify", RED, {"content-encoding": "gzip"}))
    assert found == (415, "content-encoding gzip: bodies are taken as they are, uncompressed")


@pytest.fixture(scope="module")
def strict(model: Path) -> Iterator[int]:
    limits = Limits(body_mb=0.1, images=2, megapixels=0.002, seconds=0.5)
    with running(make_service(model, limits=limits).app()) as found:
        yield found


def test_limits_of_bytes_images_and_pixels(strict: int) -> None:
    # Of several megabytes the client sends all, and still reads why.
    for size in (100_001, 8_000_000):
        assert error_of(ask(strict, "POST", "/classify", bytes(size))) == (413, "the body is larger than 100,000 bytes")
        assert error_of(ask(strict, "POST", "/v2/models/colours/infer", bytes(size)))[0] == 413
    body, headers = form([("a", RED)] * 3)
    assert error_of(ask(strict, "POST", "/classify", body, headers)) == (413, "more than 2 images")
    assert ask(strict, "POST", "/classify", RED)[0] == 200
    large = jpeg((200, 40, 40), size=(50, 50))
    assert error_of(ask(strict, "POST", "/classify", large)) == (413, "50 x 50 pixels: at most 2,000 are decoded")
    values = {"name": "image", "datatype": "UINT8", "shape": [3, 1, 1, 3], "data": [0] * 9}
    assert error_of(ask(strict, "POST", "/v2/models/colours/infer", json.dumps({"inputs": [values]}).encode())) == (
        413, "3 images: a request may have 2",
    )  # fmt: skip


def test_a_body_in_chunks_is_limited_as_one_whose_length_is_known(strict: int) -> None:
    with socket.create_connection(("127.0.0.1", strict), timeout=10) as opened:
        opened.sendall(b"POST /classify HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(3):
            opened.sendall(b"c350\r\n" + bytes(50_000) + b"\r\n")
        assert opened.recv(1000).startswith(b"HTTP/1.1 413")


def test_a_slow_body_is_answered_and_holds_up_nobody(strict: int) -> None:
    with socket.create_connection(("127.0.0.1", strict), timeout=10) as slow:
        slow.sendall(b"POST /classify HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nabc")
        assert ask(strict, "POST", "/classify", RED)[0] == 200
        began = time.monotonic()
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - began < 5
    metrics = ask(strict, "GET", "/metrics")[2].decode()
    assert "classifier_body_bytes 0.0" in metrics
    assert 'classifier_requests_total{code="408",endpoint="classify"} 1.0' in metrics


def test_a_client_that_waits_for_a_word_before_it_sends_gets_it_or_a_refusal(strict: int) -> None:
    for length, expected in ((len(RED), b"HTTP/1.1 100"), (10**9, b"HTTP/1.1 413")):
        with socket.create_connection(("127.0.0.1", strict), timeout=10) as opened:
            head = f"POST /classify HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\nexpect: 100-continue\r\n\r\n"
            opened.sendall(head.encode())
            assert opened.recv(1000).startswith(expected)


class Slow(Predictor):
    """Takes its time for a batch, until it is let go."""

    go = threading.Event()

    def infer(self, inputs: NDArray[np.float32]):  # type: ignore[no-untyped-def]
        self.go.wait(20)
        return super().infer(inputs)


def test_a_full_queue_is_answered_with_429_and_when_to_come_again(model: Path) -> None:
    Slow.go.set()
    service = make_service(model, limits=Limits(queue=4))
    service.arms.engines[PRODUCTION] = Engine(Slow(model), run="slow")
    statuses: list[tuple[int, dict[str, str]]] = []
    with running(service.app()) as port:
        Slow.go.clear()

        def send() -> None:
            status, headers, _ = ask(port, "POST", "/classify", RED)
            statuses.append((status, headers))

        clients = [threading.Thread(target=send) for _ in range(12)]
        for client in clients:
            client.start()
        for _ in range(200):
            if len(statuses) == 8:
                break
            time.sleep(0.02)
        # What is refused is refused at once, while the others wait.
        assert [status for status, _ in statuses] == [429] * 8
        assert all(int(headers["retry-after"]) >= 1 for _, headers in statuses)
        assert ask(port, "GET", "/v2/health/live")[0] == 200
        assert "classifier_queue_images 4.0" in ask(port, "GET", "/metrics")[2].decode()
        Slow.go.set()
        for client in clients:
            client.join()
    assert sorted(status for status, _ in statuses) == [200] * 4 + [429] * 8


def test_bodies_that_are_held_are_limited_together(model: Path) -> None:
    with running(make_service(model, limits=Limits(memory_mb=0.05)).app()) as port:
        assert error_of(ask(port, "POST", "/classify", bytes(60_000))) == (
            429, "too many requests are being received; try again in 1 s",
        )  # fmt: skip
        assert ask(port, "POST", "/classify", RED)[0] == 200


class Seen:
    """Keeps what it sees."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, str, Answer]] = []
        self.is_closed = False

    def seen(self, request_id: str, arm: str, answer: Answer) -> None:
        self.answers.append((request_id, arm, answer))

    def close(self) -> None:
        self.is_closed = True


class TwoArms:
    """A shadow beside the run that answers."""

    def __init__(self, production: Engine, shadow: Engine) -> None:
        self.engines = {PRODUCTION: production, "shadow": shadow}

    def choose(self, request_id: str) -> str:
        return PRODUCTION

    def shadows(self, request_id: str) -> tuple[str, ...]:
        return ("shadow",)


def test_observers_see_finished_answers_of_all_arms(model: Path, tmp_path: Path) -> None:
    from tests.served import write_model

    seen = Seen()
    service = make_service(model, observers=[seen])
    other = Engine(Predictor(write_model(tmp_path / "other.onnx", seed=3)), run="colours:v2")
    service.arms = TwoArms(service.arms.engines[PRODUCTION], other)
    service.metrics.opened("shadow", other)
    tensor = {"name": "input", "datatype": "FP32", "shape": [2, 3, 32, 32], "data": [0.5] * 6144}
    with running(service.app()) as port:
        body, headers = form([("a.jpg", RED), ("b.jpg", b"no"), ("c.jpg", BLUE)])
        _, _, text = ask(port, "POST", "/classify", body, {**headers, "x-request-id": "first"})
        ask(port, "POST", "/v2/models/colours/infer", json.dumps({"inputs": [tensor]}).encode())
        rows = json.loads(text)
    assert seen.is_closed
    first = [(arm, answer) for request_id, arm, answer in seen.answers if request_id == "first"]
    production = [answer for arm, answer in first if arm == PRODUCTION]
    shadow = [answer for arm, answer in first if arm == "shadow"]
    assert [answer.place for answer in production] == [answer.place for answer in shadow] == [0, 2]
    assert [answer.prediction.label for answer in production] == [rows[0]["label"], rows[2]["label"]]
    for one, other_one in zip(production, shadow, strict=True):
        assert one.size == (40, 30)
        assert one.pixels is not None
        assert one.pixels.shape == (32, 32, 3)
        assert one.confidence == one.probabilities.max()
        assert one.novelty is not None
        assert one.rejected is False
        assert not np.array_equal(one.probabilities, other_one.probabilities)
    rest = [(arm, answer.place, answer.pixels) for request_id, arm, answer in seen.answers if request_id != "first"]
    assert sorted(rest) == [(PRODUCTION, 0, None), (PRODUCTION, 1, None), ("shadow", 0, None), ("shadow", 1, None)]
    metrics = service.metrics.text("")[0].decode()
    for arm in (PRODUCTION, "shadow"):
        assert f'classifier_confidence_count{{arm="{arm}"}} 4.0' in metrics
    assert "classifier_unreadable_images_total 2.0" in metrics


class Broken(Seen):
    """Fails, and must not disturb anybody."""

    def seen(self, request_id: str, arm: str, answer: Answer) -> None:
        raise RuntimeError("disk full")


def test_an_observer_that_fails_is_counted_and_the_others_see_all(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen()
    service = make_service(model, observers=[Broken(), seen])
    with running(service.app()) as port:
        for _ in range(3):
            assert ask(port, "POST", "/classify", RED)[0] == 200
    assert len(seen.answers) == 3
    assert "classifier_observer_errors_total 3.0" in service.metrics.text("")[0].decode()
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
        "Broken failed; from now on that is counted alone"
    ]


class Failing(Predictor):
    """Breaks down after the warm-up."""

    broken = False

    def infer(self, inputs: NDArray[np.float32]):  # type: ignore[no-untyped-def]
        if self.broken:
            raise RuntimeError("the accelerator has gone")
        return super().infer(inputs)


def test_an_error_of_the_server_is_500_with_an_id_and_in_the_log(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    service = make_service(model)
    predictor = Failing(model)
    service.arms.engines[PRODUCTION] = Engine(predictor, run="failing")
    predictor.broken = True
    with running(service.app()) as port:
        status, headers, text = ask(port, "POST", "/classify", RED, {"x-request-id": "abc"})
        assert (status, headers["x-request-id"]) == (500, "abc")
        assert json.loads(text) == {"error": "an error of the server; its log has it, with the request id"}
        predictor.broken = False
        assert ask(port, "POST", "/classify", RED)[0] == 200
    assert any("abc" in record.getMessage() and record.exc_info for record in caplog.records)


def test_what_is_counted_and_logged(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "classifier_training.access")
    service = make_service(model)
    engine = service.arms.engines[PRODUCTION]
    engine.rows = RowSettings(top_k=1, unknown=True, rule=RejectRule(threshold=0.999, novelty_threshold=0.0))
    with running(service.app()) as port:
        status, headers, text = ask(port, "POST", "/classify", RED, {"x-request-id": "my id\twith spaces"})
        ask(port, "GET", "/v2/health/ready")
        metrics = ask(port, "GET", "/metrics")[2].decode()
        open_metrics = ask(port, "GET", "/metrics", None, {"accept": "application/openmetrics-text"})
    row = json.loads(text)
    assert (row["label"], row["rejected"], row["reject_reason"]) == ("unknown", True, "unlike_training")
    assert [share["label"] for share in row["top_k"]] == ["red"]
    for line in (
        'classifier_predictions_total{arm="production",label="red"} 1.0',
        'classifier_predictions_total{arm="production",label="blue"} 0.0',
        'classifier_rejected_total{arm="production",reason="unlike_training"} 1.0',
        'classifier_confidence_count{arm="production"} 1.0',
        'classifier_novelty_ratio_count{arm="production"} 1.0',
        'classifier_request_seconds_count{arm="production",endpoint="classify"} 1.0',
        'classifier_requests_total{code="200",endpoint="classify"} 1.0',
        "classifier_queue_images 0.0",
    ):
        assert line in metrics
    assert 'classifier_model_info{arm="production",run="colours:v1",sha256="' in metrics
    assert open_metrics[1]["content-type"].startswith("application/openmetrics-text")
    # Health and metrics are asked all the time, and are not in the log.
    (record,) = [record for record in caplog.records if record.name == "classifier_training.access"]
    fields = record.fields  # type: ignore[attr-defined]
    assert len(fields["request_id"]) == 32
    assert headers["x-request-id"] == fields["request_id"]
    assert (fields["status"], fields["labels"], fields["arm"], fields["images"]) == (200, ["unknown"], PRODUCTION, 1)
    assert status == 200


def test_the_pages_and_the_description_of_the_endpoints(port: int) -> None:
    for path, words in (("/", "Drop images here"), ("/docs", "POST /classify")):
        status, headers, text = ask(port, "GET", path)
        assert (status, words in text.decode()) == (200, True)
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "http://" not in text.decode().replace(f"http://127.0.0.1:{port}/classify", "")
        assert "https://" not in text.decode()
    for name in ("serve.js", "serve.css", "report.css"):
        assert ask(port, "GET", f"/static/{name}")[0] == 200
    for name in ("app.py", "..%2Fapp.py", "nothing.css"):
        assert ask(port, "GET", f"/static/{name}")[0] == 404
    document = json.loads(ask(port, "GET", "/openapi.json")[2])
    assert document["openapi"] == "3.1.0"
    # Every endpoint is described, and each that is described is there.
    for path, methods in document["paths"].items():
        for method in methods:
            assert ask(port, method.upper(), path, b"")[0] in (200, 400), path
    row = json.loads(ask(port, "POST", "/classify", RED)[2])
    assert set(row) <= set(document["components"]["schemas"]["Row"]["properties"])


def test_a_hundred_images_of_many_clients_are_answered_as_one_by_one(port: int, model: Path) -> None:
    images = [jpeg((20 * (seed % 10), 90, 200 - 9 * seed % 150), seed=seed) for seed in range(96)]
    expected = [one.confidence for one in Predictor(model)(list(images))]
    found: dict[int, float] = {}

    def send(first: int) -> None:
        for place in range(first, len(images), 16):
            found[place] = json.loads(ask(port, "POST", "/classify", images[place])[2])["confidence"]

    clients = [threading.Thread(target=send, args=(first,)) for first in range(16)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert [found[place] for place in range(len(images))] == pytest.approx(expected, abs=1e-6)
