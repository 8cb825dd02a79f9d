"""Every figure of one split with its 95 % interval: what reports are made of.

The figures that are logged after each epoch are in `metrics`, under the same names.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.evaluation.counts import BY_CLASS, ClassCounts, f1_scores, overall_figures
from classifier_training.evaluation.intervals import (
    Estimate,
    auroc_estimate,
    bootstrap_interval,
    choose_num_resamples,
    delong_interval,
    exact_shares,
    resample,
)
from classifier_training.evaluation.probabilities import (
    brier_losses,
    calibration_error,
    check_scores,
    log_losses,
    log_softmax,
)
from classifier_training.evaluation.ranking import Ranking

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from classifier_training.evaluation.probabilities import Scores

    Floats = NDArray[np.float64]

MAX_RANK = 5
CALIBRATED = "calibrated_"
"""Begins the names of figures of probabilities that a temperature was applied to."""


@dataclass(frozen=True)
class Measures:
    """The figures of one split.

    Args:
        num_images: N.
        num_resamples: of the bootstrap; 0 without intervals.
        overall: figures of all classes together, by name.
        by_class: figures of each class [K], by name: precision, recall, f1, specificity, auroc, average_precision.
        support: images of each class, int64 [K].
        predicted: answers of each class, int64 [K].
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
    """Score one split.

    loss, brier and ece are those of the network's own probabilities, as during training. Where the logits were divided
    by a temperature, calibrated_loss, calibrated_brier and calibrated_ece are those of the given ones.

    Args:
        scores: logits or probabilities [N, K].
        targets: class numbers, int64 [N].
        num_classes: K.
        kind: what `scores` are.
        divided_by: the temperature that logits were divided by.
        intervals: whether to find intervals; figures alone take a few per cent of the time.

    Raises:
        UserError: for answers that cannot be scored; see `check_scores`.
    """
    check_scores(scores, targets, num_classes, kind=kind)
    answers = _Answers.of(scores, targets, kind=kind)
    counts = ClassCounts.of(targets, answers.predicted, num_classes)
    overall = {name: float(value) for name, value in overall_figures(counts).items()}
    by_prefix = {"": answers}
    if divided_by != 1:
        by_prefix = {"": _Answers.of(scores * divided_by, targets, kind=kind), CALIBRATED: answers}
    overall |= {name: float(value) for name, value in _named_means(by_prefix).items()}
    by_class = {name: figure(counts) for name, figure in BY_CLASS.items()}
    rankings = [Ranking.of(answers.probabilities[:, number], targets == number) for number in range(num_classes)]
    by_class["auroc"] = np.array([ranking.auroc for ranking in rankings])
    by_class["average_precision"] = np.array([ranking.average_precision for ranking in rankings])
    overall |= {f"macro_{name}": defined_mean(by_class[name]) for name in ("auroc", "average_precision")}
    if num_classes > MAX_RANK:
        overall["acc_top5"] = float(is_among_first(scores, targets).mean())
    bounded = _Intervals(answers, by_prefix, counts, rankings) if intervals else None
    plain = {name: [Estimate(value) for value in values.tolist()] for name, values in by_class.items()}
    return Measures(
        num_images=len(targets),
        num_resamples=bounded.num_resamples if bounded else 0,
        overall=bounded.overall(overall) if bounded else {name: Estimate(value) for name, value in overall.items()},
        by_class=bounded.by_class(by_class) if bounded else plain,
        support=counts.support.astype(np.int64),
        predicted=counts.predicted.astype(np.int64),
    )


def is_among_first(
    scores: NDArray[np.floating], targets: NDArray[np.int64], number: int = MAX_RANK
) -> NDArray[np.bool_]:
    """Whether the true class is among those of the highest scores [N]; of equal scores the first class counts more."""
    given = scores[np.arange(len(targets)), targets][:, None]
    ahead = (scores > given).sum(axis=1)
    ahead += ((scores == given) & (np.arange(scores.shape[1]) < targets[:, None])).sum(axis=1)
    return np.asarray(ahead < number)


def defined_mean(values: Floats) -> float:
    """Mean of the values that are defined; NaN when none is."""
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else float("nan")


@dataclass(frozen=True)
class _Answers:
    """What is known of each image [N], beside its probabilities [N, K]."""

    targets: NDArray[np.int64]
    predicted: NDArray[np.int64]
    probabilities: Floats
    confidences: Floats
    log_losses: Floats
    brier_losses: Floats

    @classmethod
    def of(cls, scores: NDArray[np.floating], targets: NDArray[np.int64], *, kind: Scores) -> _Answers:
        if kind == "logits":
            logarithms = log_softmax(scores)
            losses = -logarithms[np.arange(len(targets)), targets]
            probabilities = np.exp(logarithms, out=logarithms)
        else:
            probabilities = scores.astype(np.float64, copy=False)
            losses = log_losses(probabilities, targets)
        return cls(
            targets=targets,
            predicted=scores.argmax(axis=1),
            probabilities=probabilities,
            confidences=probabilities.max(axis=1),
            log_losses=losses,
            brier_losses=brier_losses(probabilities, targets),
        )

    @property
    def correct(self) -> NDArray[np.bool_]:
        return np.asarray(self.predicted == self.targets)

    def means(self, weights: NDArray[np.float32] | None = None) -> dict[str, Floats]:
        """Figures of the probabilities, [] or, for resamples that count the images [N, B], [B]."""
        losses = {"loss": self.log_losses, "brier": self.brier_losses}
        averaged = {
            name: np.asarray(values.mean() if weights is None else values.astype(np.float32) @ weights / len(values))
            for name, values in losses.items()
        }
        return {**averaged, "ece": calibration_error(self.confidences, self.correct, weights)}


def _named_means(by_prefix: Mapping[str, _Answers], weights: NDArray[np.float32] | None = None) -> dict[str, Floats]:
    return {
        f"{prefix}{name}": value
        for prefix, answers in by_prefix.items()
        for name, value in answers.means(weights).items()
    }


class _Intervals:
    """Intervals of the figures; the resamples are drawn once for all of them."""

    def __init__(
        self, answers: _Answers, by_prefix: Mapping[str, _Answers], counts: ClassCounts, rankings: Sequence[Ranking]
    ) -> None:
        self._by_prefix = by_prefix
        self._counts = counts
        self._rankings = rankings
        self._answers = answers
        self.num_resamples = choose_num_resamples(len(answers.targets), len(rankings))
        self._overall: dict[str, list[Floats]] = {}
        self._by_class: dict[str, list[Floats]] = {"f1": [], "average_precision": []}
        self._draw()

    def overall(self, values: Mapping[str, float]) -> dict[str, Estimate]:
        """Return the figures of all classes together."""
        found = {}
        for name, value in values.items():
            if name in ("acc_top1", "acc_top5"):
                (found[name],) = exact_shares(
                    np.array([value * len(self._answers.targets)]).round(), np.array([len(self._answers.targets)])
                )
            elif name == "macro_auroc":
                found[name] = delong_interval(value, self._macro_auroc_variance())
            else:
                found[name] = bootstrap_interval(value, np.concatenate(self._overall[name]))
        return found

    def by_class(self, values: Mapping[str, Floats]) -> dict[str, Sequence[Estimate]]:
        """Return the figures of each class."""
        counts = self._counts
        others = counts.num_images - counts.support
        found: dict[str, Sequence[Estimate]] = {
            "precision": exact_shares(counts.hits, counts.predicted),
            "recall": exact_shares(counts.hits, counts.support),
            "specificity": exact_shares(others - (counts.predicted - counts.hits), others),
            "auroc": [auroc_estimate(ranking) for ranking in self._rankings],
        }
        for name, parts in self._by_class.items():
            replicates = np.concatenate(parts)
            pairs = zip(values[name].tolist(), replicates.T, strict=True)
            found[name] = [bootstrap_interval(value, column) for value, column in pairs]
        return {name: found[name] for name in values}

    def _draw(self) -> None:
        from scipy.sparse import csr_array

        answers, num_images, num_classes = self._answers, len(self._answers.targets), len(self._rankings)
        counted: Callable[..., csr_array] = partial(csr_array, shape=(num_classes, num_images), dtype=np.float32)
        rows = np.arange(num_images)
        hits = counted((answers.correct, (answers.targets, rows)))
        predicted = counted((np.ones(num_images), (answers.predicted, rows)))
        for weights in resample(answers.targets, self.num_resamples):
            drawn_hits, drawn_answers = (np.asarray(part @ weights, dtype=np.float64).T for part in (hits, predicted))
            self._keep(ClassCounts(drawn_hits, self._counts.support, drawn_answers), weights)

    def _keep(self, drawn: ClassCounts, weights: NDArray[np.float32]) -> None:
        means = _named_means(self._by_prefix, weights)
        precisions = np.full((weights.shape[1], len(self._rankings)), np.nan)
        for number, ranking in enumerate(self._rankings):
            if ranking.num_positive:
                precisions[:, number] = ranking.resampled_average_precisions(weights)
        present = self._counts.support > 0
        for name, values in (overall_figures(drawn) | means).items():
            self._overall.setdefault(name, []).append(np.asarray(values, dtype=np.float64))
        self._overall.setdefault("macro_average_precision", []).append(precisions[:, present].mean(axis=1))
        self._by_class["f1"].append(f1_scores(drawn))
        self._by_class["average_precision"].append(precisions)

    def _macro_auroc_variance(self) -> float:
        """DeLong's variance of the mean over the classes, whose areas come from the same images."""
        ranked = [ranking for ranking in self._rankings if ranking.num_positive and ranking.num_negative]
        if not ranked:
            return float("nan")
        total = np.zeros(len(self._answers.targets))
        for ranking in ranked:
            total += ranking.auroc_influence()
        return float(((total / len(ranked)) ** 2).sum())
