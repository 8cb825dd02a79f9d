"""Features of a network, and a linear head that is fitted to them."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from classifier_training.core.errors import UserError
from classifier_training.models.stages import head_names
from classifier_training.training.device import autocast

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from classifier_training.core.types import Batch
    from classifier_training.training.device import Device
    from classifier_training.training.module import ClassifierModule


@dataclass(frozen=True)
class Features:
    """The inputs of a network's head.

    Args:
        values: float32 [N, D].
        targets: int64 [N].
        indices: rows of the images in the split's table, int64 [N].
    """

    values: Tensor
    targets: Tensor
    indices: Tensor


def linear_head(network: nn.Module, *, setting: str) -> nn.Linear | nn.Conv2d:
    """Return the one linear layer that gives the logits: a matrix, or a 1x1 convolution.

    Args:
        network: any.
        setting: that needs such a head, as typed, for the message.

    Raises:
        UserError: when the network ends otherwise.
    """
    names = head_names(network)
    head = network.get_submodule(names[0]) if len(names) == 1 else None
    if isinstance(head, nn.Linear) or (isinstance(head, nn.Conv2d) and set(head.kernel_size) == {1}):
        return head
    found = ", ".join(names) or "no layer that is known"
    raise _unfit(setting, f"the logits of this network come from {found}")


@torch.no_grad()
def ends_linear(network: nn.Module, *, image_size: int) -> bool:
    """Whether one linear layer gives the logits as they are, so that it can be fitted to stored features.

    Args:
        network: on the CPU; left in the mode that it is in.
        image_size: side of the images in pixels.
    """
    try:
        head = linear_head(network, setting="")
    except UserError:
        return False
    was_training = network.training
    network.eval()
    with shown_to(head) as shown:
        logits = network(torch.zeros(1, 3, image_size, image_size))
        is_vector = bool(shown) and shown[-1].numel() == head.weight[0].numel()
        found = is_vector and torch.equal(head(shown[-1]).flatten(1), logits)
    network.train(was_training)
    return found


@contextmanager
def shown_to(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Gather the inputs that a layer is shown inside the block."""
    shown: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _layer, inputs: shown.append(inputs[0]))
    try:
        yield shown
    finally:
        hook.remove()


@torch.no_grad()
def count_features(network: nn.Module, *, image_size: int, setting: str) -> tuple[str, int]:
    """Say what a network's last layer is called, and how many numbers it is shown of an image.

    Args:
        network: on the CPU; left in the mode that it is in.
        image_size: side of the images in pixels.
        setting: that needs it, as typed, for the message.

    Raises:
        UserError: when the network does not end in one linear layer, or that is shown more than one vector.
    """
    head = linear_head(network, setting=setting)
    was_training = network.training
    network.eval()
    with shown_to(head) as shown:
        network(torch.zeros(1, 3, image_size, image_size))
    network.train(was_training)
    number = shown[-1].numel()
    if number != head.weight[0].numel():
        raise _unfit(setting, "its last layer is shown a map of features, not one vector")
    return head_names(network)[0], number


@torch.no_grad()
def extract_features(module: ClassifierModule, batches: Iterable[Batch], device: Device, *, setting: str) -> Features:
    """Run the network over the batches in evaluation mode and keep what its head is shown.

    Raises:
        UserError: when the head is no plain linear layer at the network's end, or no image can be read.
    """
    head = linear_head(module.network, setting=setting)
    shown: list[Tensor] = []
    outputs: list[Tensor] = []

    def keep(_head: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        shown.append(inputs[0])
        outputs.append(output)

    place = torch.device(device.accelerator)
    values: list[Tensor] = []
    targets: list[Tensor] = []
    indices: list[Tensor] = []
    was_training = module.training
    module.to(place).eval()
    hook = head.register_forward_hook(keep)
    try:
        for batch in batches:
            if not len(batch.targets):
                continue
            with autocast(device.accelerator, device.precision):
                logits = module(batch.images.to(place))
            features, given = shown[-1].flatten(1), outputs[-1].flatten(1)
            if features.shape[1] != head.weight[0].numel() or not torch.equal(given, logits):
                raise _unfit(setting, "the network does more with its head's outputs than to return them")
            shown.clear()
            outputs.clear()
            values.append(features.float().cpu())
            targets.append(batch.targets.cpu())
            indices.append(batch.indices.cpu())
    finally:
        hook.remove()
        module.train(was_training)
    if not values:
        raise UserError("none of the images can be read", "readable images", "look at the files named above")
    return Features(torch.cat(values), torch.cat(targets), torch.cat(indices))


def _unfit(setting: str, reason: str) -> UserError:
    return UserError(
        f"{setting}: {reason}",
        "a network that ends in one linear layer, which can be fitted to stored features",
        "leave it out, or choose another model=",
    )


PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""L2 penalties that are tried, for features of unit variance, from the strongest on."""

MAX_STEPS = 100
"""Steps of L-BFGS for each penalty; every one starts where the one before it ended."""

MAX_CHUNK, MAX_HISTORY = 2**26, 2**27
"""Values held at once: of logits, and of the gradients that L-BFGS remembers, of which it has 5 to 100 pairs."""

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
        """Logits of features [N, D]: float32 [N, K]."""
        return head_logits(self.weight, self.bias, features)

    def write(self, head: nn.Linear | nn.Conv2d) -> None:
        """Put the weights into a network's head."""
        with torch.no_grad():
            head.weight.copy_(self.weight.view_as(head.weight))
            if self.bias is not None and head.bias is not None:
                head.bias.copy_(self.bias)


def head_logits(weight: Tensor, bias: Tensor | None, features: Tensor) -> Tensor:
    """Logits of a linear head, a 1x1 convolution included: float32 [N, K]."""
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


def fit_with_penalty(
    train: Features, *, penalty: float, class_weights: Tensor | None, num_classes: int, has_bias: bool
) -> LinearHead:
    """Fit softmax regression for one penalty; see `fit_linear_head`."""
    (head,) = _path(train.values, train.targets, class_weights, num_classes, has_bias, penalties=(penalty,))
    return head


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
    *,
    penalties: Sequence[float] | None = None,
) -> list[LinearHead]:
    """Fit a head for each penalty; by default for those of the row."""
    mean = values.mean(dim=0) if has_bias else torch.zeros_like(values[0])
    # A feature that never changes says nothing, and its weight stays 0.
    spread = (values - mean).square().mean(dim=0).sqrt()
    scale = torch.where(spread > 1e-6, 1 / spread.clamp(min=1e-6), torch.zeros_like(spread))
    features = (values - mean) * scale
    weight = torch.zeros(num_classes, features.shape[1], requires_grad=True)
    bias = torch.zeros(num_classes, requires_grad=has_bias)
    heads = []
    for penalty in penalties or PENALTIES:
        _minimize(features, targets, weight, bias, class_weights, penalty)
        plain = weight.detach() * scale
        heads.append(LinearHead(plain, bias.detach() - plain @ mean if has_bias else None, penalty, math.nan))
    return heads


def _losses(head: LinearHead, values: Tensor, targets: Tensor, class_weights: Tensor | None) -> Tensor:
    """Cross-entropy of each sample, weighted by its class: float32 [N]."""
    losses = functional.cross_entropy(head.logits(values), targets, reduction="none")
    return losses if class_weights is None else losses * class_weights[targets]


def _minimize(
    features: Tensor, targets: Tensor, weight: Tensor, bias: Tensor, class_weights: Tensor | None, penalty: float
) -> None:
    """Change weight and bias in place."""
    free = [tensor for tensor in (weight, bias) if tensor.requires_grad]
    history = min(100, max(5, MAX_HISTORY // (2 * sum(tensor.numel() for tensor in free))))
    solver = torch.optim.LBFGS(
        free, max_iter=MAX_STEPS, tolerance_grad=1e-5, tolerance_change=1e-7, line_search_fn="strong_wolfe",
        history_size=history,
    )  # fmt: skip
    size = max(1, MAX_CHUNK // len(weight))
    total = len(targets) if class_weights is None else class_weights[targets].sum()

    def loss() -> float:
        solver.zero_grad()
        value = penalty / 2 * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        found = value.item()
        for begin in range(0, len(targets), size):
            rows = slice(begin, begin + size)
            logits = functional.linear(features[rows], weight, bias)
            value = functional.cross_entropy(logits, targets[rows], class_weights, reduction="sum") / total
            value.backward()  # type: ignore[no-untyped-call]
            found += value.item()
        return found

    solver.step(loss)  # type: ignore[no-untyped-call]
