from __future__ import annotations

import pytest
import torch
from torch import nn

from classifier_training.core.errors import UserError
from classifier_training.core.types import BuiltModel, InputSpec
from classifier_training.models.head import class_axes, inherit_weights

SPEC = InputSpec(8, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


def build(num_classes: int, width: int = 5) -> BuiltModel:
    network = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, num_classes))
    return BuiltModel(network, SPEC, "tiny")


def inherit(own: list[str], theirs: list[str]) -> tuple[str, nn.Module, nn.Module, dict[str, torch.Tensor]]:
    source, target = build(len(theirs)).network, build(len(own)).network
    before = {name: value.clone() for name, value in target.state_dict().items()}
    words = inherit_weights(
        target,
        source.state_dict(),
        axes=class_axes(lambda number: build(number).network),
        own_classes=own,
        their_classes=theirs,
    )
    return words, source, target, before


def test_the_head_is_what_grows_with_the_classes_and_nothing_random_is_used_up() -> None:
    state = torch.get_rng_state()
    assert class_axes(lambda number: build(number).network) == {"2.weight": 0, "2.bias": 0}
    assert torch.equal(torch.get_rng_state(), state)


def test_rows_go_by_name_and_new_ones_stay_random() -> None:
    words, source, target, before = inherit(["ant", "bee", "cat"], ["cat", "dog", "ant"])
    theirs, own = source.state_dict(), target.state_dict()
    assert torch.equal(own["0.weight"], theirs["0.weight"])
    for name in ("2.weight", "2.bias"):
        assert torch.equal(own[name][0], theirs[name][2])
        assert torch.equal(own[name][1], before[name][1])
        assert torch.equal(own[name][2], theirs[name][0])
    assert words == "the head is kept for 2 of 3 classes; new: 'bee'; left out: 'dog'"


def test_the_same_classes_and_strange_classes_are_told_apart() -> None:
    words, source, target, _ = inherit(["a", "b"], ["a", "b"])
    assert words == "the head is kept, for the same 2 classes"
    assert all(torch.equal(value, target.state_dict()[name]) for name, value in source.state_dict().items())
    words, _, target, before = inherit(["a", "b"], ["c", "d"])
    assert words == "the head is new: no class has the name of one of that run"
    assert torch.equal(target.state_dict()["2.weight"], before["2.weight"])


def test_another_network_is_refused_before_anything_changes() -> None:
    target = build(2).network
    before = {name: value.clone() for name, value in target.state_dict().items()}
    for strange in (build(2, width=6).network, nn.Linear(4, 2)):
        with pytest.raises(UserError, match="of another network"):
            inherit_weights(
                target,
                strange.state_dict(),
                axes=class_axes(lambda number: build(number).network),
                own_classes=["a", "b"],
                their_classes=["a", "b"],
            )
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
