"""What training a network takes, found on shapes alone: no weight is made, no image needed."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.models.summary import summarize

if TYPE_CHECKING:
    from torch import Tensor, nn

    from classifier_training.core.types import BuiltModel

MEASURED_BATCH = 2
"""Batch norm in training needs two values."""

FLOAT_BYTES = 4
COPIES = 4
"""Of each weight: itself, its gradient, and AdamW's two averages."""


@dataclass(frozen=True)
class Cost:
    """Figures of one network, in float32.

    Args:
        image_size: side of the square input in pixels.
        num_parameters: weights and biases.
        num_flops: of one forward pass of one image, a multiply and an add counted as two.
        fixed_bytes: weights, gradients, AdamW's averages and buffers.
        bytes_per_image: what the forward pass keeps of one image for the backward pass.
    """

    image_size: int
    num_parameters: int
    num_flops: int
    fixed_bytes: int
    bytes_per_image: int

    def training_mb(self, batch_size: int) -> float:
        """Memory for training on so many images at once, in MiB, without what libraries and kernels need."""
        return (self.fixed_bytes + batch_size * self.bytes_per_image) / 2**20


def cost(built: BuiltModel, *, image_size: int) -> Cost:
    """Measure one network, which must take images of that size."""
    network = built.network
    summary = summarize(network, architecture=built.architecture, image_size=image_size)
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in network.buffers())
    return Cost(
        image_size=image_size,
        num_parameters=summary.num_parameters,
        num_flops=summary.num_flops,
        fixed_bytes=COPIES * FLOAT_BYTES * summary.num_parameters + buffers,
        bytes_per_image=kept_bytes(network, image_size=image_size),
    )


def kept_bytes(network: nn.Module, *, image_size: int) -> int:
    """Count the bytes that autograd keeps of one image between the forward and the backward pass."""
    import torch

    shadow = copy.deepcopy(network).to("meta").train().requires_grad_(requires_grad=True)
    own = {tensor.untyped_storage()._cdata for tensor in (*shadow.parameters(), *shadow.buffers())}  # noqa: SLF001
    # Views share one storage; the tensors are held so that no later storage gets an address twice.
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)  # noqa: SLF001
        return tensor

    images = torch.empty(MEASURED_BATCH, 3, image_size, image_size, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        shadow(images)
    total = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)
    return total // MEASURED_BATCH
