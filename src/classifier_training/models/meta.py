"""Networks on PyTorch's meta device, without weights: whether a network takes an image size, from shapes alone."""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING, TypeVar

from classifier_training.core.errors import UserError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from classifier_training.core.types import BuiltModel

Built = TypeVar("Built")


def on_meta(make: Callable[[], Built]) -> Built:
    """Build networks on the meta device, without memory for their weights, which takes hundredths of a second.

    Networks that read values while they are built, such as torchvision's RegNet, are built on the CPU.
    """
    import torch

    try:
        with torch.device("meta"):
            return make()
    except (NotImplementedError, RuntimeError):
        return make()


def meta_copy(network: nn.Module) -> nn.Module:
    """Return a copy of a network on the meta device; its weights are never copied."""
    import torch
    from torch import nn

    bare: dict[int, object] = {}
    for tensor in itertools.chain(network.parameters(), network.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        is_learnt = isinstance(tensor, nn.Parameter)
        bare[id(tensor)] = nn.Parameter(empty, requires_grad=tensor.requires_grad) if is_learnt else empty
    # Tensors that are neither parameters nor buffers are moved, too.
    return copy.deepcopy(network, bare).to("meta")


def can_train(network: nn.Module, *, image_size: int, num_images: int) -> bool:
    """Whether a network can be trained on a batch of images of a size.

    Args:
        network: the network, unchanged.
        image_size: side of the square input in pixels.
        num_images: in the batch.
    """
    return _dry_run(network, image_size, num_images) is None


def fit_input(built: BuiltModel, *, image_size: int, batch_size: int) -> int:
    """Check that a network accepts images of a size; a network of fixed size is set to it if possible.

    Args:
        built: the network, changed in place.
        image_size: side of the square input in pixels.
        batch_size: images in the smallest batch of training.

    Returns:
        The smallest batch that the network can be trained on: 1, or 2 if a batch norm needs two values.

    Raises:
        UserError: when the size does not fit, or the batch is too small.
    """
    network = built.network
    error = _dry_run(network, image_size, 2)
    if error is not None and hasattr(network, "set_input_size"):
        network.set_input_size(img_size=(image_size, image_size))  # type: ignore[operator]
        error = _dry_run(network, image_size, 2)
    if error is not None and image_size == built.input_spec.size:
        raise UserError(
            f"{built.architecture} cannot be run on {image_size} px images with three channels ({first_line(error)})",
            "a network for RGB images",
            "another model=",
        )
    if error is not None:
        raise UserError(
            f"data.image_size={image_size}: {built.architecture} does not take images of this size "
            f"({first_line(error)})",
            f"a size that the network is made for; its own is {built.input_spec.size}",
            f"data.image_size={built.input_spec.size}",
        )
    return _fewest_images(built, image_size, batch_size)


def fit_smaller(built: BuiltModel, *, image_size: int, batch_size: int) -> int:
    """Check that a network also accepts the smaller images of early epochs; returns the same as `fit_input`.

    Raises:
        UserError: when it accepts only its own size, or the batch is too small.
    """
    error = _dry_run(built.network, image_size, 2)
    if error is not None:
        raise UserError(
            f"transforms.start_scale begins with {image_size} px: {built.architecture} takes one size only "
            f"({first_line(error)})",
            "a network that takes images of any size, as convolutional ones do",
            "transforms.start_scale=1",
        )
    return _fewest_images(built, image_size, batch_size)


def _fewest_images(built: BuiltModel, image_size: int, batch_size: int) -> int:
    if _dry_run(built.network, image_size, 1) is None:
        return 1
    if batch_size < 2:
        raise UserError(
            f"data.batch_size={batch_size}: at data.image_size={image_size} a batch norm of {built.architecture} gets "
            "a single value, which has no variance",
            "at least two images in a batch, or larger ones",
            "data.batch_size=2",
        )
    return 2


def _dry_run(network: nn.Module, image_size: int, num_images: int) -> Exception | None:
    """Return the error of a training step on the meta device; None if it works."""
    import torch

    shadow = meta_copy(network).train()
    try:
        with torch.no_grad():
            shadow(torch.empty(num_images, 3, image_size, image_size, device="meta"))
    except Exception as error:  # noqa: BLE001 - what a network raises for a size that it is not made for differs
        return error
    return None
