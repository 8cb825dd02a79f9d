"""Which source pixels an output pixel is made of, and their weights, in the operators of an ONNX graph.

All positions are whole numbers: pixel p of `size` lies under pixel o of `count` at (2p + 1) * count - (2o + 1) * size
half steps. Float64, in which Pillow and OpenCV compute, is not had everywhere; see `rounding.py`.
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
"""Of the fraction in Pillow's fixed-point weights."""

LOW_BITS = 7
"""Of a weight that are added up on their own: sums of 8-bit pixels times the upper and the lower part each stay below
2^24, so float32 holds them exactly, for up to a thousand taps."""

BLOCK = 4
"""Output pixels that share the source pixels they are gathered from; measured: fewer copies against more products."""

MAX_CORRECTION, CORRECTION_OFFSET = 8, 1 << 6
"""Of a weight that was computed in float32, in units of its last bit; 4 was the largest needed."""

SUPPORT = {"area": 1, "bilinear": 2, "bicubic": 4}
"""How far a kernel reaches to both sides together, in output pixels."""

FRACTION_BITS = 11
"""Of a weight between two neighbours, where OpenCV enlarges."""


@dataclass(frozen=True)
class Axis:
    """One side of a picture.

    Args:
        size: source pixels, int64 [1].
        count: pixels after resizing, int64 [1].
        first: number of the first of them that is wanted, int64 [1]; below zero are those of the padding.
        target: how many are wanted.
        padded: whether some of the wanted ones may lie outside.
    """

    size: Tensor
    count: Tensor
    first: Tensor
    target: int
    padded: bool

    @property
    def graph(self) -> GraphBuilder:
        """That the tensors belong to."""
        return self.size.graph

    def outputs(self, number: int) -> Tensor:
        """Return the numbers of the first few wanted pixels, int64 [number]."""
        return self.first + np.arange(number)

    def inside(self, outputs: Tensor) -> Tensor | None:
        """Return flags of the output pixels that are no padding; None if all are none."""
        return (outputs > -1) * (outputs < self.count) if self.padded else None


class PillowTaps(NamedTuple):
    """Taps of blocks of output pixels.

    Args:
        indices: int64 [blocks, taps].
        weights: the upper parts for each output pixel of a block, then the lower ones as fractions,
            float32 [blocks, 2 * BLOCK, taps].
    """

    indices: Tensor
    weights: Tensor


def pillow_taps(axis: Axis, kernel: Kernel) -> PillowTaps:
    """Return Pillow's fixed-point weights along one side."""
    size, count = axis.size, axis.count
    num_blocks = -(-axis.target // BLOCK)
    outputs = axis.outputs(num_blocks * BLOCK).reshape(num_blocks, BLOCK)
    # Where a picture shrinks, the kernel reaches over all pixels that become one.
    reach = size.at_least(count)
    half = SUPPORT[kernel] * reach
    begins = outputs.slice(0, 1, axis=1)
    # The first pixel whose middle is not below the kernel's reach.
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
    # Both parts may be negative; a quotient is rounded down above zero alone.
    upper = (weights + ((1 << LOW_BITS - 1) + (1 << PRECISION_BITS + 1))) // (1 << LOW_BITS)
    upper = upper - (1 << PRECISION_BITS + 1 - LOW_BITS)
    lower = weights - upper * (1 << LOW_BITS)
    parts = [upper.cast(np.float32), lower.cast(np.float32) * 2.0**-LOW_BITS]
    indices = positions.at_most(size - 1).reshape(-1, num_blocks).transpose(1, 0)
    return PillowTaps(indices, concatenate(parts, axis=2).transpose(1, 2, 0))


def _normalized(exact: Tensor, close: Tensor) -> Tensor:
    """Divide numbers, int64 [taps, blocks, BLOCK], by their sum, to fixed-point weights.

    The quotient times 2^22 is beyond 64 bits. It is computed in float32, and what that lacks is a small number which
    whole numbers give exactly, even where they overflow on the way. OpenVINO has 32 bits; what it finds instead is not
    near the offset and is left out.
    """
    total = exact.sum(0).at_least(1)
    weights = (close / close.sum(0).at_least(1e-30) * 2.0**PRECISION_BITS).round().cast(np.int64)
    lacking = exact * (1 << PRECISION_BITS + 1) + total - 2 * total * weights
    correction = (lacking + 2 * total * CORRECTION_OFFSET) // (2 * total) - CORRECTION_OFFSET
    return weights + correction * (abs(correction) < MAX_CORRECTION + 1)


def _kernel(axis: Axis, kernel: Kernel, outputs: Tensor, offsets: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights before they are normalised: exact in one scale, and close to them in another.

    Args:
        axis: the side.
        kernel: whose weights.
        outputs: numbers of output pixels, int64 [blocks, BLOCK].
        offsets: of source pixels from them, int64 [taps, blocks, BLOCK].
        unit: the offset that is one output pixel, or where the picture grows one source pixel; int64 [1].

    Returns:
        int64 and float32 [taps, blocks, BLOCK].
    """
    distance = abs(offsets)
    if kernel == "bilinear":
        exact = (unit - distance).at_least(0)
        return exact, exact.cast(np.float32)
    if kernel == "bicubic":
        # Keys 1981, "Cubic convolution interpolation", with a = -0.5: a cubic to 2, and another one added up to 1.
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
    """Taps of INTER_AREA along one side.

    Args:
        indices: int64 [taps, target].
        weights: float32 [taps, target]: shares of one; where sides are divisible, ones; and where OpenCV goes over to
            two neighbours, 11-bit numbers times the unit that was asked for.
    """

    indices: Tensor
    weights: Tensor


def opencv_taps(axis: Axis, *, divisible: Tensor, grows: Tensor, unit: float) -> OpencvTaps:
    """Return the source pixels and weights of OpenCV's INTER_AREA along one side.

    Args:
        axis: the side.
        divisible: flag, whether both source sides are multiples of the output's: OpenCV adds up and divides once.
        grows: flag, whether any side grows: OpenCV then interpolates between two neighbours.
        unit: of the neighbours' weights, a power of two.
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
    # OpenCV leaves out what covers no more than a thousandth of a pixel.
    overlap = overlap * (overlap * 1000 > count)
    shares = overlap.cast(np.float32) / divisible.choose(count, size).cast(np.float32)

    # The fraction between two neighbours keeps whole pixels flat.
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
