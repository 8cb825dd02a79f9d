"""Networks of plain convolutions, and the shell that a network of the Hugging Face Hub is wrapped in."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.mobilenetv2 import InvertedResidual

from classifier_training.models.nets.layers import Head, SizeGuard, conv, initialise

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
        """Answer [B, C, H, W] with [B, D, H/2, W/2]."""
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
    initialise(network)
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
    initialise(network)
    return network


def _channels(number: int, width: float) -> int:
    """Scale a channel count to the nearest multiple of eight, which processors like."""
    return max(8, round(number * width / 8) * 8)


INTERPOLATE = "interpolate_pos_encoding"


class HubClassifier(nn.Module):
    """Answers images with logits alone: float32 [B, 3, H, W] -> [B, K].

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
