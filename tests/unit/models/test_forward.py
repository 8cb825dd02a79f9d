from __future__ import annotations

import pytest
import torch

from classifier_training.core.errors import UserError
from classifier_training.models.forward import fit_input
from classifier_training.models.timm_models import timm_model


def test_a_network_of_fixed_size_is_set_to_the_pictures() -> None:
    built = timm_model(3, name="vit_tiny_patch16_224")
    assert fit_input(built, image_size=32, batch_size=4) == 1
    assert built.network(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_a_size_that_a_network_cannot_take_is_named() -> None:
    with pytest.raises(UserError, match=r"data\.image_size=32: inception_v3 does not take") as caught:
        fit_input(timm_model(3, name="inception_v3"), image_size=32, batch_size=4)
    assert caught.value.remedy == "data.image_size=299"


def test_a_batch_norm_that_would_see_one_value_needs_two_images() -> None:
    built = timm_model(3, name="resnet18")
    assert fit_input(built, image_size=64, batch_size=1) == 1
    assert fit_input(built, image_size=32, batch_size=4) == 2
    with pytest.raises(UserError, match=r"data\.batch_size=1"):
        fit_input(built, image_size=32, batch_size=1)
