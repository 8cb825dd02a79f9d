"""What our own networks are made of, and how their weights begin.

Every convolution is followed by its batch norm and only then by the nonlinearity, so that both fold into the
convolution when a network is quantised.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import Conv2dNormActivation, SqueezeExcitation, StochasticDepth

from classifier_training.core.types import InputSpec
from classifier_training.models.torchvision_models import IMAGENET

MIN_SIZE = 16
"""Sides below this would be halved away: each of our networks halves its image four times."""

OWN_INPUT = InputSpec(size=128, mean=IMAGENET.mean, std=IMAGENET.std)
"""No published weights fix a size; a third of the arithmetic of 224 px, and enough for what fills the image."""

HEAD_DIM = 32
"""Features of one attention head."""


class SizeGuard(nn.Module):
    """Passes images on, and refuses those that are too small, in words."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the images, [B, 3, H, W].

        Raises:
            ValueError: when a side is below 16 pixels.
        """
        if min(images.shape[-2:]) < MIN_SIZE:
            raise ValueError(f"it halves an image four times, which takes sides of {MIN_SIZE} px or more")
        return images


def conv(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, relu: bool = True) -> nn.Sequential:
    """Make a convolution with its batch norm, and the nonlinearity unless a sum comes first."""
    made: nn.Sequential = Conv2dNormActivation(
        inputs, outputs, kernel, stride, activation_layer=nn.ReLU if relu else None
    )
    return made


def separable(inputs: int, outputs: int, *, stride: int = 1, relu: bool = True) -> nn.Sequential:
    """Make a 3x3 convolution of each channel alone, then one across the channels (Chollet 2017, arXiv:1610.02357)."""
    depthwise = Conv2dNormActivation(inputs, inputs, 3, stride, groups=inputs, activation_layer=None)
    return nn.Sequential(*depthwise, *conv(inputs, outputs, kernel=1, relu=relu))


def squeeze_excitation(channels: int) -> nn.Module:
    """Make a weighting of the channels by their means over the image (Hu et al. 2018, arXiv:1709.01507)."""
    weighting: nn.Module = SqueezeExcitation(channels, max(channels // 16, 8), scale_activation=nn.Hardsigmoid)
    return weighting


class SelfAttention(nn.Module):
    """Adds to each place of a feature map what attention over all places finds (Vaswani et al. 2017, arXiv:1706.03762).

    Places have no numbers here: the convolutions before it have seen their borders.

    Args:
        channels: a multiple of 32, split into heads of 32.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.project = nn.Conv2d(channels, channels, 1)
        self.num_heads = channels // HEAD_DIM

    def forward(self, features: Tensor) -> Tensor:
        """Return the sum of features, [B, C, H, W], and what was found."""
        batch, channels, height, width = features.shape
        heads = self.qkv(self.norm(features)).reshape(batch, 3, self.num_heads, HEAD_DIM, height * width)
        query, key, value = heads.transpose(-1, -2).unbind(1)
        found = functional.scaled_dot_product_attention(query, key, value)
        joined = found.transpose(-1, -2).reshape(batch, channels, height, width)
        summed: Tensor = features + self.project(joined)
        return summed


class Head(nn.Sequential):
    """Features averaged over the image, some of them dropped, and one linear layer."""

    def __init__(self, channels: int, num_classes: int, dropout: float) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels, num_classes))


def drop_path(share: float) -> nn.Module:
    """Drop whole branches of a share of the images (Huang et al. 2016, arXiv:1603.09382)."""
    return StochasticDepth(share, mode="row") if share else nn.Identity()


def zero_gain(branch: nn.Sequential) -> nn.Sequential:
    """Silence a branch at first by its last batch norm, so that a deep network begins shallow (arXiv:1706.02677)."""
    norms = [layer for layer in branch if isinstance(layer, nn.BatchNorm2d)]
    nn.init.zeros_(norms[-1].weight)
    return branch


def initialise(network: nn.Module) -> None:
    """Begin with variances that survive the rectifiers (He et al. 2015, arXiv:1502.01852)."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            # PyTorch counts the outputs of all groups as one neuron's.
            nn.init.kaiming_normal_(layer.weight, mode="fan_in" if layer.groups > 1 else "fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)


def rising(share: float, number: int) -> list[float]:
    """Return shares for a number of blocks, from 0 for the first to the whole for the last."""
    return [share * block / max(number - 1, 1) for block in range(number)]
