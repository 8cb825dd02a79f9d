"""Figures of the probabilities themselves, and the checks that they are some."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from classifier_training.core.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

NUM_BINS = 15
"""Of equal width, for the expected calibration error."""

TOLERANCE = 1e-3
"""How far from 1 the probabilities of an image may sum: files round them."""

Scores = Literal["logits", "probabilities"]


def check_scores(scores: NDArray[np.floating], targets: NDArray[np.int64], num_classes: int, *, kind: Scores) -> None:
    """Make sure that answers can be scored.

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
            f"answers of shape {list(scores.shape)} for {len(targets):,} images and {num_classes:,} classes",
            f"{kind} of shape [{len(targets)}, {num_classes}]",
            "take answers, labels and class names from one and the same model",
        )
    if targets.min() < 0 or targets.max() >= num_classes:
        raise UserError(
            f"a class number of {targets.min() if targets.min() < 0 else targets.max()}",
            f"0 to {num_classes - 1}",
            "take labels and class names from one and the same model",
        )
    bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(bad):
        raise UserError(
            f"{len(bad):,} of {len(scores):,} answers hold values that are not finite, the first in row {bad[0]}",
            f"finite {kind}",
            "look at the model and at those images: weights or pixels that overflow give such answers",
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
        correct: whether its answer is right [N].
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
    return np.asarray(np.abs(membership @ weights).sum(axis=0, dtype=np.float64) / len(bins))
