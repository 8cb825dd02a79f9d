"""`review`: local pages on which a person corrects labels and watches runs."""

from __future__ import annotations

import getpass
import logging
import secrets
import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from classifier_training.conf.overrides import word
from classifier_training.core.errors import UserError, plural, refuse_missing
from classifier_training.core.register import Choice, Word, changed_options, register, with_settings
from classifier_training.core.settings import Alias, RunText, TypedPath
from classifier_training.core.storage.places import is_remote, path_of
from classifier_training.data.corrections import AUTO
from classifier_training.data.formats.source import DataSource
from classifier_training.data.replay import roots_of
from classifier_training.registry.record import RUN_FILES
from classifier_training.registry.references import Reference
from classifier_training.registry.runs import DEFAULT_OUTPUT, find_run
from classifier_training.registry.scan import run_folders
from classifier_training.workflows.evaluating.samples import own_source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.routing import BaseRoute

    from classifier_training.core.run_dir import RunDir
    from classifier_training.workflows.reviewing.app import Link
    from classifier_training.workflows.reviewing.collection import Collection

log = logging.getLogger(__name__)


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
        "review",
        "review latest port=8080 by=ana",
    ),
)
def review(
    *,
    run: Annotated[RunText | None, Word()] = None,
    data: Annotated[DataSource, Choice("auto")],
    source: TypedPath | None = None,
    by: str | None = None,
    port: Annotated[int, Field(ge=0, le=65535)] = 0,
    browser: Annotated[bool, Alias("open")] = False,
    output: TypedPath = DEFAULT_OUTPUT,
) -> ReviewResult:
    """Correct labels on a local page: mistakes, doubtful labels, copies that disagree, by keyboard.

    It prints the address of the page; Ctrl-C ends it. Decisions are added to corrections.csv beside the data, or to
    data.corrections=FILE; no image is changed. The page is for this machine alone, and for whoever has the address.
    Beside it are pages of all runs, on which trainings are watched and stopped: alone without a run or data.

    Args:
        run: a finished run (a folder, latest or best), whose images and predictions are shown, or a data folder.
            data.root= says where the run's images are now.
        source: a folder of images without labels, to give them labels of the run's classes; those first that
            `analyze SOURCE run=RUN label_next=50` chose. They are written to labels.csv in it, which train reads.
        by: who decides; the user's name when left out.
        port: of the page; a free one when left out.
        browser: open the page in the browser.
        output: folder of all runs.
    """
    refuse_missing("serve", purpose="review")
    from classifier_training.workflows.reviewing.app import Link
    from classifier_training.workflows.reviewing.decisions import Decisions
    from classifier_training.workflows.reviewing.retraining import Retraining
    from classifier_training.workflows.reviewing.routes import Review
    from classifier_training.workflows.reviewing.runs import RUNS_LINK, run_routes, start_at_runs

    runs = run_routes(Path(output).expanduser())
    if run is None and not data.is_named and source is None:
        _refuse_idle(data, only=set())
        _serve([start_at_runs(), *runs], [RUNS_LINK], port=port, browser=browser)
        return ReviewResult("the runs go on: the page has no part in them")
    collection = _collect(run, data, source, output)
    log.info("%s: %s", collection.title, plural(len(collection), "image"))
    decisions = Decisions(collection, by or getpass.getuser())
    retraining = None
    if collection.run is not None and collection.is_labelled:
        words = _data_words(collection, collection.run, data)
        retraining = Retraining(collection.run, words, output=Path(output).expanduser())
    session = Review(collection, decisions, retraining)
    listed = ", ".join(f"{queue.title.lower()} {len(queue.rows):,}" for queue in session.queues.all.values())
    log.info("lists: %s", listed)
    links = [Link("Review", "/", inside=("/look", "/grid")), RUNS_LINK]
    try:
        _serve([*session.routes(), *runs], links, port=port, browser=browser)
    finally:
        if retraining is not None:
            retraining.stop()
    return ReviewResult(decisions.words())


def _data_words(collection: Collection, run: RunDir, data: DataSource) -> list[str]:
    """Return the settings with which `train init_from=RUN` reads the images and corrections that are reviewed.

    Where the run's images are still at their old place, those are trained on, with the corrections of the new one.
    """
    root = getattr(data, "root", None) if data.is_named else None
    old = roots_of(own_source(run))
    has_moved = root is not None and not all(is_remote(place) or path_of(place).exists() for place in old)
    words = [word("data.root", root)] if has_moved else []
    if data.corrections != AUTO or (root is not None and not has_moved):
        words.append(word("data.corrections", collection.places[0].file))
    return words


def _serve(routes: Sequence[BaseRoute], links: Sequence[Link], *, port: int, browser: bool) -> None:
    """Print the address of the pages, and answer requests until Ctrl-C."""
    from classifier_training.service.server import HOST, listen, run_app
    from classifier_training.workflows.reviewing.app import create_app

    token = secrets.token_urlsafe(24)
    opened = listen(port)
    address = f"http://{HOST}:{opened.getsockname()[1]}/?token={token}"

    def started() -> None:
        # Not by the log, which would mask the token.
        sys.stdout.write(f"{address}\n")
        sys.stdout.flush()
        log.info("open the address above in a browser of this machine; Ctrl-C ends the page")
        if browser:
            webbrowser.open(address)

    run_app(create_app(token=token, routes=routes, links=links), opened, started=started)


def _collect(run: str | None, data: DataSource, source: str | None, output: str) -> Collection:
    from classifier_training.workflows.reviewing.collection import collect_data, collect_run, collect_unlabelled

    if source is not None:
        _refuse_idle(data, only=set())
        return collect_unlabelled(find_run(run or "latest", output=output), source)
    root: Any = getattr(data, "root", None)
    if run is None and data.is_named:
        _refuse_idle(data, only=None)
        return collect_data(data)
    if run is not None and _is_data(run):
        if data.is_named:
            raise UserError(
                f"run={run}: a data folder, beside data.root={root}",
                "a run, or one data folder",
                "leave data.root out",
            )
        data = with_settings(data, root=run)
        _refuse_idle(data, only=None)
        return collect_data(data)
    _refuse_idle(data, only={"root", "corrections"})
    assert run is not None
    return collect_run(find_run(run, output=output), moved_to=root, corrections=data.corrections)


def _is_data(name: str) -> bool:
    """Whether a word is a folder, and neither a run nor a folder of runs."""
    path = Path(name).expanduser()
    if Reference.parse(name).is_reserved or not path.is_dir():
        return False
    return RUN_FILES.isdisjoint(entry.name for entry in path.iterdir()) and not any(run_folders(path))


def _refuse_idle(data: DataSource, *, only: set[str] | None) -> None:
    """Refuse settings of data that change nothing here.

    Args:
        data: as it is set.
        only: names of those that do; None for all that say how data is read.
    """
    for option in changed_options(data):
        acts = option.acts_in("review") if only is None else option.name in only
        if not acts or option.name == "group":
            raise UserError(
                f"data.{option.name}={getattr(data, option.name)} has no effect on a review",
                "data.root and data.corrections beside a run, or how the data is read",
                "leave it out",
            )
