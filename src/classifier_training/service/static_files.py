"""Style sheets and scripts of pages: those of a package's folder `static`, and those of the reports."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request

TYPES = {".css": "text/css", ".js": "text/javascript"}
"""Of static files; there are no others."""


def static_route(package: str) -> Route:
    """Return the route `/static/NAME` of a package's files."""

    def static_file(request: Request) -> Response:
        text, kind = _static(package, request.path_params["name"])
        if text is None:
            return PlainTextResponse("no such file\n", 404)
        return Response(text, media_type=kind, headers={"cache-control": "no-cache"})

    return Route("/static/{name}", static_file)


@cache
def _static(package: str, name: str) -> tuple[str | None, str]:
    made = {"report.css": ("style", "text/css"), "tables.js": ("script", "text/javascript")}
    if name in made:
        # The pages look and sort as the reports do, whose files hold their style and script themselves.
        shell = (files("classifier_training.evaluation") / "page" / "report.html").read_text(encoding="utf-8")
        tag, kind = made[name]
        found = re.search(rf"<{tag}>(.*?)</{tag}>", shell, re.DOTALL)
        assert found is not None
        return found[1], kind
    kind = TYPES.get(f".{name.rpartition('.')[2]}", "")
    file = files(package) / "static" / name if kind and re.fullmatch(r"[\w-]+\.\w+", name) else None
    return (file.read_text(encoding="utf-8") if file is not None and file.is_file() else None), kind
