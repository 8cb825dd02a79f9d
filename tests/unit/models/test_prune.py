"""Structured pruning: what is removed, what stays, and that shapes alone build the network again."""

from __future__ import annotations

import copy
from typing import get_args

import pytest
import torch
from torch import nn

from classifier_training.core.errors import UserError
from classifier_training.core.register import entry
from classifier_training.core.types import BuiltModel, InputSpec
from classifier_training.models.cost import summarize
from classifier_training.models.prune import (
    Importance,
    Pruning,
    is_pruned,
    narrowed,
    prune_network,
    unpruned_name,
    widths_of,
    with_widths,
)

SPEC = InputSpec(size=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))

NUM_CLASSES = 5


def build(name: str, /, **settings: object) -> BuiltModel:
    torch.manual_seed(0)
    built = entry("model", name).build(settings)(NUM_CLASSES)
    assert isinstance(built, BuiltModel)
    built.network.eval()
    return built


def flops(network: nn.Module) -> int:
    return summarize(network, architecture="", image_size=64).num_flops


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("tf_efficientnet_lite0", {"pretrained": False}),
        ("resnet18", {"pretrained": False}),
        ("timm", {"name": "resnet18", "pretrained": False}),
        ("student", {}),
        ("cnn_v1", {}),
        pytest.param("cnn_v2", {"kind": "dense"}, marks=pytest.mark.nightly),
        ("cnn_v2", {"kind": "hybrid", "attention": "squeeze_excitation"}),
    ],
)
def test_a_network_keeps_a_share_of_its_flops_and_all_its_outputs(name: str, settings: dict[str, object]) -> None:
    built = build(name, **settings)
    before = {key: value.clone() for key, value in built.network.state_dict().items()}
    pruned, plan = prune_network(built, Pruning(keep=0.5), image_size=64)
    assert all(torch.equal(value, before[key]) for key, value in built.network.state_dict().items())
    assert flops(pruned.network) == plan.num_flops
    assert 0.35 < plan.num_flops / flops(built.network) <= 0.5
    assert plan.num_parameters == sum(item.numel() for item in pruned.network.parameters()) < plan.num_parameters_before
    assert (is_pruned(pruned.architecture), unpruned_name(pruned.architecture)) == (True, built.architecture)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits = pruned.network(images)
    assert logits.shape == (2, NUM_CLASSES)
    again = with_widths(build(name, **settings), pruned.network.state_dict())
    assert again.architecture == pruned.architecture
    again.network.load_state_dict(pruned.network.state_dict())
    with torch.inference_mode():
        assert torch.equal(again.network.eval()(images), logits)
    twice, _ = prune_network(built, Pruning(keep=0.5), image_size=64)
    for key, value in twice.network.state_dict().items():
        assert torch.equal(value, pruned.network.state_dict()[key]), key


def test_a_pruned_network_is_trained_in_all_layers_and_pruned_again() -> None:
    once, first = prune_network(build("student"), Pruning(keep=0.6), image_size=64)
    once.network.train()
    once.network(torch.randn(4, 3, 64, 64)).sum().backward()
    assert all(item.grad is not None for item in once.network.parameters())
    twice, second = prune_network(once, Pruning(keep=0.6), image_size=64)
    assert second.num_flops_before == first.num_flops
    assert second.num_flops <= 0.6 * first.num_flops
    assert twice.architecture == once.architecture == "student_pruned"


@pytest.mark.parametrize("importance", get_args(Importance))
def test_the_channels_that_matter_least_are_removed(importance: Importance) -> None:
    convolution, norm, linear = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.Linear(16, 3)
    network = nn.Sequential(convolution, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear).eval()
    strong = [1, 4, 5, 8, 10, 11, 13, 15]
    factor = torch.full((16,), 0.01)
    factor[strong] = 1.0
    with torch.no_grad():
        convolution.weight.mul_(factor.view(16, 1, 1, 1))
        norm.weight.mul_(factor)
        linear.weight.mul_(factor)
    settings = Pruning(keep=0.6, importance=importance)
    kept, plan = prune_network(BuiltModel(network, SPEC, "three_layers"), settings, image_size=16)
    state = kept.network.state_dict()
    assert plan.widths["0.weight"] == (8, 3, 3, 3)
    assert torch.equal(state["0.weight"], convolution.weight[strong])
    assert torch.equal(state["5.weight"], linear.weight[:, strong])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("timm", {"name": "test_vit", "pretrained": False}),
        ("cnn_v2", {"kind": "hybrid", "attention": "self_attention"}),
    ],
)
def test_attention_is_refused(name: str, settings: dict[str, object]) -> None:
    with pytest.raises(UserError, match="has layers of attention"):
        prune_network(build(name, **settings), Pruning(), image_size=160)


def test_a_network_without_hidden_channels_is_refused_with_what_it_keeps() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))
    with pytest.raises(UserError, match=r"keeps 100% of its FLOPs"):
        prune_network(BuiltModel(network, SPEC, "linear"), Pruning(), image_size=16)


def test_a_share_that_cannot_be_reached_is_answered_with_one_that_can() -> None:
    built = build("cnn_v1")
    with pytest.raises(UserError, match=r"pruning.keep=0.001: cnn_v1 keeps \d+% ") as raised:
        prune_network(built, Pruning(keep=0.001), image_size=64)
    share = float(raised.value.remedy.partition("pruning.keep=")[2].partition(",")[0])
    assert prune_network(built, Pruning(keep=share), image_size=64)[1].num_flops <= share * flops(built.network)


def test_weights_of_another_network_are_refused() -> None:
    network = build("cnn_v1").network
    state = copy.deepcopy(network.state_dict())
    assert widths_of(network, state) == {}
    state["block1.convolutions.0.0.weight"] = torch.zeros(64, 3, 3, 3)
    with pytest.raises(UserError, match=r"not those of a pruned network: block1.convolutions.0.0.weight .*64"):
        narrowed(network, widths_of(network, state))


def test_a_head_keeps_its_own_classes() -> None:
    pruned, _ = prune_network(build("student"), Pruning(), image_size=64)
    other = entry("model", "student").build({})(9)
    narrow = with_widths(other, pruned.network.state_dict(), class_axes={"head.3.weight": 0, "head.3.bias": 0})
    with torch.inference_mode():
        assert narrow.network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 9)
    assert "head.3.bias" in narrow.network.state_dict()
