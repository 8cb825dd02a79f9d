"""Networks of four stages, each half as large as the one before it and twice as wide.

A stage begins with a convolution of stride 2. What follows differs: residual blocks (He et al. 2016,
arXiv:1512.03385), layers that see all earlier ones of their stage (Huang et al. 2017, arXiv:1608.06993), or blocks
that are dense inside and residual outside (Zhang et al. 2018, arXiv:1802.08797).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from classifier_training.models.nets.layers import (
    Head,
    SelfAttention,
    SizeGuard,
    conv,
    drop_path,
    initialise,
    rising,
    separable,
    squeeze_excitation,
    zero_gain,
)

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
    """Make a network: float32 [B, 3, H, W] -> logits [B, K], for sides of 16 pixels or more.

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
    initialise(network)
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
