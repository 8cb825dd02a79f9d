from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from classifier_training.core.errors import UserError
from classifier_training.models.checkpointing import checkpointed_modules, gradient_checkpointing


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
