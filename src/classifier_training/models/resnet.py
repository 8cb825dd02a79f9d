"""Residual networks (He et al. 2016, arXiv:1512.03385), as torchvision has them."""

from __future__ import annotations

from classifier_training.core.register import register
from classifier_training.models.torchvision_models import Torchvision


@register(group="model", name="resnet18")
class ResNet18(Torchvision):
    """ResNet-18: 11.2 million parameters, the default for the built-in sample."""

    architecture = "resnet18"


@register(group="model", name="resnet34")
class ResNet34(Torchvision):
    """ResNet-34: 21.3 million parameters."""

    architecture = "resnet34"


@register(group="model", name="resnet50")
class ResNet50(Torchvision):
    """ResNet-50: 23.5 million parameters."""

    architecture = "resnet50"


@register(group="model", name="resnet101")
class ResNet101(Torchvision):
    """ResNet-101: 42.5 million parameters."""

    architecture = "resnet101"
