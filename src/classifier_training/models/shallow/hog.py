"""Histograms of oriented gradients (Dalal and Triggs 2005, "Histograms of Oriented Gradients for Human Detection").

The values are those of scikit-image's `hog` with L2-Hys and the colour channel of the steepest gradient. Sums are of
whole numbers below 2**24, or have a fixed order, so every runtime that keeps to IEEE arithmetic gives the same bits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

CLIP = 0.2
"""Largest share of one bin in its block, before the block is normalised again."""

EPSILON = 1e-5
"""Least length of a block."""

MAX_GRADIENT = 255 * math.sqrt(2)
EXACT = 2**24
"""Whole numbers up to this one are exact in float32, and so are their sums, in any order."""

DIRECTION_SCALE = 2**15
"""Directions are whole numbers over this, so that comparing with them is exact too."""


class HistogramOfGradients(nn.Module):
    """float32 [B, 3, H, W], whole numbers of 0..255 -> float32 [B, D], blocks by row and column.

    Args:
        orientations: bins of half a turn.
        cell_size: side of a cell in pixels.
        block_size: side of a block in cells.
    """

    are_shares = False
    _cosines: Tensor
    _sines: Tensor

    def __init__(self, *, orientations: int, cell_size: int, block_size: int) -> None:
        super().__init__()
        self.unit = orientations * block_size**2
        self._cell = cell_size
        self._block = block_size
        angles = [math.pi * number / orientations for number in range(1, orientations)]
        cosines = torch.tensor([round(DIRECTION_SCALE * math.cos(angle)) for angle in angles])
        sines = torch.tensor([round(DIRECTION_SCALE * math.sin(angle)) for angle in angles])
        self.register_buffer("_cosines", cosines.float().view(1, -1, 1, 1), persistent=False)
        self.register_buffer("_sines", sines.float().view(1, -1, 1, 1), persistent=False)
        # Fractions of a grey level that a cell's sum of gradients has room for.
        self._fractions = 2 ** math.floor(math.log2(EXACT / (MAX_GRADIENT * cell_size**2)))

    def forward(self, pixels: Tensor) -> Tensor:
        """Describe images.

        Raises:
            ValueError: when they are smaller than a block.
        """
        height, width = pixels.shape[-2] // self._cell, pixels.shape[-1] // self._cell
        if min(height, width) < self._block:
            raise ValueError(f"a block of the gradient histograms is {self._block * self._cell} pixels wide")
        cells = self._cells(*_steepest(pixels)) / (self._fractions * self._cell**2)
        rows, columns = height - self._block + 1, width - self._block + 1
        corners = [(row, column) for row in range(self._block) for column in range(self._block)]
        blocks = torch.stack([cells[:, :, y : y + rows, x : x + columns] for y, x in corners], dim=1)
        clipped = (blocks / _lengths(blocks)).clamp(max=CLIP)
        return (clipped / _lengths(clipped)).permute(0, 3, 4, 1, 2).flatten(1)

    def _cells(self, across: Tensor, down: Tensor, squares: Tensor) -> Tensor:
        """Sum the gradients of each cell and direction, in fractions of a grey level: [B, orientations, h, w]."""
        lengths = torch.floor(exact_sqrt(squares) * self._fractions + 0.5)
        is_reached = down * self._cosines - across * self._sines >= 0
        beyond = cell_sums(lengths * is_reached, self._cell)
        whole = cell_sums(lengths, self._cell)
        # A gradient counts for the last of the directions that it has reached.
        return torch.cat([whole, beyond], dim=1) - torch.cat([beyond, torch.zeros_like(whole)], dim=1)


def _steepest(pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the steepest channel's gradient, turned into the upper half plane, and its square: [B, 1, H, W] each."""
    across = functional.pad(pixels[..., 2:] - pixels[..., :-2], (1, 1, 0, 0))
    down = functional.pad(pixels[..., 2:, :] - pixels[..., :-2, :], (0, 0, 1, 1))
    squares = across * across + down * down
    chosen = across[:, :1], down[:, :1], squares[:, :1]
    for channel in range(1, 3):
        here = slice(channel, channel + 1)
        is_steeper = squares[:, here] > chosen[2]
        others = across[:, here], down[:, here], squares[:, here]
        first, second, third = (torch.where(is_steeper, *pair) for pair in zip(others, chosen, strict=True))
        chosen = first, second, third
    across, down, square = chosen
    is_below = (down < 0) | ((down == 0) & (across < 0))
    return torch.where(is_below, -across, across), torch.where(is_below, -down, down), square


def _lengths(blocks: Tensor) -> Tensor:
    """Return each block's length over its cells and bins, [B, 1, 1, h, w], summed in a fixed order."""
    squares = blocks * blocks
    by_bin = squares[:, 0]
    for cell in range(1, squares.shape[1]):
        by_bin = by_bin + squares[:, cell]
    total = by_bin[:, 0]
    for number in range(1, by_bin.shape[1]):
        total = total + by_bin[:, number]
    # Not added: the exporter takes so small a number for 0.
    return exact_sqrt(total.clamp(min=EPSILON**2))[:, None, None]


def exact_sqrt(values: Tensor) -> Tensor:
    """Return the float32 nearest to each root, as IEEE 754 and every ONNX runtime have it.

    PyTorch's own may be a bit off where Intel's vector library computes it; a root in float64 is not, once rounded.
    """
    return torch.sqrt(values) if torch.compiler.is_exporting() else torch.sqrt(values.double()).float()


def cell_sums(values: Tensor, size: int) -> Tensor:
    """Sum squares of `size` pixels: [B, C, H, W] -> [B, C, H // size, W // size]; what is left over is cut off."""
    height, width = values.shape[-2] // size, values.shape[-1] // size
    whole = values[..., : height * size, : width * size]
    return torch.unflatten(torch.unflatten(whole, -1, (width, size)), -3, (height, size)).sum(dim=(-3, -1))
