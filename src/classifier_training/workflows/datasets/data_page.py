"""The folder, the plots and the page of an analysis."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import plural, shown
from classifier_training.core.types import TRAIN
from classifier_training.data.checking.statistics import imbalance_ratio, mean_images
from classifier_training.evaluation import report
from classifier_training.evaluation.figures.dataset import (
    ClassBarsFigure,
    HistogramFigure,
    ImageSizesFigure,
    MeanImagesFigure,
    SampleSheetFigure,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from classifier_training.data.checking.findings import Finding, Inspected
    from classifier_training.data.index import SplitData
    from classifier_training.evaluation.drawing import Drawer, Figure

MAX_SHEETS = 60
"""Most classes with a sample sheet and a row of samples on the page: the most frequent ones and the rarest."""

NUM_SHEET, NUM_STRIP = 32, 10
MAX_IMAGES = 400
"""Most example images on the page, which keeps it under 10 MB."""

MAX_MEANS = 60
MAX_UNFOLDED = 8
"""Rows of a finding without images that are shown at once."""


@dataclass(frozen=True)
class DataReportDir:
    """The folder of an analysis: `data_report/`, or `label_issues/` inside a run."""

    path: Path

    @property
    def page(self) -> Path:  # noqa: D102
        return self.path / "report.html"

    @property
    def statistics(self) -> Path:  # noqa: D102
        return self.path / "statistics.json"

    @property
    def findings(self) -> Path:  # noqa: D102
        return self.path / "findings.json"

    @property
    def quarantine(self) -> Path:  # noqa: D102
        return self.path / "quarantine.csv"

    @property
    def corrections(self) -> Path:  # noqa: D102
        return self.path / "corrections.csv"

    @property
    def label_issues(self) -> Path:  # noqa: D102
        return self.path / "label_issues.csv"

    def plot(self, name: str) -> Path:
        """Path of a plot."""
        return self.path / f"{name}.png"

    def sample_sheet(self, number: int) -> Path:
        """Path of a class's sample sheet, by the class's number: a class may be called what no file can be."""
        return self.path / "samples" / f"class_{number:04d}.png"


@dataclass(frozen=True)
class Drawn:
    """Plots and samples for the page.

    Args:
        plots: files and what they show.
        samples: some readable files of each shown class, by label.
    """

    plots: Sequence[tuple[Path, str]]
    samples: dict[str, list[Path]]


def draw_plots(folder: DataReportDir, data: Inspected, counted: SplitData, drawer: Drawer, *, image_size: int) -> Drawn:
    """Submit the plots to the drawer, which has written them when its block ends."""
    plots: list[tuple[Path, str]] = []

    def draw(name: str, words: str, figure: Figure) -> None:
        drawer.submit(figure, folder.plot(name))
        plots.append((folder.plot(name), words))

    counts = {name: counted.counts(name).astype(float) for name in counted.tables}
    first = counted.counts(next(iter(counted.tables)))
    draw(
        "class_distribution", "images of each class",
        ClassBarsFigure(
            series=counts, class_names=counted.class_names, x_label="images",
            title=f"Images of each class, {imbalance_ratio(first):,.1f} : 1 from most to fewest",
        ),
    )  # fmt: skip
    if len(counts) > 1:
        shares = {name: 100 * values / max(values.sum(), 1) for name, values in counts.items()}
        draw(
            "class_balance", "share of each class in each split",
            ClassBarsFigure(
                series=shares, class_names=counted.class_names, x_label="% of the split", title="Balance of each split"
            ),
        )  # fmt: skip
    readable = data.scan.readable
    if readable:
        sizes = np.array([(fact.width, fact.height) for fact in readable], dtype=np.int64)
        draw("image_sizes", "width and height of the images", ImageSizesFigure(sizes=sizes, input_size=image_size))
        ratios = np.log2(sizes[:, 0] / sizes[:, 1])
        draw(
            "aspect_ratios", "width over height",
            HistogramFigure(
                values=np.clip(ratios, -3, 3), span=(-3, 3), title="Shapes",
                x_label="log2 of width over height (0 square, 1 twice as wide as high)",
            ),
        )  # fmt: skip
        brightness = np.array([fact.brightness for fact in readable])
        draw(
            "brightness", "mean brightness of the images",
            HistogramFigure(values=brightness, span=(0, 255), title="Brightness", x_label="mean, 0 black to 255 white"),
        )  # fmt: skip
        draw("modes", "kinds of stored pixels", _bars(Counter(fact.mode for fact in readable), "Kinds of pixels"))
        kept = _ends(counted, MAX_MEANS)
        means = mean_images(data.index, data.scan, counted.class_names)[kept]
        names = tuple(counted.class_names[number] for number in kept)
        draw("mean_images", "mean image of each class", MeanImagesFigure(means=means, class_names=names))
    groups = Counter(sample.group for sample in data.index.samples if sample.group)
    if groups:
        draw("groups", "images of each group", _bars(groups, f"Images of each group ({len(groups):,} groups)"))
    samples = _samples(data, counted)
    for label, paths in samples.items():
        sheet = SampleSheetFigure(paths=tuple(map(str, paths)), title=shown(label))
        drawer.submit(sheet, folder.sample_sheet(counted.class_names.index(label)))
    return Drawn(plots, samples)


def write_data_page(
    folder: DataReportDir, data: Inspected, counted: SplitData, findings: Sequence[Finding], drawn: Drawn
) -> None:
    """Write report.html."""
    splits = [(f"{len(table):,}", f"{name} images") for name, table in counted.tables.items()]
    severities = Counter(finding.severity for finding in findings)
    found = ", ".join(plural(severities[kind], kind) for kind in ("error", "warning", "note") if severities[kind])
    facts = [*splits, (f"{counted.num_classes:,}", "classes"), (found or "none", "findings")]
    body = [report.header(f"Data report: {data.index.root.name}", str(data.index.root), facts)]
    cards, left = [], MAX_IMAGES
    for finding in findings:
        card, used = _card(finding, data.index.root, left)
        cards.append(card)
        left -= used
    nothing = report.card("good", "No findings", "Every check passed.", "")
    body.append(report.section("Findings, most severe first", *(cards or [nothing])))
    rows: list[tuple[str | int, ...]] = [
        (shown(name), *(int(counted.counts(split)[number]) for split in counted.tables))
        for number, name in enumerate(counted.class_names)
    ]
    body.append(report.section("Classes", report.table(("class", *counted.tables), rows)))
    # The log names plots that could not be drawn.
    uris = [(report.plot_uri(path), words) for path, words in drawn.plots if path.exists()]
    body.append(report.section("Plots", report.plots(uris)))
    strips = [report.strip(shown(name), report.strip_uri(paths[:NUM_STRIP])) for name, paths in drawn.samples.items()]
    hidden = counted.num_classes - len(strips)
    note = [report.paragraph(f"{plural(hidden, 'class', 'classes')} not shown.")] if hidden else []
    body.append(report.section("Samples of each class", *strips, *note))
    body.append(
        report.footer(
            "Nothing was changed or deleted. Near duplicates are candidates: look at them before you remove any."
        )
    )
    report.write_page(folder.page, title=f"Data report: {data.index.root.name}", body=body)


def _card(finding: Finding, root: Path, left: int) -> tuple[report.Html, int]:
    framed: list[report.Html] = []
    used = 0
    single = all(len(group) == 1 for group in finding.examples)
    groups = [tuple(image for group in finding.examples for image in group)] if single else finding.examples
    for group in groups:
        chosen = group[: max(0, left - used)]
        used += len(chosen)
        if chosen:
            images = [report.thumbnail(root / image.path, image.caption, image.path) for image in chosen]
            framed.append(report.thumbnails(images, kind="gallery" if single else "group"))
    pieces = [report.groups(framed)] if framed else []
    hidden = finding.count - len(finding.examples)
    if finding.examples and hidden > 0 and not single:
        pieces.append(report.paragraph(f"and {plural(hidden, 'more group')}"))
    if finding.rows:
        columns = {1: ("which",), 2: ("which", "what")}.get(len(finding.rows[0]), ("group", "which", "what"))
        if finding.examples and not single:
            columns = ("group", "file")
        shown_rows = finding.rows[: report.MAX_ROWS]
        rows = [tuple(int(value) if value.isdecimal() else value for value in row) for row in shown_rows]
        pieces.append(
            report.folded(
                f"list ({plural(len(finding.rows), 'row')})",
                report.table(columns, rows, number=len(finding.rows), file="findings.json"),
                unfolded=not framed and len(rows) <= MAX_UNFOLDED,
            )
        )
    return report.card(finding.severity, finding.title, finding.words, finding.remedy, *pieces), used


def _bars(counts: Counter[str], title: str) -> ClassBarsFigure:
    names = tuple(name for name, _ in counts.most_common())
    values = np.array([counts[name] for name in names], dtype=float)
    return ClassBarsFigure(series={"files": values}, class_names=names, title=title, x_label="images")


def _ends(counted: SplitData, number: int) -> list[int]:
    """The classes to show: all, or the most frequent and the rarest."""
    totals = sum(counted.counts(split) for split in counted.tables)
    order = np.argsort(-np.asarray(totals), kind="stable").tolist()
    return sorted(order if len(order) <= number else [*order[: number // 2], *order[-(number // 2) :]])


def _samples(data: Inspected, counted: SplitData) -> dict[str, list[Path]]:
    """Readable files of each shown class, evenly spaced over the class; training images where the class has some."""
    readable = {fact.path for fact in data.scan.readable}
    by_label: dict[str, list[str]] = {}
    seen_in_train = any(sample.split == TRAIN for sample in data.index.samples)
    trained = {sample.label for sample in data.index.samples if sample.split == TRAIN}
    for sample in data.index.samples:
        wanted = not seen_in_train or sample.split == TRAIN or sample.label not in trained
        if wanted and sample.path in readable:
            by_label.setdefault(sample.label, []).append(sample.path)
    names = [counted.class_names[number] for number in _ends(counted, MAX_SHEETS)]
    chosen = {}
    for name in names:
        paths = by_label.get(name, [])
        if paths:
            step = max(1, len(paths) / NUM_SHEET)
            places = [int(place * step) for place in range(min(NUM_SHEET, len(paths)))]
            chosen[name] = [data.index.root / paths[place] for place in places]
    return chosen
