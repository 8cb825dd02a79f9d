"""Local binary patterns, uniform and independent of rotation (Ojala et al. 2002, doi:10.1109/TPAMI.2002.1017623).

The codes are those of scikit-image's `local_binary_pattern(…, method="uniform")` on Pillow's grey. Neighbours between
pixels are weighted by whole numbers, so that comparing them with the centre is exact, and the same in every runtime.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

WEIGHT_SCALE = 2**16
"""Weights of the four pixels around a neighbour are whole numbers over this: 255 times it is still exact."""

GREY = (19595, 38470, 7471)
"""Pillow's weights of red, green and blue, over 65536."""


class LocalBinaryPatterns(nn.Module):
    """float32 [B, 3, H, W], whole numbers of 0..255 -> float32 [B, (points + 2) * grid**2], shares of each code.

    Args:
        points: neighbours on the circle.
        radius: of the circle in pixels.
        grid: regions a side, each with a histogram of its own.
    """

    are_shares = True
    _codes: Tensor

    def __init__(self, *, points: int, radius: float, grid: int) -> None:
        super().__init__()
        self.unit = points + 2
        self._grid = grid
        self._margin = math.ceil(radius)
        self._neighbours = [_corners(number, points, radius) for number in range(points)]
        self.register_buffer("_codes", torch.arange(points + 2).float().view(1, -1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Describe images.

        Raises:
            ValueError: when they are smaller than the grid.
        """
        codes = self.codes(grey(pixels))
        return region_shares((codes == self._codes).float(), self._grid).flatten(1)

    def codes(self, greys: Tensor) -> Tensor:
        """Return the code of each pixel of 0..points + 1, [B, 1, H, W] like the grey levels; beyond the edge is 0."""
        height, width = greys.shape[-2:]
        padded = functional.pad(greys, [self._margin] * 4)
        signs = []
        for corners in self._neighbours:
            total = -WEIGHT_SCALE * greys
            for down, across, weight in corners:
                top, left = self._margin + down, self._margin + across
                total = total + weight * padded[..., top : top + height, left : left + width]
            signs.append((total >= 0).float())
        bits = torch.cat(signs, dim=1)
        num_changes = (bits[:, 1:] - bits[:, :-1]).abs().sum(dim=1, keepdim=True)
        return torch.where(num_changes <= 2, bits.sum(dim=1, keepdim=True), float(len(signs) + 1))


def grey(pixels: Tensor) -> Tensor:
    """Return Pillow's grey: [B, 3, H, W] -> [B, 1, H, W], whole numbers of 0..255."""
    red, green, blue = (pixels[:, channel : channel + 1] * weight for channel, weight in enumerate(GREY))
    return torch.floor((red + green + blue + 32768) / 65536)


def region_shares(values: Tensor, grid: int) -> Tensor:
    """Average over regions of equal size: [B, C, H, W] -> [B, C, grid, grid]; pixels left over are cut off.

    Raises:
        ValueError: when there are more regions than pixels.
    """
    height, width = values.shape[-2] // grid, values.shape[-1] // grid
    if min(height, width) < 1:
        raise ValueError(f"a grid of {grid} regions a side needs as many pixels")
    whole = values[..., : height * grid, : width * grid]
    parts = torch.unflatten(torch.unflatten(whole, -1, (grid, width)), -3, (grid, height))
    return parts.sum(dim=(-3, -1)) / (height * width)


def _corners(number: int, points: int, radius: float) -> list[tuple[int, int, int]]:
    """Return row, column and weight of the pixels that a neighbour is interpolated from; the weights add up."""
    angle = 2 * math.pi * number / points
    # Five decimals, as scikit-image rounds: a neighbour that is meant to be a pixel then is one.
    down, across = round(-radius * math.sin(angle), 5), round(radius * math.cos(angle), 5)
    top, left = math.floor(down), math.floor(across)
    low, right = down - top, across - left
    shares = [
        (top, left, (1 - low) * (1 - right)),
        (top, left + 1, (1 - low) * right),
        (top + 1, left, low * (1 - right)),
        (top + 1, left + 1, low * right),
    ]
    weights = [(row, column, round(WEIGHT_SCALE * share)) for row, column, share in shares if share > 0]
    largest = max(range(len(weights)), key=lambda place: weights[place][2])
    row, column, weight = weights[largest]
    weights[largest] = row, column, weight + WEIGHT_SCALE - sum(other for _, _, other in weights)
    return weights
