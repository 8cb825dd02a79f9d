"""Many classifiers in one table: means and spreads over seeds, ranks, the Pareto front, and what can be told apart."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

import classifier_training.evaluation.metrics  # noqa: F401 - fills the table
from classifier_training.core.errors import plural
from classifier_training.core.labels import label_indices, sort_labels
from classifier_training.core.metrics import all_metrics
from classifier_training.evaluation.comparison import SIGNIFICANCE, Comparison, compare, holm
from classifier_training.evaluation.groups import Groups
from classifier_training.evaluation.intervals import Estimate, mean_interval
from classifier_training.evaluation.ranking import Ranking

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from classifier_training.core.metrics import Metric

ROC_GRID = np.linspace(0, 1, 101)

COSTS = ("train_seconds", "size_mb", "memory_mb")

BEST, WORSE, UNCLEAR, UNCOMPARED = "best", "worse", "not told apart", "not compared"


RANKED_BY = "balanced_accuracy"


def metric_columns() -> dict[str, Metric]:
    """The metrics of a leaderboard by the name of their column; the one that decides comes first."""
    columns = {metric.leaderboard: metric for metric in all_metrics() if metric.leaderboard}
    return {RANKED_BY: columns[RANKED_BY], **columns}


@dataclass(frozen=True, kw_only=True)
class RunScores:
    """What one run is worth and costs; or a cross-validation, which is one run.

    Args:
        metrics: on the scored split, by column; those that the run has. The mean of the folds, where there are such.
        train_seconds: of all its epochs.
        size_mb: of the exported file, in MB; None where there is none.
        memory_mb: most that training took, in MiB; None where it was not written down.
        folds: the metrics of each fold; empty for a run without folds.
    """

    metrics: Mapping[str, float]
    train_seconds: float
    size_mb: float | None
    memory_mb: float | None
    folds: Sequence[Mapping[str, float]] = ()

    @classmethod
    def of_folds(cls, folds: Sequence[RunScores], *, size_mb: float | None) -> RunScores:
        """Put the runs of folds together.

        Args:
            folds: of one cross-validation.
            size_mb: of the exported ensemble; None where there is none.
        """
        common = set.intersection(*(set(fold.metrics) for fold in folds))
        known = [fold.memory_mb for fold in folds if fold.memory_mb is not None]
        return cls(
            metrics={
                name: statistics.fmean(fold.metrics[name] for fold in folds)
                for name in folds[0].metrics
                if name in common
            },
            train_seconds=sum(fold.train_seconds for fold in folds),
            size_mb=size_mb,
            memory_mb=max(known, default=None),
            folds=[fold.metrics for fold in folds],
        )

    def to_dict(self) -> dict[str, float | None]:
        """All of it by column, with null for what the run does not have."""
        costs = {name: getattr(self, name) for name in COSTS}
        return {**{name: self.metrics.get(name) for name in metric_columns()}, **costs}


@dataclass(frozen=True)
class Spread:
    """A value over seeds.

    Args:
        mean: of the seeds that have it.
        deviation: the standard deviation of the sample; None for one seed.
    """

    mean: float
    deviation: float | None


def spread(values: Sequence[float]) -> Spread:
    """Return mean and standard deviation."""
    return Spread(statistics.fmean(values), deviation(values))


def deviation(values: Sequence[float]) -> float | None:
    """Return the standard deviation of a sample; None for one value."""
    return statistics.stdev(values) if len(values) > 1 else None


@dataclass(frozen=True, kw_only=True)
class RunPredictions:
    """What a run predicted on the images it was scored on.

    Args:
        targets: name of each image's class, by its path; of an image with several labels by path and label.
        correct: paths of the images that it classified correctly.
        false_positive_rates: of the macro-averaged ROC curve, growing from 0 to 1.
        true_positive_rates: of the same points.
        groups: of the images that have one, by path.
    """

    targets: Mapping[str, str]
    correct: frozenset[str]
    false_positive_rates: list[float]
    true_positive_rates: list[float]
    groups: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model with its settings on one data set, whatever the seed.

    Args:
        model: its name.
        data: name of the data.
        runs: scores of each run, by seed.
        representative: seed of the run that is timed and compared; see `compared_seeds`.
        latency_ms: of a prediction for one image, the median; None where it could not be measured.
        predictions: of that run.
    """

    model: str
    data: str
    runs: Mapping[int, RunScores]
    representative: int
    latency_ms: float | None
    predictions: RunPredictions

    def spread(self, column: str) -> Spread | None:
        """Return a column over the seeds, a metric over their folds where there are such; None where no run has it."""
        folds = [fold[column] for run in self.runs.values() for fold in run.folds if column in fold]
        values = [value for run in self.runs.values() if (value := run.to_dict()[column]) is not None]
        return spread(folds or values) if values else None

    @property
    def words(self) -> str:
        """What its means are over."""
        folds = sum(len(run.folds) for run in self.runs.values())
        seeds = plural(len(self.runs), "seed")
        return seeds if not folds else plural(folds, "fold") + (f" of {seeds}" if len(self.runs) > 1 else "")

    @property
    def score(self) -> float:
        """Mean balanced accuracy, by which candidates are ranked."""
        return spread([run.metrics[RANKED_BY] for run in self.runs.values()]).mean


def middle_seed(runs: Mapping[int, RunScores]) -> int:
    """Return the seed of the run whose balanced accuracy is in the middle, the lower of two."""
    ordered = sorted(runs, key=lambda seed: (runs[seed].metrics[RANKED_BY], seed))
    return ordered[(len(ordered) - 1) // 2]


def compared_seeds(runs: Sequence[Mapping[int, RunScores]]) -> list[int]:
    """Return the seed of each model's run that is compared on one data set.

    It is that of the run in the middle of the best model, since a seed may decide which images are held out; for a
    model without that seed, that of its own run in the middle.

    Args:
        runs: of each model, by seed.
    """
    best = max(runs, key=lambda one: spread([run.metrics[RANKED_BY] for run in one.values()]).mean)
    common = middle_seed(best)
    return [common if common in one else middle_seed(one) for one in runs]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A candidate's place on its data set.

    Args:
        rank: from 1.
        candidate: whose.
        on_front: whether no other is at least as accurate, fast and small, and better in one of these.
        comparison: its predictions against those of the best; None for the best, or without images in common.
        p_value: that it is worse than the best, in accuracy or balanced accuracy, on the images; adjusted after Holm
            for all pairs of candidates, since the best is chosen by the same images.
        over_seeds: its balanced accuracy minus that of the best, over the seeds of both, with Student's interval; None
            with fewer than two.
        verdict: best, worse, not told apart or not compared.
    """

    rank: int
    candidate: Candidate
    on_front: bool
    comparison: Comparison | None = None
    p_value: float | None = None
    over_seeds: Estimate | None = None
    verdict: str = BEST

    def to_dict(self) -> dict[str, Any]:
        """Return the form that goes into JSON."""
        found = self.candidate
        spreads = {name: found.spread(name) for name in (*metric_columns(), *COSTS)}
        difference = None if self.comparison is None else self.comparison.balanced_accuracy_difference
        return {
            "rank": self.rank,
            "data": found.data,
            "model": found.model,
            "seeds": sorted(found.runs),
            **{name: None if item is None else item.mean for name, item in spreads.items()},
            **{f"{name}_deviation": None if item is None else item.deviation for name, item in spreads.items()},
            "latency_ms": found.latency_ms,
            "on_front": self.on_front,
            "verdict": self.verdict,
            "difference_to_best": None if difference is None else difference.to_dict(),
            "difference_over_seeds": None if self.over_seeds is None else self.over_seeds.to_dict(),
            "p_value": self.p_value,
        }


@dataclass(frozen=True)
class Choice:
    """The model for a purpose.

    Args:
        purpose: what is wanted most.
        standing: of the model.
    """

    purpose: str
    standing: Standing


@dataclass(frozen=True)
class Leaderboard:
    """The candidates on one data set, best first.

    Args:
        data: its name.
        standings: in order.
    """

    data: str
    standings: Sequence[Standing] = field(default_factory=tuple)

    @property
    def verdict(self) -> str:
        """Name the best in one sentence, and why."""
        best = self.standings[0].candidate
        found = best.spread(RANKED_BY)
        assert found is not None
        score = f"balanced accuracy of {shown(found)} over {best.words}"
        sentence = f"{self.data}: {best.model} is the best, with a {score}"
        others = self.standings[1:]
        if not others:
            return f"{sentence}; nothing stands against it."
        close = [item for item in others if item.verdict == UNCLEAR]
        if not close and others[0].verdict == UNCOMPARED:
            return (
                f"{self.data}: {best.model} has the highest {score}, but the runs have no test image in common, so "
                f"it is not compared with {others[0].candidate.model}; data with a test split of their own would tell."
            )
        if not close:
            second = others[0]
            gap = found.mean - second.candidate.score
            tested = "" if second.p_value is None else f" (p = {second.p_value:.2g}, adjusted for all pairs)"
            return f"{sentence}, {gap:.4f} ahead of {second.candidate.model}{tested}.{self._seeds()}"
        names = ", ".join(item.candidate.model for item in close)
        what = "images" if any(_is_unclear(item.p_value) for item in close) else "seeds"
        sentence = f"{self.data}: {best.model} has the highest {score}, but these {what} do not tell it from {names}"
        timed = [item.candidate for item in close if item.candidate.latency_ms is not None]
        if best.latency_ms is not None and timed:
            quickest = min(timed, key=lambda item: item.latency_ms or 0.0)
            assert quickest.latency_ms is not None
            if quickest.latency_ms < best.latency_ms:
                times = best.latency_ms / quickest.latency_ms
                return f"{sentence}, of which {quickest.model} predicts {times:.1f} times as fast."
            return f"{sentence}, and it predicts faster than these."
        return f"{sentence}."

    @property
    def choices(self) -> list[Choice]:
        """The model for each purpose: the most accurate, and the cheapest of those not told apart from it.

        The cheapest of all is a choice of its own where it is another one. What was not measured has no choice.
        """
        found = [Choice("highest accuracy", self.standings[0])]
        close = [item for item in self.standings if item.verdict in (BEST, UNCLEAR)]
        for purpose, cost in PURPOSES.items():
            cheap, cheapest = _cheapest(close, cost), _cheapest(self.standings, cost)
            if cheap is not None:
                found.append(Choice(f"{purpose} at that accuracy", cheap))
            if cheapest is not None and cheapest is not cheap:
                words = "worse than the best" if cheapest.verdict == WORSE else cheapest.verdict
                found.append(Choice(f"{purpose} of all ({words})", cheapest))
        return found

    def _seeds(self) -> str:
        """Say what one seed leaves open."""
        if any(item.over_seeds is not None for item in self.standings[1:]):
            return ""
        return " That is about these runs: other seeds may order the models otherwise, and 'seeds=[0,1,2,3,4]' tells."


def shown(value: Spread, decimals: int = 4) -> str:
    """Return a mean and its deviation for people."""
    deviation = "" if value.deviation is None else f" ± {value.deviation:.{decimals}f}"
    return f"{value.mean:.{decimals}f}{deviation}"


def rank(candidates: Sequence[Candidate]) -> list[Leaderboard]:
    """Rank candidates on each data set, and compare each with the best on the images that both were scored on."""
    boards = []
    for data in dict.fromkeys(item.data for item in candidates):
        ordered = sorted((item for item in candidates if item.data == data), key=lambda item: (-item.score, item.model))
        front = pareto_front([(-item.score, _cost(item.latency_ms), _cost(_mean(item, "size_mb"))) for item in ordered])
        comparisons = [compare_predictions(ordered[0].predictions, item.predictions) for item in ordered[1:]]
        tested = [item.p_worse for item in comparisons if item is not None]
        adjusted = iter(holm(tested, num_tests=len(ordered) * (len(ordered) - 1) // 2))
        standings = [Standing(rank=1, candidate=ordered[0], on_front=front[0])]
        for place, (item, comparison) in enumerate(zip(ordered[1:], comparisons, strict=True), start=2):
            p_value = None if comparison is None else next(adjusted)
            over_seeds = _over_seeds(ordered[0], item)
            standings.append(
                Standing(
                    rank=place,
                    candidate=item,
                    on_front=front[place - 1],
                    comparison=comparison,
                    p_value=p_value,
                    over_seeds=over_seeds,
                    verdict=_verdict(p_value, over_seeds),
                )
            )
        boards.append(Leaderboard(data, tuple(standings)))
    return boards


def pareto_front(costs: Sequence[Sequence[float]]) -> list[bool]:
    """Say of each point whether no other is at most as large in every cost and smaller in one."""
    points = np.asarray(costs, dtype=np.float64)
    return [not bool(((points <= point).all(axis=1) & (points < point).any(axis=1)).any()) for point in points]


def macro_roc(probabilities: NDArray[np.floating], targets: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Return the mean over classes of their ROC curves, each class against the others.

    Args:
        probabilities: [N, K].
        targets: class numbers [N]; classes without an image, or with all, are left out.

    Returns:
        False and true positive rates of the same points.
    """
    curves = []
    for number in range(probabilities.shape[1]):
        ranking = Ranking.of(probabilities[:, number].astype(np.float64), targets == number)
        if ranking.num_positive and ranking.num_negative:
            curves.append(np.interp(ROC_GRID, *ranking.roc_curve))
    if not curves:
        return [], []
    # The curves begin at the origin, where interpolation gives the highest of several values.
    mean = np.mean(curves, axis=0)
    return [0.0, *map(float, ROC_GRID)], [0.0, *map(float, mean)]


def _verdict(p_value: float | None, over_seeds: Estimate | None) -> str:
    if p_value is None:
        return UNCOMPARED
    # One run of each may be told apart by the images where their models are not by the seeds.
    return UNCLEAR if _is_unclear(p_value) or (over_seeds is not None and over_seeds.high >= 0) else WORSE


def _is_unclear(p_value: float | None) -> bool:
    return p_value is not None and p_value >= SIGNIFICANCE


def _over_seeds(best: Candidate, other: Candidate) -> Estimate | None:
    """Difference in balanced accuracy over the seeds that both ran with, which had the same splits and samples."""
    scores = [{seed: run.metrics[RANKED_BY] for seed, run in item.runs.items()} for item in (other, best)]
    common = sorted(scores[0].keys() & scores[1].keys())
    if len(common) < 2:
        return None
    return mean_interval([scores[0][seed] - scores[1][seed] for seed in common])


def compare_predictions(best: RunPredictions, other: RunPredictions) -> Comparison | None:
    """Compare another's predictions with those of the best, on the images of the same path and label; None without."""
    paths = [path for path, name in other.targets.items() if best.targets.get(path) == name]
    if not paths:
        return None
    labels = [other.targets[path] for path in paths]
    class_names = sort_labels(labels)
    return compare(
        label_indices(labels, class_names),
        np.array([path in other.correct for path in paths], dtype=bool),
        np.array([path in best.correct for path in paths], dtype=bool),
        class_names,
        Groups.of([other.groups.get(path, "") for path in paths]),
    )


def _mean(item: Candidate, name: str) -> float | None:
    found = item.spread(name)
    return None if found is None else found.mean


def _cost(value: float | None) -> float:
    return float("inf") if value is None else value


PURPOSES: Mapping[str, Callable[[Candidate], float | None]] = {
    "fastest prediction": lambda item: item.latency_ms,
    "smallest file": lambda item: _mean(item, "size_mb"),
    "shortest training": lambda item: _mean(item, "train_seconds"),
}
"""What may be wanted besides accuracy, and the cost that is least for it."""


def _cheapest(standings: Sequence[Standing], cost: Callable[[Candidate], float | None]) -> Standing | None:
    measured = [(value, item.rank, item) for item in standings if (value := cost(item.candidate)) is not None]
    return min(measured)[2] if measured else None
