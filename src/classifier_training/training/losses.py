"""Losses, as pure functions of logits, targets and class weights.

Targets are class numbers, or the share of each class in a mixed image. A loss of shares is the mean over classes by
their share times the class's weight, so that a share of 1 gives what the class number gives.
"""

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
    prior: Tensor | None = None,
    *,
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> Tensor:
    """Cross-entropy, the default.

    Args:
        label_smoothing: share of the target spread over all classes (Szegedy et al. 2016, arXiv:1512.00567): evenly,
            or by the prior that is in the logits. Spread evenly it would teach adjusted logits that rare classes are
            frequent.

    Returns:
        The weighted mean over the batch, a scalar; logits are [B, K], targets int64 [B] or float32 [B, K], class
        weights [K] or None, the prior's shares of the classes [K] or None.
    """
    from torch.nn import functional

    if prior is not None and label_smoothing:
        if targets.ndim == 1:
            targets = functional.one_hot(targets, logits.shape[1]).to(logits.dtype)
        targets, label_smoothing = targets.lerp(prior, label_smoothing), 0.0
    found = functional.cross_entropy(logits, targets, weight=class_weights, label_smoothing=label_smoothing)
    if targets.ndim == 1 or class_weights is None:
        return found
    # torch divides by the number of images where targets are shares, and by their weight where they are numbers.
    return found * len(targets) / (targets @ class_weights).sum()


@register(group="loss", name="focal")
def focal(
    logits: Tensor,
    targets: Tensor,
    class_weights: Tensor | None,
    prior: Tensor | None = None,  # noqa: ARG001 - all losses are called alike
    *,
    gamma: Annotated[float, Field(ge=0)] = 2.0,
) -> Tensor:
    """Focal loss: easy samples count less (Lin et al. 2017, arXiv:1708.02002, eq. 5).

    Args:
        gamma: how much less; 0 is cross-entropy.

    Returns:
        The weighted mean over the batch, a scalar; logits are [B, K], targets int64 [B] or float32 [B, K], class
        weights [K] or None.
    """
    from torch.nn import functional

    log_likelihoods = functional.log_softmax(logits, dim=1)
    if targets.ndim == 1:
        targets = functional.one_hot(targets, logits.shape[1]).to(logits.dtype)
    weights = targets if class_weights is None else targets * class_weights
    return (weights * -((1 - log_likelihoods.exp()) ** gamma) * log_likelihoods).sum() / weights.sum()
