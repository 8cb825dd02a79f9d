from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from classifier_training.core.types import BuiltModel, InputSpec
from classifier_training.models.cost import Cost, cost, kept_bytes, measure, summarize
from classifier_training.models.meta import on_meta
from classifier_training.models.torchvision_models import ResNet18

SPEC = InputSpec(size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def test_what_autograd_keeps_is_counted_once_and_weights_are_not() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2))
    # The convolution keeps its input; rectifier and linear layer keep the same map, one of them as a view.
    assert kept_bytes(network, image_size=8) == 4 * (3 * 64 + 4 * 64)


def test_weights_gradients_and_averages_are_four_copies() -> None:
    found = cost(BuiltModel(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), SPEC, "one"), image_size=8)
    assert found.fixed_bytes == 4 * 4 * (192 * 2 + 2)
    assert found.training_mb(4) == pytest.approx((found.fixed_bytes + 4 * found.bytes_per_image) / 2**20)


def test_the_estimate_is_what_a_real_pass_keeps() -> None:
    network = ResNet18(pretrained=False)(10).network.train()
    own = {tensor.data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    held: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.zeros(2, 3, 32, 32))
    real = sum(tensor.untyped_storage().nbytes() for tensor in held.values()) / 2
    assert kept_bytes(network, image_size=32) == pytest.approx(real, rel=0.01)


def test_figures_are_measured_once_and_again_after_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("CLASSIFIER_TRAINING_CACHE", str(tmp_path))
    calls = []

    def build(num_classes: int) -> BuiltModel:
        calls.append(num_classes)
        return BuiltModel(nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes)), SPEC, "one")

    first = measure({"one": build}, num_classes=3, image_size=None)
    again = measure({"one": build}, num_classes=3, image_size=None)
    assert calls == [3]
    assert isinstance(first["one"], Cost)
    assert first == again
    assert "does not take" in str(measure({"one": build}, num_classes=3, image_size=9)["one"])
    kept = tmp_path / "model_figures.json"
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "stamp": "of another version"}))
    measure({"one": build}, num_classes=3, image_size=None)
    assert calls == [3, 3, 3]
    kept.write_text("{")
    assert measure({"one": build}, num_classes=3, image_size=None) == first


def test_a_network_that_reads_values_while_it_is_built_is_measured_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLASSIFIER_TRAINING_CACHE", str(tmp_path))

    def build(num_classes: int) -> BuiltModel:
        width = int(torch.linspace(1, 192, 2)[-1].item())
        network = nn.Sequential(nn.Flatten(), nn.Linear(width, num_classes))
        return BuiltModel(network, SPEC, "one")

    assert isinstance(measure({"one": build}, num_classes=3, image_size=None)["one"], Cost)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cait_xxs24_224", "pit_ti_224"])
def test_a_network_whose_layers_take_views_of_weights_is_counted(name: str) -> None:
    network = on_meta(lambda: timm.create_model(name, num_classes=3))
    assert summarize(network, architecture=name, image_size=224).num_flops > 1e8
