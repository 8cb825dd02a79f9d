"""Hostile requests against a server of `serve`: it must answer each with a status of 4xx, and not grow.

    python scripts/bench/serve_hostile.py run=outputs/2026-01-01/10-00-00 number=10000

Sixty-four clients send mutated and truncated images of eight formats, images that say they are huge, shapes and JSON
that are wrong, multipart bodies that are broken, bodies shorter and longer than they say, heads that are no HTTP, and
bodies that stop. A mutated image may still be one, and is then answered with 200. The table counts the answers of each
kind; then come crashes, responses of 5xx, and the server's memory after a quarter of the requests and after all.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
HEAD = "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
Draw = np.random.Generator


def image(draw: Draw) -> bytes:
    """Return a small image of one of the formats."""
    file = io.BytesIO()
    pixels = draw.integers(0, 256, (int(draw.integers(1, 64)), int(draw.integers(1, 64)), 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file, str(draw.choice(FORMATS)))
    return file.getvalue()


def mutated(content: bytes, draw: Draw) -> bytes:
    """Change, remove or repeat some bytes."""
    found = bytearray(content)
    for _ in range(int(draw.integers(1, 12))):
        place = int(draw.integers(0, max(1, len(found))))
        kind = draw.integers(0, 4)
        if kind == 0 and found:
            found[place % len(found)] = int(draw.integers(0, 256))
        elif kind == 1:
            del found[place : place + int(draw.integers(1, 32))]
        elif kind == 2:
            found[place:place] = found[place : place + int(draw.integers(1, 32))]
        else:
            found[place:place] = draw.bytes(int(draw.integers(1, 8)))
    return bytes(found)


def post(path: str, body: bytes, headers: str = "") -> bytes:
    """Return the bytes of a request."""
    return f"{HEAD.format(method='POST', path=path)}{headers}content-length: {len(body)}\r\n\r\n".encode() + body


def mutated_image(draw: Draw) -> bytes:
    """An image of which some bytes are others."""
    return post("/classify", mutated(image(draw), draw), "content-type: image/jpeg\r\n")


def truncated_image(draw: Draw) -> bytes:
    """The beginning of an image."""
    whole = image(draw)
    return post("/classify", whole[: int(draw.integers(0, len(whole)))])


def bomb(draw: Draw) -> bytes:
    """A PNG of very many pixels, in few bytes or in as many as a small photo has."""
    width, height = (int(draw.integers(7_000, 100_000)) for _ in range(2))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(10**7)) if draw.integers(0, 2) else draw.bytes(700_000)
    chunks = [(b"IHDR", head), (b"IDAT", data), (b"IEND", b"")]
    return post(
        "/classify",
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))
            for kind, part in chunks
        ),
    )


def wrong_shape(draw: Draw) -> bytes:
    """A tensor whose shape, type or number of values is wrong."""
    shape = draw.choice([-1, 0, 1, 3, 31, 32, 2**31, 2**62], int(draw.integers(0, 7))).tolist()
    values = {
        "name": str(draw.choice(["input", "image", "x"])),
        "datatype": str(draw.choice(["FP32", "UINT8", "BYTES", "FP64", ""])),
        "shape": shape,
        "data": [[0.5], ["a", None, {}], [], [[1], [1, 2]], [1e308] * 3, "text"][int(draw.integers(0, 6))],
    }
    if draw.integers(0, 2):
        values["parameters"] = {"binary_data_size": int(draw.integers(-5, 2**40))}
    return post("/v2/models/classifier/infer", json.dumps({"inputs": [values]}).encode())


def mutated_json(draw: Draw) -> bytes:
    """A request of the protocol of which some bytes are others."""
    values = {"name": "image", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [7] * 12}
    body = mutated(json.dumps({"id": "1", "inputs": [values]}).encode(), draw)
    length = f"inference-header-content-length: {draw.integers(-2, 200)}\r\n" if draw.integers(0, 2) else ""
    return post("/v2/models/classifier/infer", body, length)


def deep_json(draw: Draw) -> bytes:
    """JSON in very many brackets."""
    return post("/v2/models/classifier/infer", (b"[" if draw.integers(0, 2) else b'{"a":') * 50_000)


def broken_form(draw: Draw) -> bytes:
    """A multipart body of which some bytes are others."""
    body = b'--b\r\ncontent-disposition: form-data; name="f"; filename="a.jpg"\r\n\r\n' + image(draw) + b"\r\n--b--\r\n"
    return post("/classify", mutated(body, draw), "content-type: multipart/form-data; boundary=b\r\n")


def many_parts(draw: Draw) -> bytes:
    """A multipart body with thousands of files, or of line breaks alone."""
    part = b'--b\r\ncontent-disposition: form-data; name="f"; filename=""\r\n\r\n\r\n'
    body = part * 5_000 + b"--b--\r\n" if draw.integers(0, 2) else b"--b" + b"\r\n" * 200_000
    return post("/classify", body, "content-type: multipart/form-data; boundary=b\r\n")


def no_http(draw: Draw) -> bytes:
    """Bytes that are no request, or the head of one with some bytes changed."""
    if draw.integers(0, 2):
        return draw.bytes(int(draw.integers(1, 400))) + b"\r\n\r\n"
    return mutated(HEAD.format(method="GET", path="/v2").encode(), draw) + b"\r\n\r\n"


def lying_length(draw: Draw) -> bytes:
    """A body that is larger than any may be, or chunks that are none."""
    if draw.integers(0, 2):
        return f"{HEAD.format(method='POST', path='/classify')}content-length: {10**12}\r\n\r\n".encode() + bytes(1000)
    return f"{HEAD.format(method='POST', path='/classify')}transfer-encoding: chunked\r\n\r\n".encode() + b"zz\r\nabc"


def wrong_address(draw: Draw) -> bytes:
    """An address, a method or a type that is not there."""
    paths = ["/v2/models/%00/infer", "/../../etc/passwd", "/static/..%2f..%2fapp.py", "/classify?" + "a" * 8_000]
    paths += ["/v2/models/classifier/versions/9", "/" + "%ff" * 500]
    method = str(draw.choice(["GET", "PUT", "DELETE", "OPTIONS", "TRACE"]))
    return HEAD.format(method=method, path=str(draw.choice(paths))).encode() + b"\r\n"


def stopped_body(draw: Draw) -> bytes:
    """A body that ends before it should; the client waits."""
    return f"{HEAD.format(method='POST', path='/classify')}content-length: 5000\r\n\r\n".encode() + draw.bytes(99)


KINDS: tuple[Callable[[Draw], bytes], ...] = (
    mutated_image, truncated_image, bomb, wrong_shape, mutated_json, deep_json, broken_form, many_parts, no_http,
    lying_length, wrong_address,
)  # fmt: skip

SLOW_SHARE = 0.02
"""Of the requests, whose bodies stop; each takes as long as limits.seconds."""


def attack(
    port: int, *, number: int, clients: int = 64, seed: int = 0, each: Callable[[int], None] = lambda _: None
) -> Counter[tuple[str, str]]:
    """Send hostile requests; returns how often each kind was answered with each status.

    Args:
        port: of the server.
        number: of requests.
        clients: that send them.
        seed: of what they are.
        each: called with the number of each request before it is sent.
    """
    found: Counter[tuple[str, str]] = Counter()
    lock, numbers = threading.Lock(), iter(range(number))

    def work() -> None:
        while True:
            with lock:
                place = next(numbers, None)
            if place is None:
                return
            each(place)
            draw = np.random.default_rng([seed, place])
            kind = stopped_body if draw.random() < SLOW_SHARE else KINDS[place % len(KINDS)]
            status = send(port, kind(draw))
            with lock:
                found[kind.__name__, status] += 1

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def send(port: int, request: bytes) -> str:
    """Send bytes over a connection of their own; returns the status, or what happened instead."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as opened:
        with suppress(OSError):  # it was refused before it was sent; why is still to be read
            opened.sendall(request)
        try:
            answer = opened.recv(2**16)
        except ConnectionResetError:
            return "reset"
        except TimeoutError:
            return "silence"
        return answer[9:12].decode() if answer.startswith(b"HTTP/1.1 ") else "closed" if not answer else "no HTTP"


def resident_mb(pid: int) -> float:
    """Return the memory that a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Start a server, attack it, and print what it did."""
    parser = argparse.ArgumentParser()
    parser.add_argument("words", nargs="*", help="run=FOLDER number=10000 and settings of serve")
    given = {"limits.seconds": "2", **dict(word.split("=", 1) for word in parser.parse_args().words)}
    number = int(given.pop("number", 10_000))
    words = [sys.executable, "-m", "classifier_training", "serve", "port=0"]
    words += [f"{key}={value}" for key, value in given.items()]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = int(json.loads(process.stdout.readline())["address"].rpartition(":")[2])
        threading.Thread(target=process.stdout.read, daemon=True).start()
        memory: dict[int, float] = {}

        def each(place: int) -> None:
            if place % (number // 4) == 0:
                memory[place] = resident_mb(process.pid)

        began = time.monotonic()
        found = attack(port, number=number, each=each)
        memory[number] = resident_mb(process.pid)
        is_alive = process.poll() is None and send(port, b"GET /v2/health/ready HTTP/1.1\r\nhost: x\r\n\r\n") == "200"
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    for kind in dict.fromkeys(name for name, _ in found):
        answers = [f"{status}: {times}" for (name, status), times in sorted(found.items()) if name == kind]
        print(f"{kind:18}{'  '.join(answers)}")
    errors = sum(times for (_, status), times in found.items() if status[:1] not in ("2", "4"))
    seconds = time.monotonic() - began
    print(f"{found.total():,} requests in {seconds:.0f} s; neither 2xx nor 4xx: {errors}")
    print(f"alive at the end: {is_alive}; exit code {code}")
    print(
        "memory of the server, MB: " + ", ".join(f"{place:,}: {value:.0f}" for place, value in sorted(memory.items()))
    )


if __name__ == "__main__":
    main()
