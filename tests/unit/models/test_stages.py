from __future__ import annotations

import copy

import pytest
import timm
import torch
import torchvision
from torch import nn

from classifier_training.core.errors import UserError
from classifier_training.models.stages import (
    checkpointed_modules,
    freeze_stages,
    gradient_checkpointing,
    head_names,
    split_stages,
)


def small_cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, affine=False),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip


class Wrapper(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


NETWORKS = {
    "resnet": (lambda: torchvision.models.resnet18(), "fc", ["conv1 to bn1", "layer1", "layer2", "layer3", "layer4"]),
    "vgg": (
        lambda: torchvision.models.vgg11(),
        "classifier.6",
        ["features.0", "features.3", "features.6 to features.8", "features.11 to features.13",
         "features.16 to features.18", "classifier.0 to classifier.3"],
    ),
    "densenet": (
        lambda: torchvision.models.densenet121(),
        "classifier",
        ["features.conv0 to features.norm0", "features.denseblock1", "features.transition1", "features.denseblock2",
         "features.transition2", "features.denseblock3", "features.transition3", "features.denseblock4"],
    ),
    "timm": (
        lambda: timm.create_model("test_resnet"),
        "fc",
        ["conv1 to bn1", "layer1", "layer2", "layer3", "layer4"],
    ),
    "timm in a wrapper": (
        lambda: Wrapper(timm.create_model("test_vit")),
        "inner.head",
        ["inner.cls_token to inner.patch_embed", *(f"inner.blocks.{number}" for number in range(5)),
         "inner.blocks to inner.norm"],
    ),
    "ours": (small_cnn, "7", ["0 to 1", "3"]),
    "a head alone": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), "1", []),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_stages_go_from_the_stem_to_the_head_and_hold_each_parameter_once(name: str) -> None:
    build, head, below = NETWORKS[name]
    network = build()  # type: ignore[no-untyped-call]
    stages = split_stages(network)
    assert [stage.name for stage in stages] == [*below, head]
    held = [parameter for stage in stages for parameter in stage.parameters]
    assert sorted(held) == sorted(parameter for parameter, _ in network.named_parameters())
    assert all(parameter.startswith(f"{head}.") for parameter in stages[-1].parameters)


def test_two_heads_are_one_stage() -> None:
    network = timm.create_model("deit_tiny_distilled_patch16_224", depth=1)
    assert head_names(network) == ("head", "head_dist")
    assert len(split_stages(network)[-1].parameters) == 4


def test_a_frozen_stage_builds_no_graph_and_its_batch_norms_stand_still() -> None:
    torch.manual_seed(0)
    network = small_cnn().train()
    stages = split_stages(network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    freeze_stages(network, stages, 2)
    seen: list[torch.Tensor] = []
    network[6].register_forward_hook(lambda _layer, _inputs, output: seen.append(output))
    network(torch.randn(4, 3, 8, 8)).sum().backward()
    assert not seen[0].requires_grad
    changed = [name for name, value in network.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == []
    assert [p.grad is not None for p in network.parameters()] == [False] * 6 + [True, True]
    freeze_stages(network, stages, 1)
    assert [module.training for module in network if isinstance(module, nn.BatchNorm2d)] == [False, True]
    network(torch.randn(4, 3, 8, 8))
    changed = [name for name, value in network.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["4.running_mean", "4.running_var", "4.num_batches_tracked"]
    freeze_stages(network, stages, 0)
    assert all(module.training for module in network)
    assert all(parameter.requires_grad for parameter in network.parameters())


def step(network: nn.Module) -> tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    torch.manual_seed(5)
    network.zero_grad()
    logits = network(torch.linspace(-1, 1, 4 * 3 * 64 * 64).reshape(4, 3, 64, 64))
    logits.square().sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}  # type: ignore[union-attr]
    return logits.detach(), gradients, {name: value.clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("name", ["test_resnet", "test_vit2"])
def test_results_are_those_without_it_dropout_and_batch_norm_statistics_included(name: str) -> None:
    torch.manual_seed(0)
    plain = timm.create_model(name, img_size=64) if "vit" in name else timm.create_model(name)
    for module in plain.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    if "resnet" in name:
        plain.layer2.append(nn.Dropout(0.3))  # type: ignore[union-attr, operator]
    plain.train()
    other = copy.deepcopy(plain)
    expected = step(plain)
    with gradient_checkpointing(other):
        found = step(other)
        # The copy that averaged weights make runs its own layers.
        twin = copy.deepcopy(other)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.zero_()
        assert not twin(torch.ones(2, 3, 64, 64)).any()
    assert torch.equal(found[0], expected[0])
    for ours, plains in ((found[1], expected[1]), (found[2], expected[2])):
        assert ours.keys() == plains.keys()
        assert all(torch.equal(ours[key], plains[key]) for key in plains)
    assert not any("forward" in vars(module) for module in other.modules())


def test_fewer_activations_are_kept() -> None:
    def kept(network: nn.Module) -> int:
        sizes: list[int] = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network(torch.zeros(2, 3, 64, 64))
        return sum(sizes)

    network = timm.create_model("test_resnet").train()
    plain = kept(network)
    with gradient_checkpointing(network):
        assert kept(network) < plain / 2


def test_a_network_without_blocks_is_refused_in_words() -> None:
    flat = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(UserError, match="no blocks of layers"):
        checkpointed_modules(flat)
