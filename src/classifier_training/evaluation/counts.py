"""Metrics that follow from how often each class was given, predicted and hit.

All take arrays with the classes on the last axis, so that one call serves one split or a thousand resamples of it.
Where a metric is not defined it is NaN; averages over the classes count it as 0 there, as scikit-learn does with
zero_division=0, and go over the classes that occur as truth or as prediction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ClassCounts:
    """Predictions counted by class; all that these metrics need of a confusion matrix.

    Args:
        hits: images of each class that were correctly classified [..., K].
        support: images of each class [..., K].
        predicted: images that were predicted as each class [..., K].
    """

    hits: Floats
    support: Floats
    predicted: Floats

    @classmethod
    def of(cls, targets: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> ClassCounts:
        """Count one split: targets and predictions, both int64 [N]."""
        counted = (targets[targets == predicted], targets, predicted)
        return cls(*(np.bincount(rows, minlength=num_classes).astype(np.float64) for rows in counted))

    @property
    def num_images(self) -> Floats:
        """Images in all [...]."""
        return np.asarray(self.support.sum(axis=-1))

    @property
    def occurs(self) -> NDArray[np.bool_]:
        """Which classes occur as truth or prediction [..., K]."""
        return np.asarray(self.support + self.predicted > 0)


def resampled_counts(
    targets: NDArray[np.int64],
    predicted: NDArray[np.int64],
    num_classes: int,
    resamples: Iterable[NDArray[np.float32]],
) -> Iterator[tuple[ClassCounts, NDArray[np.float32]]]:
    """Yield the counts of some resamples [B, K], and how often each image counts in them.

    Args:
        targets: class numbers [N].
        predicted: predicted class numbers [N].
        num_classes: K.
        resamples: how often each image counts in each of some resamples [N, B].
    """
    from scipy.sparse import csr_array

    shape, rows, ones = (num_classes, len(targets)), np.arange(len(targets)), np.ones(len(targets))
    counted = ((targets == predicted, targets), (ones, targets), (ones, predicted))
    parts = [csr_array((values, (labels, rows)), shape=shape, dtype=np.float32) for values, labels in counted]
    for weights in resamples:
        yield ClassCounts(*(np.asarray(part @ weights, dtype=np.float64).T for part in parts)), weights


def ratio(above: Floats, below: Floats, *, empty: float = np.nan) -> Floats:
    """Divide, with `empty` where nothing is divided by."""
    shape = np.broadcast_shapes(np.shape(above), np.shape(below))
    found = np.full(shape, empty)
    np.divide(above, below, out=found, where=np.broadcast_to(np.asarray(below) > 0, shape))
    return found


class Share(NamedTuple):
    """A share of images, kept as its two numbers: an exact interval needs both.

    Args:
        hits: images that count [...].
        trials: images in all [...].
    """

    hits: Floats
    trials: Floats

    @property
    def value(self) -> Floats:
        """Hits / trials [...], NaN where there is no trial."""
        return ratio(self.hits, self.trials)


def recall(counts: ClassCounts) -> Share:
    """Share of each class's images that were found [..., K]; of a class without images it is not defined."""
    return Share(counts.hits, counts.support)


def precision(counts: ClassCounts) -> Share:
    """Share of each class's predictions that are correct [..., K]; of a class never predicted it is not defined."""
    return Share(counts.hits, counts.predicted)


def f1(counts: ClassCounts) -> Floats:
    """Harmonic mean of precision and recall [..., K]; of a class that does not occur it is not defined."""
    return ratio(2 * counts.hits, counts.support + counts.predicted)


def specificity(counts: ClassCounts) -> Share:
    """Share of the other classes' images that were not predicted as this class [..., K]."""
    others = counts.num_images[..., None] - counts.support
    return Share(others - (counts.predicted - counts.hits), others)


def macro(counts: ClassCounts, values: Floats) -> Floats:
    """Mean over the classes that occur [...]."""
    return ratio(np.where(counts.occurs, np.nan_to_num(values), 0).sum(axis=-1), counts.occurs.sum(axis=-1))


def weighted(counts: ClassCounts, values: Floats) -> Floats:
    """Mean over the images [...]: of each the value of its class."""
    return ratio((counts.support * np.nan_to_num(values)).sum(axis=-1), counts.num_images)


def accuracy(counts: ClassCounts) -> Share:
    """Share of correct predictions [...]."""
    return Share(counts.hits.sum(axis=-1), counts.num_images)


def balanced_accuracy(counts: ClassCounts) -> Floats:
    """Mean recall of the classes that have images [...]."""
    return ratio(np.nan_to_num(recall(counts).value).sum(axis=-1), (counts.support > 0).sum(axis=-1))


def matthews(counts: ClassCounts) -> Floats:
    """Correlation of truth and predictions [...], -1 to 1 (Gorodkin 2004); 0 where either names one class alone."""
    number = counts.num_images
    covariance = counts.hits.sum(axis=-1) * number - (counts.support * counts.predicted).sum(axis=-1)
    spreads = [number**2 - (side**2).sum(axis=-1) for side in (counts.support, counts.predicted)]
    return ratio(covariance, np.sqrt(spreads[0] * spreads[1]), empty=0.0)


def cohen_kappa(counts: ClassCounts) -> Floats:
    """Agreement beyond chance [...]; not defined where truth and predictions name one and the same class alone."""
    number = counts.num_images
    chance = (counts.support * counts.predicted).sum(axis=-1)
    return ratio(counts.hits.sum(axis=-1) * number - chance, number**2 - chance)
