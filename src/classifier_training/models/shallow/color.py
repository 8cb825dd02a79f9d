"""Colour histograms (Swain and Ballard 1991, "Color Indexing"), one of each channel and region.

Bins are found by comparing whole numbers, so every runtime finds the same ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from classifier_training.models.shallow.lbp import region_shares

if TYPE_CHECKING:
    from typing import Literal


class ColorHistograms(nn.Module):
    """float32 [B, 3, H, W], whole numbers of 0..255 -> float32 [B, 3 * bins * grid**2], shares of each bin.

    Args:
        space: rgb, or hsv: hue, saturation (of 0..1) and value.
        bins: of each channel, equally wide.
        grid: regions a side, each with histograms of its own.
    """

    are_shares = True
    _edges: Tensor

    def __init__(self, *, space: Literal["rgb", "hsv"], bins: int, grid: int) -> None:
        super().__init__()
        self._space = space
        self.unit = bins
        self._grid = grid
        self.register_buffer("_edges", torch.arange(1, bins).float().view(1, -1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Describe images.

        Raises:
            ValueError: when they are smaller than the grid.
        """
        channels = _hsv(pixels) if self._space == "hsv" else _rgb(pixels)
        return torch.cat([self._histogram(value, span).flatten(1) for value, span in channels], dim=1)

    def _histogram(self, value: Tensor, span: Tensor) -> Tensor:
        """Count values of 0..span, [B, 1, H, W] both."""
        is_reached = (value * self.unit >= span * self._edges).float()
        beyond = region_shares(is_reached, self._grid)
        whole = torch.ones_like(beyond[:, :1])
        # A pixel counts for the last bin whose edge it has reached.
        return torch.cat([whole, beyond], dim=1) - torch.cat([beyond, torch.zeros_like(whole)], dim=1)


def _rgb(pixels: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(part, torch.full_like(part, 256)) for part in torch.split(pixels, 1, dim=1)]


def _hsv(pixels: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return hue, saturation and value as fractions: numerators and denominators, whole numbers."""
    red, green, blue = torch.split(pixels, 1, dim=1)
    largest = torch.maximum(torch.maximum(red, green), blue)
    spread = largest - torch.minimum(torch.minimum(red, green), blue)
    sixths = torch.where(
        largest == red,
        green - blue + 6 * spread * (green < blue),
        torch.where(largest == green, blue - red + 2 * spread, red - green + 4 * spread),
    )
    return [(sixths, 6 * spread.clamp(min=1)), (spread, largest.clamp(min=1)), (largest, torch.full_like(red, 256))]
