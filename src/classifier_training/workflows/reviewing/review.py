"""`review`: a local page on which a person corrects labels."""

from __future__ import annotations

import secrets
import sys
import webbrowser
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from classifier_training.core.errors import refuse_missing
from classifier_training.core.register import Choice, Word, register
from classifier_training.core.settings import RunText
from classifier_training.data.formats.source import DataSource

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


@dataclass(frozen=True)
class ReviewResult:
    """Result of `review`.

    Args:
        words: what was decided, and where it is written.
    """

    words: str

    def __str__(self) -> str:
        return self.words


@register(
    group="verb",
    name="review",
    examples=(
        "review latest",
        "review /my/images",
        "review latest port=8080 by=ana",
    ),
)
def review(
    *,
    run: Annotated[RunText | None, Word()] = None,
    data: Annotated[DataSource, Choice("auto")],
    port: Annotated[int, Field(ge=0, le=65535)] = 0,
    browser: bool = False,
) -> ReviewResult:
    """Correct labels on a local page.

    Ctrl-C ends it. The page is for this machine alone: whoever has the address with its token can use it.

    Args:
        run: a finished run, whose mistakes and doubtful labels are shown, or a data folder.
        port: of the page; a free one when left out.
        browser: open the page in the browser.
    """
    refuse_missing("serve", purpose="review")
    from starlette.routing import Route

    from classifier_training.evaluation import report
    from classifier_training.workflows.reviewing.app import HOST, Link, create_app, listen, page, run_app

    about = str(getattr(data, "root", None) if run is None else run)

    def start(request: Request) -> Response:
        return page(request, title="Review", body=[report.header("Review", about)])

    token = secrets.token_urlsafe(24)
    opened = listen(port)
    address = f"http://{HOST}:{opened.getsockname()[1]}/?token={token}"
    app = create_app(token=token, routes=[Route("/", start)], links=[Link("Review", "/")])

    def started() -> None:
        # Not by the log, which would mask the token.
        sys.stdout.write(f"{address}\n")
        sys.stdout.flush()
        if browser:
            webbrowser.open(address)

    run_app(app, opened, started=started)
    return ReviewResult("stopped")
