"""The head of any classifier: finding it, initializing it, adding dropout, and loading it by class names.

The layers of the head are those whose shape depends on the number of classes.
"""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.core.labels import index_labels
from classifier_training.models.meta import on_meta
from classifier_training.models.stages import head_names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch
    from torch import Tensor, nn

HEAD_STD = 0.001
"""Standard deviation of the weights of a new head. At the usual 0.01 a resnet50 starts 11 % above the chance loss."""


def class_axes(build: Callable[[int], nn.Module]) -> dict[str, int]:
    """Return the tensors of a network whose shape depends on the number of classes, with their axis of classes.

    The network is built twice on the meta device; the random state is restored.

    Args:
        build: builds the network for a number of classes.
    """
    from torch.random import fork_rng

    with fork_rng(devices=[]):
        two, three = (on_meta(functools.partial(_shapes, build, number)) for number in (2, 3))
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
    """Initialize a new head with small random weights and no bias, so that all classes start with similar logits.

    The initial weights of libraries differ by a factor of 30, and a loss far above chance damages trained features in
    the first steps.

    Args:
        network: changed in place.
        num_classes: K, the outputs of these layers.
    """
    from torch import nn

    for name in head_names(network):
        for layer in network.get_submodule(name).modules():
            # A head may have a norm before its linear layer.
            if (
                isinstance(layer, (nn.Linear, nn.Conv2d))
                and layer.weight.shape[0] == num_classes
                and layer.weight.requires_grad
            ):
                nn.init.normal_(layer.weight, std=HEAD_STD)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)


def drop_before(network: nn.Module, heads: tuple[str, ...], share: float) -> None:
    """Set the dropout before each head; a dropout layer is added if there is none.

    Args:
        network: changed in place.
        heads: dotted names of the head's layers.
        share: dropped features, from 0 to below 1.
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


def inherit_weights(
    network: nn.Module,
    state: Mapping[str, Tensor],
    *,
    axes: Mapping[str, int],
    own_classes: Sequence[str],
    their_classes: Sequence[str],
) -> str:
    """Load the weights of an earlier run; rows of the head are matched by class name.

    Rows of new classes keep their random weights.

    Args:
        network: changed in place.
        state: weights by name.
        axes: tensors of the head and their axis of classes; see `class_axes`.
        own_classes: [K].
        their_classes: classes of the earlier run, in the order of its outputs.

    Returns:
        One line for the log about the head.

    Raises:
        UserError: when the weights are of another network; then the network is unchanged.
    """
    own = network.state_dict()
    strange = sorted(own.keys() ^ state.keys())
    strange += [
        name
        for name in own.keys() & state.keys()
        if _shape(own[name], axes.get(name), len(their_classes)) != tuple(state[name].shape)
    ]
    if strange:
        raise UserError(
            f"init_from: its weights are of another network: {len(strange)} tensors are missing, unexpected or do not "
            f"fit ({enumerate_words(strange, limit=3)})",
            "a run of the same model= with the same settings and data.image_size",
            "choose the model of that run, as its config.yaml has it",
        )
    places = index_labels(their_classes)
    shared = [name for name in own_classes if name in places]
    merged = {name: copy.copy(value) for name, value in state.items()}
    for name, axis in axes.items():
        rows = own[name].clone()
        for place, class_name in enumerate(own_classes):
            if class_name in places:
                rows.select(axis, place).copy_(state[name].select(axis, places[class_name]))
        merged[name] = rows
    network.load_state_dict(merged)
    if tuple(own_classes) == tuple(their_classes):
        return f"the head is kept, for the same {len(own_classes)} classes"
    if not shared:
        return "the head is new: no class has the name of one of that run"
    new = [name for name in own_classes if name not in places]
    gone = [name for name in their_classes if name not in set(own_classes)]
    return f"the head is kept for {len(shared)} of {len(own_classes)} classes" + "".join(
        f"; {word}: {enumerate_words(map(repr, names))}" for word, names in (("new", new), ("left out", gone)) if names
    )


def _shape(value: Tensor, axis: int | None, num_classes: int) -> tuple[int, ...]:
    shape = list(value.shape)
    if axis is not None:
        shape[axis] = num_classes
    return tuple(shape)
