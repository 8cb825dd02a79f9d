"""How certain a metric is: 95 % intervals, each by the method that fits it.

Exact: Clopper and Pearson's, for shares of images. DeLong's, for areas under ROC curves. The bootstrap for the rest:
images are resampled within each true class, as many as it has. So a rare class never vanishes from a resample, and the
interval is, like the exact ones, for the given number of images of each class.

Images that come in groups, such as the frames of a session, are not independent. Then shares have the exact interval
of as many independent images as would say as much, areas a variance summed over groups, and the bootstrap resamples
groups; see `groups`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.evaluation.groups import effective_trials, expanded_tail, sum_of_squares, t_quantile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from classifier_training.evaluation.groups import Groups
    from classifier_training.evaluation.ranking import Ranking

    Floats = NDArray[np.float64]

LEVEL = 0.95
MAX_IMAGES = 10_000
"""More test images than this are not asked for."""

NORMAL_QUANTILE = 1.959963984540054
"""Of the normal distribution at 97.5 %."""

SEED = 0
MAX_RESAMPLES, MIN_RESAMPLES = 1000, 200
MAX_WORK = 10**10
"""Resamples times images times classes; above it there are fewer resamples."""

MAX_CHUNK = 2**24
"""Weights held in memory at once."""

EXACT, DELONG, BOOTSTRAP, NONE = "exact (Clopper-Pearson)", "DeLong", "bootstrap", "none"
GROUPED_EXACT, GROUPED_DELONG = "exact by groups (Korn-Graubard)", "DeLong by groups"
GROUPED_BOOTSTRAP = "bootstrap of groups"
INFLUENCE, GROUPED_INFLUENCE = "infinitesimal jackknife", "infinitesimal jackknife by groups"
STUDENT = "Student's t"


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval.

    Args:
        value: NaN when it is not defined, such as the recall of a class without images.
        low: end of the interval; NaN without one.
        high: the other end.
        method: how the interval was found: exact (Clopper-Pearson), DeLong, bootstrap, infinitesimal jackknife, or
            none; where images come in groups, exact by groups (Korn-Graubard), DeLong by groups, bootstrap of groups,
            or infinitesimal jackknife by groups.
    """

    value: float
    low: float = float("nan")
    high: float = float("nan")
    method: str = NONE

    def to_dict(self) -> dict[str, Any]:
        """Return the form that goes into JSON, with null for NaN."""
        ends = {name: _or_none(getattr(self, name)) for name in ("value", "low", "high")}
        return {**ends, "method": self.method}

    def __str__(self) -> str:
        known = np.isfinite([self.low, self.high]).all()
        return f"{self.value:.4f}" + (f" [{self.low:.4f}, {self.high:.4f}]" if known else "")


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def exact_shares(hits: Floats, trials: Floats, *, level: float = LEVEL) -> list[Estimate]:
    """Shares hits / trials, both [M], with Clopper and Pearson's intervals; NaN where there was no trial."""
    from scipy.special import betaincinv

    hits, trials = np.atleast_1d(hits).astype(np.float64), np.atleast_1d(trials).astype(np.float64)
    tail = (1 - level) / 2
    misses = trials - hits
    # The parameters must be positive even where the end is not theirs.
    low = np.where(hits > 0, betaincinv(np.where(hits > 0, hits, 1), misses + 1, tail), 0.0)
    high = np.where(misses > 0, betaincinv(hits + 1, np.where(misses > 0, misses, 1), 1 - tail), 1.0)
    return [
        Estimate(hit / trial, below, above, EXACT) if trial else Estimate(float("nan"))
        for hit, trial, below, above in zip(hits.tolist(), trials.tolist(), low.tolist(), high.tolist(), strict=True)
    ]


def grouped_shares(parts: Iterable[tuple[Floats, Floats]]) -> list[Estimate]:
    """Shares of images that come in groups, with Korn and Graubard's intervals; NaN where there was no trial.

    These are Clopper and Pearson's for the effective number of images; see `effective_trials`. Images of one group
    alone tell nothing of other groups: the interval is from 0 to 1.

    Args:
        parts: of the groups, some at a time: images that count, and images in all, in each group, both [G', M].
    """
    shares, numbers = effective_trials(parts, LEVEL)
    ends = exact_shares(np.nan_to_num(shares) * numbers, numbers)
    return [
        Estimate(share, *((end.low, end.high) if number else (0.0, 1.0)), GROUPED_EXACT)
        if np.isfinite(share)
        else Estimate(share)
        for share, end, number in zip(shares.tolist(), ends, numbers.tolist(), strict=True)
    ]


def mean_interval(values: Sequence[float]) -> Estimate:
    """Mean of independent values, such as of runs with different seeds, with Student's interval; none of one value."""
    found = np.asarray(values, dtype=np.float64)
    mean, number = float(found.mean()), len(found)
    if number < 2:
        return Estimate(mean)
    reach = float(t_quantile(number, LEVEL)) * float(found.std(ddof=1)) / number**0.5
    return Estimate(mean, mean - reach, mean + reach, STUDENT)


def delong_interval(value: float, variance: float, groups: Groups | None = None) -> Estimate:
    """An area under a ROC curve with DeLong's interval, taken on the logit scale so that it stays between 0 and 1.

    Without variance, as when every image stands on its side, there is no such interval.

    Args:
        value: the area.
        variance: of it.
        groups: that the variance was summed over; the quantile is then Student's.
    """
    return _logit_interval(value, variance, groups, DELONG if groups is None else GROUPED_DELONG)


def influence_interval(value: float, variance: float, groups: Groups | None = None) -> Estimate:
    """A value between 0 and 1 with the interval of the variance of its images' influences; see `delong_interval`.

    It is what a bootstrap comes to when images are many (Efron and Tibshirani 1993, chapter 21).
    """
    return _logit_interval(value, variance, groups, INFLUENCE if groups is None else GROUPED_INFLUENCE)


def _logit_interval(value: float, variance: float, groups: Groups | None, method: str) -> Estimate:
    if not 0 < value < 1 or not variance > 0:
        return Estimate(value)
    middle = np.log(value / (1 - value))
    quantile = NORMAL_QUANTILE if groups is None else float(t_quantile(len(groups), LEVEL))
    reach = quantile * np.sqrt(variance) / (value * (1 - value))
    low, high = 1 / (1 + np.exp(-(middle + np.array([-reach, reach]))))
    return Estimate(value, float(low), float(high), method)


def auroc_estimate(ranking: Ranking, groups: Groups | None = None) -> Estimate:
    """A class's area under the ROC curve.

    One that is perfect leaves DeLong nothing to go by. The bound is then the exact one for as many trials as the
    smaller side has images, or groups: of so few that are all on their side, more cannot be said. The variance over
    groups is that of Obuchowski (1997, Biometrics 53, 567-578), as the sum of what each group adds to the area.
    """
    value = ranking.auroc
    if groups is None:
        trials = min(ranking.num_positive, ranking.num_negative)
        variance = ranking.auroc_variance
    else:
        positive = np.bincount(groups.numbers[ranking.order], ranking.is_positive, minlength=len(groups))
        trials = float(min((positive > 0).sum(), (groups.sizes > positive).sum()))
        variance = sum_of_squares(groups.sums(ranking.auroc_influence())) if trials > 1 else float("nan")
    if value == 1.0:
        (perfect,) = exact_shares(np.array([trials]), np.array([trials]))
        return perfect if groups is None else Estimate(value, perfect.low, perfect.high, GROUPED_DELONG)
    return delong_interval(value, variance, groups)


def bootstrap_interval(value: float, replicates: Floats, groups: Groups | None = None) -> Estimate:
    """A value with the percentile interval of its resamples [B].

    Resampling moves some metrics to one side (a calibration error upwards); the interval always contains the value
    itself. Where the resamples do not differ, as when every prediction is correct, they say nothing and there is no
    interval.

    Args:
        value: of the images.
        replicates: of their resamples.
        groups: that were resampled, if whole groups were; the interval is then expanded, see `expanded_tail`.
    """
    replicates = replicates[np.isfinite(replicates)]
    if not np.isfinite(value) or not len(replicates) or np.ptp(replicates) <= 1e-12:
        return Estimate(value)
    if groups is not None and len(groups) < 2:
        # One session says nothing of others.
        return Estimate(value)
    tail = (1 - LEVEL) / 2 if groups is None else expanded_tail(len(groups), LEVEL)
    low, high = np.quantile(replicates, [tail, 1 - tail])
    method = BOOTSTRAP if groups is None else GROUPED_BOOTSTRAP
    return Estimate(value, min(float(low), value), max(float(high), value), method)


def choose_num_resamples(num_images: int, num_classes: int) -> int:
    """A thousand; fewer, down to two hundred, where images times classes are above ten million."""
    return int(np.clip(MAX_WORK // max(num_images * num_classes, 1), MIN_RESAMPLES, MAX_RESAMPLES))


def resample(targets: NDArray[np.int64], number: int, *, seed: int = SEED) -> Iterator[NDArray[np.float32]]:
    """Resample images within each true class.

    Args:
        targets: class numbers [N].
        number: resamples.
        seed: resample b follows from (seed, b) alone.

    Yields:
        How often each image counts in each of some resamples, float32 [N, B'].
    """
    by_class = np.argsort(targets, kind="stable")
    support = np.bincount(targets)
    first = (np.cumsum(support) - support)[targets[by_class]]
    sizes = support[targets[by_class]]
    step = max(1, MAX_CHUNK // len(targets))
    for begin in range(0, number, step):
        weights = np.empty((len(targets), min(step, number - begin)), np.float32)
        for column in range(weights.shape[1]):
            draws = np.random.default_rng([seed, begin + column]).random(len(targets))
            picked = first + (draws * sizes).astype(np.int64)
            weights[by_class, column] = np.bincount(picked, minlength=len(targets))
        yield weights


def images_to_decide(found: Estimate, num_images: int, target: float) -> int | None:
    """Return the fewest images with which the interval would not contain the target, if the found share stayed.

    Above the target they would show that it is reached, below it that it is missed. An exact interval is computed for
    each number of images; another one is taken to shrink with the root of their number.

    Args:
        found: share, with its interval.
        num_images: that it was found on; with none, all are taken to be correct.
        target: share to be reached.

    Returns:
        The number, or None where the share is the target itself, or so near to it that more than 10,000 are needed.
    """
    share = found.value if num_images else 1.0
    if not np.isfinite(share) or share == target:
        return None
    if num_images and found.method != EXACT:
        reach = share - found.low if share > target else found.high - share
        number = math.ceil(num_images * (reach / (share - target)) ** 2)
        return number if number <= MAX_IMAGES else None

    def decides(number: int) -> bool:
        (exact,) = exact_shares(np.array([share * number]), np.array([number]))
        return exact.low >= target if share > target else exact.high < target

    low, high = num_images, max(2 * num_images, 16)
    while not decides(high):
        low, high = high, 2 * high
        if low > MAX_IMAGES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high if high <= MAX_IMAGES else None
