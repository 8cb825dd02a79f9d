"""Networks that are mostly taken over with trained weights, each by a name of its own."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from classifier_training.core.register import register
from classifier_training.core.settings import PathText  # noqa: TC001 - the register reads it at run time
from classifier_training.core.types import BuiltModel  # noqa: TC001 - as above
from classifier_training.models.timm_models import timm_model
from classifier_training.models.torchvision_models import Torchvision


@register(group="model", name="vgg16")
class VGG16(Torchvision):
    """VGG-16 (Simonyan and Zisserman 2015): 134 million parameters, simple and heavy."""

    architecture = "vgg16"


@register(group="model", name="densenet121")
class DenseNet121(Torchvision):
    """DenseNet-121 (Huang et al. 2017): 7.0 million parameters, features used again by every later layer."""

    architecture = "densenet121"


@register(group="model", name="mobilenet_v2")
class MobileNetV2(Torchvision):
    """MobileNetV2 (Sandler et al. 2018): 2.2 million parameters, for phones."""

    architecture = "mobilenet_v2"


@register(group="model", name="efficientnet_b0")
class EfficientNetB0(Torchvision):
    """EfficientNet-B0 (Tan and Le 2019): 4.0 million parameters, accurate for its cost."""

    architecture = "efficientnet_b0"


@register(group="model", name="efficientnet_b1")
class EfficientNetB1(Torchvision):
    """EfficientNet-B1 (Tan and Le 2019): 6.5 million parameters, at 240 pixels."""

    architecture = "efficientnet_b1"


@register(group="model", name="mobilenetv4_conv_medium")
def mobilenetv4_conv_medium(
    num_classes: int,
    *,
    pretrained: bool = False,
    weights: PathText | None = None,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> BuiltModel:
    """MobileNetV4-Conv-Medium (Qin et al. 2024), of timm: 8.4 million parameters, for screens and slides.

    Args:
        pretrained: start from timm's mobilenetv4_conv_medium.e500_r256_in1k, fetched the first time.
        weights: start from this file instead (.safetensors, or a PyTorch state_dict).
        dropout: share of features dropped before the last layer.

    Raises:
        UserError: when weights are wanted and cannot be had.
    """
    return timm_model(
        num_classes,
        name="mobilenetv4_conv_medium.e500_r256_in1k",
        pretrained=pretrained,
        weights=weights,
        dropout=dropout,
    )
