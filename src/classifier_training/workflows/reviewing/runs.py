"""The pages of runs: all of a folder, one while it trains and after, and several side by side.

A page asks for its parts again and gets them when something has changed. Polling, not a stream: a page that is left
open costs a few looks at the disk a minute, and nothing while its tab is hidden.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from hashlib import blake2b
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from starlette.convertors import StringConvertor, register_url_convertor
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from classifier_training.core.errors import UserError, plural
from classifier_training.core.metrics import goal_of
from classifier_training.core.runtime import command
from classifier_training.evaluation import report
from classifier_training.evaluation.report import Html, escape, joined
from classifier_training.registry.record import BUNDLE, DAMAGED, FINISHED, UNFINISHED, RunRecord
from classifier_training.workflows.reviewing.app import Link, page
from classifier_training.workflows.reviewing.charts import NUM_COLOURS, sparkline
from classifier_training.workflows.reviewing.comparison_page import compare_body
from classifier_training.workflows.reviewing.live import (
    FAILED,
    INTERRUPTED,
    RUNNING,
    Runs,
    RunStatus,
    key_of,
    read_history,
    read_status,
    signature,
    stamp,
    values_of,
)
from classifier_training.workflows.reviewing.live_page import (
    KINDS,
    duration_words,
    interval_words,
    live_parts,
    said,
    when_words,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.requests import Request

    from classifier_training.core.run_dir import RunDir

PAGE_ROWS = 100
"""Runs on one page of the list."""

STATES = (RUNNING, FINISHED, INTERRUPTED, FAILED, DAMAGED, BUNDLE)

REPORT_HEADERS = {
    "content-security-policy": (
        "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
        "img-src data:"
    ),
    "cross-origin-opener-policy": "unsafe-none",
}
"""Of a report, a page from a file: it is of an origin of its own, without cookies, and can ask this server for nothing.
A sandboxed page cannot have an opener policy."""


RUNS_LINK = Link("Runs", "/runs", inside=("/runs/",))
"""Of the navigation."""


def start_at_runs() -> Route:
    """Return the route that leads from the address that was printed to the list of runs."""
    return Route("/", lambda _: RedirectResponse("/runs"))


def run_routes(root: Path) -> list[Route]:
    """Return the routes of the pages of runs.

    Args:
        root: folder of all runs, which need not be there yet.
    """
    pages = _Pages(Runs(root))
    return [
        Route("/runs", pages.list),
        Route("/runs/list.json", pages.list_parts),
        Route("/runs/compare", pages.compare),
        Route("/runs/{run:run}/report.html", pages.report),
        Route("/runs/{run:run}/live.json", pages.live_parts),
        Route("/runs/{run:run}/stop", pages.stop, methods=["POST"]),
        Route("/runs/{run:run}", pages.live),
    ]


class _RunConvertor(StringConvertor):
    regex = "(?s:.+?)"


register_url_convertor("run", _RunConvertor())


class _Pages:
    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def list(self, request: Request) -> Response:
        """All runs, some a page."""
        chosen = _Chosen.of(request.query_params)
        rows = self._rows(chosen)
        body = [
            report.header("Runs", f"below {self._runs.root.absolute()}"),
            _form(chosen),
            Html(f'<div data-live="/runs/list.json?{escape(chosen.query())}" data-tag="{_tag(rows)}" data-slow>'),
            Html('<p role="status" id="said" class="unseen"></p><p role="alert" id="trouble"></p>'),
            Html(f'<div id="rows">{rows}</div></div>'),
        ]
        return page(request, title="Runs", body=body, scripts=["live.js", "runs.js"], styles=["runs.css"], wide=True)

    def list_parts(self, request: Request) -> Response:
        """The table of all runs, where it is not what the page has."""
        rows = self._rows(_Chosen.of(request.query_params))
        return _unless_known(request, _tag(rows), lambda: {"parts": {"rows": rows}})

    def live(self, request: Request) -> Response:
        """One run."""
        found = self._found(request)
        if found is None:
            return self._missing(request)
        record, run = found
        address = address_of(record)
        # Before the files are read: what changes in between is sent again.
        tag = signature(run)
        status = read_status(run, record)
        parts = live_parts(run, status, address=address)
        name, over = name_of(record), " data-over" if status.state == FINISHED else ""
        body = [
            Html('<p><a href="/runs">All runs</a></p>'),
            report.header(name, str(run.path)),
            Html(f'<div data-live="{escape(address)}/live.json" data-tag="{tag}"{over}>'),
            Html(
                f'<p role="status" id="said" class="unseen">{escape(said(status))}</p><p role="alert" id="trouble"></p>'
            ),
            Html(f'<div id="state">{parts["state"]}</div><div id="deeds">{parts["deeds"]}</div>'),
            report.section("Curves", Html(f'<div id="charts">{parts["charts"]}</div>')),
            report.section(
                "Log", Html(f'<pre id="log" tabindex="0" aria-label="newest messages">{parts["log"]}</pre>')
            ),
            Html(f'<details><summary>Epochs</summary><div id="epochs">{parts["epochs"]}</div></details></div>'),
        ]
        return page(request, title=f"{status.state}: {name}", body=body, scripts=["live.js"], styles=["runs.css"])

    def live_parts(self, request: Request) -> Response:
        """The parts of one run's page, where they are not what the page has."""
        found = self._found(request)
        if found is None:
            return PlainTextResponse("this run has been removed\n", HTTPStatus.NOT_FOUND)
        record, run = found

        def parts() -> dict[str, object]:
            status = read_status(run, record)
            return {
                "parts": live_parts(run, status, address=address_of(record)),
                "said": said(status),
                "title": f"{status.state}: {name_of(record)}",
                "over": status.state == FINISHED,
            }

        return _unless_known(request, signature(run), parts)

    async def stop(self, request: Request) -> Response:
        """Ask a training to stop after its present epoch, or take that back."""
        found = self._found(request)
        if found is None:
            return PlainTextResponse("there is no such run\n", HTTPStatus.NOT_FOUND)
        try:
            wanted = (await request.json())["stop"]
        except (ValueError, TypeError, KeyError):
            wanted = None
        if not isinstance(wanted, bool):
            return PlainTextResponse('expected {"stop": true} or {"stop": false}\n', HTTPStatus.BAD_REQUEST)
        _, run = found
        if not read_status(run).can_stop:
            return PlainTextResponse("its training is over, or has no epochs to stop after\n", HTTPStatus.CONFLICT)
        try:
            if wanted:
                run.stop_request.touch()
            else:
                run.stop_request.unlink(missing_ok=True)
        except OSError as error:
            return PlainTextResponse(f"{run.stop_request}: {error.strerror}\n", HTTPStatus.INTERNAL_SERVER_ERROR)
        return JSONResponse({"stop": wanted})

    def report(self, request: Request) -> Response:
        """The report of a run, in a sandbox."""
        found = self._found(request)
        if found is None or stamp(found[1], found[1].report) is None:
            return PlainTextResponse("this run has no report\n", HTTPStatus.NOT_FOUND)
        descriptor = os.open(found[1].report, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a path could have become a link
            return Response(file.read(), media_type="text/html", headers=REPORT_HEADERS)

    def compare(self, request: Request) -> Response:
        """Several runs side by side."""
        records = [record for key in request.query_params.getlist("run") if (record := self._runs.find(key))]
        if not 2 <= len(records) <= NUM_COLOURS:
            said = f"{plural(len(records), 'run')} chosen; choose from 2 to {NUM_COLOURS} in the list."
            body = [report.header("Comparison", said), Html('<p><a href="/runs">All runs</a></p>')]
            return page(request, title="Comparison", body=body, styles=["runs.css"])
        names = [name_of(record) for record in records]
        runs = {
            name if names.count(name) == 1 else record.folder: self._runs.folder(record)
            for name, record in zip(names, records, strict=True)
        }
        body = [Html('<p><a href="/runs">All runs</a></p>'), *compare_body(runs)]
        return page(request, title="Comparison", body=body, styles=["runs.css"], wide=True)

    def _found(self, request: Request) -> tuple[RunRecord, RunDir] | None:
        record = self._runs.find(request.path_params["run"])
        return None if record is None else (record, self._runs.folder(record))

    def _missing(self, request: Request) -> Response:
        body = [
            report.header("No such run", f"{request.path_params['run']} is no run below {self._runs.root.absolute()}."),
            Html('<p><a href="/runs">All runs</a></p>'),
        ]
        answer = page(request, title="No such run", body=body)
        answer.status_code = HTTPStatus.NOT_FOUND
        return answer

    def _rows(self, chosen: _Chosen) -> Html:
        """Return the table and what stands around it."""
        try:
            records = self._runs.records()
        except UserError as error:
            return report.card("error", error.came, error.expected, error.remedy)
        if not records:
            return joined(report.paragraph("There is no run yet. Start one:"), report.code(command("train")))
        matching = [record for record in records if chosen.matches(record, self._runs.folder(record))]
        matching.sort(key=SORTS[chosen.sort][1])
        last = max(1, -(-len(matching) // PAGE_ROWS))
        number = min(chosen.page, last)
        shown = matching[(number - 1) * PAGE_ROWS : number * PAGE_ROWS]
        count = f"{plural(len(matching), 'run')}" + (f" of {len(records):,}" if len(matching) < len(records) else "")
        if not shown:
            return report.paragraph(f"No run of {len(records):,} matches.")
        rows = "".join(_row(record, self._runs.folder(record)) for record in shown)
        heads = "".join(f'<th scope="col">{name}</th>' for name in COLUMNS)
        return joined(
            Html(f'<p class="quiet">{count}{f", page {number} of {last}" if last > 1 else ""}</p>'),
            Html(f'<div class="runs"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'),
            _pager(chosen, number, last),
        )


COLUMNS = (
    '<span class="unseen">chosen</span>', "run", "state", "data", "monitored", "held out, 95 % interval", "epochs",
    "trained", "started", "curve",
)  # fmt: skip


def _row(record: RunRecord, run: RunDir) -> str:
    status = read_status(run, record)
    name, key = name_of(record), key_of(record.folder)
    best = "" if status.best is None else f"{status.best[0]:.4f}"
    curve = ""
    if status.monitor and status.state != DAMAGED:
        curve = sparkline(read_history(run).columns.get(status.monitor, ()))
    of = f" of {status.epochs_planned}" if status.epochs_planned else ""
    cells = [
        f'<input type="checkbox" name="run" value="{escape(key)}" aria-label="choose {escape(name)}">',
        f'<a href="{escape(address_of(record))}">{escape(name)}</a><br>{_quiet(record.folder)}',
        f'<span class="badge {KINDS[status.state]}">{status.state}</span>{_reason(status)}',
        f"{escape(Path(record.data).name)}<br>{_quiet(record.architecture)}",
        f"{best}<br>{_quiet(status.monitor)}" if best else "",
        _held_out(record, run, status),
        f"{status.epochs_done}{of}" if status.epochs_done or of else "",
        duration_words(status.trained_seconds) if status.trained_seconds else "",
        when_words(record.started) if record.started else "",
        curve,
    ]
    # The name of a column stands beside each cell where there is no room for columns.
    titles = ("", "", "", "", "monitored", "held out", "epochs", "trained", "started", "curve")
    return (
        "<tr>"
        + "".join(f'<td data-name="{title}">{cell}</td>' for title, cell in zip(titles, cells, strict=True))
        + "</tr>"
    )


def _reason(status: RunStatus) -> str:
    if status.state in (FAILED, DAMAGED) and status.reason:
        return f"<br>{_quiet(status.reason)}"
    return f"<br>{_quiet('stop requested')}" if status.is_asked_to_stop and status.can_stop else ""


def _quiet(text: str) -> str:
    return f'<span class="quiet">{escape(text)}</span>'


def _held_out(record: RunRecord, run: RunDir, status: RunStatus) -> str:
    name = _metric(record, status.monitor)
    if name not in record.metrics:
        return ""
    found: Mapping[str, float | None] = {"value": record.metrics[name]}
    try:
        scores = values_of(run, run.classification_report)
        if scores.get("split") == record.split:
            found = scores["metrics"][name]
    except (UserError, KeyError, TypeError):
        # The value that result.json has is without an interval.
        pass
    return f"{interval_words(found)}<br>{_quiet(f'{record.split}/{name}')}"


def _metric(record: RunRecord, monitor: str = "") -> str:
    """Name of the metric that a run is ranked by: the monitored one, of the held-out images."""
    watched = monitor or (record.monitor[0] if record.monitor else "")
    name = watched.partition("/")[2]
    return name if name in record.metrics else "balanced_accuracy"


def _score(record: RunRecord) -> float:
    name = _metric(record)
    value = record.metrics.get(name)
    if value is None:
        return float("inf")
    return value if goal_of(f"any/{name}") == "min" else -value


SORTS: dict[str, tuple[str, Callable[[RunRecord], Any]]] = {
    "newest": ("newest first", lambda record: -record.started),
    "oldest": ("oldest first", lambda record: record.started),
    "best": ("best score first", _score),
    "name": ("by name", lambda record: (record.title, record.version or 0, record.folder)),
    "data": ("by data", lambda record: (Path(record.data).name, -record.started)),
    "longest": ("longest training first", lambda record: -(record.train_seconds or 0.0)),
}
"""Words and key of each order."""


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """What the list shows, from its address; what is wrong in it counts as left out.

    Args:
        words: each is looked for in name, folder, data and model.
        state: of the runs; empty for all.
        sort: order.
        page: from 1.
    """

    words: str = ""
    state: str = ""
    sort: str = "newest"
    page: int = 1

    @classmethod
    def of(cls, query: Mapping[str, str]) -> _Chosen:
        number = query.get("page", "")
        return cls(
            words=query.get("words", "").strip(),
            state=query.get("state", "") if query.get("state") in STATES else "",
            sort=query.get("sort", "") if query.get("sort") in SORTS else "newest",
            page=max(1, int(number)) if number.isascii() and number.isdigit() and len(number) < 9 else 1,
        )

    def query(self, **changed: object) -> str:
        """Return the address's query."""
        values = {"words": self.words, "state": self.state, "sort": self.sort, "page": self.page, **changed}
        return urlencode(values)

    def matches(self, record: RunRecord, run: RunDir) -> bool:
        """Whether a run is shown."""
        text = f"{name_of(record)} {record.folder} {record.data} {record.model} {record.architecture}".casefold()
        if not all(word in text for word in self.words.casefold().split()):
            return False
        if not self.state or record.status != UNFINISHED:
            return self.state in ("", record.status)
        return read_status(run, record).state == self.state


def _form(chosen: _Chosen) -> Html:
    states = {"": "all", **{state: state for state in STATES}}
    sorts = {name: words for name, (words, _) in SORTS.items()}
    return Html(
        '<form id="filter" role="search"><label>Search <input type="search" name="words" '
        f'value="{escape(chosen.words)}" placeholder="name, data, model"></label>'
        f"{_choice('State', 'state', states, chosen.state)}{_choice('Order', 'sort', sorts, chosen.sort)}"
        '<button type="submit">Show</button></form>'
        '<p><button type="button" id="compare" class="action" disabled>Compare</button> '
        f'<span id="chosen" class="quiet">Choose from 2 to {NUM_COLOURS} runs.</span></p>'
    )


def _choice(label: str, name: str, options: Mapping[str, str], chosen: str) -> str:
    listed = "".join(
        f'<option value="{escape(value)}"{" selected" if value == chosen else ""}>{escape(words)}</option>'
        for value, words in options.items()
    )
    return f'<label>{label} <select name="{name}">{listed}</select></label>'


def _pager(chosen: _Chosen, number: int, last: int) -> Html:
    if last == 1:
        return Html("")
    links = [
        f'<a href="/runs?{escape(chosen.query(page=other))}">{words}</a>'
        for other, words in ((number - 1, "Page before"), (number + 1, "Next page"))
        if 1 <= other <= last
    ]
    return Html(f'<nav class="pager" aria-label="pages of the list">{" ".join(links)}</nav>')


def name_of(record: RunRecord) -> str:
    """Return the name that a run is shown by: with its version, once it has one."""
    return record.version_name if record.version is not None else record.scope or record.model or record.folder


def address_of(record: RunRecord) -> str:
    """Return the path of a run's page."""
    return f"/runs/{quote(os.fsencode(record.folder))}"


def _tag(rows: str) -> str:
    return blake2b(rows.encode("utf-8", "replace"), digest_size=8).hexdigest()


def _unless_known(request: Request, tag: str, content: Callable[[], object]) -> Response:
    """Return content with its tag, or that the page has it."""
    quoted = f'"{tag}"'
    if request.headers.get("if-none-match") == quoted:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers={"etag": quoted})
    text = json.dumps(content(), ensure_ascii=False).encode("utf-8", "replace")
    return Response(text, media_type="application/json", headers={"etag": quoted})
