"""The web server: clients that do not go on, signals, and its socket."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest
from starlette.responses import Response
from tests.served import ask, running

from classifier_training.core.errors import UserError
from classifier_training.service import server
from classifier_training.service.server import Ending, listen, make_server

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    size = int(scope["path"].strip("/") or 1)
    await Response(bytes(size))(scope, receive, send)


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: "])
@pytest.mark.parametrize("is_second", [False, True])
def test_a_head_that_does_not_come_to_its_end_ends_the_connection(
    sent: bytes, monkeypatch: pytest.MonkeyPatch, *, is_second: bool
) -> None:
    if is_second:
        sent = sent or b"G"  # without a byte it is a connection that is kept for later
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.3)
    with running(app) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
        if is_second:
            slow.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert slow.recv(1000)
        slow.sendall(sent)
        began = time.monotonic()
        try:
            while slow.recv(1000):
                pass
        except ConnectionResetError:
            pass
        assert time.monotonic() - began < 5
        assert ask(port, "GET", "/")[0] == 200


def _answer(port: int, *parts: bytes) -> bytes:
    """Send bytes, and return what comes until the server closes the connection."""
    found = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for part in parts:
                client.sendall(part)
                time.sleep(0.01)
            while part := client.recv(2**16):
                found += part
        except (ConnectionResetError, BrokenPipeError):
            pass
    return found


LONG = b"x" * 40_000
POST = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "parts",
    [
        [b"GET / HTTP/1.1\r\nhost: x\r\nlong: ", *[LONG] * 20],
        [b"GET /", *[LONG] * 20],
        [b"GET / HTTP/1.1\r\n", *[b"a: b\r\n" * 5000] * 20],
        [b"\r\n" * 20_000] * 20,
        [POST, b"1\r\nx\r\n0\r\n", *[b"a: b\r\n" * 5000] * 20],
        [POST, b"1;", *[LONG] * 20],
    ],
    ids=["value", "address", "headers", "lines", "after the body", "of a chunk"],
)
def test_a_head_without_end_is_cut_off(parts: list[bytes]) -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        while scope["type"] == "http" and (await receive()).get("more_body"):
            pass
        await app(scope, receive, send)

    with running(slow) as port:
        assert b" 200 " not in _answer(port, *parts)
        assert ask(port, "GET", "/")[0] == 200


def test_many_requests_at_once_and_bodies_in_small_chunks_are_answered() -> None:
    with running(app) as port:
        requests, last = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 5000, b"GET / HTTP/1.0\r\n\r\n"
        assert _answer(port, requests[:100_001], requests[100_001:], last).count(b" 200 ") == 5001
        assert _answer(port, POST, *[b"8\r\n12345678\r\n" * 5000] * 10, b"0\r\n\r\n", last).count(b" 200 ") == 2


def test_who_takes_no_response_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.3)
    with running(app) as port, socket.socket() as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.settimeout(20)
        stuck.connect(("127.0.0.1", port))
        stuck.sendall(b"GET /50000000 HTTP/1.1\r\nhost: x\r\n\r\n")
        time.sleep(1)
        assert ask(port, "GET", "/")[0] == 200
        taken = 0
        try:
            while part := stuck.recv(2**20):
                taken += len(part)
        except ConnectionResetError:
            pass
        assert taken < 50_000_000


def test_a_slow_reader_who_goes_on_gets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 1)
    with running(app) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
        slow.sendall(b"GET /8000000 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        taken = 0
        while part := slow.recv(2**16):
            taken += len(part)
            time.sleep(0.01)
        assert taken > 8_000_000


def test_a_signal_is_acted_on_by_the_loop_and_not_where_it_interrupts() -> None:
    said: list[str] = []

    async def main() -> None:
        made = make_server(app, started=lambda: None, ending=Ending(said.append, drain_s=0.05, grace_s=1))
        made.handle_exit(signal.SIGTERM, None)
        # Whoever was interrupted may hold a lock that the log needs.
        assert said == []
        await asyncio.sleep(0.01)
        assert said == ["SIGTERM"]
        assert not made.should_exit
        await asyncio.sleep(0.1)
        assert made.should_exit

    asyncio.run(main())


def test_a_socket_that_cannot_be_opened() -> None:
    with listen(0) as taken, pytest.raises(UserError, match=r"port=.*in use"):
        listen(taken.getsockname()[1])
    with pytest.raises(UserError, match=r"host=192\.0\.2\.1 port=0: Cannot assign"):
        listen(0, host="192.0.2.1")
    with listen(0, host="::1") as opened:
        assert opened.family == socket.AF_INET6
    with listen(0, host="0.0.0.0") as opened:
        assert opened.getsockname()[0] == "0.0.0.0"


def test_responses_do_not_wait_for_more_to_send() -> None:
    found: list[int] = []

    class Accepted(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted = transport.get_extra_info("socket")
            found.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            transport.close()

    async def connect() -> None:
        opened = listen(0)
        serving = await asyncio.get_running_loop().create_server(Accepted, sock=opened)
        reader, writer = await asyncio.open_connection(*opened.getsockname())
        await reader.read()
        writer.close()
        serving.close()

    asyncio.run(connect())
    assert found == [1]
