"""Networks without weights, for questions that shapes alone answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

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
