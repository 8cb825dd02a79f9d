"""Who may ask the local pages for what.

The server listens on this machine alone, which keeps out neither its other users nor web pages that a browser on it has
open. So each request needs the token of the address that was printed, or the cookie that it was exchanged for; the name
in `Host` must be this machine's, against DNS rebinding; and whatever changes something needs a page of this server as
its origin and the page's own token, against cross-site request forgery.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from classifier_training.service.server import HEADERS

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL_NAMES = frozenset({"127.0.0.1", "localhost"})
"""Names of this machine that `Host` may hold."""

CSRF_HEADER = "x-csrf-token"

READING, WRITING = ("GET", "HEAD"), "POST"

ENTRANCE = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><link rel="icon" href="data:,">'
    "<title>classifier-training</title>"
    '<meta http-equiv="refresh" content="0;url=/"></head><body><p><a href="/">Continue</a></p></body></html>'
)
"""The answer to the address with the token. A redirect from a link in another page would be without the new cookie,
which is for requests from this site alone; the step from this page to the next is one."""


class Guard:
    """ASGI middleware that refuses what is not allowed, and gives every response its headers.

    Args:
        app: that it stands before.
        token: of the printed address.
        csrf: that pages send with a POST.
    """

    def __init__(self, app: ASGIApp, *, token: str, csrf: str) -> None:
        self.app = app
        self.token = token
        self.csrf = csrf

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with what is wrong with it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in (*HEADERS.items(), ("cache-control", "no-store")):
                    headers.setdefault(name, value)
            await send(message)

        refused = self._refused(scope)
        await (refused or self.app)(scope, receive, send_guarded)

    def _refused(self, scope: Scope) -> Response | None:
        """The response to a request that goes no further; None for one that does."""
        if scope["type"] != "http":
            return PlainTextResponse("no WebSocket here\n", 400)
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if _name_of(host) not in LOCAL_NAMES:
            return PlainTextResponse("this server is for requests to 127.0.0.1\n", 421)
        if scope["method"] not in (*READING, WRITING):
            return PlainTextResponse("GET, HEAD and POST\n", 405, {"allow": ", ".join((*READING, WRITING))})
        cookie = f"classifier_training_{host.rpartition(':')[2]}"
        if not _same(cookie_parser(headers.get("cookie", "")).get(cookie, ""), self.token):
            given = QueryParams(scope["query_string"]).get("token", "")
            if scope["method"] not in READING or not _same(given, self.token):
                return PlainTextResponse("open the address that the command printed, with its token\n", 403)
        if "token" in QueryParams(scope["query_string"]) and scope["method"] in READING:
            response = HTMLResponse(ENTRANCE)
            # Cookies are shared by the ports of a machine, so each server's has a name of its own.
            response.set_cookie(cookie, self.token, path="/", httponly=True, samesite="strict")
            return response
        if scope["method"] == WRITING:
            return self._refused_write(headers, host)
        return None

    def _refused_write(self, headers: Headers, host: str) -> Response | None:
        same_site = headers.get("sec-fetch-site", "same-origin") == "same-origin"
        if headers.get("origin") != f"http://{host}" or not same_site:
            return PlainTextResponse("a change must come from a page of this server\n", 403)
        if not _same(headers.get(CSRF_HEADER, ""), self.csrf):
            return PlainTextResponse("the page is of an earlier server: load it again\n", 403)
        if headers.get("content-type", "").partition(";")[0] != "application/json":
            return PlainTextResponse("JSON is expected\n", 415)
        return None


def _name_of(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _same(given: str, expected: str) -> bool:
    return secrets.compare_digest(given.encode(), expected.encode())
