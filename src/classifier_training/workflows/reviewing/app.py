"""The web application of the local pages: what they have in common, and the server.

A part of the pages, such as the review or the runs, gives its routes to `create_app` and makes its responses with
`page`. Pages are rendered here; scripts are plain ES modules in `static`.
"""

from __future__ import annotations

import re
import secrets
import socket
import sys
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from classifier_training.core.errors import UserError
from classifier_training.evaluation.report import Html, escape, joined
from classifier_training.workflows.reviewing.security import Guard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from starlette.requests import Request
    from starlette.routing import BaseRoute

HOST = "127.0.0.1"

GRACE_SECONDS = 2
"""For responses that are being sent when the server ends."""

TYPES = {".css": "text/css", ".js": "text/javascript"}
"""Of static files; there are no others."""


@dataclass(frozen=True)
class Link:
    """An entry of the navigation.

    Args:
        words: that are shown.
        target: path of the page.
        inside: beginnings of paths that belong to it.
    """

    words: str
    target: str
    inside: tuple[str, ...] = ()


def create_app(*, token: str, routes: Sequence[BaseRoute], links: Sequence[Link] = ()) -> Starlette:
    """Put an application together.

    Args:
        token: that the printed address has.
        routes: of all pages.
        links: of the navigation, in their order.
    """
    csrf = secrets.token_urlsafe(32)
    app = Starlette(
        routes=[*routes, Route("/static/{name}", static_file)],
        middleware=[Middleware(Guard, token=token, csrf=csrf)],
    )
    app.state.csrf = csrf
    app.state.links = tuple(links)
    return app


def page(
    request: Request,
    *,
    title: str,
    body: Iterable[Html],
    scripts: Sequence[str] = (),
    styles: Sequence[str] = (),
    wide: bool = False,
) -> Response:
    """Return a page with the navigation and the look of all pages.

    Args:
        request: that it answers.
        title: of the browser's tab.
        body: pieces made by the functions of `evaluation.report`.
        scripts: ES modules in `static`.
        styles: style sheets in `static`, besides app.css.
        wide: use the whole width of the window.
    """
    state = request.app.state
    links = "".join(_link(link, request.url.path) for link in state.links)
    modules = "".join(
        f'<script type="module" src="/static/{escape(name)}"></script>' for name in ("tables.js", *scripts)
    )
    sheets = "".join(f'<link rel="stylesheet" href="/static/{escape(name)}">' for name in ("app.css", *styles))
    content = joined(*body)
    navigation = f'<nav aria-label="pages">{links}</nav>' if links else ""
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="csrf" content="{escape(state.csrf)}"><title>{escape(title)}</title>'
        '<link rel="icon" href="data:,"><link rel="stylesheet" href="/static/report.css">'
        f"{sheets}{modules}</head>"
        f"<body>{navigation}<main{' class=wide' if wide else ''}>{content}</main></body></html>\n"
    )
    # Lone surrogates stand for bytes of a file name that no page can hold.
    return HTMLResponse(text.encode("utf-8", "replace"))


def _link(link: Link, path: str) -> str:
    is_inside = path == link.target or any(path.startswith(begin) for begin in link.inside)
    current = ' aria-current="page"' if is_inside else ""
    return f'<a href="{escape(link.target)}"{current}>{escape(link.words)}</a>'


def static_file(request: Request) -> Response:
    """Return a style sheet or script by its name."""
    text, kind = _static(request.path_params["name"])
    if text is None:
        return PlainTextResponse("no such file\n", 404)
    return Response(text, media_type=kind, headers={"cache-control": "no-cache"})


@cache
def _static(name: str) -> tuple[str | None, str]:
    shell = (files("classifier_training.evaluation") / "page" / "report.html").read_text(encoding="utf-8")
    made = {"report.css": ("style", "text/css"), "tables.js": ("script", "text/javascript")}
    if name in made:
        # The pages look and sort as the reports do, whose files hold their style and script themselves.
        tag, kind = made[name]
        found = re.search(rf"<{tag}>(.*?)</{tag}>", shell, re.DOTALL)
        assert found is not None
        return found[1], kind
    folder = files(__package__) / "static"
    kind = TYPES.get(f".{name.rpartition('.')[2]}", "")
    file = folder / name if kind and re.fullmatch(r"[\w-]+\.\w+", name) else None
    return (file.read_text(encoding="utf-8") if file is not None and file.is_file() else None), kind


def listen(port: int) -> socket.socket:
    """Return a socket that listens on this machine alone.

    Args:
        port: 0 for one that is free.

    Raises:
        UserError: when the port is taken or may not be used.
    """
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((HOST, port))
        opened.listen(128)
    except OSError as error:
        opened.close()
        raise UserError(
            f"port={port}: {error.strerror}", "a port that is free", "leave port= out, and a free one is taken"
        ) from error
    return opened


def run_app(app: Starlette, opened: socket.socket, *, started: Callable[[], None]) -> None:
    """Answer requests until Ctrl-C.

    Args:
        app: what answers them.
        opened: socket that listens.
        started: called once requests are answered.
    """

    class _Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started()

    server = _Server(
        uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=GRACE_SECONDS
        )
    )
    try:
        server.run(sockets=[opened])
    except KeyboardInterrupt:
        # The way to end it; uvicorn has closed all connections by now.
        sys.stderr.write("\n")
    finally:
        opened.close()
