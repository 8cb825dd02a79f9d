"""One switch for unbalanced classes: the draw, the loss or the logits correct them, once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from classifier_training.core.errors import UserError
from classifier_training.core.register import describe, register
from classifier_training.data.checking.statistics import imbalance_ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

BALANCED_BELOW = 1.5
"""Largest ratio of the most frequent class to the rarest that auto leaves alone."""


@dataclass(frozen=True, kw_only=True)
class Correction:
    """How unbalanced classes are met.

    Args:
        sampler_weights: weight of one image of each class in the draw [K]; None draws every image once.
        loss_weights: weight of each class in the loss [K]; None weighs all alike.
        logit_adjustment: added to the logits in the loss of training, and nowhere else [K]; None adds nothing.
        words: one line for people.
    """

    sampler_weights: NDArray[np.float64] | None = None
    loss_weights: NDArray[np.float64] | None = None
    logit_adjustment: NDArray[np.float64] | None = None
    words: str

    @property
    def class_weights(self) -> NDArray[np.float64] | None:
        """Weight of one image of each class that corrects alike where all images are seen at once [K], or None."""
        adjusted = None if self.logit_adjustment is None else np.exp(-self.logit_adjustment)
        parts = [part for part in (self.sampler_weights, self.loss_weights, adjusted) if part is not None]
        return np.prod(parts, axis=0) if parts else None


Switch = Callable[..., Correction]
"""(images of each class that an epoch shows [K], class names) -> correction."""


@register(group="imbalance", name="auto")
def auto(seen: NDArray[np.float64], class_names: Sequence[str]) -> Correction:
    """Logit adjustment where the largest class has 1.5 times the images of the smallest, or more; else nothing."""
    # It shows every image once an epoch and costs one addition; scripts/bench/imbalance.py measures it and the others.
    balanced = imbalance_ratio(seen) < BALANCED_BELOW
    chosen = none(seen, class_names) if balanced else logit_adjust(seen, class_names)
    return replace(
        chosen,
        words=f"{chosen.words} (auto: the ratio is {'below' if balanced else 'at least'} {BALANCED_BELOW:g})",
    )


@register(group="imbalance", name="sampler")
def equal_draws(seen: NDArray[np.float64], class_names: Sequence[str]) -> Correction:
    """Draw every class equally often; sampler=auto sampler.power=0.5 goes half of the way."""
    weights = 1.0 / np.maximum(seen, 1)
    span = _span(weights / weights.min(), class_names)
    return Correction(
        sampler_weights=weights, words=f"{_ratio(seen)}, samples drawn equally often from every class: {span}"
    )


@register(group="imbalance", name="weights")
def weigh_losses(
    seen: NDArray[np.float64],
    class_names: Sequence[str],
    *,
    beta: Annotated[float, Field(ge=0, lt=1)] | None = None,
) -> Correction:
    """Weigh the loss of each class by the inverse of its number of images.

    Args:
        beta: count the effective number of images instead, which grows ever more slowly (Cui et al. 2019): 0.99 to
            0.9999, the milder the smaller.
    """
    weights = balanced_weights(seen) if beta is None else effective_number_weights(seen, beta)
    return Correction(loss_weights=weights, words=f"{_ratio(seen)}, loss weights {_span(weights, class_names)}")


@register(group="imbalance", name="logit_adjust")
def logit_adjust(
    seen: NDArray[np.float64],
    class_names: Sequence[str],
    *,
    tau: Annotated[float, Field(gt=0)] = 1.0,
) -> Correction:
    """Add tau times the logarithm of each class's share to the logits of training (Menon et al. 2021).

    The plain logits then predict as for classes that are equally frequent (arXiv:2007.07314, eq. 10). With tau 1 it is
    the balanced softmax of Ren et al. 2020 (arXiv:2007.10740).

    Args:
        tau: how far to go.
    """
    adjustment = tau * np.log(_shares(seen))
    span = _span(adjustment, class_names)
    return Correction(
        logit_adjustment=adjustment, words=f"{_ratio(seen)}, logits adjusted in training by {span} (tau {tau:g})"
    )


@register(group="imbalance", name="none")
def none(seen: NDArray[np.float64], class_names: Sequence[str]) -> Correction:  # noqa: ARG001
    """Leave the classes as they are."""
    return Correction(words=f"{_ratio(seen)}, not corrected")


def correct_imbalance(
    switch: Switch,
    sampler: Callable[[NDArray[np.int64], Sequence[str]], NDArray[np.float64] | None] | None,
    *,
    class_counts: NDArray[np.int64],
    class_names: Sequence[str],
) -> Correction:
    """Choose the correction.

    A sampler of the user's goes before auto. Where a correction of the loss is chosen beside it, that corrects what
    the draw leaves, so the two never do the same work twice.

    Args:
        switch: the user's `imbalance=`.
        sampler: the user's `sampler=`, when one was chosen.
        class_counts: training images of each class [K].
        class_names: their names.

    Raises:
        UserError: when the switch and the sampler contradict each other.
    """
    name = describe(switch)["type"]
    drawn = None if sampler is None else sampler(class_counts, class_names)
    if drawn is None:
        if sampler is not None and name == "sampler":
            raise UserError(
                "imbalance=sampler and sampler=disabled contradict each other",
                "a sampler to correct the imbalance with",
                "leave sampler= out, or choose imbalance=logit_adjust",
            )
        return switch(class_counts.astype(np.float64), class_names)
    words = (
        f"{_ratio(class_counts)}, samples drawn as sampler= says: {_span(drawn / drawn[drawn > 0].min(), class_names)}"
    )
    if name in ("auto", "sampler"):
        return Correction(sampler_weights=drawn, words=words)
    seen = class_counts * drawn
    seen = seen * class_counts.sum() / seen.sum()
    if name == "none" or imbalance_ratio(seen) < 1.01:
        why = "leaves nothing to correct" if name != "none" else "corrects what shall be left alone"
        raise UserError(
            f"imbalance={name} and a sampler were both chosen, and the sampler {why}",
            "one correction of the imbalance, or a sampler that goes half of the way: sampler.power=0.5",
            f"leave sampler= out, or imbalance={name}",
        )
    rest = switch(seen, class_names)
    return replace(rest, sampler_weights=drawn, words=f"{words}; then {rest.words}")


def balanced_weights(seen: NDArray[Any]) -> NDArray[np.float64]:
    """Weight each class by samples / (classes x samples of the class), as scikit-learn's "balanced" does."""
    return np.asarray(1 / (len(seen) * _shares(seen)), dtype=np.float64)


def effective_number_weights(seen: NDArray[Any], beta: float) -> NDArray[np.float64]:
    """Weight each class by (1 - beta) / (1 - beta^n), of sum K (Cui et al. 2019, arXiv:1901.05555, eq. 4)."""
    weights = (1 - beta) / (1 - beta ** np.maximum(seen, 1).astype(np.float64))
    return np.asarray(weights * len(weights) / weights.sum(), dtype=np.float64)


def _shares(seen: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(np.maximum(seen, 1) / seen.sum(), dtype=np.float64)


def _ratio(seen: NDArray[Any]) -> str:
    return f"classes {imbalance_ratio(seen):.1f}:1"


def _span(values: NDArray[np.float64], class_names: Sequence[str]) -> str:
    """The smallest and the largest value with their classes."""
    low, high = int(values.argmin()), int(values.argmax())
    return f"{values[low]:.2f} ({class_names[low]}) to {values[high]:.2f} ({class_names[high]})"
