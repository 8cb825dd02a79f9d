"""Which way float64 rounds where exact arithmetic is undecided, computed in whole numbers.

Pillow, OpenCV and Python place pixels in float64: a product such as 3 * (2 / 3) that should be 2 comes out as 2 or as
the number next to it, and what is rounded down or compared afterwards jumps by a whole pixel. A graph with float64 in
it would do the same, but the WebGPU build of onnxruntime-web has no float64 at all, and OpenVINO computes it in 32
bits. The last bit follows from the remainder of the division, and remainders are whole numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from classifier_training.export.graph import Tensor

FRACTION_BITS = 52
"""Of a float64 after its leading bit."""

STEP_BITS, NUM_STEPS = 10, 4
"""A quotient is divided out this many bits at a time, so that numbers stay below 2^24: OpenVINO divides in float32."""

MAX_EXPONENT = 13
"""Of two in a quotient: sides of pictures are at most 2^17 times, and at least a 2^13th of, each other."""


@dataclass(frozen=True)
class Rounded:
    """The float64 next to a fraction of whole numbers: (numerator + error * 2^(exponent - 52)) / denominator.

    Args:
        numerator: int64 [1].
        denominator: int64 [1].
        exponent: of two in the fraction, int64 [1].
        error: int64 [1].
    """

    numerator: Tensor
    denominator: Tensor
    exponent: Tensor
    error: Tensor


def quotient(numerator: Tensor, denominator: Tensor) -> Rounded:
    """Return what `numerator / denominator` is in float64."""
    exponent = floor_log2(numerator, denominator)
    remainder, _ = divide(numerator, denominator, exponent)
    return Rounded(numerator, denominator, exponent, nearest(remainder, denominator))


def reciprocal(numerator: Tensor, denominator: Tensor) -> Rounded:
    """Return what `1 / (denominator / numerator)` is in float64."""
    inner = quotient(denominator, numerator)
    exponent = floor_log2(numerator, denominator)
    remainder, _ = divide(numerator, denominator, exponent)
    # The fraction of the last bit: its remainder, less what the error of the inner quotient makes of it.
    shift = inner.exponent - exponent
    up, down = power_of_two(shift.at_least(0)), power_of_two((-shift).at_least(0))
    unit = denominator * denominator * down
    fraction = remainder * denominator * down - inner.error * numerator * up
    whole = (2 * fraction + 9 * unit) // (2 * unit) - 4
    return Rounded(numerator, denominator, exponent, whole * denominator - remainder)


def compare_product(factor: Tensor, value: Rounded, doubled: Tensor) -> tuple[Tensor, Tensor]:
    """Compare `factor * value` in float64 with what it is exactly, where that is a whole number or a half of one.

    Args:
        factor: whole numbers, int64 [n].
        value: the other factor.
        doubled: twice the exact product, int64 [n].

    Returns:
        Flags: whether the float64 is larger, and whether it is smaller, int64 [n]; without meaning where the product
        is neither, or not positive.
    """
    exponent = floor_log2(doubled, doubled.like(np.array([2])))
    is_power = doubled.equals(power_of_two((exponent + 1).at_least(0)))
    deviation = 2 * factor * value.error
    found = []
    # Halfway between two float64 a product goes to the even one, which the exact value is.
    for signed, spacing in ((deviation, exponent), (-deviation, exponent - is_power)):
        shift = value.exponent - spacing
        coarser = value.denominator * power_of_two((-shift).at_least(0))
        found.append(signed * power_of_two(shift.at_least(0)) > coarser)
    return found[0], found[1]


def floor_log2(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return the exponent of two in a fraction: int64 [n] -> int64 [n]; float32 holds all that is compared."""
    powers = 2.0 ** np.arange(2 * MAX_EXPONENT + 5, dtype=np.float32)
    given = numerator.cast(np.float32).reshape(-1, 1) * 2.0**MAX_EXPONENT
    missed = given < denominator.cast(np.float32).reshape(-1, 1) * powers
    return len(powers) - MAX_EXPONENT - 1 - missed.sum(1).reshape(-1)


def power_of_two(exponent: Tensor) -> Tensor:
    """Return whole powers of two: int64, 0 to 40."""
    return exponent.graph.number(2 ** np.arange(41)).take(exponent)


def divide(numerator: Tensor, denominator: Tensor, exponent: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Divide `numerator * 2^(52 - exponent)` step by step.

    Returns:
        The remainder, and what was divided in each step.
    """
    remainder = numerator * power_of_two((-exponent).at_least(0)) % denominator
    dividends = []
    for step in range(NUM_STEPS + 1):
        dividends.append(remainder * (1 << STEP_BITS if step < NUM_STEPS else last_shift(exponent)))
        remainder = dividends[-1] % denominator
    return remainder, dividends


def last_shift(exponent: Tensor) -> Tensor:
    """Return what the last step of a division multiplies the remainder by."""
    return power_of_two(FRACTION_BITS - NUM_STEPS * STEP_BITS - exponent.at_least(0))


def nearest(remainder: Tensor, denominator: Tensor) -> Tensor:
    """Return what rounding to the nearest adds to a quotient, times its denominator."""
    return (2 * remainder > denominator) * denominator - remainder


def pillow_borders(size: Tensor, count: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Say whether Pillow counts a pixel whose middle lies exactly on the lower or the upper border of an area.

    In exact arithmetic that is so on the upper border. In float64 the middle of the area, its borders and the
    reciprocal of the scale are each rounded. What they deviate is told in halves of the scale's last bit.

    Args:
        size: source pixels, int64 [1].
        count: pixels after resizing, int64 [1].
        outputs: numbers of output pixels, int64 [n].

    Returns:
        Flags for each border, int64 [n]; without meaning where no middle lies there.
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
    """Return what rounding adds to `odd * scale / 2`, int64 [n], in halves of the scale's last bit."""
    size, count = scale.numerator, scale.denominator
    remainder, dividends = divide(size, count, scale.exponent)
    last_bits = dividends[-2] // count * last_shift(scale.exponent) + dividends[-1] // count
    # The product is rounded at most as far above the scale's last bit as it is larger than the scale.
    num_bits = floor_log2(count, count.like(np.array([1]))) + 3
    last_bits = (last_bits + (2 * remainder > count)) % power_of_two(num_bits)
    exponent = floor_log2(odd * size, 2 * count)
    is_power = (odd * size).equals(count * power_of_two((exponent + 1).at_least(0)))
    # Just below a power of two the last bit is half as large.
    step = power_of_two((exponent - is_power * (scale.error < 0) - scale.exponent + 1).at_least(0))
    product = odd * last_bits
    excess, is_odd = product % step, product // step % 2
    return (2 * excess + is_odd > step) * step - excess


def _as_float(tensor: Tensor) -> Tensor:
    return tensor.cast(np.float32)


def _scaled(exponent: Tensor) -> Tensor:
    """Return powers of two as float32, for exponents of -40 to 40."""
    powers = 2.0 ** np.arange(-40, 41)
    return exponent.graph.number(powers, np.float32).take(exponent + 40)
