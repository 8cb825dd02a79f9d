"""Source pixels ("taps") of each output pixel and their weights, computed by ONNX operators from the image's size.

Positions are integers. The centre of source pixel p of `size` is at (2p + 1) / (2 * size) of the side, that of output
pixel o of `count` at (2o + 1) / (2 * count); their distance is (2p + 1) * count - (2o + 1) * size in units of
1 / (2 * size * count) of the side. Pillow and OpenCV compute in float64, which some runtimes lack; `rounding.py`
finds where its rounding matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from classifier_training.export.graph import concatenate, count_up
from classifier_training.export.rounding import compare_product, pillow_borders, reciprocal

if TYPE_CHECKING:
    from classifier_training.core.preprocess import Kernel
    from classifier_training.export.graph import GraphBuilder, Tensor

PRECISION_BITS = 22
"""Bits of the fraction in Pillow's fixed-point weights."""

LOW_BITS = 7
"""Low bits of a weight, which are summed separately: sums of 8-bit pixels times the upper or the lower part stay below
2^24 for up to a thousand taps, so float32 holds them exactly."""

BLOCK = 4
"""Output pixels that share one set of gathered source pixels. Larger blocks copy less and multiply more; 4 was
fastest."""

MAX_CORRECTION, CORRECTION_OFFSET = 8, 1 << 6
"""Largest correction of a weight that was computed in float32, in units of its last bit (the largest seen is 4), and
the offset that keeps the dividend positive."""

SUPPORT = {"area": 1, "bilinear": 2, "bicubic": 4}
"""Width of a kernel in output pixels; in source pixels where the image grows."""

FRACTION_BITS = 11
"""Bits of the fraction in OpenCV's fixed-point weights of linear interpolation."""


@dataclass(frozen=True)
class Axis:
    """One side of an image: its rows or its columns.

    Args:
        size: length of the side in source pixels, int64 [1].
        count: length after resizing in pixels, int64 [1].
        first: index of the first resized pixel in the output, int64 [1]; negative where the output begins with padding.
        target: length of the output in pixels.
        padded: whether the output may have padding.
    """

    size: Tensor
    count: Tensor
    first: Tensor
    target: int
    padded: bool

    @property
    def graph(self) -> GraphBuilder:
        """The graph that the tensors belong to."""
        return self.size.graph

    def outputs(self, number: int) -> Tensor:
        """Return the indices, among the resized pixels, of the first pixels of the output: int64 [number]."""
        return self.first + np.arange(number)

    def inside(self, outputs: Tensor) -> Tensor | None:
        """Return flags of the pixels that are not padding, in the shape of `outputs`; None if there is no padding."""
        return (outputs > -1) * (outputs < self.count) if self.padded else None


class PillowTaps(NamedTuple):
    """Taps of Pillow's kernels, for blocks of BLOCK output pixels.

    Args:
        indices: source pixels of each block, int64 [blocks, taps].
        weights: float32 [blocks, 2 * BLOCK, taps]. The first BLOCK rows are the upper parts of the weights of each
            output pixel, in units of 2^LOW_BITS; the others the lower parts in the same unit, as fractions.
    """

    indices: Tensor
    weights: Tensor


def pillow_taps(axis: Axis, kernel: Kernel) -> PillowTaps:
    """Return Pillow's taps along one side; padding has weights of zero."""
    size, count = axis.size, axis.count
    num_blocks = -(-axis.target // BLOCK)
    outputs = axis.outputs(num_blocks * BLOCK).reshape(num_blocks, BLOCK)
    # Where the image shrinks, the kernel is as many times wider.
    reach = size.at_least(count)
    half = SUPPORT[kernel] * reach
    begins = outputs.slice(0, 1, axis=1)
    # The first source pixel whose centre lies within the kernel.
    start = ((2 * begins + 1) * size - half + count - 1).at_least(0) // (2 * count)
    width = ((BLOCK - 1) * size + half + count - 1) // count + 1
    positions = start + count_up(width).reshape(-1, 1, 1)

    offsets = (2 * positions + 1) * count - (2 * outputs + 1) * size
    exact, close = _kernel(axis, kernel, outputs, offsets, 2 * reach)
    present = positions < size
    inside = axis.inside(outputs)
    if inside is not None:
        present = present * inside
    weights = _normalized(exact * present, close * present.cast(np.float32))
    # Both parts may be negative, but `//` rounds down for dividends >= 0 only, so an offset is added first.
    upper = (weights + ((1 << LOW_BITS - 1) + (1 << PRECISION_BITS + 1))) // (1 << LOW_BITS)
    upper = upper - (1 << PRECISION_BITS + 1 - LOW_BITS)
    lower = weights - upper * (1 << LOW_BITS)
    parts = [upper.cast(np.float32), lower.cast(np.float32) * 2.0**-LOW_BITS]
    indices = positions.at_most(size - 1).reshape(-1, num_blocks).transpose(1, 0)
    return PillowTaps(indices, concatenate(parts, axis=2).transpose(1, 2, 0))


def _normalized(exact: Tensor, close: Tensor) -> Tensor:
    """Divide weights by their sum over the taps, and round them to PRECISION_BITS as Pillow does.

    The exact product with 2^22 does not fit into 64 bits. So the weights are computed in float32 and corrected: the
    remaining difference is small, and integer arithmetic gives it exactly even if it overflows on the way. OpenVINO
    computes integers in 32 bits; its corrections are then too large to be true and are left out.

    Args:
        exact: weights before normalization, int64 [taps, blocks, BLOCK].
        close: the same in float32, in any scale.

    Returns:
        Fixed-point weights, int64 [taps, blocks, BLOCK]; their sum over the taps is about 2^PRECISION_BITS.
    """
    total = exact.sum(0).at_least(1)
    weights = (close / close.sum(0).at_least(1e-30) * 2.0**PRECISION_BITS).round().cast(np.int64)
    lacking = exact * (1 << PRECISION_BITS + 1) + total - 2 * total * weights
    correction = (lacking + 2 * total * CORRECTION_OFFSET) // (2 * total) - CORRECTION_OFFSET
    return weights + correction * (abs(correction) < MAX_CORRECTION + 1)


def _kernel(axis: Axis, kernel: Kernel, outputs: Tensor, offsets: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    """Return a kernel's weights before normalization, as exact integers and approximately in float32.

    Args:
        axis: the side.
        kernel: the kernel.
        outputs: indices of output pixels, int64 [blocks, BLOCK].
        offsets: distances of source pixels from output pixels, int64 [taps, blocks, BLOCK].
        unit: the distance of one output pixel, or of one source pixel where the image grows; int64 [1].

    Returns:
        int64 and float32 [taps, blocks, BLOCK], each in a scale of its own.
    """
    distance = abs(offsets)
    if kernel == "bilinear":
        exact = (unit - distance).at_least(0)
        return exact, exact.cast(np.float32)
    if kernel == "bicubic":
        # Keys 1981, "Cubic convolution interpolation", with a = -0.5: one cubic for distances up to 2, and another one
        # that is added to it up to 1.
        near, far = (unit - distance).at_least(0), (2 * unit - distance).at_least(0)
        exact = far * far * (unit - distance) - 2 * near * near * (unit - 2 * distance)
        x = distance.cast(np.float32) / unit.cast(np.float32)
        near, far = (1.0 - x).at_least(0.0), (2.0 - x).at_least(0.0)
        return exact, 0.5 * far * far * (1.0 - x) - near * near * (1.0 - 2.0 * x)
    borders = pillow_borders(axis.size, axis.count, outputs.reshape(-1))
    lower, upper = (border.reshape(-1, BLOCK) for border in borders)
    exact = (2 * offsets + lower > -unit) * (2 * offsets < unit + upper)
    return exact, exact.cast(np.float32)


class OpencvTaps(NamedTuple):
    """Taps of OpenCV's INTER_AREA along one side.

    Args:
        indices: source pixels of each output pixel, int64 [taps, target].
        weights: float32 [taps, target]. Shares that sum to 1; ones where both sides are divisible; and where OpenCV
            interpolates between two neighbours, 11-bit integers times `unit` of `opencv_taps`.
    """

    indices: Tensor
    weights: Tensor


def opencv_taps(axis: Axis, *, divisible: Tensor, grows: Tensor, unit: float) -> OpencvTaps:
    """Return the source pixels and weights of OpenCV's INTER_AREA along one side.

    Args:
        axis: the side.
        divisible: flag, int64 [1]: whether both source sides are multiples of the output's; OpenCV then sums the pixels
            and divides once.
        grows: flag, int64 [1]: whether a side grows; OpenCV then interpolates between two neighbours.
        unit: what the integer weights of neighbours are multiplied by, a power of two.
    """
    size, count = axis.size, axis.count
    outputs = axis.outputs(axis.target)
    start = (outputs * size).at_least(0) // count
    _, below = compare_product(outputs, reciprocal(size, count), 2 * start)
    meets = (start * count).equals(outputs * size) * (start > 0)
    start = start - below * meets * grows
    taps = count_up((size + count - 1) // count + 1).reshape(-1, 1)
    positions = start + taps

    overlap = ((positions + 1) * count).at_most((outputs + 1) * size) - (positions * count).at_least(outputs * size)
    # OpenCV ignores pixels of which no more than a thousandth is covered.
    overlap = overlap * (overlap * 1000 > count)
    shares = overlap.cast(np.float32) / divisible.choose(count, size).cast(np.float32)

    # Where an output pixel lies within one source pixel the fraction is zero.
    ahead = ((outputs + 1) * size - (start + 1) * count).at_least(0) * (start < size - 1)
    fraction = ahead.cast(np.float32) / size.cast(np.float32)
    fraction = fraction - fraction.floor()
    second = (fraction * 2.0**FRACTION_BITS).round()
    first = ((1.0 - fraction) * 2.0**FRACTION_BITS).round()
    between = first * taps.equals(0).cast(np.float32) + second * taps.equals(1).cast(np.float32)

    enlarges = grows.cast(np.float32)
    weights = between * (enlarges * unit) + shares * (1.0 - enlarges)
    inside = axis.inside(outputs)
    if inside is not None:
        weights = weights * inside.cast(np.float32)
    return OpencvTaps(positions.at_least(0).at_most(size - 1), weights)
