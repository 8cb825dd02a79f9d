"""A step, a validation and a stop of several processes that share every batch, as one process would have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, distributed, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")


def are_several() -> bool:
    """Whether this process trains together with others."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def own_rank() -> int:
    """Number of this process, 0 when it is alone."""
    return distributed.get_rank() if are_several() else 0


class StopWishes:
    """What processes want to end training for: each says so in a step's all-reduce, so that all leave after one step.

    On a GPU the result of a step is read after the next one, because reading it at once would make the GPU wait.

    Attributes:
        interrupted: whether this process has received a signal.
        out_of_time: whether this process has trained as long as it may.
        any_interrupted: whether a process had, at a step that all have taken.
        any_out_of_time: likewise.
    """

    def __init__(self) -> None:
        self.interrupted = self.out_of_time = False
        self.any_interrupted = self.any_out_of_time = False
        self._unread: tuple[Tensor, torch.cuda.Event] | None = None

    def own(self, like: Tensor) -> list[Tensor]:
        """Return this process's wishes as scalars, to be summed over all processes."""
        return [torch.full_like(like, float(wish)) for wish in (self.interrupted, self.out_of_time)]

    def agree(self, sums: Tensor) -> None:
        """Take in the sums over all processes [2]."""
        if sums.device.type == "cuda":
            copied = torch.empty(len(sums), dtype=sums.dtype, pin_memory=True).copy_(sums, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
            before, self._unread = self._unread, (copied, event)
            if before is None:
                return
            sums = before[0]
            before[1].synchronize()
        self._take(sums)

    def agree_at_once(self, device: torch.device) -> None:
        """Agree with all processes between two steps, which call it together; a GPU waits for it."""
        sums = torch.stack(self.own(torch.zeros((), device=device)))
        distributed.all_reduce(sums)
        self._take(sums)

    def _take(self, sums: Tensor) -> None:
        interrupted, out_of_time = sums.tolist()
        self.any_interrupted |= interrupted > 0
        self.any_out_of_time |= out_of_time > 0


@dataclass(frozen=True)
class WholeStep:
    """A step as a single process would see it; all are scalars.

    Args:
        loss: to go backward from: its average over the processes is the mean loss.
        mean_loss: over all images of the batch, by their weights.
        correct: images that were correctly classified.
        seen: images.
    """

    loss: Tensor
    mean_loss: Tensor
    correct: Tensor
    seen: Tensor


def whole_step(
    loss: Tensor,
    weight: Tensor,
    correct: Tensor,
    seen: Tensor,
    *,
    wishes: StopWishes,
    layers: Sequence[nn.modules.batchnorm._NormBase] = (),
) -> WholeStep:
    """Add up a step over all processes, in one all-reduce.

    Running statistics of batch norm, to which each process has added those of its own images, become their mean. They
    are then the same everywhere, so that what rank 0 saves is the state of all.

    Args:
        loss: mean over this process's images by their weights, a scalar.
        weight: their weights' sum, a scalar.
        correct: how many of them were correctly classified, a scalar.
        seen: how many they are, a scalar.
        wishes: to end training.
        layers: with running statistics.
    """
    if not are_several():
        return WholeStep(loss, loss.detach(), correct, seen)
    with torch.no_grad():
        # Backward has saved them, though it does not read them: by .data it does not see them change.
        learning = [layer for layer in layers if layer.training]
        running = [
            value.data for layer in learning for value in (layer.running_mean, layer.running_var) if value is not None
        ]
        scalars = torch.stack([weight, loss * weight, correct, seen, *wishes.own(seen)])
        own = torch.cat([scalars, *(value.flatten() for value in running)])
        distributed.all_reduce(own)
        num_ranks = distributed.get_world_size()
        if running:
            means = torch.split(own[len(scalars) :] / num_ranks, [value.numel() for value in running])
            torch._foreach_copy_(running, [mean.view_as(value) for mean, value in zip(means, running, strict=True)])
        wishes.agree(own[4 : len(scalars)])
        all_weights, all_losses, all_correct, all_seen = own[:4].unbind()
        all_weights = all_weights.clamp_min(torch.finfo(own.dtype).tiny)
        share = num_ranks * weight / all_weights
    return WholeStep(loss * share, all_losses / all_weights, all_correct, all_seen)


def norm_layers(network: nn.Module) -> list[nn.modules.batchnorm._NormBase]:
    """Return the layers of a network that keep running statistics."""
    kept = (layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._NormBase))  # noqa: SLF001
    return [layer for layer in kept if layer.running_mean is not None]


def gathered(parts: Sequence[T]) -> list[T]:
    """Return the parts of all processes, rank after rank, to rank 0; an empty list to the others."""
    if not are_several():
        return list(parts)
    found: list[list[T]] | None = [[]] * distributed.get_world_size() if own_rank() == 0 else None
    distributed.gather_object(list(parts), found)
    return [part for of_rank in found or [] for part in of_rank]


def from_first(value: T) -> T:
    """Return rank 0's value to all processes."""
    if not are_several():
        return value
    told = [value]
    distributed.broadcast_object_list(told)
    return told[0]
