"""What processes that train together tell each other. A process alone is told nothing, and nothing changes.

Gradients are averaged by torch. The loss of a step is the mean over all pictures of its batch, by their weights, so
each process weighs its own mean by its part of the whole: the step is then that of a single process, up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn


def are_several() -> bool:
    """Whether this process trains together with others."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def own_rank() -> int:
    """Number of this process, 0 when it is alone."""
    return distributed.get_rank() if are_several() else 0


@dataclass(frozen=True)
class WholeStep:
    """A step as a single process would see it; all are scalars.

    Args:
        loss: to go backward from: its average over the processes is the mean loss.
        mean_loss: over all pictures of the batch, by their weights.
        correct: pictures that were answered right.
        seen: pictures.
    """

    loss: Tensor
    mean_loss: Tensor
    correct: Tensor
    seen: Tensor


def whole_step(loss: Tensor, weight: Tensor, correct: Tensor, seen: Tensor) -> WholeStep:
    """Add up a step over all processes.

    Args:
        loss: mean over this process's pictures by their weights, a scalar.
        weight: their weights' sum, a scalar.
        correct: how many of them were answered right, a scalar.
        seen: how many they are, a scalar.
    """
    if not are_several():
        return WholeStep(loss, loss.detach(), correct, seen)
    with torch.no_grad():
        own = torch.stack([weight, loss * weight, correct, seen])
        distributed.all_reduce(own)
        all_weights, all_losses, all_correct, all_seen = own.unbind()
        all_weights = all_weights.clamp_min(torch.finfo(own.dtype).tiny)
        share = distributed.get_world_size() * weight / all_weights
    return WholeStep(loss * share, all_losses / all_weights, all_correct, all_seen)


def gathered(parts: Sequence[Any]) -> list[Any]:
    """Return the parts of all processes, rank after rank."""
    if not are_several():
        return list(parts)
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, list(parts))
    return [part for of_rank in found for part in of_rank]


def average_statistics(network: nn.Module) -> None:
    """Give all processes the mean of their batch-norm statistics, which each has seen its own pictures for."""
    if not are_several():
        return
    for buffer in network.buffers():
        if buffer.is_floating_point():
            distributed.all_reduce(buffer)
            buffer /= distributed.get_world_size()
