"""Every metric of one split with its 95 % interval: what reports are made of.

The metrics that are logged after each epoch are in `metrics`, under the same names.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.metrics import CALIBRATED, all_metrics
from classifier_training.evaluation.counts import ClassCounts, Share, ratio, resampled_counts
from classifier_training.evaluation.groups import resample_groups, sum_of_squares
from classifier_training.evaluation.intervals import (
    MAX_CHUNK,
    MAX_WORK,
    MIN_RESAMPLES,
    SEED,
    Estimate,
    auroc_estimate,
    bootstrap_interval,
    choose_num_resamples,
    delong_interval,
    exact_shares,
    grouped_shares,
    influence_interval,
    resample,
)
from classifier_training.evaluation.metrics import FromCounts, FromImages, FromRanking, Values, evaluate
from classifier_training.evaluation.predictions import Predictions, check_scores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from classifier_training.core.metrics import Metric
    from classifier_training.evaluation.groups import Groups
    from classifier_training.evaluation.predictions import Scores
    from classifier_training.evaluation.ranking import Ranking

    Floats = NDArray[np.float64]


MAX_RESAMPLED = MAX_WORK // MIN_RESAMPLES
"""Images times classes up to which rankings are resampled, which takes hours of more; above it their intervals come
from influences."""


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
        groups: that the intervals are by; None where images count as independent.
    """

    num_images: int
    num_resamples: int
    overall: Mapping[str, Estimate]
    by_class: Mapping[str, Sequence[Estimate]]
    support: NDArray[np.int64]
    predicted: NDArray[np.int64]
    groups: Groups | None = None


def measure(
    scores: NDArray[np.floating],
    targets: NDArray[np.int64],
    *,
    num_classes: int,
    kind: Scores = "logits",
    temperature: float | None = None,
    groups: Groups | None = None,
    intervals: bool = True,
    seen: Callable[[int, Ranking], None] | None = None,
) -> Measures:
    """Compute all metrics of one split.

    loss, brier and ece are those of the network's own probabilities, as during training. With a temperature,
    calibrated_loss, calibrated_brier and calibrated_ece are those of the logits divided by it.

    Args:
        scores: logits or probabilities [N, K].
        targets: class numbers, int64 [N].
        num_classes: K.
        kind: what `scores` are.
        temperature: that logits are divided by for the calibrated metrics and the rankings.
        groups: of the images, where those of one group are not independent.
        intervals: whether to find intervals; metrics alone take a few per cent of the time.
        seen: told the ranking of the images by each class, for whoever plots it: to sort them takes most of the time.

    Raises:
        UserError: for predictions that cannot be scored; see `check_scores`.
    """
    check_scores(scores, targets, num_classes, kind=kind)
    own = Predictions(scores=scores, targets=targets, kind=kind)
    given = own if temperature in (None, 1) else replace(own, temperature=temperature)
    split = _Split(given, own, all_metrics(num_classes), groups)
    number = choose_num_resamples(len(targets), num_classes) if intervals else 0
    values = split.values(seen, intervals=intervals)
    replicates = split.replicates(number) if intervals else None
    return Measures(
        num_images=len(targets),
        num_resamples=number,
        overall=split.overall(values, replicates),
        by_class=split.by_class(values, replicates),
        support=given.counts.support.astype(np.int64),
        predicted=given.counts.predicted.astype(np.int64),
        groups=groups if intervals else None,
    )


@dataclass
class _Areas:
    """What the rankings of all classes, of which one is held at a time, leave of a metric's intervals.

    Args:
        of_class: its intervals [K].
        influence: sum over the classes that it is defined for of what each image adds to it [N].
        number: of these classes.
    """

    of_class: list[Estimate]
    influence: Floats
    number: int = 0


class _Split:
    """All metrics of one split; where there are replicates, with their intervals.

    Args:
        given: predictions with the given probabilities.
        own: the same with the network's own; the same object where they do not differ.
        metrics: the table.
        groups: of the images, where they are not independent.
    """

    def __init__(self, given: Predictions, own: Predictions, metrics: list[Metric], groups: Groups | None) -> None:
        self._groups = groups
        self._given = given
        self._own = own
        self._metrics = metrics
        self._kept: list[tuple[int, Ranking]] = []
        self._areas: dict[str, _Areas] = {}

    def values(self, seen: Callable[[int, Ranking], None] | None, *, intervals: bool) -> Values:
        """Values of all metrics; on the way, what their intervals need is gathered from the rankings."""
        resampled = [metric for metric in self._ranked if metric.interval == "bootstrap"]
        is_large = self._given.scores.size > MAX_RESAMPLED
        areas = [
            metric
            for metric in self._ranked
            if intervals and (metric.interval == "delong" or (metric in resampled and is_large and metric.influence))
        ]
        self._areas = {metric.name: _Areas([], np.zeros(len(self._given.targets))) for metric in areas}
        keeps = intervals and any(metric.name not in self._areas for metric in resampled)

        def ranked() -> Iterator[tuple[int, Ranking]]:
            for number, ranking in self._given.rankings():
                if keeps and ranking.num_positive:
                    self._kept.append((number, replace(ranking)))
                yield number, ranking
                for metric in areas:
                    self._gather(metric, ranking)
                if seen is not None:
                    seen(number, ranking)

        return self._evaluate(self._metrics, ranked())

    @property
    def _ranked(self) -> list[FromRanking]:
        return [metric for metric in self._metrics if isinstance(metric, FromRanking)]

    def _gather(self, metric: FromRanking, ranking: Ranking) -> None:
        areas, groups = self._areas[metric.name], self._groups
        defined = ranking.num_positive and ranking.num_negative
        if metric.interval == "delong":
            areas.of_class.append(auroc_estimate(ranking, groups))
            influence = ranking.auroc_influence() if defined else None
        else:
            assert metric.influence is not None
            influence = metric.influence(ranking) if ranking.num_positive else None
            value = float(metric.function(ranking, None))
            variance = float("nan") if influence is None else self._variance(influence)
            areas.of_class.append(influence_interval(value, variance, groups))
        if influence is not None:
            areas.influence += influence
            areas.number += 1

    def _variance(self, influence: Floats) -> float:
        """Variance of a metric over resamples of the images within each true class, or of whole groups."""
        if self._groups is not None:
            return sum_of_squares(self._groups.sums(influence))
        targets, support = self._given.targets, self._given.counts.support
        means = ratio(np.bincount(targets, influence, minlength=len(support)).astype(np.float64), support)
        return float(((influence - means[targets]) ** 2).sum())

    def _evaluate(
        self,
        metrics: Sequence[Metric],
        rankings: Iterable[tuple[int, Ranking]],
        counts: ClassCounts | None = None,
        weights: NDArray[np.float32] | None = None,
    ) -> Values:
        """Values of metrics for the split or for resamples of it; see `evaluate`."""
        found = evaluate(metrics, self._own, rankings, counts=counts, weights=weights)
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
            if metric.name not in self._areas
            and (metric.interval == "bootstrap" or (metric.by_class and metric.interval == "exact"))
        ]
        given = self._given
        if self._groups is None:
            resamples = resample(given.targets, number)
        else:
            resamples = resample_groups(self._groups, number, seed=SEED, max_values=MAX_CHUNK)
        parts = [
            self._evaluate(metrics, self._kept, counts, weights)
            for counts, weights in resampled_counts(given.targets, given.predicted, given.num_classes, resamples)
        ]
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
                elif metric.name in self._areas:
                    found[name] = self._mean_area(metric, value)
                elif metric.interval == "exact" and not metric.by_class:
                    (found[name],) = self._shares(metric)
                else:
                    found[name] = bootstrap_interval(value, replicates.overall[name], self._groups)
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
            elif metric.name in self._areas:
                found[metric.name] = self._areas[metric.name].of_class
            elif metric.interval == "exact":
                found[metric.name] = self._shares(metric)
            else:
                pairs = zip(of_class, replicates.by_class[metric.name].T, strict=True)
                found[metric.name] = [bootstrap_interval(*pair, self._groups) for pair in pairs]
        return found

    def _shares(self, metric: Metric) -> list[Estimate]:
        """Values of a metric with exact intervals, one or one for each class."""
        given, groups = self._given, self._groups
        if isinstance(metric, FromCounts) and isinstance(share := metric.function(given.counts), Share):
            if groups is None:
                return exact_shares(*share)
            counts = groups.counts(given.targets, given.predicted, given.num_classes)
            parts = (_columns(metric.function(part)) for part in counts)
            return grouped_shares(parts)
        if isinstance(metric, FromImages):
            of_images = metric.function(given)
            if groups is None:
                return exact_shares(np.asarray(of_images.sum(dtype=np.float64)), np.asarray(float(len(of_images))))
            return grouped_shares([(groups.sums(of_images)[:, None], groups.sizes[:, None].astype(np.float64))])
        raise TypeError(f"the metric {metric.name} is no share of images: it has no exact interval")

    def _mean_area(self, metric: Metric, value: float) -> Estimate:
        """The mean over the classes, whose values come from the same images."""
        areas, is_area = self._areas[metric.name], metric.interval == "delong"
        if not areas.number:
            return Estimate(value)
        total = areas.influence / areas.number
        if not is_area:
            return influence_interval(value, self._variance(total), self._groups)
        variance = float((total**2).sum()) if self._groups is None else sum_of_squares(self._groups.sums(total))
        return delong_interval(value, variance, self._groups)


def _columns(share: Floats | Share) -> tuple[Floats, Floats]:
    """Hits and trials of groups [G, M], with M = 1 for a share of all classes together."""
    assert isinstance(share, Share)
    return share.hits.reshape(len(share.hits), -1), share.trials.reshape(len(share.trials), -1)
