"""Names of networks: which model they choose, and the lists that are read from the libraries' source."""

from __future__ import annotations

import subprocess
import sys

import pytest

from classifier_training.models.names import library_names, named_network, nearest_networks
from classifier_training.models.timm_models import timm_names
from classifier_training.models.torchvision_models import torchvision_names


@pytest.mark.parametrize(
    ("typed", "settings"),
    [
        ("resnet50", {"model": "resnet50"}),
        ("ResNet50", {"model": "resnet50"}),
        ("efficientnet-b0", {"model": "efficientnet_b0"}),
        ("tf_efficientnet_lite0", {"model": "tf_efficientnet_lite0"}),
        ("convnext_tiny", {"model": "torchvision", "model.name": "convnext_tiny"}),
        ("vit_b_16", {"model": "torchvision", "model.name": "vit_b_16"}),
        ("MobileNetV3Large", {"model": "torchvision", "model.name": "mobilenet_v3_large"}),
        ("resnet50.IMAGENET1K_V2", {"model": "torchvision", "model.name": "resnet50.IMAGENET1K_V2"}),
        ("vit_base_patch16_224", {"model": "timm", "model.name": "vit_base_patch16_224"}),
        ("convnext_tiny.fb_in22k", {"model": "timm", "model.name": "convnext_tiny.fb_in22k"}),
        ("resnet50.a1_in1k", {"model": "timm", "model.name": "resnet50.a1_in1k"}),
        ("timm/resnet18.a1_in1k", {"model": "timm", "model.name": "resnet18.a1_in1k"}),
        ("google/vit-base-patch16-224", {"model": "huggingface", "model.name": "google/vit-base-patch16-224"}),
        ("regnet_x_16gf", {"model": "torchvision", "model.name": "regnet_x_16gf"}),
        ("regnet_x_1_6gf", {"model": "torchvision", "model.name": "regnet_x_1_6gf"}),
        ("resnet81", None),
        ("models/best.pth", None),
        ("yolov8n-cls.pt", None),
    ],
)
def test_a_name_chooses_a_network(typed: str, settings: dict[str, str] | None) -> None:
    assert named_network(typed) == settings


def test_the_names_that_are_read_are_those_that_the_libraries_list() -> None:
    assert library_names("torchvision") == tuple(sorted(torchvision_names()))
    assert library_names("timm") == tuple(sorted(timm_names(tags=False)))


def test_a_misspelt_name_has_neighbours() -> None:
    assert "convnext_tiny" in nearest_networks("convnext_tinny")
    assert nearest_networks("resnet51")[0] == "resnet50"
    assert nearest_networks("zzz") == []


def test_neither_library_is_imported_for_a_name() -> None:
    code = (
        "import sys; from classifier_training.models.names import named_network, nearest_networks; "
        "named_network('vit_base_patch16_224'), nearest_networks('resnet81'); "
        "print([name for name in ('torch', 'torchvision', 'timm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
