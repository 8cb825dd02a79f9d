"""The page of `watch`: the verdict, the estimated accuracy, and charts by day."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import plural, shown
from classifier_training.core.run_dir import make_folder
from classifier_training.evaluation import report
from classifier_training.evaluation.drawing import Drawer
from classifier_training.evaluation.figures.daily import DailyFigure
from classifier_training.monitoring.shifts import FALSE_ALARMS, FOREIGN, LABELS, MARGIN, MONTH, OTHER
from classifier_training.monitoring.statistics import CONFIDENCE, NAMES, STATISTICS, UNLIKE

if TYPE_CHECKING:
    from pathlib import Path

    from classifier_training.workflows.serving.watch import Watched

MAX_LINES = 6
"""Classes and statistics that are plotted, those that changed most."""

ADVICE = {
    "": "",
    LABELS: "Check whether the classes really come in other shares; if so, train again with data of that kind.",
    FOREIGN: "Look at rejected images; predict and serve reject them with reject.foreign=true.",
    OTHER: "Look at images of these days: the change is none of those that were measured on the validation images.",
}
CAMERA = "Check the camera, the light and how the images are sent; or train again with images of these days."


def write_watch_page(folder: Path, watched: Watched) -> None:
    """Write report.html, and its plots beside it."""
    accuracy, validation = watched.accuracy, watched.reference.accuracy
    estimate = "unknown" if accuracy.value is None else f"{accuracy.value:.1%}"
    facts = [
        (f"{watched.number:,}", "predictions"),
        (f"{len(watched.days):,}", "days (UTC)"),
        (estimate, "estimated accuracy now"),
        (f"{validation:.1%}", "accuracy on validation images"),
    ]
    if accuracy.value is None:
        words = f"The present accuracy cannot be known: {accuracy.why_not}."
    else:
        words = (
            f"Estimated accuracy {accuracy}, without labels, by {accuracy.method}, from "
            f"{plural(len(watched.recent), 'day')} up to {watched.recent[-1]}."
        )
    headline = watched.headline()
    body = [
        report.header(f"Watch: {watched.run.name}", f"{watched.source}, by {watched.run}", facts),
        report.banner(
            "error" if watched.is_shift else "good",
            "change" if watched.is_shift else "no change",
            f"{headline[0].upper()}{headline[1:]}",
            words,
        ),
    ]
    if watched.is_shift:
        lines = [(what, how) for what, how in watched.changes()]
        remedy = ADVICE.get(watched.now.kind, CAMERA)
        body.append(
            report.section(
                "What changed",
                report.table(("what", "now, against the validation images"), lines),
                report.card("note", "What to do", remedy, ""),
            )
        )
    body.append(report.section("By day", report.plots(_plots(folder / "plots", watched))))
    columns = ("day", "predictions", "rejected", "confidence", "unlike training", "accuracy (est.)", "change")
    body.append(report.section("All days", report.table(columns, _rows(watched))))
    body += [report.section("Left out", *map(report.paragraph, watched.notes))] if watched.notes else []
    body.append(
        report.footer(
            f"Compared with {watched.reference.sketch.number:,} validation images; changes of less than {MARGIN:g} "
            f"standard deviations count as none. At most {FALSE_ALARMS:.0%} of months ({MONTH} days) without a change "
            "have an alarm (Bonferroni). The accuracy is an estimate from the confidence of the model: label some "
            "images to be sure."
        )
    )
    report.write_page(folder / "report.html", title=f"Watch: {watched.run.name}", body=body)


def _rows(watched: Watched) -> list[tuple[report.Cell, ...]]:
    return [
        (
            day,
            sketch.number,
            report.Number(sketch.rejected / max(sketch.number, 1)),
            report.Number(float(sketch.means[CONFIDENCE])),
            report.Number(float(sketch.means[UNLIKE])),
            report.Number(estimate.value),
            f"{test.kind}{' (week)' if test.window > 1 else ''}" if test.is_shift else "",
        )
        for (day, sketch), test, estimate in zip(watched.days.items(), watched.tests, watched.estimates, strict=True)
    ]


def _plots(folder: Path, watched: Watched) -> list[tuple[str, str]]:
    make_folder(folder)
    figures = _figures(watched)
    with Drawer() as drawer:
        for name, (figure, _) in figures.items():
            drawer.submit(figure, folder / f"{name}.png")
    drawn = {name: folder / f"{name}.png" for name in figures}
    # The log names plots that could not be drawn.
    return [(report.plot_uri(path), figures[name][1]) for name, path in drawn.items() if path.exists()]


def _figures(watched: Watched) -> dict[str, tuple[DailyFigure, str]]:
    days, sketches = list(watched.days), list(watched.days.values())
    marked = [day for day, test in zip(days, watched.tests, strict=True) if test.is_shift]
    reference = watched.reference.sketch
    estimates = watched.estimates

    def daily(title: str, y_label: str, lines: dict[str, list[float]], **more: object) -> DailyFigure:
        return DailyFigure(title=title, y_label=y_label, days=days, lines=lines, marked=marked, **more)  # type: ignore[arg-type]

    nothing = math.nan
    accuracy = daily(
        "Estimated accuracy (no labels)", "accuracy",
        {"estimate": [nothing if one.value is None else one.value for one in estimates]},
        low=[nothing if one.low is None else one.low for one in estimates],
        high=[nothing if one.high is None else one.high for one in estimates],
        expected={"validation": watched.reference.accuracy},
    )  # fmt: skip
    numbers = [float(one.number) for one in sketches]
    number = daily("Predictions", "a day", {"predictions": numbers}, limits=(0.0, 1.1 * max(numbers)))
    means = np.stack([one.means for one in sketches])
    model = daily(
        "Confidence, and images unlike the training images", "share",
        {"confidence": means[:, CONFIDENCE].tolist(), "unlike": means[:, UNLIKE].tolist(),
         "rejected": [one.rejected / max(one.number, 1) for one in sketches]},
        expected={"validation (confidence)": float(reference.means[CONFIDENCE]),
                  "validation (unlike)": float(reference.means[UNLIKE])},
        limits=(-0.02, 1.02),
    )  # fmt: skip
    shares = np.stack([one.shares for one in sketches])
    order = np.argsort(-np.abs(shares - reference.shares).max(axis=0), kind="stable")[:MAX_LINES].tolist()
    classes = daily(
        "Shares of the predicted classes, the most changed", "share",
        {shown(reference.class_names[place]): shares[:, place].tolist() for place in order},
    )  # fmt: skip
    effects = np.stack([test.effects for test in watched.tests])
    order = np.argsort(-np.abs(effects).max(axis=0), kind="stable")[:MAX_LINES].tolist()
    changed = daily(
        "Statistics, the most changed", "standard deviations",
        {NAMES[place].replace("_", " "): effects[:, place].tolist() for place in order},
        expected={"validation": 0.0},
    )  # fmt: skip
    words = "; ".join(f"{NAMES[place].replace('_', ' ')}: {STATISTICS[place].words}" for place in order)
    return {
        "accuracy": (accuracy, "estimated accuracy by day, with its interval"),
        "confidence": (model, "mean confidence, share of unlike images and of rejected predictions, by day"),
        "classes": (classes, "shares of the predicted classes by day"),
        "statistics": (changed, f"change of statistics by day, in standard deviations; {words}"),
        "predictions": (number, "predictions by day"),
    }
