"""Losses: of the labels, and of the outputs of other networks; pure functions and their settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from classifier_training.core.errors import UserError
from classifier_training.core.register import register
from classifier_training.core.settings import Alias, RunText

if TYPE_CHECKING:
    from torch import Tensor


@register(group="loss", name="cross_entropy")
def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    class_weights: Tensor | None,
    prior: Tensor | None = None,
    *,
    label_smoothing: Annotated[float, Field(ge=0, lt=1), Alias("label_smoothing", "smoothing")] = 0.0,
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
    import torch
    from torch.nn import functional

    log_likelihoods = functional.log_softmax(logits, dim=1)
    if targets.ndim == 1:
        targets = functional.one_hot(targets, logits.shape[1]).to(logits.dtype)
    weights = targets if class_weights is None else targets * class_weights
    # At 0 the slope of a power below 1 is infinite.
    doubts = (-torch.expm1(log_likelihoods)).clamp_min(torch.finfo(log_likelihoods.dtype).eps)
    return (weights * -(doubts**gamma) * log_likelihoods).sum() / weights.sum()


@register(group="distillation", name="soft_labels")
@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Learn from the outputs of finished runs besides the labels (Hinton et al. 2015, arXiv:1503.02531).

    The loss is (1 - alpha) * (loss of the labels) + alpha * temperature^2 * KL(teacher || student) + hint_weight *
    (mean squared error of the features), the divergence being that of the probabilities at the temperature.

    Args:
        teacher: run folder, latest or best; of several in a list, the mean probabilities are learnt from.
        temperature: divides the logits of both: the higher, the more the unlikely classes count.
        alpha: share of the teacher's outputs in the loss, against the labels.
        hint_weight: weight of the hints: the features before the student's last layer, projected by a matrix that
            is trained with it, are pulled towards the teacher's (Romero et al. 2015, arXiv:1412.6550).
        keep_outputs: run the teacher once and keep its outputs on disk, where augmentation leaves the images as they
            are; otherwise it is run at every step.
    """

    teacher: RunText | list[RunText]
    temperature: Annotated[float, Field(gt=0)] = 4.0
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.7
    hint_weight: Annotated[float, Field(ge=0)] = 0.0
    keep_outputs: Annotated[bool, Alias("keep_answers")] = True

    def __post_init__(self) -> None:
        if not self.teachers:
            raise UserError("distillation.teacher=[]: no teacher", "a finished run", "distillation.teacher=RUN")
        if self.alpha == 0 and self.hint_weight == 0:
            raise UserError(
                "distillation.alpha=0 without hints: the teacher has no effect",
                "a share above 0, or a weight of the hints",
                "distillation.alpha=0.7, or leave distillation= out",
            )

    @property
    def teachers(self) -> list[str]:
        """The teachers, as they were named."""
        return [self.teacher] if isinstance(self.teacher, str) else list(self.teacher)


def soft_labels(logits: Tensor, temperature: float) -> Tensor:
    """Return the mean over the teachers of their probabilities at a temperature.

    Args:
        logits: of M teachers, float32 [B, M, K].
        temperature: above 0.

    Returns:
        float32 [B, K], rows of sum 1.
    """
    return (logits / temperature).softmax(dim=2).mean(dim=1)


def soft_label_loss(logits: Tensor, labels: Tensor, temperature: float, weights: Tensor | None = None) -> Tensor:
    """Return temperature^2 * KL(labels || student), the weighted mean over the batch.

    The gradients of the divergence shrink with the square of the temperature, which the factor undoes, so that alpha
    means the same at any (Hinton et al. 2015, section 2).

    Args:
        logits: of the student, float32 [B, K].
        labels: of the teachers at the same temperature, float32 [B, K].
        temperature: above 0.
        weights: of the images, float32 [B]; None for all alike.

    Returns:
        A scalar, 0 or more.
    """
    from torch.nn import functional

    predicted = functional.log_softmax(logits / temperature, dim=1)
    divergences = functional.kl_div(predicted, labels, reduction="none").sum(dim=1) * temperature**2
    return divergences.mean() if weights is None else (weights * divergences).sum() / weights.sum()
