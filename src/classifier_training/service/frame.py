"""What every request has around it: its id, a line of the log, metrics, headers, and an end for whatever happens."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from classifier_training.service.server import HEADERS

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from classifier_training.service.metrics import Metrics

log = logging.getLogger(__name__)
access = logging.getLogger("classifier_training.access")

REQUEST_ID = "x-request-id"
GOOD_ID = re.compile(r"[\x21-\x7e]{1,128}")

QUIET = ("health", "metrics")
"""Endpoints that are asked all the time, and logged when they fail."""

GONE = 499
"""Status of a request whose client has gone, in logs and metrics; nginx's."""

LINGER_SECONDS, LINGER_BYTES = 2.0, 2**26
"""How long, and how much of, the body of a refused request is still taken: a client that sends does not read, and would
see a broken connection in place of the response."""

LABELS = 8
"""Labels that a line of the log has at most."""


@dataclass
class Facts:
    """What is known of a request; handlers fill it in.

    Args:
        request_id: the client's, or a new one.
        endpoint: for logs and metrics.
        arm: that answered.
        labels: that were returned.
        num_images: that were answered.
        error: what the client was told.
    """

    request_id: str
    endpoint: str = "other"
    arm: str = ""
    labels: list[str | None] = field(default_factory=list)
    num_images: int = 0
    error: str | None = None


def facts_of(request: Request) -> Facts:
    """Return the facts of a request."""
    found: Facts = request.scope["facts"]
    return found


def error_response(request: Request, error: Exception) -> Response:
    """Return the response to a request that is refused, or that the program failed at."""
    status = getattr(error, "status_code", 500)
    words = getattr(error, "detail", "an error of the server; its log has it, with the request id")
    facts_of(request).error = words
    return JSONResponse({"error": words}, status, headers=getattr(error, "headers", None))


class Frame:
    """ASGI middleware around all others.

    Args:
        app: that answers.
        metrics: that count.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID, "")
        facts = scope["facts"] = Facts(given if GOOD_ID.fullmatch(given) else secrets.token_hex(16))
        exchange = _Exchange(receive, send, facts, is_held="expect" in headers)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            exchange.status = exchange.status or GONE
        except Exception:  # the response is on its way: error_response has made one
            log.exception("request %s: %s %s", facts.request_id, scope["method"], scope["path"])
            if exchange.status is None:
                raise
        finally:
            self._count(scope, facts, exchange.status or GONE, time.perf_counter() - started)

    def _count(self, scope: Scope, facts: Facts, status: int, seconds: float) -> None:
        self.metrics.seconds.labels(facts.endpoint, facts.arm).observe(seconds)
        self.metrics.requests.labels(facts.endpoint, str(status)).inc()
        if facts.endpoint in QUIET and status < 400:
            return
        fields = {
            "request_id": facts.request_id,
            "method": scope["method"],
            "path": scope["path"][:256],
            "status": status,
            "ms": round(seconds * 1000, 3),
            "arm": facts.arm or None,
            "images": facts.num_images or None,
            "labels": facts.labels[:LABELS] or None,
            "error": facts.error,
        }
        access.info("request", extra={"fields": {name: value for name, value in fields.items() if value is not None}})


class _Exchange:
    """One request and its response, with what is to be known of both."""

    def __init__(self, receive: Receive, send: Send, facts: Facts, *, is_held: bool) -> None:
        self._receive, self._send, self._facts = receive, send, facts
        self._is_whole, self._is_held = False, is_held
        self.status: int | None = None

    async def receive(self) -> Message:
        """Receive a part of the body."""
        message = await self._receive()
        self._is_held = False
        self._is_whole = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the response."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers[REQUEST_ID] = self._facts.request_id
            for name, value in (*HEADERS.items(), ("cache-control", "no-store")):
                headers.setdefault(name, value)
        elif not message.get("more_body", False) and not self._is_whole and (self.status or 0) >= 400:
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _linger(self) -> None:
        """Take what the client still sends, for a while."""
        if self._is_held:
            return  # it waits for a word before it sends the body, and the response is that word
        left = LINGER_BYTES
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while left > 0 and not self._is_whole:
                    left -= len((await self.receive()).get("body", b""))
        except TimeoutError:
            pass
