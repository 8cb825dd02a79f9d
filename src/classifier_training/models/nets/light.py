"""A light network of inverted residuals (Sandler et al. 2018, arXiv:1801.04381)."""

from __future__ import annotations

from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual

from classifier_training.models.nets.layers import Head, SizeGuard, conv, initialise

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
    initialise(network)
    return network


def _channels(number: int, width: float) -> int:
    """Scale a channel count to the nearest multiple of eight, which processors like."""
    return max(8, round(number * width / 8) * 8)
