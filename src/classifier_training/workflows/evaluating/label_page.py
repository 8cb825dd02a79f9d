"""The page of the labels that look wrong, with their images."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import plural, shown
from classifier_training.core.runtime import command, setting
from classifier_training.evaluation import report

if TYPE_CHECKING:
    from collections.abc import Container
    from pathlib import Path

    from classifier_training.workflows.evaluating.label_report import JudgedLabels

MAX_SHOWN, MAX_OUTLIERS = 300, 60
"""Images that the page shows, and how many of them for being unlike the training images; the CSV file has every one."""

MIN_OUTLIER = 0.5
"""Of `outlier_scores`: the far fence."""

DOUBTFUL, DUPLICATE, OUTLIER = "Doubtful label", "Duplicate with another label", "Unlike the training images"


def write_label_page(path: Path, run: Path, labels: JudgedLabels) -> None:
    """Write the page.

    Args:
        path: of the HTML file.
        run: the run folder.
        labels: judged.
    """
    doubtful = labels.order[: labels.num_issues].tolist()
    outliers = [int(row) for row in np.argsort(-labels.outliers, kind="stable") if labels.outliers[row] >= MIN_OUTLIER]
    number, judged = len(labels.samples), int(np.isfinite(labels.quality).sum())
    facts = [
        (f"{judged:,}", "labels judged"),
        (f"{len(doubtful):,}", "doubtful labels"),
        (f"{len(labels.duplicate_of):,}", "duplicates with another label"),
        (f"{len(outliers):,}", "images unlike the training images"),
    ]
    body = [report.header(f"Labels to look at: {run.name}", str(run), facts)]
    review = f"{command('review')} {setting('run', run)}"
    if doubtful or outliers:
        shown_rows = list(dict.fromkeys([*doubtful[: MAX_SHOWN - MAX_OUTLIERS], *outliers[:MAX_OUTLIERS]]))
        body.append(
            report.section(
                "The most doubtful first",
                report.paragraph(
                    "Each label was judged by a model that was not trained on it, and that is surer of another class "
                    "than of this one. A weak model doubts correct labels, too: look before you change one."
                ),
                report.card("note", "Correct them", "A local page with the same list, on which a key decides.", review),
                report.filtered([(_thumbnail(labels, row), _kinds(labels, row, doubtful)) for row in shown_rows]),
                *(
                    [report.paragraph(f"{len(shown_rows):,} images are shown; label_issues.csv lists all.")]
                    if len(shown_rows) < len({*doubtful, *outliers})
                    else []
                ),
            )
        )
    else:
        body.append(report.card("good", "No doubtful label", "The model contradicts no label more than usual.", ""))
    counts = Counter(zip((sample.split for sample in labels.samples), labels.judges, strict=True))
    issues = Counter((labels.samples[row].split, labels.judges[row]) for row in doubtful)
    body.append(
        report.section(
            "Who judged",
            report.table(
                ("split", "judged by", "images", "doubtful"),
                [(split, judge, images, issues[split, judge]) for (split, judge), images in sorted(counts.items())],
            ),
        )
    )
    if doubtful:
        columns = ("file", "split", "label", "model says", "confidence", "label's probability", "unlike training")
        body.append(report.section("All of them", report.table(columns, [_line(labels, row) for row in doubtful])))
    body.append(
        report.footer(
            f"{plural(number, 'image')}. Ranked by the probability of the label; their number is that of confident "
            "learning (Northcutt et al. 2021, arXiv:1911.00068), or, of images judged by probes of a network that was "
            "trained on them, all that the probes contradict. Unlike the training images: by the cosine distance to "
            "the tenth nearest training image (Sun et al. 2022, arXiv:2204.06507)."
        )
    )
    report.write_page(path, title=f"Labels to look at: {run.name}", body=body)


def _kinds(labels: JudgedLabels, row: int, doubtful: Container[int]) -> list[str]:
    is_duplicate = row in labels.duplicate_of
    return [
        *([DOUBTFUL] if row in doubtful and not is_duplicate else []),
        *([DUPLICATE] if is_duplicate else []),
        *([OUTLIER] if labels.outliers[row] >= MIN_OUTLIER else []),
    ]


def _thumbnail(labels: JudgedLabels, row: int) -> report.Thumbnail:
    sample, suggested, other = labels.samples[row], labels.suggested(row), labels.duplicate_of.get(row)
    words = [f"model: {shown(suggested[0])} {suggested[1]:.0%}"] if suggested else []
    if other is not None:
        words.append(f"same image as {labels.samples[other].path} ({shown(labels.samples[other].label)})")
    return report.thumbnail(
        labels.root / sample.path, f"label: {shown(sample.label)}", ", ".join([*words, sample.path])
    )


def _line(labels: JudgedLabels, row: int) -> tuple[report.Cell, ...]:
    sample, suggested = labels.samples[row], labels.suggested(row)
    return (
        sample.path, sample.split, shown(sample.label), shown(suggested[0]) if suggested else "",
        report.Number(suggested[1] if suggested else None), report.Number(float(labels.quality[row])),
        report.Number(float(labels.outliers[row])),
    )  # fmt: skip
