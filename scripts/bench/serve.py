"""Throughput and latency of `serve` beside ONNX Runtime in one process on the same cores.

    python scripts/bench/serve.py run=outputs/2026-01-01/10-00-00 images=/my/photos

It prints two tables: images per second at batch 8, of tensors by the Open Inference Protocol and of JPEGs at /classify,
over what a plain loop over ONNX Runtime reaches; and the latency at half of the load that the server can take, with
requests at even and at random times, over that of a request alone. Rounds of both sides alternate. The clients are
threads of this process, on the same cores; a request counts from when it was due, so that a late one is not left out.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count, cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.runtime import num_cores
from classifier_training.export.session import open_session
from classifier_training.inference.decoding import read_pixels
from classifier_training.inference.predictor import Predictor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BATCH = 8


class Connection:
    """A connection that is kept, over which whole requests go."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> bytes:
        """Send a request, and return the body of its response.

        Raises:
            RuntimeError: when the status is not 200.
        """
        self._socket.sendall(request)
        found = b""
        while b"\r\n\r\n" not in found:
            found += self._socket.recv(2**16)
        head, _, body = found.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
        (length,) = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        while len(body) < length:
            body += self._socket.recv(2**16)
        return body


def post(path: str, body: bytes, headers: str = "") -> bytes:
    """Return the bytes of a request."""
    return f"POST {path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {len(body)}\r\n\r\n".encode() + body


@contextmanager
def server(run: str, *settings: str) -> Iterator[int]:
    """Serve a run; gives the port."""
    words = [
        sys.executable,
        "-m",
        "classifier_training",
        "serve",
        f"run={run}",
        "port=0",
        f"max_batch={BATCH}",
        *settings,
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = int(json.loads(process.stdout.readline())["address"].rpartition(":")[2])
        drain = threading.Thread(target=process.stdout.read, daemon=True)
        drain.start()
        try:
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def rate(step: Callable[[], int], *, seconds: float) -> float:
    """Call a function again and again; returns the images per second, of which it says how many it did."""
    done, began = 0, time.perf_counter()
    while (now := time.perf_counter()) - began < seconds:
        done += step()
    return done / (now - began)


def load(port: int, requests: list[bytes], *, clients: int, images: int, seconds: float) -> float:
    """Ask as fast as the answers come, by several clients; returns images per second."""
    done, end = [0] * clients, time.perf_counter() + seconds

    def work(client: int) -> None:
        connection = Connection(port)
        for request in cycle(requests[client:] + requests[:client]):
            if time.perf_counter() > end:
                return
            connection.ask(request)
            done[client] += images

    threads = [threading.Thread(target=work, args=(client,)) for client in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - began)


def latencies(port: int, requests: list[bytes], due: list[float], *, clients: int) -> list[float]:
    """Send requests when they are due, in seconds from now; returns the seconds of each from then on."""
    numbers, lock, found = count(), threading.Lock(), [0.0] * len(due)
    began = time.perf_counter() + 0.1

    def work() -> None:
        connection = Connection(port)
        while True:
            with lock:
                number = next(numbers)
            if number >= len(due):
                return
            time.sleep(max(0.0, began + due[number] - time.perf_counter()))
            connection.ask(requests[number % len(requests)])
            found[number] = time.perf_counter() - began - due[number]

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("words", nargs="*", help="run=FOLDER images=FOLDER seconds=5 rounds=3 and settings of serve")
    given = dict(word.split("=", 1) for word in parser.parse_args().words)
    run, folder = given.pop("run"), Path(given.pop("images"))
    seconds, rounds = float(given.pop("seconds", 5)), int(given.pop("rounds", 3))
    files = [path.read_bytes() for path in islice(sorted(folder.rglob("*.jpg")), 256)]
    predictor = Predictor(run)
    session, size = open_session(predictor.model_path), predictor.preprocessing.size
    tensor = np.random.default_rng(0).normal(size=(BATCH, 3, *size)).astype(np.float32)
    head = json.dumps(
        {
            "inputs": [
                {"name": "input", "datatype": "FP32", "shape": list(tensor.shape),
                 "parameters": {"binary_data_size": tensor.nbytes}}
            ],
            "outputs": [{"name": "logits", "parameters": {"binary_data": True}}],
        }
    ).encode()  # fmt: skip
    infer = [
        post(
            "/v2/models/classifier/infer", head + tensor.tobytes(), f"inference-header-content-length: {len(head)}\r\n"
        )
    ]
    classify = [post("/classify", content, "content-type: image/jpeg\r\n") for content in files]
    pool, each = ThreadPoolExecutor(num_cores()), cycle(files)

    def run_tensor() -> int:
        session.run(["logits"], {"input": tensor})
        return BATCH

    def decode_and_run() -> int:
        pixels = np.stack(
            list(pool.map(lambda file: read_pixels("", predictor.preprocessing, file), islice(each, BATCH)))
        )
        session.run(["logits"], {"input": predictor.preprocessing.normalize(pixels)})
        return BATCH

    print(f"{predictor.model_path}, {size[0]} px, {num_cores()} cores; {len(files)} JPEGs, "
          f"{statistics.mean(map(len, files)) / 1000:.0f} KB on average")  # fmt: skip
    with server(run, *(f"{key}={value}" for key, value in given.items())) as port:
        sides = {
            "tensors": (run_tensor, lambda: load(port, infer, clients=4, images=BATCH, seconds=seconds)),
            "JPEGs": (decode_and_run, lambda: load(port, classify, clients=32, images=1, seconds=seconds)),
        }
        print(f"\n{'images/s':10}{'ONNX Runtime':>14}{'serve':>10}{'ratio':>8}   and of each round")
        most = 0.0
        for name, (alone, served) in sides.items():
            alone(), rate(alone, seconds=1), served()
            pairs = [(rate(alone, seconds=seconds), served()) for _ in range(rounds)]
            raw, most = (statistics.median(side) for side in zip(*pairs, strict=True))
            ratios = " ".join(f"{two / one:.2f}" for one, two in pairs)
            print(f"{name:10}{raw:14.1f}{most:10.1f}{most / raw:8.2f}   {ratios}")
        one = Connection(port)
        singles = []
        for request in islice(cycle(classify), 200):
            began = time.perf_counter()
            one.ask(request)
            singles.append(time.perf_counter() - began)
        single = statistics.median(singles)
        wanted = most / 2
        number = max(200, int(wanted * 20))
        print(f"\none JPEG alone: median {1000 * single:.1f} ms, p99 {1000 * np.quantile(singles, 0.99):.1f} ms")
        print(f"{'half load':10}{'requests/s':>12}{'n':>7}{'median ms':>11}{'p99 ms':>9}{'p99 / alone':>13}")
        draw = np.random.default_rng(0)
        even = [place / wanted for place in range(number)]
        randomly = np.cumsum(draw.exponential(1 / wanted, number)).tolist()
        for name, due in (("even", even), ("random", randomly)):
            found = latencies(port, classify, due, clients=32)
            p99 = float(np.quantile(found, 0.99))
            columns = f"{1000 * statistics.median(found):11.1f}{1000 * p99:9.1f}{p99 / single:13.2f}"
            print(f"{name:10}{wanted:12.1f}{number:7}{columns}")


if __name__ == "__main__":
    main()
