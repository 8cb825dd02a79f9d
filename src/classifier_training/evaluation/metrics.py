"""The metrics, one entry each, and their values for a split.

The entries are at the end of this file; `measures` adds intervals for reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from classifier_training.core.errors import UserError, enumerate_words, nearest
from classifier_training.core.metrics import OF_CLASS, Metric, all_metrics, register_metric
from classifier_training.core.runtime import command
from classifier_training.core.types import row_blocks
from classifier_training.evaluation import counts as of_counts
from classifier_training.evaluation.counts import ClassCounts, Share, macro, weighted
from classifier_training.evaluation.predictions import (
    MAX_RANK,
    Predictions,
    calibration_error,
    is_among_first,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from classifier_training.evaluation.ranking import Ranking

    Floats = NDArray[np.float64]
    Weights = NDArray[np.float32] | None

AVERAGES = {"macro": macro, "weighted": weighted}


@dataclass(frozen=True, kw_only=True)
class FromCounts(Metric):
    """A metric of how often each class was given, predicted and hit.

    Args:
        function: counts [..., K] -> [...], or [..., K] where it is by class; a `Share` has an exact interval,
            and its hits and trials must add up over parts of the images.
    """

    function: Callable[[ClassCounts], Floats | Share]

    def values(self, counts: ClassCounts) -> Floats:
        """Value, [...] or [..., K]."""
        found = self.function(counts)
        return found.value if isinstance(found, Share) else found

    def averaged(self, values: Floats, counts: ClassCounts) -> dict[str, Floats]:
        """Values over all classes [...], by column, from those of `values`."""
        if not self.by_class:
            return {self.name: values}
        return {f"{average}_{self.name}": AVERAGES[average](counts, values) for average in self.averages}


@dataclass(frozen=True, kw_only=True)
class FromImages(Metric):
    """A mean over the images.

    Args:
        function: predictions -> value of each image [N]; of booleans the interval may be exact.
    """

    function: Callable[[Predictions], NDArray[np.floating] | NDArray[np.bool_]]


@dataclass(frozen=True, kw_only=True)
class FromProbabilities(Metric):
    """A metric of the probabilities that is no mean over the images.

    Args:
        function: predictions and how often each image counts -> [] for None, [B] for the weights [N, B] of B resamples.
            Weights come where the interval is bootstrap.
    """

    function: Callable[[Predictions, Weights], Floats | float]


@dataclass(frozen=True, kw_only=True)
class FromRanking(Metric):
    """A metric, by class, of how the images are ordered by the class's probability.

    Its macro average is over the classes for which it is defined.

    Args:
        function: a class's ranking and weights as for `FromProbabilities` -> [] or [B]; NaN where it is not defined.
        influence: ranking -> derivative by the weight of each image [N]; of very many predictions the interval comes
            from it where that of the metric is bootstrap, which takes its time otherwise.
    """

    by_class: bool = True
    averages: tuple[Literal["macro"], ...] = ("macro",)
    function: Callable[[Ranking, Weights], Floats | float]
    influence: Callable[[Ranking], Floats] | None = None


def metric_names(class_names: Sequence[str]) -> list[str]:
    """Names of all metrics that are logged after each epoch with these classes."""
    metrics = all_metrics(len(class_names))
    return [
        *(metric.main_column for metric in metrics if metric.logged),
        *(name for metric in metrics if metric.logs_classes for name in metric.class_columns(class_names)),
    ]


def watchable_names(class_names: Sequence[str]) -> list[str]:
    """Names of all metrics that `classification_metrics` gives for these classes, when they are asked for."""
    metrics = all_metrics(len(class_names))
    averages = [name for metric in metrics for name in metric.titles]
    by_class = [name for metric in metrics for name in metric.class_columns(class_names)]
    return list(dict.fromkeys([*metric_names(class_names), *averages, *by_class]))


def classification_metrics(
    logits: NDArray[np.float32],
    targets: NDArray[np.int64],
    losses: NDArray[np.float32],
    class_names: Sequence[str],
    *,
    also: Collection[str] = (),
) -> dict[str, float]:
    """Compute the metrics of one split that are logged after each epoch.

    Args:
        logits: or probabilities, float [N, K].
        targets: int64 [N].
        losses: cross-entropy of each sample [N].
        class_names: [K].
        also: names of further metrics, out of `watchable_names`; for those made from probabilities, `logits` must be
            logits.

    Returns:
        Value by name. A metric that is not defined here, such as that of a class without images, is left out.
    """
    predictions = Predictions(scores=logits, targets=targets, given_losses=losses)
    wanted = dict.fromkeys([*metric_names(class_names), *also])
    metrics = _needed(wanted, class_names)
    found = evaluate(metrics, predictions, _needed_rankings(metrics, predictions, wanted, class_names))
    values = {name: float(value) for name, value in found.overall.items()}
    # Until a class is predicted once its precision counts as 0: a metric that comes and goes can choose nothing.
    never = (predictions.counts.support > 0) & (predictions.counts.predicted == 0)
    for metric in metrics:
        if metric.by_class:
            of_class = found.by_class[metric.name]
            shown = np.where(never, np.nan_to_num(of_class), of_class) if isinstance(metric, FromCounts) else of_class
            values |= zip(metric.class_columns(class_names), shown.tolist(), strict=True)
    # A loss that is no number is to be seen.
    return {name: values[name] for name in wanted if name == "loss" or np.isfinite(values.get(name, np.nan))}


def _needed(wanted: Collection[str], class_names: Sequence[str]) -> list[Metric]:
    """The metrics that have one of the wanted columns."""
    heads = {"".join(name.partition(OF_CLASS)[:2]) for name in wanted}
    metrics = all_metrics(len(class_names))
    return [metric for metric in metrics if heads & {*metric.titles, *metric.class_columns([""])}]


def _needed_rankings(
    metrics: Sequence[Metric], predictions: Predictions, wanted: Collection[str], class_names: Sequence[str]
) -> Iterator[tuple[int, Ranking]]:
    """Rank the images by the classes that are needed, one after the other: all at once may not fit in memory."""
    ranked = [metric for metric in metrics if isinstance(metric, FromRanking)]
    averaged = any(metric.main_column in wanted for metric in ranked)
    return predictions.rankings(
        [
            number
            for number, name in enumerate(class_names)
            if averaged or any(metric.class_columns([name])[0] in wanted for metric in ranked)
        ]
    )


class Values(NamedTuple):
    """Values of metrics for one split, or for B resamples of it.

    Args:
        overall: over all classes, [] or [B], by column.
        by_class: of each class, [K] or [B, K], by metric.
    """

    overall: dict[str, Floats]
    by_class: dict[str, Floats]


def evaluate(
    metrics: Iterable[Metric],
    predictions: Predictions,
    rankings: Iterable[tuple[int, Ranking]],
    *,
    counts: ClassCounts | None = None,
    weights: Weights = None,
) -> Values:
    """Compute metrics.

    Args:
        metrics: which.
        predictions: of the split.
        rankings: the images ranked by classes, with the number of each; for the other classes there are no values.
        counts: of the resamples; those of the predictions when left out.
        weights: how often each image counts in each resample [N, B]; once when left out.
    """
    counts = predictions.counts if counts is None else counts
    overall: dict[str, Floats] = {}
    by_class: dict[str, Floats] = {}
    ranked = []
    for metric in metrics:
        if isinstance(metric, FromCounts):
            values = metric.values(counts)
            overall |= metric.averaged(values, counts)
            by_class |= {metric.name: values} if metric.by_class else {}
        elif isinstance(metric, FromImages):
            of_images = metric.function(predictions)
            # Resamples of whole groups have different numbers of images.
            means = (
                of_images.mean() if weights is None else of_images.astype(np.float32) @ weights / weights.sum(axis=0)
            )
            overall[metric.name] = np.asarray(means)
        elif isinstance(metric, FromProbabilities):
            overall[metric.name] = np.asarray(metric.function(predictions, weights))
        elif isinstance(metric, FromRanking):
            ranked.append(metric)
            by_class[metric.name] = np.full((*counts.hits.shape[:-1], predictions.num_classes), np.nan)
    for number, ranking in rankings:
        for metric in ranked:
            by_class[metric.name][..., number] = metric.function(ranking, weights)
    overall |= {metric.main_column: _defined_mean(by_class[metric.name]) for metric in ranked}
    return Values(overall, by_class)


def _defined_mean(values: Floats) -> Floats:
    """Mean over the classes [..., K] that have values; NaN where none has."""
    defined = np.isfinite(values)
    return of_counts.ratio(np.where(defined, values, 0).sum(axis=-1), defined.sum(axis=-1))


def confusion_counts(targets: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Count predictions by true class (rows) and predicted class (columns), int64 [K, K]."""
    pairs = np.bincount(targets * num_classes + predicted, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes).astype(np.int64, copy=False)


def cross_entropies(
    logits: NDArray[np.float32], targets: NDArray[np.int64], temperature: float | None = None
) -> NDArray[np.float32]:
    """Cross-entropy of each sample [N], from logits [N, K], which are divided by the temperature where there is one."""
    found = np.empty(len(targets), np.float32)
    for rows in row_blocks(logits.shape):
        scaled = logits[rows] if temperature is None else logits[rows] / np.float32(temperature)
        wide = scaled.astype(np.float64)
        largest = wide.max(axis=1)
        log_sums = largest + np.log(np.exp(wide - largest[:, None]).sum(axis=1))
        found[rows] = log_sums - wide[np.arange(len(wide)), targets[rows]]
    return found


def check_monitor(monitor: str, class_names: Sequence[str], targets: NDArray[np.int64], *, setting: str) -> None:
    """Make sure that a metric will be logged after every epoch's validation.

    Args:
        monitor: name of the metric.
        class_names: [K].
        targets: class numbers of the validation images [N]; a class that does not occur has no metric.
        setting: what the user set, for the message.

    Raises:
        UserError: when it will not, with the nearest names.
    """
    undefined = _undefined(class_names, targets)
    known = [f"val/{name}" for name in watchable_names(class_names) if name not in undefined]
    if monitor not in known:
        always = [f"val/{name}" for name in metric_names(class_names)]
        shown = [name for name in known if OF_CLASS not in name or name in always]
        close = nearest(monitor, known)
        raise UserError(
            f"{setting}={monitor}: there is no such metric",
            f"one of {enumerate_words(shown, limit=32)}",
            f"{setting}={close[0] if close else 'val/balanced_accuracy'}",
        )


def without_value(monitor: str) -> UserError:
    """Return the error for a run whose monitored metric was not defined after any epoch."""
    return UserError(
        f"monitor={monitor} had no value after any epoch, so no weights are the best",
        "a metric that is defined on these validation images",
        f"{command('train')} … monitor=val/balanced_accuracy",
    )


def _undefined(class_names: Sequence[str], targets: NDArray[np.int64]) -> set[str]:
    """Metrics that these validation images cannot give."""
    present = set(targets.tolist())
    absent = [name for number, name in enumerate(class_names) if number not in present]
    undefined = {name for metric in all_metrics() for name in metric.class_columns(absent)}
    if len(present) == 1:
        # There is nothing that images of one class alone could be told from: two of them, classified correctly, show
        # what is not defined then.
        logits = np.eye(len(class_names), dtype=np.float32)[targets[:2]]
        names = watchable_names(class_names)
        losses = cross_entropies(logits, targets[:2])
        undefined |= set(names) - classification_metrics(logits, targets[:2], losses, class_names, also=names).keys()
    return undefined


def _average_precision(ranking: Ranking, weights: Weights) -> Floats | float:
    return ranking.average_precision if weights is None else ranking.resampled_average_precisions(weights)


for _metric in (
    FromImages(
        name="loss", title="log loss", function=lambda found: found.losses,
        lower_is_better=True, logged=True, calibrated=True, plot="loss",
    ),
    FromCounts(
        name="acc_top1", title="top-1 accuracy", short="accuracy", function=of_counts.accuracy, interval="exact",
        logged=True, plot="accuracy", on_card=True, hub="accuracy", leaderboard="accuracy",
    ),
    FromImages(
        name="acc_top5", title="top-5 accuracy", function=lambda found: is_among_first(found.scores, found.targets),
        interval="exact", min_classes=MAX_RANK + 1, logged=True,
    ),
    FromCounts(
        name="balanced_accuracy", title="balanced accuracy", function=of_counts.balanced_accuracy,
        logged=True, plot="accuracy", on_card=True, leaderboard="balanced_accuracy",
    ),
    FromCounts(
        name="recall", title="recall", function=of_counts.recall, by_class=True, interval="exact",
        class_column="acc", logs_classes=True,
    ),
    FromCounts(name="precision", title="precision", function=of_counts.precision, by_class=True, interval="exact"),
    FromCounts(
        name="f1", title="F1", function=of_counts.f1, by_class=True,
        logged=True, on_card=True, hub="f1", leaderboard="macro_f1",
    ),
    FromCounts(
        name="specificity", title="specificity", function=of_counts.specificity, by_class=True, interval="exact",
        on_page=False,
    ),
    FromRanking(name="auroc", title="AUROC", function=lambda ranking, _: ranking.auroc, interval="delong"),
    FromRanking(
        name="average_precision", title="average precision", function=_average_precision,
        influence=lambda ranking: ranking.average_precision_influence(),
    ),
    FromCounts(name="matthews", title="Matthews correlation", function=of_counts.matthews),
    FromCounts(name="cohen_kappa", title="Cohen's kappa", function=of_counts.cohen_kappa),
    FromImages(
        name="brier", title="Brier score", function=lambda found: found.briers,
        lower_is_better=True, calibrated=True,
    ),
    FromProbabilities(
        name="ece", title="calibration error (ECE)", short="calibration error",
        function=lambda found, weights: calibration_error(found.confidences, found.correct, weights),
        lower_is_better=True, calibrated=True, on_card=True,
    ),
):  # fmt: skip
    register_metric(_metric)
