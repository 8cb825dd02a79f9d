"""Handcrafted features: histograms of oriented gradients, local binary patterns and colour histograms.

Sums are of whole numbers below 2**24, or have a fixed order, and comparisons are of whole numbers. So every runtime
that keeps to IEEE arithmetic gives the same bits. The values are those of scikit-image.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from typing import Literal

CLIP = 0.2
"""Largest share of one bin in its block, before the block is normalized again."""

EPSILON = 1e-5
"""Least length of a block."""

MAX_GRADIENT = 255 * math.sqrt(2)
EXACT = 2**24
"""Whole numbers up to this one are exact in float32, and so are their sums, in any order."""

DIRECTION_SCALE = 2**15
"""Directions are whole numbers over this, so that comparing with them is exact too."""


class HistogramOfGradients(nn.Module):
    """float32 [B, 3, H, W], whole numbers of 0..255 -> float32 [B, D], blocks by row and column.

    Dalal and Triggs 2005, "Histograms of Oriented Gradients for Human Detection". The values are those of
    scikit-image's `hog` with L2-Hys and the colour channel of the steepest gradient.

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


WEIGHT_SCALE = 2**16
"""Weights of the four pixels around a neighbour are whole numbers over this: 255 times it is still exact."""

GREY = (19595, 38470, 7471)
"""Pillow's weights of red, green and blue, over 65536."""


class LocalBinaryPatterns(nn.Module):
    """float32 [B, 3, H, W], whole numbers of 0..255 -> float32 [B, (points + 2) * grid**2], shares of each code.

    Uniform and independent of rotation (Ojala et al. 2002, doi:10.1109/TPAMI.2002.1017623). The codes are those of
    scikit-image's `local_binary_pattern(…, method="uniform")` on Pillow's grey. Neighbours between pixels are weighted
    by whole numbers, so that comparing them with the centre is exact.

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


class ColorHistograms(nn.Module):
    """float32 [B, 3, H, W], whole numbers of 0..255 -> float32 [B, 3 * bins * grid**2], shares of each bin.

    Swain and Ballard 1991, "Color Indexing". Bins are found by comparing whole numbers.

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
