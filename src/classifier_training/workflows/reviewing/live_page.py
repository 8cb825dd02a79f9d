"""The page of one run, in parts that are sent again when they have changed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError, plural
from classifier_training.core.metrics import metric_of
from classifier_training.core.runtime import command, setting
from classifier_training.core.types import PROBE_EPOCH, TRAIN, VAL, epoch_name
from classifier_training.evaluation import report
from classifier_training.evaluation.report import Html, escape, joined
from classifier_training.registry.record import BUNDLE, DAMAGED, FINISHED
from classifier_training.workflows.reviewing.charts import Series, line_chart
from classifier_training.workflows.reviewing.live import (
    ENDING,
    FAILED,
    INTERRUPTED,
    PREPARING,
    RUNNING,
    History,
    decisions_of,
    read_history,
    read_log,
    stamp,
    values_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from classifier_training.core.run_dir import RunDir
    from classifier_training.workflows.reviewing.live import RunStatus

KINDS = {RUNNING: "note", FINISHED: "good", INTERRUPTED: "warning", FAILED: "error", DAMAGED: "error", BUNDLE: "note"}
"""Colour of each state."""

NUM_ROWS = 500
"""Newest epochs in the table."""

NUM_LINES = 60
"""Newest messages of the log that are shown."""


def live_parts(run: RunDir, status: RunStatus, *, address: str) -> dict[str, Html]:
    """Return the parts of the page, by the id of the element that holds each.

    Args:
        run: its folder.
        status: how far it is.
        address: path of the page.
    """
    try:
        history = read_history(run)
    except UserError:
        # The status says so.
        history = History({})
    return {
        "state": state_part(run, status, history),
        "deeds": _deeds(run, status, address),
        "charts": _charts(status, history),
        "epochs": _epochs(status, history),
        "log": _log(run),
    }


def said(status: RunStatus) -> str:
    """Return the state in a sentence, for those who hear the page."""
    headline, more = _words(status)
    return f"{status.state}: {headline}. {more}"


def state_part(run: RunDir, status: RunStatus, history: History) -> Html:
    """Return the banner with the state, the progress and the most important numbers."""
    headline, more = _words(status)
    pieces = [report.banner(KINDS[status.state], status.state, headline, more)]
    if status.state == RUNNING and status.epochs_planned:
        pieces.append(
            Html(
                f'<progress max="{status.epochs_planned}" value="{status.epochs_done}" '
                f'aria-label="epochs done">{status.epochs_done} of {status.epochs_planned}</progress>'
            )
        )
    pieces.append(report.numbers(_facts(run, status, history)))
    return joined(*pieces)


def _words(status: RunStatus) -> tuple[str, str]:
    """Headline and second line of a state."""
    of = f" of {status.epochs_planned}" if status.epochs_planned else ""
    done = f"{plural(status.epochs_done, 'epoch')}{of} done" if status.epochs_done or of else "no epoch is recorded"
    if status.state == RUNNING:
        if status.phase == ENDING:
            return "Training is over; the export, the score and the report are being made", status.reason
        if status.epochs_planned is None:
            return "The model is fitted at once, without epochs", "A request to stop has no effect on it."
        if status.is_asked_to_stop:
            return f"{epoch_name(status.epochs_done)}{of} is the last: a stop was requested", "It ends with a report."
        if status.phase == PREPARING:
            return "The data, the network and its linear probe are being prepared", done
        left = f"the last epoch ends about {when_words(status.ends_at)}" if status.ends_at else ""
        return f"{epoch_name(status.epochs_done)}{of} is being trained", left
    if status.state == FINISHED:
        return status.reason or "The run has come to its end", ""
    if status.state == INTERRUPTED:
        return f"No process trains this run: {done}", status.reason.replace("\n", " ")
    return status.reason or done, done if status.reason and status.state == FAILED else ""


def when_words(seconds: float) -> str:
    """Return a time by this machine's clock, with the day where it is not today."""
    then, now = time.localtime(seconds), time.localtime()
    return time.strftime("%H:%M:%S" if then[:3] == now[:3] else "%Y-%m-%d %H:%M", then)


def duration_words(seconds: float) -> str:
    """Return a length of time for people."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _facts(run: RunDir, status: RunStatus, history: History) -> list[tuple[str, str]]:
    facts = []
    if status.epochs_planned is not None:
        facts.append((f"{status.epochs_done} of {status.epochs_planned}", "epochs"))
    if status.best is not None:
        facts.append((f"{status.best[0]:.4f}", f"best {status.monitor}, {epoch_name(status.best[1])}"))
    facts += [
        (f"{value:.4f}", f"{name}, newest")
        for name in (f"{TRAIN}/loss", f"{VAL}/loss")
        if (value := history.last(name)) is not None
    ]
    if status.images_per_second is not None:
        facts.append((f"{status.images_per_second:,.0f}", f"images/s{_device(run)}"))
    if status.epoch_seconds is not None:
        facts.append((duration_words(status.epoch_seconds), "an epoch"))
    if status.trained_seconds:
        facts.append((duration_words(status.trained_seconds), "in training"))
    if status.memory_mb is not None:
        facts.append((f"{status.memory_mb / 1024:.1f} GiB", "memory at most"))
    try:
        scores = values_of(run, run.classification_report)
        for name in ("balanced_accuracy", "acc_top1"):
            found = scores["metrics"][name]
            title = getattr(metric_of(name), "title", name)
            facts.append((interval_words(found), f"{title}, {scores['split']}, 95 % interval"))
    except (UserError, KeyError, TypeError):
        # Not evaluated yet, or by another version of the program.
        pass
    return facts


def interval_words(found: Mapping[str, float | None]) -> str:
    """Return a value of classification_report.json with its interval."""
    value, low, high = (found.get(name) for name in ("value", "low", "high"))
    if value is None:
        return "n/a"
    return f"{value:.4f}" if low is None or high is None else f"{value:.4f} [{low:.4f}, {high:.4f}]"


def _device(run: RunDir) -> str:
    try:
        decided = decisions_of(run)
    except UserError:
        return ""
    words = [word for word in (decided.accelerator, decided.precision) if word]
    return f" ({', '.join(words)})" if words else ""


def _deeds(run: RunDir, status: RunStatus, address: str) -> Html:
    """Return what can be done with the run now."""
    pieces = []
    if status.can_stop:
        words, value = ("Train on", "false") if status.is_asked_to_stop else ("Stop after this epoch", "true")
        pieces.append(
            Html(f'<p><button type="button" class="action" data-stop="{value}">{words}</button> '
                 '<span class="quiet">The run ends with its export and report; resumed, it trains the rest.</span></p>')
        )  # fmt: skip
    if stamp(run, run.report) is not None:
        words = "Report" if status.state == FINISHED else "Report of the earlier end"
        pieces.append(Html(f'<p><a class="action" href="{escape(address)}/report.html">{words}</a></p>'))
    if status.state in (INTERRUPTED, FAILED) and status.epochs_planned is not None:
        pieces += [report.paragraph("To resume it:"), report.code(f"{command('train')} {setting('resume', run.path)}")]
    return joined(*pieces)


def _charts(status: RunStatus, history: History) -> Html:
    marked = None if status.best is None or status.best[1] == PROBE_EPOCH else status.best[1] + 1
    losses = [Series(name, history.columns.get(name, ())) for name in (f"{TRAIN}/loss", f"{VAL}/loss")]
    shown = [name for name in (status.monitor, f"{TRAIN}/acc_top1", f"{VAL}/acc_top1") if name in history.columns]
    scores = [Series(name, history.columns[name]) for name in dict.fromkeys(shown) if not name.endswith("/loss")]
    charts = [line_chart("Loss", losses, marked=marked), line_chart("Accuracy", scores, marked=marked)]
    speed = Series("images/s", history.columns.get("images_per_second", ()))
    rate = Series("learning rate", history.columns.get("lr", ()))
    charts += [line_chart("Speed", [speed]), line_chart("Learning rate", [rate])]
    return Html(f'<div class="charts">{joined(*charts)}</div>')


def _epochs(status: RunStatus, history: History) -> Html:
    if not history.num_epochs:
        return report.paragraph("No epoch has ended yet.")
    wanted = (
        f"{TRAIN}/loss",
        f"{VAL}/loss",
        status.monitor,
        f"{VAL}/acc_top1",
        "lr",
        "images_per_second",
        "epoch_seconds",
    )
    names = [name for name in dict.fromkeys(wanted) if name in history.columns]
    rows: list[list[report.Cell]] = []
    for row in range(history.num_epochs)[: -NUM_ROWS - 1 : -1]:
        values = [history.columns[name][row] for name in names]
        rows.append([row + 1, *(report.Number(value, "" if value is None else f"{value:.4g}") for value in values)])
    return report.table(["epoch", *names], rows)


def _log(run: RunDir) -> Html:
    lines = read_log(run)[-NUM_LINES:]
    marks = {"ERROR": "error", "WARNING": "warning"}
    shown = (
        f'<span class="{marks.get(line.level, "quiet")}">{escape(line.at[11:])}</span> '
        f"{f'<b>{marks[line.level]}:</b> ' if line.level in marks else ''}{escape(line.text)}"
        for line in lines
    )
    return Html("\n".join(shown) or "Nothing yet.")
