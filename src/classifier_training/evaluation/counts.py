"""Figures that follow from how often each class was given, answered and hit.

All take arrays with the classes on the last axis, so that one call serves one split or a thousand resamples of it.
Where a figure is not defined it is NaN; averages over the classes count it as 0 there, as scikit-learn does with
zero_division=0, and go over the classes that occur as truth or as answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ClassCounts:
    """Answers counted by class; all that these figures need of a confusion matrix.

    Args:
        hits: images of each class that were correctly classified [..., K].
        support: images of each class [..., K].
        predicted: answers of each class [..., K].
    """

    hits: Floats
    support: Floats
    predicted: Floats

    @classmethod
    def of(cls, targets: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> ClassCounts:
        """Count one split: targets and answers, both int64 [N]."""
        counted = (targets[targets == predicted], targets, predicted)
        return cls(*(np.bincount(rows, minlength=num_classes).astype(np.float64) for rows in counted))

    @property
    def num_images(self) -> Floats:
        """Images in all [...]."""
        return np.asarray(self.support.sum(axis=-1))

    @property
    def occurs(self) -> NDArray[np.bool_]:
        """Which classes occur as truth or answer [..., K]."""
        return np.asarray(self.support + self.predicted > 0)


def ratio(above: Floats, below: Floats, *, empty: float = np.nan) -> Floats:
    """Divide, with `empty` where nothing is divided by."""
    shape = np.broadcast_shapes(np.shape(above), np.shape(below))
    found = np.full(shape, empty)
    np.divide(above, below, out=found, where=np.broadcast_to(np.asarray(below) > 0, shape))
    return found


def recalls(counts: ClassCounts) -> Floats:
    """Share of each class's images that were found [..., K]; of a class without images it is not defined."""
    return ratio(counts.hits, counts.support)


def precisions(counts: ClassCounts) -> Floats:
    """Share of each class's answers that are right [..., K]; of a class never answered it is not defined."""
    return ratio(counts.hits, counts.predicted)


def f1_scores(counts: ClassCounts) -> Floats:
    """Harmonic mean of precision and recall [..., K]; of a class that does not occur it is not defined."""
    return ratio(2 * counts.hits, counts.support + counts.predicted)


def specificities(counts: ClassCounts) -> Floats:
    """Share of the other classes' images that were not taken for this class [..., K]."""
    others = counts.num_images[..., None] - counts.support
    return ratio(others - (counts.predicted - counts.hits), others)


BY_CLASS = {
    "precision": precisions,
    "recall": recalls,
    "f1": f1_scores,
    "specificity": specificities,
}


def macro(counts: ClassCounts, values: Floats) -> Floats:
    """Mean over the classes that occur [...]."""
    return ratio(np.where(counts.occurs, np.nan_to_num(values), 0).sum(axis=-1), counts.occurs.sum(axis=-1))


def weighted(counts: ClassCounts, values: Floats) -> Floats:
    """Mean over the images [...]: of each the figure of its class."""
    return ratio((counts.support * np.nan_to_num(values)).sum(axis=-1), counts.num_images)


def accuracy(counts: ClassCounts) -> Floats:
    """Share of right answers [...]."""
    return ratio(counts.hits.sum(axis=-1), counts.num_images)


def balanced_accuracy(counts: ClassCounts) -> Floats:
    """Mean recall of the classes that have images [...]."""
    return ratio(np.nan_to_num(recalls(counts)).sum(axis=-1), (counts.support > 0).sum(axis=-1))


def matthews(counts: ClassCounts) -> Floats:
    """Correlation of truth and answers [...], -1 to 1 (Gorodkin 2004); 0 where either names one class alone."""
    number = counts.num_images
    covariance = counts.hits.sum(axis=-1) * number - (counts.support * counts.predicted).sum(axis=-1)
    spreads = [number**2 - (side**2).sum(axis=-1) for side in (counts.support, counts.predicted)]
    return ratio(covariance, np.sqrt(spreads[0] * spreads[1]), empty=0.0)


def cohen_kappa(counts: ClassCounts) -> Floats:
    """Agreement beyond chance [...]; not defined where truth and answers name one and the same class alone."""
    number = counts.num_images
    chance = (counts.support * counts.predicted).sum(axis=-1)
    return ratio(counts.hits.sum(axis=-1) * number - chance, number**2 - chance)


OVERALL = {
    "acc_top1": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "matthews": matthews,
    "cohen_kappa": cohen_kappa,
}


def overall_figures(counts: ClassCounts) -> dict[str, Floats]:
    """All figures of this module that speak of the classes together, by name, each [...]."""
    found = {name: figure(counts) for name, figure in OVERALL.items()}
    for name, figure in BY_CLASS.items():
        values = figure(counts)
        found |= {f"macro_{name}": macro(counts, values), f"weighted_{name}": weighted(counts, values)}
    return found
