"""The networks of this package: plain, light, and in stages of residual, dense or hybrid blocks.

Every convolution is followed by its batch norm and only then by the nonlinearity, so that both fold into the
convolution when a network is quantized.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.ops import Conv2dNormActivation, SqueezeExcitation, StochasticDepth

from classifier_training.core.types import InputSpec
from classifier_training.models.torchvision_models import IMAGENET

MIN_SIZE = 16
"""Smallest side: each of these networks halves its image four times."""

OWN_INPUT = InputSpec(size=128, mean=IMAGENET.mean, std=IMAGENET.std)
"""No published weights fix the size. 128 px take a third of the FLOPs of 224 px and suffice for objects that fill the
image."""

HEAD_DIM = 32
"""Features of one attention head."""


class SizeGuard(nn.Module):
    """Returns images unchanged, and raises an error for those that are too small."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the images, [B, 3, H, W].

        Raises:
            ValueError: when a side is below 16 pixels.
        """
        if min(images.shape[-2:]) < MIN_SIZE:
            raise ValueError(f"it halves an image four times, which takes sides of {MIN_SIZE} px or more")
        return images


def conv(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, relu: bool = True) -> nn.Sequential:
    """Build a convolution with its batch norm, and the nonlinearity unless a sum comes first."""
    made: nn.Sequential = Conv2dNormActivation(
        inputs, outputs, kernel, stride, activation_layer=nn.ReLU if relu else None
    )
    return made


def separable(inputs: int, outputs: int, *, stride: int = 1, relu: bool = True) -> nn.Sequential:
    """Build a depthwise separable 3x3 convolution (Chollet 2017, arXiv:1610.02357)."""
    depthwise = Conv2dNormActivation(inputs, inputs, 3, stride, groups=inputs, activation_layer=None)
    return nn.Sequential(*depthwise, *conv(inputs, outputs, kernel=1, relu=relu))


def squeeze_excitation(channels: int) -> nn.Module:
    """Build a squeeze-and-excitation block, which weights the channels (Hu et al. 2018, arXiv:1709.01507)."""
    weighting: nn.Module = SqueezeExcitation(channels, max(channels // 16, 8), scale_activation=nn.Hardsigmoid)
    return weighting


class SelfAttention(nn.Module):
    """Adds to each place of a feature map what attention over all places finds (Vaswani et al. 2017, arXiv:1706.03762).

    There is no position embedding: the convolutions before it have seen the borders.

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
        """Return the sum of features, [B, C, H, W], and their attention."""
        batch, channels, height, width = features.shape
        heads = self.qkv(self.norm(features)).reshape(batch, 3, self.num_heads, HEAD_DIM, height * width)
        query, key, value = heads.transpose(-1, -2).unbind(1)
        found = functional.scaled_dot_product_attention(query, key, value)
        joined = found.transpose(-1, -2).reshape(batch, channels, height, width)
        summed: Tensor = features + self.project(joined)
        return summed


class Head(nn.Sequential):
    """Global average pooling, dropout and one linear layer."""

    def __init__(self, channels: int, num_classes: int, dropout: float) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels, num_classes))


def drop_path(share: float) -> nn.Module:
    """Drop whole branches of a share of the images (Huang et al. 2016, arXiv:1603.09382)."""
    return StochasticDepth(share, mode="row") if share else nn.Identity()


def zero_gain(branch: nn.Sequential) -> nn.Sequential:
    """Initialize the last batch norm of a branch to 0, so that a deep network starts shallow (arXiv:1706.02677)."""
    norms = [layer for layer in branch if isinstance(layer, nn.BatchNorm2d)]
    nn.init.zeros_(norms[-1].weight)
    return branch


def initialize(network: nn.Module) -> None:
    """Initialize weights so that ReLUs preserve the variance (He et al. 2015, arXiv:1502.01852)."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            # PyTorch counts the outputs of all groups together.
            nn.init.kaiming_normal_(layer.weight, mode="fan_in" if layer.groups > 1 else "fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)


def rising(share: float, number: int) -> list[float]:
    """Return shares for a number of blocks, rising linearly from 0 to `share`."""
    return [share * block / max(number - 1, 1) for block in range(number)]


CHANNELS = (32, 64, 128, 256)


class PlainBlock(nn.Module):
    """Convolutions at one size, then the size halved by a maximum, then whole channels dropped.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        num_convolutions: of 3x3.
        residual: whether the input is added to what the convolutions give.
        dropout: share of channels dropped.
    """

    def __init__(self, inputs: int, outputs: int, *, num_convolutions: int, residual: bool, dropout: float) -> None:
        super().__init__()
        widths = [inputs, *[outputs] * num_convolutions]
        last = num_convolutions - 1
        self.convolutions = nn.Sequential(
            *(conv(widths[n], outputs, relu=n < last or not residual) for n in range(num_convolutions))
        )
        self.skip = conv(inputs, outputs, kernel=1, relu=False) if residual else None
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """Return [B, D, H/2, W/2] for [B, C, H, W]."""
        found: Tensor = self.convolutions(features)
        if self.skip is not None:
            found = functional.relu(found + self.skip(features))
        dropped: Tensor = self.dropout(self.pool(found))
        return dropped


def plain_network(num_classes: int, *, residual: bool, num_convolutions: int, dropout: float) -> nn.Module:
    """Make a network of four blocks: float32 [B, 3, H, W] -> logits [B, K], for sides of 16 pixels or more."""
    network = nn.Sequential(SizeGuard())
    inputs = 3
    for number, outputs in enumerate(CHANNELS, start=1):
        block = PlainBlock(inputs, outputs, num_convolutions=num_convolutions, residual=residual, dropout=dropout)
        network.add_module(f"block{number}", block)
        inputs = outputs
    network.add_module("head", Head(inputs, num_classes, dropout))
    initialize(network)
    return network


STEM_CHANNELS = 24
STAGES = ((32, 2), (72, 3), (144, 3))
"""Channels and blocks of each stage; a stage begins with stride 2."""

EXPANSION = 4
LAST_CHANNELS = 384


def light_network(num_classes: int, *, width: float, dropout: float) -> nn.Module:
    """Make a network: float32 [B, 3, H, W] -> logits [B, K], for sides of 16 pixels or more.

    Args:
        num_classes: K.
        width: factor of all channel counts; size and cost grow with its square.
        dropout: share of features dropped before the last layer.
    """
    inputs = _channels(STEM_CHANNELS, width)
    network = nn.Sequential(SizeGuard())
    network.add_module("stem", conv(3, inputs, stride=2))
    for number, (channels, num_blocks) in enumerate(STAGES, start=1):
        outputs = _channels(channels, width)
        blocks = nn.Sequential()
        for block in range(num_blocks):
            blocks.append(InvertedResidual(inputs, outputs, stride=1 if block else 2, expand_ratio=EXPANSION))
            inputs = outputs
        network.add_module(f"stage{number}", blocks)
    last = _channels(LAST_CHANNELS, width)
    network.add_module("last", conv(inputs, last, kernel=1))
    network.add_module("head", Head(last, num_classes, dropout))
    initialize(network)
    return network


def _channels(number: int, width: float) -> int:
    """Scale a channel count to the nearest multiple of eight, which processors like."""
    return max(8, round(number * width / 8) * 8)


INTERPOLATE = "interpolate_pos_encoding"


class HubClassifier(nn.Module):
    """Returns the logits of images alone: float32 [B, 3, H, W] -> [B, K].

    Args:
        model: of transformers, for image classification.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._settings: dict[str, Any] = {"return_dict": True}

    def set_input_size(self, img_size: tuple[int, int]) -> None:  # noqa: ARG002 - the forward pass sees it
        """Take images of another size than the network was made for, where its position embeddings can be resized.

        They stay as trained and are interpolated in each pass, which costs next to nothing.
        """
        if INTERPOLATE in inspect.signature(self.model.forward).parameters:
            self._settings[INTERPOLATE] = True

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.model(pixel_values=images, **self._settings).logits
        return logits


Kind = Literal["residual", "dense", "hybrid"]
Attention = Literal["none", "squeeze_excitation", "self_attention"]

NUM_STAGES = 4
BOTTLENECK = 4
"""Channels of a dense layer's first convolution, as a multiple of those that it adds."""

Convolution = Callable[..., nn.Sequential]
Attend = Callable[[int], nn.Module]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and attention, added to their input: [B, C, H, W] -> [B, C, H, W]."""

    def __init__(self, channels: int, *, convolution: Convolution, attend: Attend, dropped: float) -> None:
        super().__init__()
        self.first = convolution(channels, channels)
        self.second = zero_gain(convolution(channels, channels, relu=False))
        self.attention = attend(channels)
        self.drop_path = drop_path(dropped)

    def forward(self, features: Tensor) -> Tensor:
        """Return the rectified sum."""
        branch = self.attention(self.second(self.first(features)))
        return functional.relu(features + self.drop_path(branch))


class HybridBlock(nn.Module):
    """Two dense layers, brought back to the width and weighed by attention, added to their input."""

    def __init__(self, channels: int, *, convolution: Convolution, attend: Attend, dropped: float) -> None:
        super().__init__()
        growth = channels // 2
        self.first = convolution(channels, growth)
        self.second = convolution(channels + growth, growth)
        self.fuse = zero_gain(conv(2 * channels, channels, kernel=1, relu=False))
        self.attention = attend(channels)
        self.drop_path = drop_path(dropped)

    def forward(self, features: Tensor) -> Tensor:
        """Return the rectified sum."""
        dense = torch.cat([features, self.first(features)], dim=1)
        dense = torch.cat([dense, self.second(dense)], dim=1)
        return functional.relu(features + self.drop_path(self.attention(self.fuse(dense))))


class DenseLayer(nn.Module):
    """A convolution across the channels and a 3x3 one, beside the input: [B, C, H, W] -> [B, C + growth, H, W]."""

    def __init__(self, channels: int, growth: int, *, convolution: Convolution, dropped: float) -> None:
        super().__init__()
        self.first = conv(channels, BOTTLENECK * growth, kernel=1)
        self.second = convolution(BOTTLENECK * growth, growth)
        self.drop_path = drop_path(dropped)

    def forward(self, features: Tensor) -> Tensor:
        """Return the input and what was found in it."""
        return torch.cat([features, self.drop_path(self.second(self.first(features)))], dim=1)


def staged_network(
    num_classes: int,
    *,
    kind: Kind,
    width: int,
    depth: int,
    is_separable: bool,
    attention: Attention,
    stochastic_depth: float,
    dropout: float,
) -> nn.Module:
    """Make a network of four stages: float32 [B, 3, H, W] -> logits [B, K], for sides of 16 pixels or more.

    Each stage is half as large as the one before it and twice as wide; it begins with a convolution of stride 2. Then
    come residual blocks (He et al. 2016, arXiv:1512.03385), layers that see all earlier ones of their stage (Huang et
    al. 2017, arXiv:1608.06993), or blocks that are dense inside and residual outside (Zhang et al. 2018,
    arXiv:1802.08797).

    Args:
        num_classes: K.
        kind: what stages are made of.
        width: channels at the end of the first stage.
        depth: blocks in a stage; dense stages have two layers for each.
        is_separable: split the 3x3 convolutions into one for each channel and one across them.
        attention: squeeze-excitation in every block (at the end of dense stages), or self-attention in the last stage.
        stochastic_depth: share of images that the last branch is dropped for; earlier ones are dropped less.
        dropout: share of features dropped before the last layer.
    """
    convolution = separable if is_separable else conv
    shares = rising(stochastic_depth, NUM_STAGES * depth * (2 if kind == "dense" else 1))
    per_stage = len(shares) // NUM_STAGES
    network = nn.Sequential(SizeGuard())
    inputs = 3
    for number in range(NUM_STAGES):
        channels = width * 2**number
        begin = channels // 2 if kind == "dense" else channels
        attend = _attend(attention, last=number == NUM_STAGES - 1)
        dropped = shares[number * per_stage : (number + 1) * per_stage]
        stage = nn.Sequential((conv if number == 0 else convolution)(inputs, begin, stride=2))
        if kind == "dense":
            stage.extend(_dense_layers(begin, channels, dropped, convolution))
            stage.append(attend(channels))
        else:
            block = ResidualBlock if kind == "residual" else HybridBlock
            stage.extend(block(channels, convolution=convolution, attend=attend, dropped=share) for share in dropped)
        network.add_module(f"stage{number + 1}", stage)
        inputs = channels
    network.add_module("head", Head(inputs, num_classes, dropout))
    initialize(network)
    return network


def _dense_layers(begin: int, end: int, dropped: list[float], convolution: Convolution) -> list[nn.Module]:
    """Make layers that take a stage from its first width to its last, in steps as even as whole channels allow."""
    widths = [begin + (end - begin) * step // len(dropped) for step in range(len(dropped) + 1)]
    return [
        DenseLayer(widths[step], widths[step + 1] - widths[step], convolution=convolution, dropped=share)
        for step, share in enumerate(dropped)
    ]


def _attend(attention: Attention, *, last: bool) -> Attend:
    if attention == "squeeze_excitation":
        return squeeze_excitation
    # The cost of self-attention grows with the square of the number of places: only the smallest map has few enough
    # (Srinivas et al. 2021, arXiv:2101.11605).
    if attention == "self_attention" and last:
        return SelfAttention
    return lambda _channels: nn.Identity()
