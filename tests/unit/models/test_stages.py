from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

from classifier_training.models.stages import freeze_stages, head_names, split_stages


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
