"""One switch for unbalanced classes: the sampler or the loss corrects them, never both."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from classifier_training.core.errors import UserError
from classifier_training.data.quality import imbalance_ratio
from classifier_training.data.samplers import inverse_frequency_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

log = logging.getLogger(__name__)

Imbalance = Literal["auto", "sampler", "weights", "none"]

BALANCED_BELOW = 1.5
"""Largest ratio of the most frequent class to the rarest that auto leaves alone."""


@dataclass(frozen=True)
class Correction:
    """How unbalanced classes are met.

    Args:
        sampler_weights: weight of one image of each class in the draw [K]; None draws every image once.
        loss_weights: weight of each class in the loss [K]; None weighs all alike.
        words: one line for people.
    """

    sampler_weights: NDArray[np.float64] | None
    loss_weights: NDArray[np.float64] | None
    words: str


def correct_imbalance(
    switch: Imbalance,
    sampler: Callable[[NDArray[np.int64], Sequence[str]], NDArray[np.float64] | None] | None,
    *,
    class_counts: NDArray[np.int64],
    class_names: Sequence[str],
) -> Correction:
    """Choose the correction.

    Args:
        switch: the user's `imbalance=`.
        sampler: the user's `sampler=`, when one was chosen; it goes before auto, a disabled one leaves auto the loss.
        class_counts: training images of each class [K].
        class_names: their names.

    Raises:
        UserError: when the switch and the sampler contradict each other.
    """
    ratio = imbalance_ratio(class_counts)
    chosen, reason = switch, ""
    drawn = None if sampler is None else sampler(class_counts, class_names)
    if drawn is not None:
        if switch not in ("auto", "sampler"):
            raise UserError(
                f"imbalance={switch} and a sampler were both chosen",
                "one correction of the imbalance",
                f"leave sampler= out, or imbalance={switch}",
            )
        return Correction(drawn, None, f"classes {ratio:.1f}:1, drawn as sampler= says")
    if sampler is not None and switch == "sampler":
        raise UserError(
            "imbalance=sampler and sampler=disabled contradict each other",
            "a sampler to correct the imbalance with",
            "leave sampler= out, or choose imbalance=weights",
        )
    if switch == "auto":
        balanced = ratio < BALANCED_BELOW
        chosen = "none" if balanced else "sampler" if sampler is None else "weights"
        reason = f" (auto: the ratio is {'below' if balanced else 'at least'} {BALANCED_BELOW:g})"
    if chosen == "sampler":
        weights = inverse_frequency_weights(class_counts, class_names)
        return Correction(weights, None, f"classes {ratio:.1f}:1, every class drawn equally often{reason}")
    if chosen == "weights":
        weights = balanced_weights(class_counts)
        span = f"{weights.min():.2f} to {weights.max():.2f}"
        return Correction(None, weights, f"classes {ratio:.1f}:1, loss weights {span}{reason}")
    return Correction(None, None, f"classes {ratio:.1f}:1, not corrected{reason}")


def balanced_weights(class_counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weight each class by samples / (classes x samples of the class), as scikit-learn's "balanced" does."""
    shares = np.maximum(class_counts, 1) / class_counts.sum()
    return np.asarray(1 / (len(class_counts) * shares), dtype=np.float64)
