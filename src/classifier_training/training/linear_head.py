"""A linear classifier fitted to stored features: multinomial logistic regression by L-BFGS."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from classifier_training.training.features import Features

PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""L2 penalties that are tried, for features of unit variance, from the strongest on."""

MAX_STEPS = 100
"""Steps of L-BFGS for each penalty; every one starts where the one before it ended."""

NUM_FOLDS, MAX_FOLDED = 5, 1_000
"""Parts of the cross-validation, and training images from which on validation images are enough to choose by."""


@dataclass(frozen=True)
class LinearHead:
    """A linear classifier.

    Args:
        weight: float32 [K, D].
        bias: float32 [K], or None.
        penalty: that it was fitted with.
        loss: cross-entropy on held-out images, which chose that penalty.
    """

    weight: Tensor
    bias: Tensor | None
    penalty: float
    loss: float

    def logits(self, features: Tensor) -> Tensor:
        """Answers to features [N, D]: float32 [N, K]."""
        return head_logits(self.weight, self.bias, features)

    def write(self, head: nn.Linear | nn.Conv2d) -> None:
        """Put the weights into a network's head."""
        with torch.no_grad():
            head.weight.copy_(self.weight.view_as(head.weight))
            if self.bias is not None and head.bias is not None:
                head.bias.copy_(self.bias)


def head_logits(weight: Tensor, bias: Tensor | None, features: Tensor) -> Tensor:
    """Answers of a linear head, a 1x1 convolution included: float32 [N, K]."""
    return functional.linear(features, weight.flatten(1), bias)


def fit_linear_head(
    train: Features,
    val: Features,
    *,
    class_weights: Tensor | None,
    num_classes: int,
    has_bias: bool,
) -> LinearHead:
    """Fit softmax regression for a row of penalties and keep the strongest of those with a low loss.

    The loss is that of the validation images and, where there are few of them, of cross-validation on the training
    images besides. Low is within one standard error of the least (Breiman et al. 1984, section 3.4.3): a head with
    smaller weights is also the better start for fine-tuning. The loss and not the accuracy, which is the same for many
    penalties.

    The mean cross-entropy, each class weighted, plus penalty / 2 * |W|^2 is made small over all features at once, so
    the result depends on no seed. Features are brought to mean 0 and variance 1 for it; the weights that come back
    are for the features as they are.

    Args:
        train: features to fit.
        val: features to choose by.
        class_weights: float32 [K], or None to weigh all alike.
        num_classes: K.
        has_bias: whether the head has one; features are not centred where it has none.
    """
    settings = (class_weights, num_classes, has_bias)
    heads = _path(train.values, train.targets, *settings)
    losses = [_losses(head, val.values, val.targets, class_weights) for head in heads]
    if len(train.targets) <= MAX_FOLDED:
        # Rows are often sorted by class, so that every fold has all classes.
        folds = torch.arange(len(train.targets)) % NUM_FOLDS
        for fold in range(NUM_FOLDS):
            held_out = folds == fold
            part = _path(train.values[~held_out], train.targets[~held_out], *settings)
            for place, head in enumerate(part):
                found = _losses(head, train.values[held_out], train.targets[held_out], class_weights)
                losses[place] = torch.cat([losses[place], found])
    place = _strongest_low([one.double() for one in losses])
    return replace(heads[place], loss=losses[place].mean().item())


def _strongest_low(losses: Sequence[Tensor]) -> int:
    """Place of the first column of losses whose mean is within one standard error of the least mean."""
    least = min(losses, key=lambda column: column.mean().item())
    for place, column in enumerate(losses):
        worse = column - least
        if worse.mean() <= worse.std(correction=0) / math.sqrt(len(worse)):
            return place
    raise AssertionError("the least is as low as itself")


def _path(
    values: Tensor,
    targets: Tensor,
    class_weights: Tensor | None,
    num_classes: int,
    has_bias: bool,  # noqa: FBT001
) -> list[LinearHead]:
    """Fit a head for each penalty."""
    mean = values.mean(dim=0) if has_bias else torch.zeros_like(values[0])
    # A feature that never changes says nothing, and its weight stays 0.
    spread = (values - mean).square().mean(dim=0).sqrt()
    scale = torch.where(spread > 1e-6, 1 / spread.clamp(min=1e-6), torch.zeros_like(spread))
    features = (values - mean) * scale
    weight = torch.zeros(num_classes, features.shape[1], requires_grad=True)
    bias = torch.zeros(num_classes, requires_grad=has_bias)
    heads = []
    for penalty in PENALTIES:
        _minimise(features, targets, weight, bias, class_weights, penalty)
        plain = weight.detach() * scale
        heads.append(LinearHead(plain, bias.detach() - plain @ mean if has_bias else None, penalty, math.nan))
    return heads


def _losses(head: LinearHead, values: Tensor, targets: Tensor, class_weights: Tensor | None) -> Tensor:
    """Cross-entropy of each sample, weighted by its class: float32 [N]."""
    losses = functional.cross_entropy(head.logits(values), targets, reduction="none")
    return losses if class_weights is None else losses * class_weights[targets]


def _minimise(
    features: Tensor, targets: Tensor, weight: Tensor, bias: Tensor, class_weights: Tensor | None, penalty: float
) -> None:
    """Change weight and bias in place."""
    free = [tensor for tensor in (weight, bias) if tensor.requires_grad]
    solver = torch.optim.LBFGS(
        free, max_iter=MAX_STEPS, tolerance_grad=1e-5, tolerance_change=1e-7, line_search_fn="strong_wolfe"
    )

    def loss() -> float:
        solver.zero_grad()
        fit = functional.cross_entropy(functional.linear(features, weight, bias), targets, weight=class_weights)
        value = fit + penalty / 2 * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value.item()

    solver.step(loss)  # type: ignore[no-untyped-call]
