"""Which predictions a person should look at: confused classes, the worst mistakes, the unsure ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.evaluation.metrics import confusion_counts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from classifier_training.core.types import SplitResult


@dataclass(frozen=True)
class Confusion:
    """Images of one class that were predicted as another.

    Args:
        true: number of the class that they are of.
        answer: number of the class that was answered.
        count: how many.
        support: images of the true class.
    """

    true: int
    answer: int
    count: int
    support: int

    @property
    def share(self) -> float:
        """Of the true class's images."""
        return self.count / self.support


def most_confused(counts: NDArray[np.int64]) -> list[Confusion]:
    """Return all confusions that occur, the most frequent first; of equals, the larger share of its class.

    Args:
        counts: images by true class (rows) and answer (columns), int64 [K, K].
    """
    support = counts.sum(axis=1)
    rows, columns = np.nonzero(counts * (1 - np.eye(len(counts), dtype=np.int64)))
    found = [
        Confusion(true, answer, int(counts[true, answer]), int(support[true]))
        for true, answer in zip(rows.tolist(), columns.tolist(), strict=True)
    ]
    return sorted(found, key=lambda item: (-item.count, -item.share))


@dataclass(frozen=True)
class Answers:
    """The answers of a split in the orders that a person looks at them.

    Args:
        result: with calibrated logits where there are such.
        num_classes: K.
    """

    result: SplitResult
    num_classes: int

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class of each image [N]."""
        return self.result.predicted

    @cached_property
    def confidences(self) -> NDArray[np.float32]:
        """Its probability [N]; a page asks for it cell by cell."""
        return np.asarray(self.result.probabilities.max(axis=1))

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Images by true class (rows) and answer (columns), int64 [K, K]."""
        return confusion_counts(self.result.targets, self.predicted, self.num_classes)

    def worst(self) -> NDArray[np.int64]:
        """Rows of the wrong predictions, the largest loss first: fastai's top losses without the correct ones."""
        wrong = np.flatnonzero(self.predicted != self.result.targets)
        return np.asarray(wrong[np.argsort(-self.result.losses[wrong], kind="stable")])

    def unsure(self) -> NDArray[np.int64]:
        """Rows of the correct predictions, the least confident first."""
        right = np.flatnonzero(self.predicted == self.result.targets)
        return np.asarray(right[np.argsort(self.confidences[right], kind="stable")])

    def cells(self) -> dict[tuple[int, int], NDArray[np.int64]]:
        """Rows by true class and answer, of each pair that occurs; the surest answer first."""
        order = np.argsort(-self.confidences, kind="stable")
        pairs = self.result.targets[order] * self.num_classes + self.predicted[order]
        found: dict[tuple[int, int], NDArray[np.int64]] = {}
        for pair in np.unique(pairs).tolist():
            found[divmod(pair, self.num_classes)] = order[pairs == pair]
        return found
