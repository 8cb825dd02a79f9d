"""What metrics are computed from: the predictions of one split, checked, with what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from classifier_training.core.errors import UserError
from classifier_training.core.types import row_blocks
from classifier_training.evaluation.counts import ClassCounts
from classifier_training.evaluation.ranking import Ranking

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

NUM_BINS = 15
"""Of equal width, for the expected calibration error."""

TOLERANCE = 1e-3
"""How far from 1 the probabilities of an image may sum: files round them."""

MAX_RANK = 5
"""Of top-5 accuracy."""

MAX_COLUMNS = 2**27
"""Scores of some classes that are held at once while images are ranked."""

Scores = Literal["logits", "probabilities"]


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The predictions of one split.

    Of many images [N, K] is large: what follows from it is computed some rows, or some classes, at a time.

    Args:
        scores: logits or probabilities [N, K].
        targets: class numbers, int64 [N].
        kind: what `scores` are.
        given_losses: cross-entropy of each image [N], where it is known already.
        temperature: that logits are divided by.
    """

    scores: NDArray[np.floating]
    targets: NDArray[np.int64]
    kind: Scores = "logits"
    given_losses: NDArray[np.floating] | None = None
    temperature: float = 1.0

    @property
    def num_classes(self) -> int:
        """K."""
        return int(self.scores.shape[1])

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """The class of the highest score [N]."""
        return np.asarray(self.scores.argmax(axis=1))

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether that is the true class [N]."""
        return np.asarray(self.predicted == self.targets)

    @cached_property
    def counts(self) -> ClassCounts:
        """Predictions counted by class."""
        return ClassCounts.of(self.targets, self.predicted, self.num_classes)

    @property
    def probabilities(self) -> Floats:
        """Probability of each class [N, K]; built anew at each access, 8 bytes a value."""
        return self._probabilities_of(slice(None))[0]

    @property
    def confidences(self) -> Floats:
        """Probability of the predicted class [N]."""
        return self._by_image[0]

    @property
    def losses(self) -> Floats:
        """Cross-entropy of each image [N]."""
        return self._by_image[1] if self.given_losses is None else self.given_losses.astype(np.float64)

    @property
    def briers(self) -> Floats:
        """Brier score of each image [N]; see `brier_losses`."""
        return self._by_image[2]

    @cached_property
    def _by_image(self) -> tuple[Floats, Floats, Floats]:
        found = np.empty((3, len(self.targets)))
        for rows in row_blocks(self.scores.shape):
            probabilities, losses = self._probabilities_of(rows)
            found[:, rows] = probabilities.max(axis=1), losses, brier_losses(probabilities, self.targets[rows])
        return tuple(found)  # type: ignore[return-value]

    def _logits_of(self, rows: slice, classes: Sequence[int] | None = None) -> NDArray[np.floating]:
        logits = self.scores[rows] if classes is None else self.scores[rows][:, classes]
        return logits if self.temperature == 1 else logits / np.float32(self.temperature)

    def _probabilities_of(self, rows: slice) -> tuple[Floats, Floats]:
        """Probabilities [M, K] and losses [M] of some images."""
        targets = self.targets[rows]
        if self.kind == "probabilities":
            probabilities = self.scores[rows].astype(np.float64, copy=False)
            return probabilities, log_losses(probabilities, targets)
        logarithms = log_softmax(self._logits_of(rows))
        losses = -logarithms[np.arange(len(targets)), targets]
        return np.exp(logarithms, out=logarithms), losses

    def rankings(self, numbers: Sequence[int] | None = None) -> Iterator[tuple[int, Ranking]]:
        """Rank the images by the probability of each class, one after the other.

        Args:
            numbers: of the classes; all when left out.

        Yields:
            Number and ranking.
        """
        wanted = list(range(self.num_classes)) if numbers is None else list(numbers)
        if not wanted:
            return
        shape = self.scores.shape
        normal = np.zeros((2, shape[0]))
        if self.kind == "logits":
            for rows in row_blocks(shape):
                logits = self._logits_of(rows)
                normal[0, rows] = logits.max(axis=1)
                normal[1, rows] = np.log(np.exp(logits - normal[0, rows, None]).sum(axis=1))
        step = max(1, MAX_COLUMNS // shape[0])
        for first in range(0, len(wanted), step):
            # Together, since a column alone reads a line of memory for each of its values.
            chosen = wanted[first : first + step]
            columns = np.empty((len(chosen), shape[0]), self.scores.dtype)
            for rows in row_blocks(shape):
                columns[:, rows] = self._logits_of(rows, chosen).T
            for number, column in zip(chosen, columns, strict=True):
                values = column.astype(np.float64)
                if self.kind == "logits":
                    values -= normal[0]
                    values -= normal[1]
                    np.exp(values, out=values)
                yield number, Ranking.of(values, self.targets == number)


def check_scores(scores: NDArray[np.floating], targets: NDArray[np.int64], num_classes: int, *, kind: Scores) -> None:
    """Make sure that predictions can be scored.

    Args:
        scores: logits or probabilities [N, K].
        targets: class numbers [N].
        num_classes: K.
        kind: which of the two.

    Raises:
        UserError: for no image, a wrong shape, a target without class, a value that is not finite, or probabilities
            that are none.
    """
    if not len(targets):
        raise UserError("there is no image to score", "one at least", "choose other data or another split")
    if scores.shape != (len(targets), num_classes):
        raise UserError(
            f"predictions of shape {list(scores.shape)} for {len(targets):,} images and {num_classes:,} classes",
            f"{kind} of shape [{len(targets)}, {num_classes}]",
            "take predictions, labels and class names from one and the same model",
        )
    if targets.min() < 0 or targets.max() >= num_classes:
        raise UserError(
            f"a class number of {targets.min() if targets.min() < 0 else targets.max()}",
            f"0 to {num_classes - 1}",
            "take labels and class names from one and the same model",
        )
    finite = [np.isfinite(scores[rows]).all(axis=1) for rows in row_blocks(scores.shape)]
    bad = np.flatnonzero(~np.concatenate(finite))
    if len(bad):
        raise UserError(
            f"{len(bad):,} of {len(scores):,} predictions hold values that are not finite, the first in row {bad[0]}",
            f"finite {kind}",
            "look at the model and at those images: weights or pixels that overflow give such predictions",
        )
    if kind == "probabilities":
        _check_sums(scores)


def _check_sums(probabilities: NDArray[np.floating]) -> None:
    sums = probabilities.sum(axis=1, dtype=np.float64)
    wrong = np.flatnonzero((np.abs(sums - 1) > TOLERANCE) | (probabilities.min(axis=1) < 0))
    if len(wrong):
        row = int(wrong[0])
        raise UserError(
            f"the probabilities of {len(wrong):,} of {len(sums):,} images are none: those of row {row} sum to "
            f"{sums[row]:.4f}, the smallest is {probabilities[row].min():.4f}",
            "values of at least 0 that sum to 1 for each image",
            "if they are logits, say so; if they were rounded, write more digits",
        )


def log_softmax(logits: NDArray[np.floating]) -> Floats:
    """Logarithm of the softmax over the last axis, in double precision; nothing overflows."""
    shifted = logits - logits.max(axis=-1, keepdims=True).astype(np.float64)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def log_losses(probabilities: Floats, targets: NDArray[np.int64]) -> Floats:
    """Cross-entropy of each image [N]; a probability of 0 counts as the precision of its type, as in scikit-learn."""
    given = probabilities[np.arange(len(targets)), targets]
    return np.asarray(-np.log(np.clip(given, np.finfo(probabilities.dtype).eps, 1)))


def brier_losses(probabilities: Floats, targets: NDArray[np.int64]) -> Floats:
    """Squared distance of each image's probabilities from the truth [N], halved for two classes as in scikit-learn.

    So it goes from 0 to 1 for two classes, and to 2 for more.
    """
    given = probabilities[np.arange(len(targets)), targets]
    distances = np.einsum("nk,nk->n", probabilities, probabilities) - 2 * given + 1
    return np.asarray(distances / 2 if probabilities.shape[1] == 2 else distances)


def confidence_bins(confidences: Floats) -> NDArray[np.int64]:
    """Bin of each confidence [N]: (0, 1/15], (1/15, 2/15] and so on, counted from 0."""
    return np.clip(np.ceil(confidences * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)


def calibration_error(
    confidences: Floats, correct: NDArray[np.bool_], weights: NDArray[np.floating] | None = None
) -> Floats:
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599) over 15 bins of equal width.

    The mean over the images of how far, in their bin, the mean confidence is from the share of correct predictions.

    Args:
        confidences: the highest probability of each image [N].
        correct: whether its prediction is [N].
        weights: how often each image counts, [N, B] for B resamples; once when left out.

    Returns:
        The error, [] or [B].
    """
    bins = confidence_bins(confidences)
    gaps = confidences - correct
    if weights is None:
        return np.asarray(np.abs(np.bincount(bins, gaps, minlength=NUM_BINS)).sum() / len(bins))
    membership = np.zeros((NUM_BINS, len(bins)), np.float32)
    membership[bins, np.arange(len(bins))] = gaps
    # Resamples of whole groups have different numbers of images.
    return np.asarray(np.abs(membership @ weights).sum(axis=0, dtype=np.float64) / weights.sum(axis=0))


def is_among_first(
    scores: NDArray[np.floating], targets: NDArray[np.int64], number: int = MAX_RANK
) -> NDArray[np.bool_]:
    """Whether the true class is among those of the highest scores [N]; of equal scores the first class counts more."""
    found = np.empty(len(targets), np.bool_)
    for rows in row_blocks(scores.shape):
        some, labels = scores[rows], targets[rows, None]
        given = np.take_along_axis(some, labels, axis=1)
        ahead = (some > given).sum(axis=1)
        ahead += ((some == given) & (np.arange(some.shape[1]) < labels)).sum(axis=1)
        found[rows] = ahead < number
    return found
