"""Every metric of one split with its 95 % interval: what reports are made of.

The metrics that are logged after each epoch are in `metrics`, under the same names.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.metrics import CALIBRATED, all_metrics
from classifier_training.evaluation.counts import ClassCounts, Share
from classifier_training.evaluation.intervals import (
    Estimate,
    auroc_estimate,
    bootstrap_interval,
    choose_num_resamples,
    delong_interval,
    exact_shares,
    resample,
)
from classifier_training.evaluation.metrics import (
    FromCounts,
    FromImages,
    FromProbabilities,
    FromRanking,
    defined_mean,
)
from classifier_training.evaluation.predictions import Predictions, check_scores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from classifier_training.core.metrics import Metric
    from classifier_training.evaluation.predictions import Scores
    from classifier_training.evaluation.ranking import Ranking

    Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measures:
    """The metrics of one split.

    Args:
        num_images: N.
        num_resamples: of the bootstrap; 0 without intervals.
        overall: metrics of all classes together, by name.
        by_class: metrics of each class [K], by name: recall, precision and others.
        support: images of each class, int64 [K].
        predicted: images that were predicted as each class, int64 [K].
    """

    num_images: int
    num_resamples: int
    overall: Mapping[str, Estimate]
    by_class: Mapping[str, Sequence[Estimate]]
    support: NDArray[np.int64]
    predicted: NDArray[np.int64]


def measure(
    scores: NDArray[np.floating],
    targets: NDArray[np.int64],
    *,
    num_classes: int,
    kind: Scores = "logits",
    divided_by: float = 1.0,
    intervals: bool = True,
) -> Measures:
    """Compute all metrics of one split.

    loss, brier and ece are those of the network's own probabilities, as during training. Where the logits were divided
    by a temperature, calibrated_loss, calibrated_brier and calibrated_ece are those of the given ones.

    Args:
        scores: logits or probabilities [N, K].
        targets: class numbers, int64 [N].
        num_classes: K.
        kind: what `scores` are.
        divided_by: the temperature that logits were divided by.
        intervals: whether to find intervals; metrics alone take a few per cent of the time.

    Raises:
        UserError: for predictions that cannot be scored; see `check_scores`.
    """
    check_scores(scores, targets, num_classes, kind=kind)
    given = Predictions(scores=scores, targets=targets, kind=kind)
    own = given if divided_by == 1 else Predictions(scores=scores * divided_by, targets=targets, kind=kind)
    split = _Split(given, own, [given.ranking(number) for number in range(num_classes)], all_metrics(num_classes))
    number = choose_num_resamples(len(targets), num_classes) if intervals else 0
    replicates = split.replicates(number) if intervals else None
    return Measures(
        num_images=len(targets),
        num_resamples=number,
        overall=split.overall(replicates),
        by_class=split.by_class(replicates),
        support=given.counts.support.astype(np.int64),
        predicted=given.counts.predicted.astype(np.int64),
    )


Replicates = defaultdict[str, list["Floats"]]
"""Values of resamples, [B] over all classes and [B, K] of each class, by name, in parts."""


class _Split:
    """All metrics of one split; where there are replicates, with their intervals."""

    def __init__(self, given: Predictions, own: Predictions, rankings: list[Ranking], metrics: list[Metric]) -> None:
        self._given = given
        self._rankings = rankings
        self._counted = [metric for metric in metrics if isinstance(metric, FromCounts)]
        self._ranked = [metric for metric in metrics if isinstance(metric, FromRanking)]
        self._metrics = metrics
        # Of the given probabilities, beside the network's own, where they differ.
        self._scored: list[tuple[str, FromImages | FromProbabilities, Predictions]] = [
            (prefix + metric.name, metric, predictions)
            for prefix, predictions in (("", own), *([(CALIBRATED, given)] if own is not given else []))
            for metric in metrics
            if isinstance(metric, FromImages | FromProbabilities) and (not prefix or metric.calibrated)
        ]
        self._class_values = {metric.name: metric.values(given.counts) for metric in self._counted if metric.by_class}
        self._class_values |= {
            metric.name: np.array([metric.function(ranking, None) for ranking in rankings], dtype=np.float64)
            for metric in self._ranked
        }

    def overall(self, replicates: Replicates | None) -> dict[str, Estimate]:
        """Metrics of all classes together, in the order of the table."""
        found = {}
        for metric in self._counted:
            values = self._class_values[metric.name] if metric.by_class else metric.values(self._given.counts)
            share = metric.function(self._given.counts)
            for name, value in metric.averaged(values, self._given.counts).items():
                exact = share if isinstance(share, Share) and not metric.by_class else None
                found[name] = self._estimate(metric, float(value), name, replicates, exact)
        for name, scored, predictions in self._scored:
            if isinstance(scored, FromImages):
                of_images = scored.function(predictions)
                hits = Share(np.asarray(of_images.sum()), np.asarray(float(len(of_images))))
                found[name] = self._estimate(scored, float(of_images.mean()), name, replicates, hits)
            else:
                found[name] = self._estimate(scored, float(scored.function(predictions, None)), name, replicates)
        for ranked in self._ranked:
            name, mean = ranked.main_column, defined_mean(self._class_values[ranked.name])
            if replicates is not None and ranked.interval == "delong":
                found[name] = delong_interval(mean, self._macro_auroc_variance())
            else:
                found[name] = self._estimate(ranked, mean, name, replicates)
        order = [name for metric in self._metrics for name in metric.titles]
        order += [name for metric in self._metrics for name in metric.calibrated_titles]
        return {name: found[name] for name in order if name in found}

    def _estimate(
        self, metric: Metric, value: float, name: str, replicates: Replicates | None, share: Share | None = None
    ) -> Estimate:
        if replicates is None or metric.interval == "none":
            return Estimate(value)
        if metric.interval == "exact" and share is not None:
            (found,) = exact_shares(*share)
            return found
        return bootstrap_interval(value, np.concatenate(replicates[name]))

    def by_class(self, replicates: Replicates | None) -> dict[str, Sequence[Estimate]]:
        """Metrics of each class [K], in the order of the table."""
        found: dict[str, Sequence[Estimate]] = {}
        for metric in self._metrics:
            if metric.name not in self._class_values:
                continue
            values = self._class_values[metric.name].tolist()
            share = metric.function(self._given.counts) if isinstance(metric, FromCounts) else None
            if replicates is None or metric.interval == "none":
                found[metric.name] = [Estimate(value) for value in values]
            elif metric.interval == "delong":
                found[metric.name] = [auroc_estimate(ranking) for ranking in self._rankings]
            elif metric.interval == "exact" and isinstance(share, Share):
                found[metric.name] = exact_shares(*share)
            else:
                columns = np.concatenate(replicates[metric.name]).T
                found[metric.name] = [bootstrap_interval(*pair) for pair in zip(values, columns, strict=True)]
        return found

    def replicates(self, number: int) -> Replicates:
        """Values of all metrics whose interval is the bootstrap's; all of them share the resamples."""
        found: Replicates = defaultdict(list)
        of_images = {
            name: metric.function(predictions).astype(np.float32)
            for name, metric, predictions in self._scored
            if isinstance(metric, FromImages)
        }
        defined = {name: np.isfinite(values) for name, values in self._class_values.items()}
        for counts, weights in self._resamples(number):
            for metric in self._counted:
                values = metric.values(counts)
                if metric.by_class and metric.interval == "bootstrap":
                    found[metric.name].append(values)
                for name, averaged in metric.averaged(values, counts).items():
                    found[name].append(averaged)
            for name, scored, predictions in self._scored:
                if isinstance(scored, FromImages):
                    found[name].append(of_images[name] @ weights / len(weights))
                elif scored.interval == "bootstrap":
                    found[name].append(np.asarray(scored.function(predictions, weights)))
            for ranked in self._ranked:
                if ranked.interval == "bootstrap":
                    values = np.full((weights.shape[1], len(self._rankings)), np.nan)
                    for place in np.flatnonzero(defined[ranked.name]).tolist():
                        values[:, place] = ranked.function(self._rankings[place], weights)
                    found[ranked.name].append(values)
                    found[ranked.main_column].append(values[:, defined[ranked.name]].mean(axis=1))
        return found

    def _resamples(self, number: int) -> Iterator[tuple[ClassCounts, NDArray[np.float32]]]:
        """Counts of some resamples [B, K], and how often each image counts in them [N, B]."""
        from scipy.sparse import csr_array

        given, num_images = self._given, len(self._given.targets)
        counted: Callable[..., csr_array] = partial(csr_array, shape=(given.num_classes, num_images), dtype=np.float32)
        rows = np.arange(num_images)
        hits = counted((given.correct, (given.targets, rows)))
        predicted = counted((np.ones(num_images), (given.predicted, rows)))
        for weights in resample(given.targets, number):
            sums = [np.asarray(part @ weights, dtype=np.float64).T for part in (hits, predicted)]
            yield ClassCounts(sums[0], given.counts.support, sums[1]), weights

    def _macro_auroc_variance(self) -> float:
        """DeLong's variance of the mean over the classes, whose areas come from the same images."""
        ranked = [ranking for ranking in self._rankings if ranking.num_positive and ranking.num_negative]
        if not ranked:
            return float("nan")
        total = np.zeros(len(self._given.targets))
        for ranking in ranked:
            total += ranking.auroc_influence()
        return float(((total / len(ranked)) ** 2).sum())
