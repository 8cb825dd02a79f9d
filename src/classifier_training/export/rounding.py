"""Reproduce rounding errors of float64 in integer arithmetic, where they decide which pixel is meant.

Pillow, OpenCV and Python compute positions of pixels in float64. A product such as 3 * (2 / 3) is exactly 2, but in
float64 it is 2 or a number next to it. Where it is rounded down or compared afterwards, the result changes by a whole
pixel. A graph cannot use float64 for this: the WebGPU build of onnxruntime-web has none, and OpenVINO computes it in 32
bits. The rounding error of a quotient follows from the remainder of the division, which is an integer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from classifier_training.export.graph import Tensor

FRACTION_BITS = 52
"""Bits of a float64 after its leading bit."""

STEP_BITS, NUM_STEPS = 10, 4
"""Long division yields this many bits of the quotient a step, so that dividends stay below 2^24: OpenVINO divides in
float32."""

MAX_EXPONENT = 13
"""Quotients of sides lie between 2^-13 and 2^17."""


@dataclass(frozen=True)
class Rounded:
    """The float64 nearest to a fraction of integers.

    It is exactly (numerator + error * 2^(exponent - 52)) / denominator.

    Args:
        numerator: of the fraction, int64 [1].
        denominator: of the fraction, int64 [1].
        exponent: the largest for which 2^exponent <= fraction, int64 [1].
        error: of rounding, times the denominator, in units of the float64's last bit, int64 [1].
    """

    numerator: Tensor
    denominator: Tensor
    exponent: Tensor
    error: Tensor


def quotient(numerator: Tensor, denominator: Tensor) -> Rounded:
    """Return the float64 that `numerator / denominator` gives."""
    exponent = floor_log2(numerator, denominator)
    remainder, _ = divide(numerator, denominator, exponent)
    return Rounded(numerator, denominator, exponent, nearest(remainder, denominator))


def reciprocal(numerator: Tensor, denominator: Tensor) -> Rounded:
    """Return the float64 that `1 / (denominator / numerator)` gives, with both divisions rounded."""
    inner = quotient(denominator, numerator)
    exponent = floor_log2(numerator, denominator)
    remainder, _ = divide(numerator, denominator, exponent)
    # What is missing to the exact result, in units of its last bit: the remainder, less the effect of the inner
    # quotient's error.
    shift = inner.exponent - exponent
    up, down = power_of_two(shift.at_least(0)), power_of_two((-shift).at_least(0))
    unit = denominator * denominator * down
    fraction = remainder * denominator * down - inner.error * numerator * up
    whole = (2 * fraction + 9 * unit) // (2 * unit) - 4
    return Rounded(numerator, denominator, exponent, whole * denominator - remainder)


def compare_product(factor: Tensor, value: Rounded, doubled: Tensor) -> tuple[Tensor, Tensor]:
    """Compare the float64 product `factor * value` with the exact product, where that is a multiple of 1/2.

    Args:
        factor: integers, int64 [n].
        value: the other factor.
        doubled: twice the exact product, int64 [n].

    Returns:
        Flags, int64 [n]: whether the float64 is larger, and whether it is smaller. They mean nothing where the exact
        product is not a multiple of 1/2, or not positive.
    """
    exponent = floor_log2(doubled, doubled.like(np.array([2])))
    is_power = doubled.equals(power_of_two((exponent + 1).at_least(0)))
    deviation = 2 * factor * value.error
    found = []
    # A product halfway between two float64 is rounded to the even one, which is the exact value.
    for signed, spacing in ((deviation, exponent), (-deviation, exponent - is_power)):
        shift = value.exponent - spacing
        coarser = value.denominator * power_of_two((-shift).at_least(0))
        found.append(signed * power_of_two(shift.at_least(0)) > coarser)
    return found[0], found[1]


def floor_log2(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return floor(log2(numerator / denominator)), int64 [n]. All numbers that are compared are exact in float32."""
    powers = 2.0 ** np.arange(2 * MAX_EXPONENT + 5, dtype=np.float32)
    given = numerator.cast(np.float32).reshape(-1, 1) * 2.0**MAX_EXPONENT
    missed = given < denominator.cast(np.float32).reshape(-1, 1) * powers
    return len(powers) - MAX_EXPONENT - 1 - missed.sum(1).reshape(-1)


def power_of_two(exponent: Tensor) -> Tensor:
    """Return 2^exponent, int64, for exponents of 0 to 40."""
    return exponent.graph.number(2 ** np.arange(41)).take(exponent)


def divide(numerator: Tensor, denominator: Tensor, exponent: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Divide `numerator * 2^(52 - exponent)` by `denominator` in steps of a few bits.

    Args:
        numerator: int64 [1].
        denominator: int64 [1].
        exponent: `floor_log2` of their fraction, int64 [1].

    Returns:
        The remainder, int64 [1], and the dividend of each step.
    """
    remainder = numerator * power_of_two((-exponent).at_least(0)) % denominator
    dividends = []
    for step in range(NUM_STEPS + 1):
        dividends.append(remainder * (1 << STEP_BITS if step < NUM_STEPS else last_shift(exponent)))
        remainder = dividends[-1] % denominator
    return remainder, dividends


def last_shift(exponent: Tensor) -> Tensor:
    """Return the factor of the remainder in the last step of `divide`, a power of two: int64 [1]."""
    return power_of_two(FRACTION_BITS - NUM_STEPS * STEP_BITS - exponent.at_least(0))


def nearest(remainder: Tensor, denominator: Tensor) -> Tensor:
    """Return what rounding to nearest adds to a quotient with this remainder, times the denominator: int64 [1]."""
    return (2 * remainder > denominator) * denominator - remainder


def pillow_borders(size: Tensor, count: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return whether Pillow's box filter includes a source pixel whose centre lies exactly on a border of the box.

    In exact arithmetic the upper border is included and the lower one is not. In float64 the centre of the box, its
    borders and the reciprocal of the scale are each rounded. Their deviations are computed in units of half the last
    bit of the scale.

    Args:
        size: length of the side in source pixels, int64 [1].
        count: length after resizing in pixels, int64 [1].
        outputs: indices of output pixels, int64 [n].

    Returns:
        Flags for the lower and the upper border, int64 [n]. They mean nothing where no centre lies on the border.
    """
    scale, inverse, shrinks = quotient(size, count), reciprocal(count, size), size > count
    outputs = outputs.at_least(0)
    odd = 2 * outputs + 1
    rounding = _round_middle(odd, scale)

    scale_error = _as_float(scale.error) / _as_float(count)
    ratio = _as_float(size) / _as_float(count)
    inverse_error = ratio * _as_float(inverse.error) / _as_float(count) * _scaled(inverse.exponent - scale.exponent)
    mantissa = ratio * _scaled(-1 - scale.exponent)
    bounds = []
    deviations = []
    for edge in (outputs, outputs + 1):
        moved = shrinks.choose(2 * edge, odd) * scale.error // count
        deviations.append(-_as_float(moved + rounding))
        bounds.append(_scaled(floor_log2(edge * size, count) - scale.exponent))
    lower = bounds[0].at_least(mantissa * 0.5 + inverse_error + scale_error) * _as_float(shrinks)
    upper = bounds[1].at_most(mantissa - inverse_error - scale_error) * _as_float(shrinks)
    return deviations[0] > lower, 1 - (deviations[1] > upper)


def _round_middle(odd: Tensor, scale: Rounded) -> Tensor:
    """Return the rounding error of `odd * scale / 2` in float64, int64 [n], in units of half the scale's last bit.

    Args:
        odd: 2 * output + 1, int64 [n].
        scale: source pixels in an output pixel.
    """
    size, count = scale.numerator, scale.denominator
    remainder, dividends = divide(size, count, scale.exponent)
    last_bits = dividends[-2] // count * last_shift(scale.exponent) + dividends[-1] // count
    # Only the low bits of the scale matter: the product has as many more bits than the scale as `odd` has.
    num_bits = floor_log2(count, count.like(np.array([1]))) + 3
    last_bits = (last_bits + (2 * remainder > count)) % power_of_two(num_bits)
    exponent = floor_log2(odd * size, 2 * count)
    is_power = (odd * size).equals(count * power_of_two((exponent + 1).at_least(0)))
    # Below a power of two the spacing of float64 is half as large.
    step = power_of_two((exponent - is_power * (scale.error < 0) - scale.exponent + 1).at_least(0))
    product = odd * last_bits
    excess, is_odd = product % step, product // step % 2
    return (2 * excess + is_odd > step) * step - excess


def _as_float(tensor: Tensor) -> Tensor:
    return tensor.cast(np.float32)


def _scaled(exponent: Tensor) -> Tensor:
    """Return 2^exponent as float32, for exponents of -40 to 40."""
    powers = 2.0 ** np.arange(-40, 41)
    return exponent.graph.number(powers, np.float32).take(exponent + 40)
