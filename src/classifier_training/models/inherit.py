"""Starting from the weights of an earlier run, whose classes may be others."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.core.labels import index_labels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn


def inherit_weights(
    network: nn.Module,
    state: Mapping[str, Tensor],
    *,
    axes: Mapping[str, int],
    own_classes: Sequence[str],
    their_classes: Sequence[str],
) -> str:
    """Load the weights of an earlier run; rows of the head go by the names of the classes.

    Rows of classes that the earlier run did not have keep their random start.

    Args:
        network: what to load into, in place.
        state: weights by name.
        axes: the tensors of the head and their axis of classes, as `head.class_axes` finds them.
        own_classes: [K].
        their_classes: of the earlier run, in the order of its outputs.

    Returns:
        One line for people on what became of the head.

    Raises:
        UserError: when the weights are of another network; the network is then unchanged.
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
            f"init_from: its weights are of another network: {len(strange)} tensors are missing, strange or do not fit "
            f"({enumerate_words(strange, limit=3)})",
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
