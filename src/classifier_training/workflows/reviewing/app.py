"""The web application of the local pages: what they have in common.

A part of the pages, such as the review or the runs, gives its routes to `create_app` and makes its responses with
`page`. Pages are rendered here; scripts are plain ES modules in `static`.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, Response

from classifier_training.evaluation.report import Html, escape, joined
from classifier_training.service.static_files import static_route
from classifier_training.workflows.reviewing.security import Guard

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from starlette.requests import Request
    from starlette.routing import BaseRoute


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
        routes=[*routes, static_route(__package__)],
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
