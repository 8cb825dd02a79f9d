"""`watch`: whether what a run is asked has changed, and how accurate it probably is, from sketches of predictions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from classifier_training.core.display import align
from classifier_training.core.errors import UserError, enumerate_words, plural, shown
from classifier_training.core.register import Word, register
from classifier_training.core.run_dir import make_folder, write_json, write_text
from classifier_training.core.runtime import command, setting
from classifier_training.core.settings import RunText, TypedPath
from classifier_training.export.bundle import read_info
from classifier_training.monitoring.accuracy import AccuracyEstimate, estimate_accuracy
from classifier_training.monitoring.shifts import FOREIGN, LABELS, ShiftTest, change_point, compare, judge_days
from classifier_training.monitoring.sketch import SKETCHES, Sketch, read_sketches
from classifier_training.monitoring.statistics import CONFIDENCE, NAMES, STATISTICS, UNLIKE
from classifier_training.registry.runs import find_run
from classifier_training.workflows.evaluating.label_next import report_label_next
from classifier_training.workflows.serving.watch_alerts import alert_rules
from classifier_training.workflows.serving.watch_page import write_watch_page

if TYPE_CHECKING:
    from collections.abc import Mapping

    from classifier_training.monitoring.reference import Reference

RECENT = 7
"""Days whose predictions are judged together, the last ones; fewer where a change is younger."""

MAX_STATISTICS = 4
"""That are listed for a change, those that changed most first."""

NUM_CHOSEN = 50
"""Images to label, where no number is given."""

SHOWN_DAYS = 14
"""On the screen; the page has all."""


@dataclass(frozen=True, eq=False)
class Watched:
    """What the sketches say.

    Args:
        run: folder of the run.
        source: folder of the sketches.
        reference: validation predictions of the run.
        days: sketches by day.
        tests: of each day.
        estimates: accuracy of each day.
        recent: days that are judged together, up to the last one.
        now: test of these days.
        accuracy: estimate of these days.
        since: first day of the change, and the earliest that may be; None without one.
        notes: what was left out.
    """

    run: Path
    source: Path
    reference: Reference
    days: Mapping[str, Sketch]
    tests: tuple[ShiftTest, ...]
    estimates: tuple[AccuracyEstimate, ...]
    recent: tuple[str, ...]
    now: ShiftTest
    accuracy: AccuracyEstimate
    since: tuple[str, str] | None
    notes: tuple[str, ...] = ()

    @property
    def is_shift(self) -> bool:
        """Whether predictions are now other than they were on the validation images."""
        return self.tests[-1].is_shift

    @property
    def number(self) -> int:
        """Of predictions."""
        return sum(sketch.number for sketch in self.days.values())

    def changes(self) -> list[tuple[str, str]]:
        """What changed, the most first, and by how much, in words."""
        test, found = self.now, []
        if test.kind == LABELS:
            before, now = self.reference.sketch.shares, self._recent().shares
            order = sorted(range(len(before)), key=lambda place: -abs(now[place] - before[place]))
            for place in order[:MAX_STATISTICS]:
                name = shown(self.reference.sketch.class_names[place])
                found.append((name, f"{now[place]:.1%} of the predictions, {before[place]:.1%} of the validation ones"))
            return found
        order = sorted(range(len(NAMES)), key=lambda place: float(test.p_values[place]))
        for place in [one for one in order if test.p_values[one] < 1e-3][:MAX_STATISTICS]:
            effect = f"{test.effects[place]:+.1f} standard deviations"
            found.append((NAMES[place].replace("_", " "), f"{effect} ({STATISTICS[place].words})"))
        return found

    def _recent(self) -> Sketch:
        return merged([self.days[day] for day in self.recent])

    def headline(self) -> str:
        """The verdict in a sentence."""
        if not self.is_shift:
            return "no change was found"
        kind = {LABELS: "the shares of the classes have changed", FOREIGN: "foreign images"}.get(
            self.now.kind, f"the images have changed: {self.now.kind}"
        )
        if self.now.is_partial and self.now.kind != LABELS:
            kind += f", in about {self.now.share:.0%} of them" if self.now.kind != FOREIGN else ""
        assert self.since is not None
        first, earliest = self.since
        words = f"since {first}" + (f" (perhaps since {earliest})" if earliest != first else "")
        return f"{kind}, {words}; {p_words(self.tests[-1].p_value)}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "run": str(self.run),
            "source": str(self.source),
            "num_predictions": self.number,
            "shift": self.is_shift,
            "kind": self.now.kind if self.is_shift else None,
            "since": None if self.since is None else {"day": self.since[0], "earliest": self.since[1]},
            "p_value": self.tests[-1].p_value,
            "changes": [{"what": what, "how": how} for what, how in self.changes()] if self.is_shift else [],
            "recent_days": list(self.recent),
            "estimated_accuracy": self.accuracy.to_dict(),
            "validation_accuracy": self.reference.accuracy,
            "days": [
                {
                    "day": day,
                    "num_predictions": sketch.number,
                    "rejected": sketch.rejected,
                    "predicted": dict(zip(sketch.class_names, sketch.predicted.tolist(), strict=True)),
                    "means": {name: _plain(sketch.means[place]) for place, name in enumerate(NAMES)},
                    "shift": test.is_shift,
                    "window_days": test.window,
                    "kind": test.kind or None,
                    "p_value": test.p_value,
                    "effects": {name: _plain(test.effects[place]) for place, name in enumerate(NAMES)},
                    "estimated_accuracy": estimate.to_dict(),
                }
                for (day, sketch), test, estimate in zip(self.days.items(), self.tests, self.estimates, strict=True)
            ],
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class WatchResult:
    """Result of `watch`.

    Args:
        watched: what was found.
        written: files and folders, with what they are.
    """

    watched: Watched
    written: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0, or 1 when predictions are now other than they were on the validation images."""
        return 1 if self.watched.is_shift else 0

    def __str__(self) -> str:
        found = self.watched
        names = list(found.days)
        days = f"{plural(len(names), 'day')} (UTC), {names[0]} to {names[-1]}"
        lines = [
            f"{plural(found.number, 'prediction')} of {days}, by {found.run}",
            f"{'SHIFT' if found.is_shift else 'OK'}: {found.headline()}",
            *([f"  {what}: {how}" for what, how in found.changes()] if found.is_shift else []),
            f"estimated accuracy, without labels: {found.accuracy}",
            f"  {found.reference.accuracy:.3f} on the {found.reference.sketch.number:,} validation images",
        ]
        rows = [
            (
                day,
                f"{sketch.number:,}",
                f"{sketch.rejected / max(sketch.number, 1):.1%}",
                _words(float(sketch.means[CONFIDENCE])),
                _words(float(sketch.means[UNLIKE])),
                "-" if estimate.value is None else f"{estimate.value:.3f}",
                f"{test.kind} ({p_words(test.p_value)})" if test.is_shift else "",
            )
            for (day, sketch), test, estimate in zip(found.days.items(), found.tests, found.estimates, strict=True)
        ]
        head = ("day", "predictions", "rejected", "confidence", "unlike", "accuracy (est.)", "change")
        lines += ["", *align(head, rows[-SHOWN_DAYS:], right=frozenset(head[1:6])), ""]
        return "\n".join([*lines, *found.notes, *self.written])


@register(
    group="verb",
    name="watch",
    examples=(
        "watch served/ run=production",
        "watch served/ run=production output=watched alerts=alerts.yml",
        "watch served/ run=production images=/kept/images label_next=50",
    ),
)
def watch(
    *,
    source: Annotated[TypedPath, Word()],
    run: RunText = "latest",
    output: TypedPath | None = None,
    alerts: TypedPath | None = None,
    images: TypedPath | None = None,
    label_next: Annotated[int, Field(ge=1)] | None = None,
) -> WatchResult:
    """Say whether what a run is asked has changed since it was validated, and estimate its accuracy without labels.

    It reads the sketches that `predict sketches=FOLDER` and `serve record=FOLDER` write, and compares each day, and
    each week, with the validation images of the run. Exit code 0: no change; 1: the last day has one.

    Args:
        source: folder of the sketches, or the one that serve records in.
        run: that predicted: run folder, latest, best, NAME, NAME:v2 or an alias such as production.
        output: folder for report.html and watch.json.
        alerts: file for alerting rules of Prometheus on the metrics that serve shows.
        images: folder of images that were predicted, where they are kept: which of them to label is written too.
        label_next: number of these; 50 when left out.
    """
    if label_next is not None and images is None:
        raise UserError(
            f"label_next={label_next} has no effect: no images were named that can be chosen from",
            "a folder of images that were predicted",
            "images=FOLDER",
        )
    folder = Path(source).expanduser()
    folder = folder / SKETCHES if (folder / SKETCHES).is_dir() else folder
    run_dir = find_run(run)
    info = read_info(run_dir)
    reference = None if info.calibration is None else info.calibration.reference
    if reference is None:
        raise UserError(
            f"{run_dir.path}: has no reference sketch",
            "a run that was calibrated on 30 validation images or more, and is no ensemble",
            f"{command('export')} {setting('run', run_dir.path)}   (for a run of an earlier version)",
        )
    read = read_sketches(folder, {str(file.get("sha256")) for file in info.files.values()})
    if not read.days:
        raise UserError(
            f"{folder}: {plural(sum(read.others.values()), 'prediction')} by other models, none by {run_dir.path}; "
            f"{plural(len(read.damaged), 'file')} damaged",
            "sketches of predictions by the run",
            "name the run that predicted: run=FOLDER, or an alias such as run=production",
        )
    notes = []
    if read.others:
        number = plural(sum(read.others.values()), "prediction")
        notes.append(f"{number} by {plural(len(read.others), 'other model')} left out")
    if read.damaged:
        files = enumerate_words((f"{name} ({reason})" for name, reason in read.damaged.items()), limit=3)
        notes.append(f"{plural(len(read.damaged), 'damaged file')} left out: {files}")
    watched = judge(run_dir.path, folder, reference, read.days, tuple(notes))
    written = []
    target = None if output is None else Path(output).expanduser()
    if target is not None:
        make_folder(target)
        write_json(target / "watch.json", watched.to_dict())
        write_watch_page(target, watched)
        written.append(f"page: {target / 'report.html'}")
    if alerts is not None:
        make_folder(Path(alerts).expanduser().parent)
        write_text(Path(alerts).expanduser(), alert_rules(reference))
        written.append(f"alerting rules: {alerts}")
    if images is not None:
        chosen = report_label_next(
            str(run_dir.path),
            images,
            label_next or NUM_CHOSEN,
            output=str((target or folder.parent / "watched") / "label_next"),
        )
        written.append(str(chosen))
    return WatchResult(watched, tuple(written))


def judge(
    run: Path, source: Path, reference: Reference, days: Mapping[str, Sketch], notes: tuple[str, ...] = ()
) -> Watched:
    """Test every day, say since when predictions are as they are now, and estimate the accuracy.

    Args:
        run: folder of the run.
        source: folder of the sketches.
        reference: of the run.
        days: sketches by day, in order.
        notes: what was left out.
    """
    tests = judge_days(reference, days)
    estimates = tuple(
        estimate_accuracy(reference, sketch, test) for sketch, test in zip(days.values(), tests, strict=True)
    )
    names, since = list(days), None
    if tests[-1].is_shift:
        since = change_point(reference, days, tests[-1])
        recent = [name for name in names[-RECENT:] if name >= since[0]] or names[-1:]
    else:
        recent = [name for name, test in zip(names, tests, strict=True) if not test.is_shift][-RECENT:]
    together = merged([days[name] for name in recent])
    now = compare(reference, together, window=len(recent)) if since else tests[-1]
    # What the last day shows by itself is not lost in days before.
    now = now if now.is_shift or since is None else tests[-1]
    accuracy = estimate_accuracy(reference, together, now)
    return Watched(run, source, reference, days, tuple(tests), estimates, tuple(recent), now, accuracy, since, notes)


def merged(sketches: list[Sketch]) -> Sketch:
    """Return the sketch of all together."""
    found = sketches[0]
    for one in sketches[1:]:
        found = found.merge(one)
    return found


def p_words(value: float) -> str:
    """Write a p-value."""
    return "p < 1e-12" if value < 1e-12 else f"p = {value:.2g}"


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _words(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"
