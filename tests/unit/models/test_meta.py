from __future__ import annotations

import pytest
import torch
from torch import nn

from classifier_training.core.errors import UserError
from classifier_training.core.types import BuiltModel, InputSpec
from classifier_training.models.meta import fit_input, fit_smaller
from classifier_training.models.timm_models import timm_model

SPEC = InputSpec(size=64, mean=(0, 0, 0), std=(1, 1, 1))


def test_a_network_of_fixed_size_is_set_to_the_pictures() -> None:
    built = timm_model(3, name="vit_tiny_patch16_224", pretrained=False)
    assert fit_input(built, image_size=32, batch_size=4) == 1
    assert built.network(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_a_size_that_a_network_cannot_take_is_named() -> None:
    with pytest.raises(UserError, match=r"data\.image_size=32: inception_v3 does not take") as caught:
        fit_input(timm_model(3, name="inception_v3", pretrained=False), image_size=32, batch_size=4)
    assert caught.value.remedy == "data.image_size=299"


def test_a_batch_norm_that_would_see_one_value_needs_two_images() -> None:
    built = timm_model(3, name="resnet18", pretrained=False)
    assert fit_input(built, image_size=64, batch_size=1) == 1
    assert fit_input(built, image_size=32, batch_size=4) == 2
    with pytest.raises(UserError, match=r"data\.batch_size=1"):
        fit_input(built, image_size=32, batch_size=1)


def test_a_network_of_one_size_is_refused_smaller_pictures_in_words() -> None:
    flat = BuiltModel(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 2)), SPEC, "flat")
    with pytest.raises(UserError, match="start_scale begins with 32 px: flat takes one size only") as caught:
        fit_smaller(flat, image_size=32, batch_size=4)
    assert caught.value.remedy == "transforms.start_scale=1"
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    assert fit_smaller(BuiltModel(pooled, SPEC, "any"), image_size=32, batch_size=4) == 1
