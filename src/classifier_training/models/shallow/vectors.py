"""A support vector machine as a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from classifier_training.models.shallow.network import FittedClassifier

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sklearn.base import ClassifierMixin


class SupportVectors(FittedClassifier):
    """scikit-learn's `SVC` with a radial kernel.

    Each pair of classes votes by the side of its margin; the sum of a class's margins, squeezed into a third of a vote,
    decides between equal numbers of votes, as in scikit-learn's decision_function. That is the logit.
    """

    state_names = ("vectors", "gamma", "weights", "intercepts")
    vectors: Tensor
    gamma: Tensor
    weights: Tensor
    intercepts: Tensor
    _sides: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        # +1 for the first class of a pair, -1 for the second: [pairs, K].
        first, second = np.triu_indices(num_classes, k=1)
        sides = np.eye(num_classes, dtype=np.float32)[first] - np.eye(num_classes, dtype=np.float32)[second]
        self.register_buffer("_sides", torch.from_numpy(sides), persistent=False)

    def answer(self, features: Tensor) -> Tensor:
        """Return logits; see the base class."""
        lengths = (features * features).sum(dim=1, keepdim=True) + (self.vectors * self.vectors).sum(dim=1)
        distances = (lengths - 2 * features @ self.vectors.T).clamp(min=0)
        margins = torch.exp(-self.gamma * distances) @ self.weights + self.intercepts
        if self.num_classes == 2:
            return margins @ self._sides
        votes = torch.where(margins >= 0, 0.5, -0.5) @ self._sides
        sums = margins @ self._sides
        return votes + sums / (3 * (sums.abs() + 1))

    def learnt(self, estimator: ClassifierMixin) -> dict[str, Tensor]:
        """Return the state of a fitted SVC."""
        machine: Any = estimator
        weights, intercepts = _by_pair(machine), machine.intercept_
        if self.num_classes == 2:
            # scikit-learn turns the margin of two classes over, towards the second.
            weights, intercepts = -weights, -intercepts
        found = {
            "vectors": machine.support_vectors_,
            "gamma": [machine._gamma],  # noqa: SLF001 - the number that "scale" came to
            "weights": weights,
            "intercepts": intercepts,
        }
        return {name: torch.from_numpy(np.asarray(value, dtype=np.float32)) for name, value in found.items()}


class LinearVectors(FittedClassifier):
    """scikit-learn's `LinearSVC`, one class against the rest; margins are the logits."""

    state_names = ("weights", "intercepts")
    weights: Tensor
    intercepts: Tensor

    def answer(self, features: Tensor) -> Tensor:
        """Return logits; see the base class."""
        return features @ self.weights.T + self.intercepts

    def learnt(self, estimator: ClassifierMixin) -> dict[str, Tensor]:
        """Return the state of a fitted LinearSVC."""
        machine: Any = estimator
        weights, intercepts = machine.coef_, machine.intercept_
        if self.num_classes == 2:
            weights, intercepts = np.vstack([-weights, weights]), np.concatenate([-intercepts, intercepts])
        found = {"weights": weights, "intercepts": intercepts}
        return {name: torch.from_numpy(np.asarray(value, dtype=np.float32)) for name, value in found.items()}


def _by_pair(machine: Any) -> NDArray[np.float64]:
    """Lay libsvm's coefficients out by pair of classes: [vectors, pairs].

    It keeps of each vector one coefficient for each other class, without a place for its own.
    """
    coefficients = np.asarray(machine.dual_coef_)
    ends = np.cumsum(machine.n_support_)
    owned = [slice(end - count, end) for end, count in zip(ends, machine.n_support_, strict=True)]
    first, second = np.triu_indices(len(owned), k=1)
    found = np.zeros((coefficients.shape[1], len(first)))
    for pair, (one, other) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
        found[owned[one], pair] = coefficients[other - 1, owned[one]]
        found[owned[other], pair] = coefficients[one, owned[other]]
    return found
