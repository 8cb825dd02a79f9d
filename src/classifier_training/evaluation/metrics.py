"""Figures of a classifier from its answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import UserError, enumerate_words, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def metric_names(class_names: Sequence[str]) -> list[str]:
    """Names of all figures that `classification_metrics` gives for these classes."""
    top5 = ["acc_top5"] if len(class_names) > 5 else []
    return [
        "loss",
        "acc_top1",
        *top5,
        "balanced_accuracy",
        "macro_f1",
        *(f"acc_class_{name}" for name in class_names),
    ]


def classification_metrics(
    logits: NDArray[np.float32],
    targets: NDArray[np.int64],
    losses: NDArray[np.float32],
    class_names: Sequence[str],
) -> dict[str, float]:
    """Compute the figures of one split.

    Args:
        logits: or probabilities, float [N, K].
        targets: int64 [N].
        losses: cross-entropy of each sample [N].
        class_names: [K].

    Returns:
        Loss, accuracies, balanced accuracy (mean recall of the classes that occur), macro F1 (over classes that occur
        in targets or answers) and the recall of each class that occurs.
    """
    from sklearn.metrics import f1_score

    num_classes = len(class_names)
    predicted = logits.argmax(axis=1)
    confusion = confusion_counts(targets, predicted, num_classes)
    support = confusion.sum(axis=1)
    present = support > 0
    recall = np.divide(confusion.diagonal(), support, out=np.zeros(num_classes), where=present)
    found = {
        "loss": float(losses.astype(np.float64).mean()),
        "acc_top1": float((predicted == targets).mean()),
    }
    if num_classes > 5:
        top5 = np.argpartition(logits, -5, axis=1)[:, -5:]
        found["acc_top5"] = float((top5 == targets[:, None]).any(axis=1).mean())
    found["balanced_accuracy"] = float(recall[present].mean())
    found["macro_f1"] = float(f1_score(targets, predicted, average="macro", zero_division=0))
    found |= {
        f"acc_class_{name}": float(value)
        for name, value, seen in zip(class_names, recall, present, strict=True)
        if seen
    }
    return found


def confusion_counts(targets: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Count answers by true class (rows) and predicted class (columns), int64 [K, K]."""
    pairs = np.bincount(targets * num_classes + predicted, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes).astype(np.int64)


def cross_entropies(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> NDArray[np.float32]:
    """Cross-entropy of each sample [N], from logits [N, K]."""
    wide = logits.astype(np.float64)
    largest = wide.max(axis=1)
    log_sums = largest + np.log(np.exp(wide - largest[:, None]).sum(axis=1))
    return np.asarray(log_sums - wide[np.arange(len(targets)), targets], dtype=np.float32)


def check_monitor(monitor: str, class_names: Sequence[str], targets: NDArray[np.int64], *, setting: str) -> None:
    """Make sure that a metric will be logged after every epoch's validation.

    Args:
        monitor: name of the metric.
        class_names: [K].
        targets: class numbers of the validation images [N]; a class that does not occur has no figure.
        setting: what the user set, for the message.

    Raises:
        UserError: when it will not, with the nearest names.
    """
    absent = {f"acc_class_{name}" for number, name in enumerate(class_names) if number not in set(targets.tolist())}
    known = [f"val/{name}" for name in metric_names(class_names) if name not in absent]
    if monitor not in known:
        close = nearest(monitor, known)
        raise UserError(
            f"{setting}={monitor}: there is no such metric",
            f"one of {enumerate_words(known)}",
            f"{setting}={close[0] if close else 'val/balanced_accuracy'}",
        )
