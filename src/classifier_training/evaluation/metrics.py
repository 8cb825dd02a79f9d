"""The figures of an epoch: cheap enough for each one, and those besides that somebody watches.

All figures with their intervals, for reports, are in `measures`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import UserError, enumerate_words, nearest
from classifier_training.evaluation.counts import (
    BY_CLASS,
    ClassCounts,
    accuracy,
    balanced_accuracy,
    f1_scores,
    macro,
    overall_figures,
    recalls,
)
from classifier_training.evaluation.measures import defined_mean, is_among_first
from classifier_training.evaluation.probabilities import brier_losses, calibration_error, log_softmax
from classifier_training.evaluation.ranking import Ranking

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

FROM_COUNTS = (
    *(f"{average}_{name}" for name in BY_CLASS for average in ("macro", "weighted")), "matthews", "cohen_kappa",
)  # fmt: skip
FROM_PROBABILITIES = ("brier", "ece")
FROM_RANKING = ("auroc", "average_precision")
WATCHED_BY_CLASS = ("precision", "f1", "specificity", *FROM_RANKING)


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


def watchable_names(class_names: Sequence[str]) -> list[str]:
    """Names of all figures that `classification_metrics` can give for these classes, when they are asked for."""
    always = metric_names(class_names)
    averages = [*FROM_COUNTS, *(f"macro_{name}" for name in FROM_RANKING), *FROM_PROBABILITIES]
    by_class = [f"{figure}_class_{name}" for figure in WATCHED_BY_CLASS for name in class_names]
    return list(dict.fromkeys([*always, *averages, *by_class]))


def classification_metrics(
    logits: NDArray[np.float32],
    targets: NDArray[np.int64],
    losses: NDArray[np.float32],
    class_names: Sequence[str],
    *,
    also: Collection[str] = (),
) -> dict[str, float]:
    """Compute the figures of one split.

    Args:
        logits: or probabilities, float [N, K].
        targets: int64 [N].
        losses: cross-entropy of each sample [N].
        class_names: [K].
        also: names of further figures, out of `watchable_names`; of those made from probabilities, `logits` must be
            logits. A figure that is not defined here, such as that of a class without images, is left out.

    Returns:
        Loss, accuracies, balanced accuracy (mean recall of the classes that occur), macro F1 (over classes that occur
        in targets or answers), the recall of each class that occurs, and what was asked for besides.
    """
    counts = ClassCounts.of(targets, logits.argmax(axis=1), len(class_names))
    found = {"loss": float(losses.astype(np.float64).mean()), "acc_top1": float(accuracy(counts))}
    if len(class_names) > 5:
        found["acc_top5"] = float(is_among_first(logits, targets).mean())
    found["balanced_accuracy"] = float(balanced_accuracy(counts))
    found["macro_f1"] = float(macro(counts, f1_scores(counts)))
    found |= {
        f"acc_class_{name}": value
        for name, value in zip(class_names, recalls(counts).tolist(), strict=True)
        if np.isfinite(value)
    }
    further = [name for name in also if name not in found]
    return found | (_further(further, counts, logits, targets, class_names) if further else {})


def _further(
    wanted: Collection[str],
    counts: ClassCounts,
    logits: NDArray[np.float32],
    targets: NDArray[np.int64],
    class_names: Sequence[str],
) -> dict[str, float]:
    """Compute the wanted figures that are defined; of what they need nothing more than that."""
    values = {name: float(value) for name, value in overall_figures(counts).items()}
    for figure, function in BY_CLASS.items():
        # Until a class is answered once its precision counts as 0: a metric that comes and goes can choose nothing.
        defined = np.where(
            (figure == "precision") & (counts.support > 0), np.nan_to_num(function(counts)), function(counts)
        )
        values |= {f"{figure}_class_{name}": value for name, value in zip(class_names, defined.tolist(), strict=True)}
    if not values.keys() >= set(wanted):
        values |= _from_probabilities(wanted, logits, targets, class_names)
    return {name: values[name] for name in wanted if np.isfinite(values.get(name, np.nan))}


def _from_probabilities(
    wanted: Collection[str], logits: NDArray[np.float32], targets: NDArray[np.int64], class_names: Sequence[str]
) -> dict[str, float]:
    probabilities = np.exp(log_softmax(logits))
    found = {
        "brier": float(brier_losses(probabilities, targets).mean()),
        "ece": float(calibration_error(probabilities.max(axis=1), logits.argmax(axis=1) == targets)),
    }
    averaged = {f"macro_{figure}" for figure in FROM_RANKING} & set(wanted)
    columns: dict[str, list[float]] = {figure: [] for figure in FROM_RANKING}
    for number, name in enumerate(class_names):
        named = {figure: f"{figure}_class_{name}" for figure in FROM_RANKING}
        if not averaged and not set(named.values()) & set(wanted):
            continue
        ranking = Ranking.of(probabilities[:, number], targets == number)
        for figure, values in columns.items():
            values.append(getattr(ranking, figure))
            found[named[figure]] = values[-1]
    return found | {name: defined_mean(np.array(columns[name.removeprefix("macro_")])) for name in averaged}


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
    known = [f"val/{name}" for name in watchable_names(class_names) if name not in _undefined(class_names, targets)]
    if monitor not in known:
        always = [f"val/{name}" for name in metric_names(class_names)]
        shown = [name for name in known if "_class_" not in name or name in always]
        close = nearest(monitor, known)
        raise UserError(
            f"{setting}={monitor}: there is no such metric",
            f"one of {enumerate_words(shown, limit=32)}",
            f"{setting}={close[0] if close else 'val/balanced_accuracy'}",
        )


def _undefined(class_names: Sequence[str], targets: NDArray[np.int64]) -> set[str]:
    """Figures that these validation images cannot give."""
    present = set(targets.tolist())
    figures = ("acc", *WATCHED_BY_CLASS)
    absent = {
        f"{figure}_class_{name}"
        for number, name in enumerate(class_names)
        if number not in present
        for figure in figures
    }
    if len(present) > 1:
        return absent
    # With one class alone there is nothing that its images could be told from.
    alone = {f"{figure}_class_{name}" for figure in ("specificity", "auroc") for name in class_names}
    return absent | alone | {"macro_auroc", "cohen_kappa"}
