"""Whether a probability means what it says: temperature scaling and the calibration error."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.evaluation.probabilities import calibration_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
METHOD = "temperature scaling (Guo et al. 2017, arXiv:1706.04599)"


def fit_temperature(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """Find the temperature that makes the cross-entropy of softmax(logits / temperature) least.

    The cross-entropy is convex in 1 / temperature, so a bounded search on its logarithm finds the one minimum (Guo et
    al. 2017, arXiv:1706.04599). Where every answer is right no minimum exists: ever surer would be ever better, so the
    answers are then made no surer than they are.

    Args:
        logits: float [N, K].
        targets: int64 [N].
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    wide = logits.astype(np.float64)
    right = wide[np.arange(len(targets)), targets]

    def cross_entropy(log_temperature: float) -> float:
        scale = math.exp(-log_temperature)
        return float((logsumexp(wide * scale, axis=1) - right * scale).mean())

    bounds = (math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE))
    found = minimize_scalar(cross_entropy, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    all_right = bool((wide.argmax(axis=1) == targets).all())
    return max(math.exp(found.x), 1.0 if all_right else MIN_TEMPERATURE)


def scale_probabilities(probabilities: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Return what softmax(logits / temperature) is, from the probabilities softmax(logits), float32 [..., K]."""
    if temperature == 1:
        return probabilities
    # Relative to the likeliest, which is above 0, so that no row becomes empty.
    wide = probabilities.astype(np.float64)
    powers = (wide / wide.max(axis=-1, keepdims=True)) ** (1 / temperature)
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), dtype=np.float32)


def expected_calibration_error(probabilities: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """Return `calibration_error` of the likeliest classes; probabilities are float [N, K], targets int64 [N]."""
    confidences = probabilities.max(axis=1).astype(np.float64)
    return float(calibration_error(confidences, probabilities.argmax(axis=1) == targets))
