"""The web server of `serve` and of the local pages: its socket, its signals, and the headers of its responses."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from classifier_training.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from starlette.types import ASGIApp

HOST = "127.0.0.1"

GRACE_SECONDS = 2
"""For responses that are being sent when the server ends."""

HEAD_SECONDS = 30
"""For the head of a request to arrive, and for a response to be taken once the client stops taking it."""

HEAD_BYTES = 65536
"""Most bytes of a request's head after the read that it began in (256 KB at most), and of what a body has between its
chunks and after them. The parser has no limit of its own."""

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""Of every response that does not say otherwise itself, as that with a report, which is a page from a file, does."""


def listen(port: int, *, host: str = HOST) -> socket.socket:
    """Return a socket that listens.

    Args:
        port: 0 for one that is free.
        host: address of this machine; 0.0.0.0 or :: for all that it has.

    Raises:
        UserError: when the port is taken or may not be used, or the address is none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise UserError(f"host={host}: {error}", "an address of this machine", "host=0.0.0.0 for all of them") from None
    # asyncio sets TCP_NODELAY only where the protocol is named; without it a response may wait 40 ms.
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind(address)
        opened.listen(1024)
    except OSError as error:
        opened.close()
        where = f"port={port}" if host == HOST else f"host={host} port={port}"
        raise UserError(
            f"{where}: {error.strerror}", "a port that is free", "port=0, and a free one is taken"
        ) from error
    return opened


class _Protocol(HttpToolsProtocol):
    """Uvicorn's, with an end for heads without end, and for clients that neither send one nor take their response."""

    _head: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None
    _left = HEAD_BYTES
    _is_new = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        self._is_new = False
        super().data_received(data)
        # Where a request began in these bytes, some of them are those of the one before.
        if not self._is_new:
            self._left -= len(data)
        if self._left < 0 and not self.transport.is_closing():
            if self._is_between():
                self.send_400_response(f"The head of the request is longer than {HEAD_BYTES} bytes.")
            else:
                self.transport.abort()
            return
        self._await_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._left, self._is_new = HEAD_BYTES, True

    def on_body(self, body: bytes) -> None:
        # Once for these bytes, and once for what lies between chunks of a few bytes.
        self._left += 2 * len(body)
        super().on_body(body)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head, self._stuck):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_taking()

    def resume_writing(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
        super().resume_writing()

    def _watch_taking(self, left: int | None = None) -> None:
        """Let go of a client that has taken nothing since there were so many bytes left."""
        now = self.transport.get_write_buffer_size()
        if now == left:
            self.transport.abort()
        else:
            self._stuck = self.loop.call_later(HEAD_SECONDS, self._watch_taking, now)

    def _await_head(self) -> None:
        """Let the time for a head begin when the first of it, or the connection, is there, and end with it."""
        is_between = self._is_between()
        if is_between and self._head is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self.transport.abort)
        elif not is_between and self._head is not None:
            self._head.cancel()
            self._head = None

    def _is_between(self) -> bool:
        """Whether no response is under way."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[], None], ending: Ending | None) -> None:
        super().__init__(config)
        self._started, self._ending, self._is_leaving = started, ending, False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._ending is None:
            super().handle_exit(sig, frame)
            return
        if self._is_leaving:
            os._exit(128 + sig)
        self._is_leaving = True
        # The signal may have interrupted who holds a lock, such as that of the log.
        asyncio.get_running_loop().call_soon_threadsafe(self._begin_to_end, self._ending, signal.Signals(sig).name)

    def _begin_to_end(self, ending: Ending, name: str) -> None:
        ending.begun(name)

        def leave() -> None:
            self.should_exit = True

        asyncio.get_running_loop().call_later(ending.drain_s, leave)


class Ending:
    """How a server ends at a signal: it goes on for a while, finishes what is under way, and the program goes on.

    A second signal ends the process at once.

    Args:
        begun: called with the name of the signal.
        drain_s: seconds for which requests are still taken.
        grace_s: seconds for what is under way after that.
    """

    def __init__(self, begun: Callable[[str], None], *, drain_s: float, grace_s: float) -> None:
        self.begun, self.drain_s, self.grace_s = begun, drain_s, grace_s


def make_server(app: ASGIApp, *, started: Callable[[], None], ending: Ending | None = None) -> uvicorn.Server:
    """Return uvicorn's server of an application; see `run_app`."""
    return _Server(
        uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            # Requests that are no HTTP are counted by nobody, and would fill a log.
            log_level="warning" if ending is None else "error",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS if ending is None else max(1, round(ending.grace_s)),
            # Longer than the minute after which proxies close a connection, so that they do it and not the server.
            timeout_keep_alive=5 if ending is None else 75,
        ),
        started,
        ending,
    )


def run_app(app: ASGIApp, opened: socket.socket, *, started: Callable[[], None], ending: Ending | None = None) -> None:
    """Answer requests until Ctrl-C or SIGTERM.

    Args:
        app: what answers them.
        opened: socket that listens.
        started: called once requests are answered.
        ending: what a signal does; when left out, it is raised again after the connections were closed, but for Ctrl-C.
    """
    try:
        make_server(app, started=started, ending=ending).run(sockets=[opened])
    except KeyboardInterrupt:
        # The way to end it; uvicorn has closed all connections by now.
        sys.stderr.write("\n")
    finally:
        opened.close()
