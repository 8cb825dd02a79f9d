"""Networks that are mostly taken over with trained weights, each by a name of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from classifier_training.core.register import register
from classifier_training.core.settings import PathText, Pretrained  # noqa: TC001 - the register reads them at run time
from classifier_training.core.types import BuiltModel  # noqa: TC001 - as above
from classifier_training.models.bundled import with_bundled_weights
from classifier_training.models.timm_models import timm_model
from classifier_training.models.torchvision_models import Torchvision
from classifier_training.models.weights import wants_published


@dataclass(frozen=True, kw_only=True)
class Lite:
    """A network of timm whose trained weights come in a package.

    Args:
        pretrained: start from the ImageNet weights of the package, without a connection; auto: yes, unless
            model.weights or init_from names others.
        weights: start from this file instead (.safetensors, or a PyTorch state_dict).
        dropout: share of features dropped before the last layer; the network's own, none, unless given.
    """

    architecture: ClassVar[str]

    pretrained: Pretrained = "auto"
    weights: PathText | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None

    def __call__(self, num_classes: int) -> BuiltModel:
        """Build the network.

        Raises:
            UserError: when weights are wanted and cannot be had.
        """
        is_pretrained = wants_published(self.pretrained, self.weights)
        built = timm_model(
            num_classes, name=self.architecture, pretrained=False, weights=self.weights, dropout=self.dropout or 0.0
        )
        return with_bundled_weights(built) if is_pretrained else built


@register(group="model", name="tf_efficientnet_lite0")
class EfficientNetLite0(Lite):
    """EfficientNet-Lite0 (Tan and Le 2019), of timm: 3.4 million parameters; its weights come with this package."""

    architecture = "tf_efficientnet_lite0"


@register(group="model", name="tf_efficientnet_lite1")
class EfficientNetLite1(Lite):
    """EfficientNet-Lite1, of timm: 4.1 million parameters, at 240 pixels; its weights come by the extra lite."""

    architecture = "tf_efficientnet_lite1"


@register(group="model", name="tf_efficientnet_lite2")
class EfficientNetLite2(Lite):
    """EfficientNet-Lite2, of timm: 4.8 million parameters, at 260 pixels; its weights come by the extra lite."""

    architecture = "tf_efficientnet_lite2"


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
    pretrained: Pretrained = "auto",
    weights: PathText | None = None,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> BuiltModel:
    """MobileNetV4-Conv-Medium (Qin et al. 2024), of timm: 8.4 million parameters, for screens and slides.

    Args:
        pretrained: start from timm's mobilenetv4_conv_medium.e500_r256_in1k, fetched the first time; auto: yes, unless
            model.weights or init_from names others.
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
