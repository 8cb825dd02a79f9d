"""A score for images unlike the training data, from what the network's last layer sees of them.

The features of the classes that a network was trained on lie close to a few directions; an image of another kind
reaches outside of them. The score is the share of a centred feature vector's squared length outside the principal
subspace of the training features: the residual of ViM (Wang et al. 2022, arXiv:2203.10807), relative to the length as
in null space analysis (Cook et al. 2020). Where a network's features are not to be had, the energy of its logits
stands in (Liu et al. 2020, arXiv:2010.03759).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FALSE_ALARM_RATE = 0.05
"""Share of the validation images that the threshold calls unlike the training data."""

EXPLAINED = 0.99
"""Share of the training features' variance that the subspace holds."""

MAX_DIMENSIONS = 64
"""Of the subspace: with it the score of 2,048 features takes half a megabyte in the file."""


@dataclass(frozen=True)
class FeatureSubspace:
    """Where the features of training images lie.

    Args:
        mean: float32 [D].
        basis: orthonormal directions as columns, float32 [D, P].
    """

    mean: NDArray[np.float32]
    basis: NDArray[np.float32]

    @classmethod
    def fit(cls, features: NDArray[np.float32]) -> FeatureSubspace:
        """Find the directions of most variance, in training features [N, D] of at least two dimensions."""
        wide = features.astype(np.float64)
        mean = wide.mean(axis=0)
        _, lengths, directions = np.linalg.svd(wide - mean, full_matrices=False)
        explained = np.cumsum(lengths**2) / max(float((lengths**2).sum()), np.finfo(float).tiny)
        number = int(np.searchsorted(explained, EXPLAINED)) + 1
        # One direction at least is left outside, or the score would be nothing but rounding.
        number = min(number, MAX_DIMENSIONS, features.shape[1] - 1, len(directions))
        return cls(mean.astype(np.float32), np.ascontiguousarray(directions[:number].T, dtype=np.float32))

    def scores(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Share outside of the subspace [N], from 0 to 1, of features [N, D]."""
        centred = features - self.mean
        inside = np.square(centred @ self.basis).sum(axis=1)
        return np.asarray(1 - inside / np.maximum(np.square(centred).sum(axis=1), TINY), dtype=np.float32)


TINY = 1e-12
"""Keeps a vector without length from being divided by it."""


def alarm_threshold(scores: NDArray[np.float32], *, false_alarm_rate: float = FALSE_ALARM_RATE) -> float:
    """Return the score above which no more than a share of these images [N] lies."""
    return float(np.quantile(scores.astype(np.float64), 1 - false_alarm_rate, method="higher"))
