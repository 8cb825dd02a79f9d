"""Whether a probability means what it says: temperature scaling, whether it helps, and the calibration error."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.types import softmax
from classifier_training.evaluation.predictions import calibration_error, log_softmax

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
"""Ends of the search. A minimum beyond them belongs to predictions that are all correct, or no better than chance."""

BOUND_MARGIN = 1.01
"""Factor by which a temperature must stay off the ends to count as found."""

MIN_PREDICTIONS = 100
"""Of fewer, a fold's log losses say too little: `scripts/bench/calibration.py` prints how often a temperature harms."""

NUM_FOLDS = 5
SEED = 0

METHOD = "temperature scaling (Guo et al. 2017, arXiv:1706.04599)"


@dataclass(frozen=True, kw_only=True)
class TemperatureChoice:
    """A temperature, and what it does to predictions that it was not fitted to.

    For the values named `after`, the temperature of each prediction comes from the other folds (cross-fitting).

    Args:
        temperature: to use: the fitted one, or 1.
        fitted_temperature: to all predictions.
        reason: why the temperature stays 1; empty where the fitted one is used.
        num_images: predictions.
        ece_before: expected calibration error with a temperature of 1.
        ece_after: the same, cross-fitted; None where that was not done.
        log_loss_before: mean with a temperature of 1; None in a bundle of before temperatures were judged.
        log_loss_after: the same, cross-fitted.
        standard_error: of the difference of the two, paired, by groups where there are such.
    """

    temperature: float
    fitted_temperature: float
    reason: str
    num_images: int
    ece_before: float
    ece_after: float | None = None
    log_loss_before: float | None = None
    log_loss_after: float | None = None
    standard_error: float | None = None


def choose_temperature(
    logits: NDArray[np.float32], targets: NDArray[np.int64], groups: Sequence[str] = ()
) -> TemperatureChoice:
    """Fit a temperature, and use it if it helps predictions that it was not fitted to.

    It is judged by five-fold cross-fitting: the temperature of each fold is fitted to the others. It is used if the
    mean log loss falls by more than one standard error of the paired differences, the rule by which Breiman et al.
    (1984) prefer the simpler of two models, which is here a temperature of 1. The log loss decides because it is a
    proper score (Gneiting and Raftery 2007), while the binned calibration error is biased, and most where predictions
    are few (Roelofs et al. 2022, arXiv:2012.08668). But the log loss is of all classes: it can fall while the highest
    probability, which is the confidence, moves away from the accuracy. So the calibration error must not grow.

    Args:
        logits: float [N, K].
        targets: int64 [N].
        groups: group of each prediction [N]; a group lies in one fold. The empty string is no group.
    """
    num_images = len(targets)
    before = _log_losses(logits, targets, 1.0)
    choice = TemperatureChoice(
        temperature=1.0,
        fitted_temperature=fit_temperature(logits, targets),
        reason="",
        num_images=num_images,
        ece_before=expected_calibration_error(softmax(logits), targets),
        log_loss_before=float(before.mean()),
    )
    if num_images < MIN_PREDICTIONS:
        return replace(choice, reason=f"{num_images:,} predictions are too few, {MIN_PREDICTIONS} are needed")
    numbers = _group_numbers(groups, num_images)
    num_groups = int(numbers.max()) + 1
    if num_groups < NUM_FOLDS:
        return replace(choice, reason=f"{num_groups} groups of images are too few, {NUM_FOLDS} are needed")
    folds = _folds(numbers)
    temperatures = np.empty(num_images)
    for fold in range(NUM_FOLDS):
        others = folds != fold
        temperatures[~others] = fit_temperature(logits[others], targets[others])
    after = _log_losses(logits, targets, temperatures)
    gain, error = float((before - after).mean()), _standard_error(before - after, numbers)
    scaled = softmax((logits / temperatures[:, None]).astype(np.float32))
    ece_after = expected_calibration_error(scaled, targets)
    choice = replace(
        choice,
        ece_after=ece_after,
        log_loss_after=float(after.mean()),
        standard_error=error,
    )
    if not MIN_TEMPERATURE * BOUND_MARGIN < choice.fitted_temperature < MAX_TEMPERATURE / BOUND_MARGIN:
        return replace(
            choice, reason=f"no best temperature was found between {MIN_TEMPERATURE:g} and {MAX_TEMPERATURE:g}"
        )
    if gain <= error:
        return replace(
            choice,
            reason=f"no gain on held-out folds: log loss {before.mean():.4f} without and {after.mean():.4f} with it, "
            f"standard error of the difference {error:.4f}",
        )
    if ece_after > choice.ece_before:
        return replace(
            choice,
            reason=f"on held-out folds the confidences would be further from the accuracy: calibration error "
            f"{choice.ece_before:.4f} without and {ece_after:.4f} with it",
        )
    return replace(choice, temperature=choice.fitted_temperature)


def fit_temperature(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """Find the temperature that makes the cross-entropy of softmax(logits / temperature) least.

    The cross-entropy is convex in 1 / temperature, so a bounded search on its logarithm finds the one minimum (Guo et
    al. 2017, arXiv:1706.04599). Where none exists it is a bound: the lower one for predictions that are all correct,
    whose loss falls with the temperature for ever.

    Args:
        logits: float [N, K].
        targets: int64 [N].
    """
    from scipy.optimize import minimize_scalar

    if (logits.argmax(axis=1) == targets).all():
        # The search would stop where the loss becomes 0 in floating point.
        return MIN_TEMPERATURE

    def cross_entropy(log_temperature: float) -> float:
        return float(_log_losses(logits, targets, math.exp(log_temperature)).mean())

    bounds = (math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE))
    found = minimize_scalar(cross_entropy, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return math.exp(found.x)


def _log_losses(logits: NDArray[np.float32], targets: NDArray[np.int64], temperatures: Floats | float) -> Floats:
    """Log loss of each prediction [N] at its temperature."""
    wide = logits.astype(np.float64) / np.reshape(temperatures, (-1, 1))
    return np.asarray(-log_softmax(wide)[np.arange(len(targets)), targets])


def _group_numbers(groups: Sequence[str], num_images: int) -> NDArray[np.int64]:
    """Number the groups of predictions, int64 [N]; one without a group is a group of its own."""
    names = [group or f"\0{row}" for row, group in enumerate(groups or [""] * num_images)]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def _folds(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Put groups into folds [N], the largest first, each into the fold with the fewest predictions."""
    counts = np.bincount(numbers)
    order = np.random.default_rng(SEED).permutation(len(counts))
    order = order[np.argsort(-counts[order], kind="stable")]
    folds, sizes = np.empty(len(counts), dtype=np.int64), np.zeros(NUM_FOLDS)
    for group in order:
        folds[group] = int(sizes.argmin())
        sizes[folds[group]] += counts[group]
    return folds[numbers]


def _standard_error(differences: Floats, numbers: NDArray[np.int64]) -> float:
    """Standard error of the mean of the differences, whose groups are independent of each other."""
    sums = np.bincount(numbers, differences - differences.mean())
    return float(np.sqrt((sums**2).sum() * len(sums) / (len(sums) - 1)) / len(differences))


def expected_calibration_error(probabilities: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """Return `calibration_error` of the top predictions; probabilities are float [N, K], targets int64 [N]."""
    confidences = probabilities.max(axis=1).astype(np.float64)
    return float(calibration_error(confidences, probabilities.argmax(axis=1) == targets))
