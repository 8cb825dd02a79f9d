"""Which predictions a person should look at: confused classes, the worst mistakes, labels that may be wrong."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.errors import require_extra
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


@dataclass(frozen=True)
class LabelIssues:
    """Which labels are probably wrong.

    Args:
        rows: of the samples with doubtful labels, the most doubtful first, int64 [M].
        quality: probability of the given label of every sample, float [N]: the lower, the more doubtful.
    """

    rows: NDArray[np.int64]
    quality: NDArray[np.float64]


def import_cleanlab() -> tuple[Any, Any]:
    """Return cleanlab's search for label issues and its scores.

    Raises:
        UserError: when it is not installed.
    """
    try:
        from cleanlab.filter import find_label_issues as find
        from cleanlab.rank import get_label_quality_scores
    except ImportError as error:
        raise require_extra("cleanlab", extra="cleanlab", purpose="analyze run=…") from error
    return find, get_label_quality_scores


def find_label_issues(targets: NDArray[np.int64], probabilities: NDArray[np.float32]) -> LabelIssues:
    """Find samples whose label the network contradicts more surely than it usually does for that class.

    Args:
        targets: class numbers as labelled, int64 [N].
        probabilities: of a network that was not trained on these samples, float [N, K].

    Raises:
        UserError: when cleanlab is not installed.
    """
    find, get_label_quality_scores = import_cleanlab()
    # float32 sums may miss 1 by more than cleanlab allows.
    shares = probabilities.astype(np.float64)
    shares /= shares.sum(axis=1, keepdims=True)
    quality = np.asarray(get_label_quality_scores(targets, shares, method="self_confidence"), dtype=np.float64)
    if len(set(targets.tolist())) < 2:
        # With one class there is no noise rate to estimate; the samples that are predicted otherwise are all there is.
        doubtful = np.flatnonzero(shares.argmax(axis=1) != targets)
    else:
        # Processes of its own would be forked from one that holds ONNX Runtime's threads.
        doubtful = np.flatnonzero(find(targets, shares, filter_by="prune_by_noise_rate", n_jobs=1))
    return LabelIssues(doubtful[np.argsort(quality[doubtful], kind="stable")], quality)
