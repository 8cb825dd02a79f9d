from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from classifier_training.core.errors import UserError
from classifier_training.core.types import BuiltModel
from classifier_training.models.meta import fit_input
from classifier_training.models.networks import DenseLayer, HybridBlock, PlainBlock, ResidualBlock, SelfAttention
from classifier_training.models.own import cnn_v1, cnn_v2, student

KINDS, ATTENTIONS = ("residual", "dense", "hybrid"), ("none", "squeeze_excitation", "self_attention")


def num_parameters(built: BuiltModel) -> int:
    return sum(parameter.numel() for parameter in built.network.parameters())


@pytest.mark.parametrize(("kind", "attention", "separable"), list(itertools.product(KINDS, ATTENTIONS, (False, True))))
def test_every_form_of_cnn_v2_takes_any_picture_of_16_pixels_or_more(
    kind: Any, attention: Any, separable: bool
) -> None:
    network = cnn_v2(5, kind=kind, attention=attention, separable=separable, depth=1).network
    for height, width in ((16, 16), (17, 31), (50, 33)):
        images = torch.zeros(2, 3, height, width).contiguous(memory_format=torch.channels_last)
        assert network(images).shape == (2, 5)


@pytest.mark.parametrize("built", [cnn_v1(5), cnn_v1(5, residual=True), student(5)])
def test_odd_sizes_are_taken(built: BuiltModel) -> None:
    for height, width in ((16, 16), (17, 31), (50, 33)):
        assert built.network(torch.zeros(2, 3, height, width)).shape == (2, 5)


@pytest.mark.parametrize("built", [cnn_v1(5), cnn_v2(5), student(5)])
def test_a_picture_that_would_be_halved_away_is_refused_in_words(built: BuiltModel) -> None:
    with pytest.raises(UserError, match=r"data\.image_size=15: .* takes sides of 16 px or more"):
        fit_input(built, image_size=15, batch_size=4)


def test_cnn_v1_has_its_four_blocks() -> None:
    plain, residual = cnn_v1(5), cnn_v1(5, residual=True)
    widths = [
        [layer.out_channels for layer in block.modules() if isinstance(layer, nn.Conv2d)][-1]
        for block in plain.network.modules()
        if isinstance(block, PlainBlock)
    ]
    assert widths == [32, 64, 128, 256]
    assert num_parameters(residual) > num_parameters(plain)
    assert cnn_v1(5, num_convolutions=1).network(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


def test_a_kind_is_made_of_its_own_blocks_and_a_hybrid_has_attention() -> None:
    for kind, block in zip(KINDS, (ResidualBlock, DenseLayer, HybridBlock), strict=True):
        layers = list(cnn_v2(5, kind=kind, depth=3).network.modules())  # type: ignore[arg-type]
        count = sum(isinstance(layer, block) for layer in layers)
        assert count == (24 if kind == "dense" else 12)
        assert any(type(layer).__name__ == "SqueezeExcitation" for layer in layers) == (kind == "hybrid")
    dense = cnn_v2(5, kind="dense", depth=8).network
    assert dense.head[-1].in_features == 256  # type: ignore[index, union-attr]
    attentive = cnn_v2(5, attention="self_attention").network
    assert sum(isinstance(layer, SelfAttention) for layer in attentive.modules()) == 2


def test_stochastic_depth_rises_to_the_last_block() -> None:
    layers = cnn_v2(5, stochastic_depth=0.3).network.modules()
    shares = [layer.p for layer in layers if isinstance(layer, StochasticDepth)]
    assert len(shares) == 7  # the first block is never skipped
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(0.3)


@pytest.mark.parametrize("kind", ["residual", "hybrid"])
def test_a_residual_branch_begins_silent(kind: Any) -> None:
    block = next(m for m in cnn_v2(5, kind=kind).network.modules() if isinstance(m, ResidualBlock | HybridBlock))
    features = torch.rand(2, 32, 8, 8)
    assert torch.equal(block.eval()(features), features)


def test_signals_keep_their_size_at_the_start() -> None:
    torch.manual_seed(0)
    images = torch.randn(8, 3, 32, 32)
    for built in (cnn_v1(5), cnn_v2(5), cnn_v2(5, kind="dense"), cnn_v2(5, kind="hybrid"), student(5)):
        features = nn.Sequential(*list(built.network.children())[:-1]).train()(images)
        assert 0.1 < features.std().item() < 10


@pytest.mark.parametrize(("width", "megabytes"), [(0.65, (1, 1.3)), (1.0, (2, 3)), (2.0, (8, 10))])
def test_a_student_is_of_1_to_10_megabytes(width: float, megabytes: tuple[float, float]) -> None:
    size = 4 * num_parameters(student(10, width=width)) / 1e6
    assert megabytes[0] <= size <= megabytes[1]
