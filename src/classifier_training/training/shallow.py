"""Fitting a shallow model: scikit-learn learns from features, and the network takes over what it has learnt."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.errors import CheckFailedError, UserError
from classifier_training.core.types import SplitResult
from classifier_training.evaluation.metrics import classification_metrics, cross_entropies

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from classifier_training.models.shallow_classifiers import FittedClassifier
    from classifier_training.training.descriptors import Described

log = logging.getLogger(__name__)

ANSWER_BATCH = 256

MAX_LOG_SHARPNESS = np.log(100)
"""Bounds of the factor that logits are multiplied by, either way."""


def fit_classifier(
    classifier: FittedClassifier,
    estimator: Any,
    train: Described,
    validation: Described,
    *,
    class_weights: NDArray[np.float64] | None,
) -> None:
    """Fit an estimator, give its state to the network, and the network's logits their temperature.

    Args:
        classifier: takes the state over.
        estimator: of scikit-learn; fitted here.
        train: what to learn from.
        validation: what the temperature is fitted on.
        class_weights: weight of one image of each class [K]; None weighs all alike.

    Raises:
        UserError: when one class alone has readable images.
        CheckFailedError: when the network's predictions differ from scikit-learn's.
    """
    missing = classifier.num_classes - len(np.unique(train.targets))
    if missing:
        raise UserError(
            f"{missing} of {classifier.num_classes} classes have no training image that can be read",
            "readable images of every class",
            "look at the files named above",
        )
    weights = None if class_weights is None else class_weights[train.targets]
    estimator.fit(train.features, train.targets, sample_weight=weights)
    classifier.adopt(estimator)
    logits = answer(classifier, validation.features)
    _compare(logits, estimator.predict(validation.features))
    factor = fit_sharpness(logits, validation.targets)
    classifier.sharpen(factor)
    log.info("logits: scikit-learn's scores times %.3g, the inverse temperature that suits validation best", factor)


def answer(classifier: FittedClassifier, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return logits [N, K] for features [N, D]."""
    import torch

    with torch.inference_mode():
        parts = [classifier(part).numpy() for part in torch.split(torch.from_numpy(features), ANSWER_BATCH)]
    return np.concatenate(parts)


def score(
    classifier: FittedClassifier, described: Described, *, split: str, class_names: Sequence[str], watched: str
) -> SplitResult:
    """Predict a split and score the predictions; `watched` is a metric that is wanted besides the usual ones."""
    logits = answer(classifier, described.features)
    losses = cross_entropies(logits, described.targets)
    metrics = classification_metrics(logits, described.targets, losses, class_names, also=[watched])
    return SplitResult(split, logits, described.targets, described.indices, losses, metrics)


def fit_sharpness(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """Find the factor of the logits that makes their probabilities fit the true classes best.

    The inverse temperature of Guo et al. 2017 (arXiv:1706.04599), by maximum likelihood. As in Platt 1999
    ("Probabilistic Outputs for Support Vector Machines"), the right class counts 1 - 1/(N+2) and the others share the
    rest: a split without a mistake would otherwise make every answer certain.
    """
    from scipy.optimize import minimize_scalar

    wide = logits.astype(np.float64)
    rest = 1 / (len(targets) + 2)
    wanted = np.full(wide.shape, rest / (wide.shape[1] - 1))
    wanted[np.arange(len(targets)), targets] = 1 - rest

    def loss(log_factor: float) -> float:
        scaled = np.exp(log_factor) * wide
        highest = scaled.max(axis=1, keepdims=True)
        sums = highest + np.log(np.exp(scaled - highest).sum(axis=1, keepdims=True))
        return float((wanted * (sums - scaled)).sum(axis=1).mean())

    found = minimize_scalar(loss, bounds=(-MAX_LOG_SHARPNESS, MAX_LOG_SHARPNESS), method="bounded")
    return float(np.exp(found.x))


def _compare(logits: NDArray[np.float32], expected: NDArray[np.int64]) -> None:
    """Make sure that the network predicts as scikit-learn does.

    Raises:
        CheckFailedError: when it does not.
    """
    changed = logits.argmax(axis=1) != expected
    leads = logits.max(axis=1) - logits[np.arange(len(expected)), expected]
    log.info("network: predicts as scikit-learn on %d of %d validation images", (~changed).sum(), len(expected))
    # Sums in float32 may swap two classes that are level in float64.
    if (leads > LEVEL).any():
        raise CheckFailedError(
            f"the network predicts {int(changed.sum())} of {len(expected)} images otherwise than scikit-learn",
            "the same predictions",
            "report your version of scikit-learn and the settings of the model",
        )


LEVEL = 1e-4
"""Scores that are nearer to each other are level."""
