"""Losses, as pure functions of logits, targets and class weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from classifier_training.core.register import register

if TYPE_CHECKING:
    from torch import Tensor


@register(group="loss", name="cross_entropy")
def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    class_weights: Tensor | None,
    *,
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> Tensor:
    """Cross-entropy, the default.

    Args:
        label_smoothing: share of the target spread over all classes (Szegedy et al. 2016, arXiv:1512.00567).

    Returns:
        The weighted mean over the batch, a scalar; logits are [B, K], targets [B], class weights [K] or None.
    """
    from torch.nn import functional

    return functional.cross_entropy(logits, targets, weight=class_weights, label_smoothing=label_smoothing)


@register(group="loss", name="focal")
def focal(
    logits: Tensor,
    targets: Tensor,
    class_weights: Tensor | None,
    *,
    gamma: Annotated[float, Field(ge=0)] = 2.0,
) -> Tensor:
    """Focal loss: easy samples count less (Lin et al. 2017, arXiv:1708.02002, eq. 5).

    Args:
        gamma: how much less; 0 is cross-entropy.

    Returns:
        The weighted mean over the batch, a scalar; logits are [B, K], targets [B], class weights [K] or None.
    """
    from torch.nn import functional

    log_likelihood = functional.log_softmax(logits, dim=1).gather(1, targets[:, None]).squeeze(1)
    per_sample = -((1 - log_likelihood.exp()) ** gamma) * log_likelihood
    if class_weights is None:
        return per_sample.mean()
    weights = class_weights[targets]
    return (weights * per_sample).sum() / weights.sum()
