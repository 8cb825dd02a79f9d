"""What the last layer of a network is shown, for a whole split."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from classifier_training.core.errors import UserError
from classifier_training.models.stages import head_names
from classifier_training.training.device import autocast

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from classifier_training.core.types import Batch
    from classifier_training.training.device import Device
    from classifier_training.training.module import ClassifierModule

log = logging.getLogger(__name__)


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
    answers: list[Tensor] = []

    def keep(_head: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        shown.append(inputs[0])
        answers.append(output)

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
            features, answer = shown[-1].flatten(1), answers[-1].flatten(1)
            if features.shape[1] != head.weight[0].numel() or not torch.equal(answer, logits):
                raise _unfit(setting, "the network does more with its head's outputs than to return them")
            shown.clear()
            answers.clear()
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
