"""Networks without weights, for questions that shapes alone answer."""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

Made = TypeVar("Made")


def on_shapes(make: Callable[[], Made]) -> Made:
    """Make something of networks with no memory for their weights, which takes hundredths of a second.

    What reads values while it is made, as torchvision's RegNet does, has them nevertheless.
    """
    import torch

    try:
        with torch.device("meta"):
            return make()
    except (NotImplementedError, RuntimeError):
        return make()


def shadow_of(network: nn.Module) -> nn.Module:
    """Return a copy of a network on shapes alone; its weights are not copied first."""
    import torch
    from torch import nn

    bare: dict[int, object] = {}
    for tensor in itertools.chain(network.parameters(), network.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        is_learnt = isinstance(tensor, nn.Parameter)
        bare[id(tensor)] = nn.Parameter(empty, requires_grad=tensor.requires_grad) if is_learnt else empty
    # What is no parameter or buffer, but a tensor none the less, is brought along.
    return copy.deepcopy(network, bare).to("meta")
