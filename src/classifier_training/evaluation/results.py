"""The files of an evaluation: the same at the end of `train`, and whatever file of a run was evaluated."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.display import align, shorten
from classifier_training.core.errors import enumerate_words, plural, shown
from classifier_training.core.run_dir import write_csv, write_json
from classifier_training.core.types import row_blocks
from classifier_training.evaluation.figures.curves import RankingCurves
from classifier_training.evaluation.groups import Groups
from classifier_training.evaluation.intervals import LEVEL, SEED
from classifier_training.evaluation.measures import Measures, measure
from classifier_training.evaluation.mistakes import SortedPredictions
from classifier_training.evaluation.slices import Slice, slice_metrics, worst_slice
from classifier_training.evaluation.verdict import Targets, Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.core.types import SplitResult, SplitTable

log = logging.getLogger(__name__)

SCHEMA = 1


@dataclass(frozen=True)
class Evaluation:
    """What the files say.

    Args:
        split: which part of the data.
        measures: the metrics.
        slices: metrics of parts of it.
        unknown_labels: images of labels that the model does not know, by label; left out of all metrics.
        missing_classes: classes of the model without an image.
        unreadable: paths of the images that could not be read; left out of all metrics.
        verdict: whether the model reaches its targets; None for metrics alone.
        curves: ROC and precision-recall curves of the classes.
    """

    split: str
    measures: Measures
    slices: Sequence[Slice] = ()
    unknown_labels: Mapping[str, int] = field(default_factory=dict)
    missing_classes: Sequence[str] = ()
    unreadable: Sequence[str] = ()
    verdict: Verdict | None = None
    curves: RankingCurves = field(default_factory=RankingCurves)

    @property
    def intervals(self) -> str:
        """Which intervals the metrics have, in words: by groups, where images of a group are not independent."""
        groups = self.measures.groups
        return "95 % intervals" + ("" if groups is None else f" {groups}")

    def __str__(self) -> str:
        return self.words()

    def words(self, monitor: str | None = None, logged: Mapping[str, float] | None = None) -> str:
        """Say the main metrics, and what they leave out.

        Args:
            monitor: name of a metric, without split, to be among them.
            logged: metrics as after each epoch, where those of single classes are found.
        """
        found = self.measures.overall
        shown_names = ("balanced_accuracy", "acc_top1", "macro_f1", "loss", "calibrated_loss")
        names = dict.fromkeys([*([monitor] if monitor else []), *(name for name in shown_names if name in found)])
        values = {name: found[name] if name in found else _logged(logged, name) for name in names}
        listed = ", ".join(f"{TITLES.get(name, name)} {value}" for name, value in values.items())
        lines = [
            f"{self.split}: {listed} on {self.measures.num_images:,} images"
            + (f" ({self.intervals})" if self.measures.num_resamples else "")
        ]
        if self.unknown_labels:
            number, labels = sum(self.unknown_labels.values()), enumerate_words(map(repr, self.unknown_labels))
            lines.append(f"left out, for labels that the model does not know ({labels}): {number:,}")
        if self.unreadable:
            lines.append(f"left out, because they cannot be read: {len(self.unreadable):,}")
        if self.missing_classes:
            lines.append(
                f"no image of {enumerate_words(map(repr, self.missing_classes))}: balanced accuracy leaves them out, "
                "macro F1 only where they are never predicted"
            )
        worst = worst_slice(self.slices)
        if worst is not None:
            lines.append(
                f"worst slice: {worst.by} {worst.value!r}, accuracy {worst.accuracy} on {worst.num_images:,} images"
            )
        if self.verdict is not None:
            lines.append(str(self.verdict))
        return "\n".join(lines)


TITLES = {
    "balanced_accuracy": "balanced accuracy", "acc_top1": "top-1 accuracy", "macro_f1": "macro F1",
    "calibrated_loss": "calibrated loss",
}  # fmt: skip
"""Of the main metrics, in a line; others have the names that settings give them."""


def _logged(metrics: Mapping[str, float] | None, name: str) -> str:
    return "not defined" if metrics is None or name not in metrics else f"{metrics[name]:.4f}"


MAX_CLASSES = 10
"""Rows of a table of classes."""

MAX_NAME = 40


CLASS_COLUMNS = ("class", "precision", "recall", "images")


def class_table(measures: Measures, class_names: Sequence[str]) -> list[str]:
    """Return the lines of a table of precision, recall and images of each class; see `class_rows`."""
    precisions, recalls = ([item.value for item in measures.by_class[name]] for name in ("precision", "recall"))
    rows, left = class_rows(class_names, precisions, recalls, measures.support.tolist())
    lines = align(CLASS_COLUMNS, rows, right=frozenset(CLASS_COLUMNS[1:]))
    return [*lines, left] if left else lines


def class_rows(
    class_names: Sequence[str], precisions: Sequence[float], recalls: Sequence[float], support: Sequence[int]
) -> tuple[list[tuple[str, ...]], str]:
    """Return the rows of a table of classes, the lowest recall first, and a line on those that are left out.

    Args:
        class_names: [K]; of more than ten the worst ten are shown, and the others counted.
        precisions: [K], NaN where not defined.
        recalls: likewise.
        support: images of each class [K].
    """
    order = np.argsort(np.nan_to_num(np.array(recalls, dtype=np.float64), nan=np.inf), kind="stable").tolist()
    rows: list[tuple[str, ...]] = [
        (
            shorten(shown(class_names[number]), MAX_NAME),
            _share(precisions[number]),
            _share(recalls[number]),
            f"{support[number]:,}",
        )
        for number in order[:MAX_CLASSES]
    ]
    if len(order) <= MAX_CLASSES:
        return rows, ""
    least = recalls[order[MAX_CLASSES]]
    words = f"recall {least:.4f} or higher" if np.isfinite(least) else "no images"
    return rows, f"and {plural(len(order) - MAX_CLASSES, 'more class', 'more classes')}: {words}"


def _share(value: float) -> str:
    return f"{value:.4f}" if np.isfinite(value) else "-"


def evaluate_predictions(
    result: SplitResult,
    table: SplitTable,
    class_names: Sequence[str],
    *,
    slices: Mapping[str, Sequence[str]] | None = None,
    unknown_labels: Mapping[str, int] | None = None,
    intervals: bool = True,
    targets: Targets | None = None,
    train_counts: Mapping[str, int] | None = None,
    num_trained_on: int = 0,
) -> Evaluation:
    """Compute the metrics of predictions; nothing is written.

    Args:
        result: the predictions.
        table: the samples of the split.
        class_names: [K].
        slices: for each thing to slice by, the value of each sample of the table.
        unknown_labels: images that the table leaves out for their label, by label.
        intervals: whether to find intervals.
        targets: that the verdict is about; the default ones when left out.
        train_counts: training images by class, if they are known.
        num_trained_on: of these images, those that the model was trained on; see `judge`.

    Raises:
        UserError: for predictions that cannot be scored.
    """
    groups = Groups.of([table.groups[row] for row in result.indices])
    curves = RankingCurves()
    measures = measure(
        result.logits,
        result.targets,
        num_classes=len(class_names),
        temperature=result.temperature,
        groups=groups,
        intervals=intervals,
        seen=curves.add,
    )
    predicted = result.predicted
    return Evaluation(
        split=result.split,
        measures=measures,
        slices=[
            item
            for by, values in (slices or {}).items()
            for item in slice_metrics(
                by,
                [values[row] for row in result.indices],
                result.targets,
                predicted,
                num_classes=len(class_names),
                groups=groups,
            )
        ],
        unknown_labels=unknown_labels or {},
        missing_classes=[name for name, number in zip(class_names, measures.support, strict=True) if not number],
        unreadable=[table.paths[row] for row in np.setdiff1d(np.arange(len(table)), result.indices)],
        verdict=judge(
            measures,
            class_names,
            targets or Targets(),
            split=result.split,
            train_counts=[train_counts.get(name, 0) for name in class_names] if train_counts else None,
            num_trained_on=num_trained_on,
        ),
        curves=curves,
    )


def write_results(
    folder: Path,
    result: SplitResult,
    table: SplitTable,
    class_names: Sequence[str],
    evaluation: Evaluation,
    *,
    source: str,
    csv_safe: bool = False,
) -> None:
    """Write classification_report.json, predictions.csv, errors.csv and, if any, slices.csv.

    Both tables have the columns path, true, predicted, confidence, loss, group and prob_<class>; errors.csv has the
    wrong predictions alone, the largest loss first. Confidence and loss are those of the probabilities in the same row.
    Where images times classes are above `MAX_PROBABILITIES`, the column top_k is in place of those of the
    probabilities: the five most probable classes as JSON, as `predict` writes them.

    classification_report.json holds, with every metric as {value, low, high, method} and null for what is not defined:

    - schema: 1. verdict: {status (ready, not ready or too few test images), words, targets, is_default_target, baseline
      {class, accuracy, balanced_accuracy} of always predicting the most frequent training class, checks [{metric,
      class, target, value, low, high, method, num_images, standing (reached, missed or open), more_images}]}.
    - split. source: the file that predicted. temperature: that its logits were divided by, or null.
      num_images.
    - intervals: {level, resamples, seed, bootstrap, groups}; resamples is 0 when there are none, groups the number of
      groups that the intervals are by, or null where images count as independent.
    - metrics: those of all classes together, named as in metrics.csv: loss (the log loss), acc_top1, acc_top5 (of
      more than five classes), balanced_accuracy, matthews, cohen_kappa, brier, ece, macro_auroc,
      macro_average_precision, and macro_ and weighted_ precision, recall, f1, specificity. loss, brier and ece are
      those of the network's own probabilities; with a temperature, calibrated_loss, calibrated_brier and
      calibrated_ece are those of the probabilities that predict gives.
    - classes: {name: {support, predicted, precision, recall, f1, specificity, auroc, average_precision}}; support and
      predicted are numbers of images.
    - left_out: {unknown_labels: {label: images}, unreadable: [path]}. missing_classes: [name].
    - slices: [{by, value, num_images, accuracy, balanced_accuracy}], and worst_slice: {by, value} or null.

    Args:
        folder: where to.
        result: the predictions.
        table: the samples of the split.
        class_names: [K].
        evaluation: metrics of the predictions.
        source: name of the file that predicted.
        csv_safe: whether the tables are written so that no cell is a formula to a spreadsheet.
    """
    write_json(folder / "classification_report.json", _report(evaluation, source, result.temperature, class_names))
    everything = np.arange(len(result.targets))
    worst_first = SortedPredictions(result, len(class_names)).worst()
    for name, chosen in (("predictions.csv", everything), ("errors.csv", worst_first)):
        header, rows = prediction_rows(result, table, class_names, chosen)
        write_csv(folder / name, header, rows, is_safe=csv_safe)
    if TOP_K in header:
        log.info(
            "predictions.csv and errors.csv hold the %d most probable classes of each image: all %s probabilities "
            "would take %s", NUM_TOP, f"{result.logits.size:,}", f"{9 * result.logits.size / 1e9:,.1f} GB",
        )  # fmt: skip
    if evaluation.slices:
        write_csv(folder / "slices.csv", SLICE_COLUMNS, map(_slice_row, evaluation.slices), is_safe=csv_safe)


def _report(
    evaluation: Evaluation, source: str, temperature: float | None, class_names: Sequence[str]
) -> dict[str, Any]:
    measures = evaluation.measures
    worst = worst_slice(evaluation.slices)
    return {
        "schema": SCHEMA,
        "verdict": None if evaluation.verdict is None else evaluation.verdict.to_dict(),
        "split": evaluation.split,
        "source": source,
        "temperature": temperature,
        "num_images": measures.num_images,
        "intervals": {
            "level": LEVEL,
            "resamples": measures.num_resamples,
            "seed": SEED,
            "bootstrap": "images drawn anew within each true class, percentiles"
            if measures.groups is None
            else "groups drawn anew, expanded percentiles",
            "groups": None if measures.groups is None else len(measures.groups),
        },
        "metrics": {name: estimate.to_dict() for name, estimate in measures.overall.items()},
        "classes": {
            name: {
                "support": int(measures.support[number]),
                "predicted": int(measures.predicted[number]),
                **{metric: estimates[number].to_dict() for metric, estimates in measures.by_class.items()},
            }
            for number, name in enumerate(class_names)
        },
        "left_out": {
            "unknown_labels": dict(evaluation.unknown_labels),
            "unreadable": list(evaluation.unreadable),
        },
        "missing_classes": list(evaluation.missing_classes),
        "slices": [item.to_dict() for item in evaluation.slices],
        "worst_slice": None if worst is None else {"by": worst.by, "value": worst.value},
    }


SLICE_COLUMNS = (
    "by", "value", "num_images", "accuracy", "accuracy_low", "accuracy_high",
    "balanced_accuracy", "balanced_accuracy_low", "balanced_accuracy_high",
)  # fmt: skip


def _slice_row(item: Slice) -> tuple[object, ...]:
    ends = [
        "" if np.isnan(value) else f"{value:.6f}"
        for metric in (item.accuracy, item.balanced_accuracy)
        for value in (metric.value, metric.low, metric.high)
    ]
    return (item.by, item.value, item.num_images, *ends)


COLUMNS = ("path", "true", "predicted", "confidence", "loss", "group")
"""Of predictions.csv, before those of the probabilities, prob_<class>."""

MAX_PROBABILITIES = 50_000_000
"""Images times classes up to which tables hold all probabilities, 9 bytes each; of more, `NUM_TOP` of each image."""

TOP_K, NUM_TOP = "top_k", 5


def prediction_rows(
    result: SplitResult,
    table: SplitTable,
    class_names: Sequence[str],
    chosen: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> tuple[tuple[str, ...], Iterator[tuple[object, ...]]]:
    """Return the header and the rows of predictions.csv.

    Args:
        result: the predictions.
        table: the samples of the split.
        class_names: [K].
        chosen: rows of the result, in their order.
    """
    is_whole = result.logits.size <= MAX_PROBABILITIES
    header = (*COLUMNS, *(f"prob_{name}" for name in class_names)) if is_whole else (*COLUMNS, TOP_K)
    cells = ",".join(["%.6f"] * len(class_names))

    def rows() -> Iterator[tuple[object, ...]]:
        for block in row_blocks((len(chosen), len(class_names))):
            some = chosen[block]
            probabilities = result.probabilities_of(some)
            for row, index, shares in zip(some.tolist(), result.indices[some].tolist(), probabilities, strict=True):
                yield (
                    table.paths[index],
                    class_names[result.targets[row]],
                    class_names[result.predicted[row]],
                    f"{shares.max():.6f}",
                    f"{result.losses[row]:.6f}",
                    table.groups[index],
                    *((cells % tuple(shares.tolist())).split(",") if is_whole else (_top(shares, class_names),)),
                )

    return header, rows()


def _top(shares: NDArray[np.float32], class_names: Sequence[str]) -> str:
    """The most probable classes as JSON, the best first; of equals the first."""
    number = min(NUM_TOP, len(shares))
    best = np.flatnonzero(shares >= np.partition(shares, -number)[-number])
    best = best[np.argsort(-shares[best], kind="stable")][:number]
    found = [{"label": class_names[place], "probability": round(float(shares[place]), 6)} for place in best.tolist()]
    return json.dumps(found, ensure_ascii=False)
