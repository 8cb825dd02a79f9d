"""Every metric of one split with its 95 % interval: what reports are made of.

The metrics that are logged after each epoch are in `metrics`, under the same names.
"""

from __future__ import annotations

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
from classifier_training.evaluation.metrics import FromCounts, FromImages, Values, evaluate
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
    values, replicates = split.values(), split.replicates(number) if intervals else None
    return Measures(
        num_images=len(targets),
        num_resamples=number,
        overall=split.overall(values, replicates),
        by_class=split.by_class(values, replicates),
        support=given.counts.support.astype(np.int64),
        predicted=given.counts.predicted.astype(np.int64),
    )


class _Split:
    """All metrics of one split; where there are replicates, with their intervals.

    Args:
        given: predictions with the given probabilities.
        own: the same with the network's own; the same object where they do not differ.
        rankings: of each class [K], by the given probabilities.
        metrics: the table.
    """

    def __init__(self, given: Predictions, own: Predictions, rankings: list[Ranking], metrics: list[Metric]) -> None:
        self._given = given
        self._own = own
        self._rankings = rankings
        self._metrics = metrics

    def values(
        self,
        metrics: Sequence[Metric] | None = None,
        counts: ClassCounts | None = None,
        weights: NDArray[np.float32] | None = None,
    ) -> Values:
        """Values of metrics, all when left out, for the split or for resamples of it; see `evaluate`."""
        metrics = self._metrics if metrics is None else metrics
        present = [(number, one) for number, one in enumerate(self._rankings) if weights is None or one.num_positive]
        found = evaluate(metrics, self._own, present, counts=counts, weights=weights)
        if self._own is not self._given:
            calibrated = [metric for metric in metrics if metric.calibrated]
            others = evaluate(calibrated, self._given, (), counts=counts, weights=weights).overall
            found.overall.update({CALIBRATED + name: value for name, value in others.items()})
        return found

    def replicates(self, number: int) -> Values:
        """Values of the metrics whose intervals, or whose averages' intervals, are found by the bootstrap."""
        metrics = [
            metric
            for metric in self._metrics
            if metric.interval == "bootstrap" or (metric.by_class and metric.interval == "exact")
        ]
        parts = [self.values(metrics, counts, weights) for counts, weights in self._resamples(number)]
        return Values(
            *(
                {name: np.concatenate([one[name] for one in kind]) for name in kind[0]}
                for kind in zip(*parts, strict=True)
            )
        )

    def overall(self, values: Values, replicates: Values | None) -> dict[str, Estimate]:
        """Metrics of all classes together, in the order of the table."""
        metrics = {name: metric for metric in self._metrics for name in metric.titles}
        metrics |= {name: metric for metric in self._metrics for name in metric.calibrated_titles}
        found = {}
        for name, metric in metrics.items():
            if name in values.overall:
                value = float(values.overall[name])
                if replicates is None or metric.interval == "none":
                    found[name] = Estimate(value)
                elif metric.interval == "delong":
                    found[name] = delong_interval(value, self._macro_auroc_variance())
                elif metric.interval == "exact" and not metric.by_class:
                    (found[name],) = exact_shares(*self._share(metric))
                else:
                    found[name] = bootstrap_interval(value, replicates.overall[name])
        return found

    def by_class(self, values: Values, replicates: Values | None) -> dict[str, Sequence[Estimate]]:
        """Metrics of each class [K], in the order of the table."""
        found: dict[str, Sequence[Estimate]] = {}
        for metric in self._metrics:
            if not metric.by_class:
                continue
            of_class = values.by_class[metric.name].tolist()
            if replicates is None or metric.interval == "none":
                found[metric.name] = [Estimate(value) for value in of_class]
            elif metric.interval == "delong":
                found[metric.name] = [auroc_estimate(ranking) for ranking in self._rankings]
            elif metric.interval == "exact":
                found[metric.name] = exact_shares(*self._share(metric))
            else:
                pairs = zip(of_class, replicates.by_class[metric.name].T, strict=True)
                found[metric.name] = [bootstrap_interval(*pair) for pair in pairs]
        return found

    def _share(self, metric: Metric) -> Share:
        """Images that count for a metric with an exact interval, and all of them."""
        share = None
        if isinstance(metric, FromCounts):
            share = metric.function(self._given.counts)
        elif isinstance(metric, FromImages):
            of_images = metric.function(self._given)
            share = Share(np.asarray(of_images.sum(dtype=np.float64)), np.asarray(float(len(of_images))))
        if not isinstance(share, Share):
            raise TypeError(f"the metric {metric.name} is no share of images: it has no exact interval")
        return share

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
