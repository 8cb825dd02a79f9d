"""A plain stack of convolutions, with or without skips around its blocks."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

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
