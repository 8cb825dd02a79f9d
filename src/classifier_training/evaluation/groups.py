"""Intervals and tests for images that come in groups, such as the frames of a session.

Images of one group are alike, so a hundred frames of one session say less than a hundred sessions. Here groups are
independent of each other, and images of one group need not be. What is resampled, and what a variance is summed over,
are whole groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from classifier_training.evaluation.counts import ClassCounts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

FEW_GROUPS = 10
"""Below it an interval by groups is a rough one, however wide."""

MIN_DESIGN_EFFECT = 1.1
"""Images whose groups can widen an interval by less than 5 %, such as a few exact copies, count as independent."""

MAX_VALUES = 2**22
"""Numbers of images, by group and class, that are held in memory at once."""


@dataclass(frozen=True)
class Groups:
    """Which images belong together.

    Args:
        numbers: of the group of each image, int64 [N]; every number up to the highest occurs.
    """

    numbers: NDArray[np.int64]

    @classmethod
    def of(cls, names: Sequence[str]) -> Groups | None:
        """Number the groups of images [N]; one with an empty name is a group of its own.

        None where groups cannot matter: even if all images of each group had the same outcome, the variance of a mean
        would grow by no more than the factor `MIN_DESIGN_EFFECT` (Kish 1965: the mean size of an image's group).
        """
        if not any(names):
            return None
        unique = [name or f"\0{row}" for row, name in enumerate(names)]
        groups = cls(np.unique(unique, return_inverse=True)[1].astype(np.int64))
        return groups if (groups.sizes**2).sum() > MIN_DESIGN_EFFECT * len(names) else None

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Images of each group [G]."""
        return np.bincount(self.numbers)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Groups:
        """The groups of some of the images, numbered anew."""
        return Groups(np.unique(self.numbers[rows], return_inverse=True)[1].astype(np.int64))

    def sums(self, values: NDArray[np.floating] | NDArray[np.int64] | NDArray[np.bool_]) -> Floats:
        """Sum of a value of each image [N] over each group [G]."""
        return np.bincount(self.numbers, values, minlength=len(self)).astype(np.float64)

    def counts(
        self, targets: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int
    ) -> Iterator[ClassCounts]:
        """Count the predictions of each group by class, some groups at a time [G', K], from class numbers [N]."""
        order = np.argsort(self.numbers, kind="stable")
        bounds = np.concatenate([[0], np.cumsum(self.sizes)])
        step = max(1, MAX_VALUES // num_classes)
        for first in range(0, len(self), step):
            last = min(first + step, len(self))
            rows = order[bounds[first] : bounds[last]]
            places = (self.numbers[rows] - first) * num_classes
            shape, size = (last - first, num_classes), (last - first) * num_classes
            hit = predicted[rows] == targets[rows]
            counted = [(places + targets[rows])[hit], places + targets[rows], places + predicted[rows]]
            yield ClassCounts(*(np.bincount(one, minlength=size).reshape(shape).astype(float) for one in counted))

    def __str__(self) -> str:
        return f"by {len(self):,} groups" + (", too few to rely on them" if len(self) < FEW_GROUPS else "")


def t_quantile(num_groups: Floats | int, level: float) -> Floats:
    """Quantile of Student's t at which a two-sided interval of `level` ends, with as many groups less one."""
    from scipy.special import stdtrit

    return np.asarray(stdtrit(np.maximum(np.asarray(num_groups) - 1, 1), (1 + level) / 2))


def sum_of_squares(sums: Floats) -> float:
    """Variance of a sum of terms with mean 0, of which the sums over each of the independent groups [G] are given."""
    number = len(sums)
    return float((sums**2).sum() * number / (number - 1)) if number > 1 else float("nan")


class EffectiveTrials(NamedTuple):
    """Shares of images that come in groups, and how many independent images would say as much about each.

    Args:
        shares: [M]; NaN where a share has no image.
        numbers: effective numbers of images [M]; 0 where a share has images of fewer than two groups.
    """

    shares: Floats
    numbers: Floats


def effective_trials(parts: Iterable[tuple[Floats, Floats]], level: float) -> EffectiveTrials:
    """Find the effective numbers of images of shares.

    After Korn and Graubard (1998, Survey Methodology 24, 193-201): the images divided by the design effect, which is
    the variance of the share over groups against that over as many independent images, times the square of the ratio
    of Student's t quantiles for the images and for the groups. It is never above the number of images. Where all
    images, or none, are hits, no variance can be seen, and each group counts as one image.

    Args:
        parts: of the groups, some at a time: images that count, and images in all, in each group, both [G', M].
        level: of the interval.
    """
    # By share: hits, trials, squares of hits, hits times trials, squares of trials, and groups with a trial.
    sums = sum(
        np.stack([part.sum(axis=0) for part in (y, n, y * y, y * n, n * n, (n > 0).astype(np.float64))])
        for y, n in parts
    )
    hits, trials, squared_hits, products, squared_trials, groups = np.asarray(sums)
    share = np.divide(hits, trials, out=np.full_like(trials, np.nan), where=trials > 0)
    known = np.nan_to_num(share)
    squares = squared_hits - 2 * known * products + known**2 * squared_trials
    squares *= groups / np.maximum(groups - 1, 1)
    factor = (t_quantile(trials, level) / t_quantile(groups, level)) ** 2
    varies = squares > 1e-9 * np.maximum(squared_trials, 1)
    independent = np.divide(known * (1 - known) * trials**2, squares, out=trials.copy(), where=varies)
    alike = (hits == 0) | (hits == trials)
    effective = np.where(alike, groups, np.minimum(independent * factor, trials))
    return EffectiveTrials(share, np.where(groups > 1, effective, 0.0))


def expanded_tail(num_groups: int, level: float) -> float:
    """Share of the resamples beyond each end of an interval of the bootstrap of groups.

    The percentile interval is too narrow where few units are resampled. Hesterberg (2015, The American Statistician
    69, 371-386) expands it to the width that an interval with Student's t has.
    """
    from scipy.special import ndtr

    return float(ndtr(-np.sqrt(num_groups / (num_groups - 1)) * t_quantile(num_groups, level)))


def resample_groups(groups: Groups, number: int, *, seed: int, max_values: int) -> Iterator[NDArray[np.float32]]:
    """Resample whole groups, as many as there are (Davison and Hinkley 1997, section 3.8).

    Args:
        groups: of the images.
        number: resamples.
        seed: resample b follows from (seed, b) alone.
        max_values: weights held in memory at once.

    Yields:
        How often each image counts in each of some resamples, float32 [N, B'].
    """
    num_images = len(groups.numbers)
    step = max(1, max_values // num_images)
    for begin in range(0, number, step):
        weights = np.empty((num_images, min(step, number - begin)), np.float32)
        for column in range(weights.shape[1]):
            picked = np.random.default_rng([seed, begin + column]).integers(0, len(groups), len(groups))
            weights[:, column] = np.bincount(picked, minlength=len(groups))[groups.numbers]
        yield weights


def sign_flip_test(changes: Floats) -> float:
    """Exact two-sided p-value of a sum of differences between two classifiers.

    If neither is better, each group's difference is as likely with the other sign (Fisher 1935). The distribution of
    the sum over all 2^G signs is computed by convolution. With differences of one image it is McNemar's exact test.

    Args:
        changes: images gained minus images lost in each group [G].
    """
    from scipy.special import binom

    sizes, repeats = np.unique(np.abs(changes[changes != 0]).astype(np.int64), return_counts=True)
    chances = np.ones(1)
    for size, repeat in zip(sizes.tolist(), repeats.tolist(), strict=True):
        # The number of minus signs among `repeat` is binomial; each moves the sum by twice the size.
        for count in _chunks(repeat):
            steps = np.zeros(size * count + 1)
            steps[::size] = binom(count, np.arange(count + 1)) / 2.0**count
            chances = np.convolve(chances, steps)
    # chances[k]: of a sum of k over those with a minus sign; the sum itself is the total less twice that.
    total = int(np.abs(changes).sum())
    sums = total - 2 * np.arange(len(chances))
    return float(min(1.0, chances[np.abs(sums) >= abs(int(changes.sum()))].sum()))


def _chunks(number: int, largest: int = 500) -> Iterator[int]:
    """Split a number into parts whose binomial coefficients are finite."""
    while number > 0:
        yield min(number, largest)
        number -= largest
