"""The last layers of any classifier, found by what sets them apart: their shape follows from the number of classes."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from classifier_training.models.shapes import on_shapes
from classifier_training.models.stages import head_names

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn


HEAD_STD = 0.001
"""Of the weights of a new last layer. At the usual 0.01 a resnet50 begins 11 % above the loss of guessing."""


def class_axes(build: Callable[[int], nn.Module]) -> dict[str, int]:
    """Find the tensors of a network that have an axis of classes, and which axis that is.

    The network is built twice, on shapes alone; nothing random is used up.

    Args:
        build: makes the network for a number of classes.
    """
    from torch.random import fork_rng

    with fork_rng(devices=[]):
        two, three = (on_shapes(functools.partial(_shapes, build, number)) for number in (2, 3))
    return {
        name: next(axis for axis, side in enumerate(shape) if side != three[name][axis])
        for name, shape in two.items()
        if shape != three[name]
    }


def class_layers(build: Callable[[int], nn.Module]) -> tuple[str, ...]:
    """Return the dotted names of the layers that change with the number of classes; see `class_axes`."""
    return tuple(dict.fromkeys(name.rpartition(".")[0] for name in class_axes(build)))


def _shapes(build: Callable[[int], nn.Module], num_classes: int) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in build(num_classes).state_dict().items()}


def start_small(network: nn.Module, num_classes: int) -> None:
    """Give new last layers small random weights and no bias, so that all classes are answered nearly alike at first.

    What libraries start them with differs by a factor of 30, and a loss far above that of guessing pushes trained
    features away in the first steps.

    Args:
        network: changed in place.
        num_classes: K, the outputs of these layers.
    """
    from torch import nn

    for name in head_names(network):
        for layer in network.get_submodule(name).modules():
            # A last layer may have a norm of its own before its matrix.
            if (
                isinstance(layer, (nn.Linear, nn.Conv2d))
                and layer.weight.shape[0] == num_classes
                and layer.weight.requires_grad
            ):
                nn.init.normal_(layer.weight, std=HEAD_STD)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)


def drop_before(network: nn.Module, heads: tuple[str, ...], share: float) -> None:
    """Drop a share of the features that each head gets: by the dropout that stands there, or by one that is added.

    Args:
        network: changed in place.
        heads: dotted names of its last layers.
        share: from 0 to below 1.
    """
    from torch import nn

    leaves = [name for name, layer in network.named_modules() if not list(layer.children())]
    for head in heads:
        place = leaves.index(head)
        before = network.get_submodule(leaves[place - 1]) if place else None
        if isinstance(before, nn.Dropout):
            before.p = share
        elif share:
            network.set_submodule(head, nn.Sequential(nn.Dropout(share), network.get_submodule(head)))
