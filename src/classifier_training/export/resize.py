"""What `core/preprocess.py` does in Pillow's and OpenCV's arithmetic, to the bit, in ONNX's standard operators.

Both work on the width first, then on the height. Gathering the few source pixels of each output pixel is several times
cheaper than a product with a whole matrix. Where a picture is cropped only what is left is computed, and the bars of a
letterbox are pixels whose weights are zero, so the result has a fixed shape; there is no branch, which some runtimes
cannot follow, and no float64, which the WebGPU build of onnxruntime-web lacks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from classifier_training.export.rounding import compare_product, quotient
from classifier_training.export.taps import BLOCK, LOW_BITS, PRECISION_BITS, Axis, opencv_taps, pillow_taps

if TYPE_CHECKING:
    from classifier_training.core.preprocess import Kernel, Preprocessing
    from classifier_training.export.graph import GraphBuilder, Tensor

NUM_CHANNELS = 3


def fit(graph: GraphBuilder, image: str, preprocessing: Preprocessing) -> str:
    """Resize, then crop or pad: uint8 [H, W, 3] of any size -> float32 [1, 3, h, w] of whole numbers 0..255."""
    pixels = graph.tensor(image, np.uint8)
    shape = pixels.apply("Shape", dtype=np.int64)
    rows, columns = _place(shape.slice(0, 1), shape.slice(1, 2), preprocessing)
    # Columns first: uint8 [W, 3 * H], so that what is gathered lies together in memory.
    turned = pixels.reshape(0, -1).transpose(1, 0).reshape(columns.size, -1)
    if preprocessing.backend == "pillow":
        narrowed = _resample(turned, columns, preprocessing.kernel)
        fitted = _resample(_turn(narrowed, columns), rows, preprocessing.kernel)
    else:
        fitted = _average(turned, columns, rows)
    height, width = preprocessing.size
    return fitted.reshape(height, width, NUM_CHANNELS).transpose(2, 0, 1).reshape(1, NUM_CHANNELS, height, width).name


def _place(height: Tensor, width: Tensor, preprocessing: Preprocessing) -> tuple[Axis, Axis]:
    """Say where a picture goes, in the arithmetic of `Preprocessing.geometry`."""
    sizes, targets = (height, width), preprocessing.size
    if preprocessing.policy == "squash":
        counts = [size.like(np.array([target])) for size, target in zip(sizes, targets, strict=True)]
        firsts = [size.like(np.array([0])) for size in sizes]
        return _axes(sizes, counts, firsts, targets, padded=False)
    crops = preprocessing.policy == "crop"
    by_height, by_width = targets[0] * width, targets[1] * height
    height_decides = by_height > by_width if crops else by_height < by_width
    wanted = height_decides * targets[0] + (1 - height_decides) * targets[1]
    scale = quotient(wanted, height_decides.choose(height, width))
    counts, firsts = [], []
    for size, target in zip(sizes, targets, strict=True):
        product = size * scale.numerator
        whole, doubled = product // scale.denominator, 2 * product // scale.denominator
        # Half a pixel goes to the even number, unless the product in float64 is off the half.
        above, below = compare_product(size, scale, doubled)
        is_half = (doubled * scale.denominator).equals(2 * product)
        stays = is_half * (1 - above) * (1 - (whole % 2) * (1 - below))
        count = (whole + (doubled - 2 * whole) * (1 - stays)).at_least(target if crops else 1)
        count = count if crops else count.at_most(target)
        counts.append(count)
        firsts.append((count - target) // 2 if crops else -((target - count) // 2))
    return _axes(sizes, counts, firsts, targets, padded=not crops)


def _axes(
    sizes: tuple[Tensor, Tensor], counts: list[Tensor], firsts: list[Tensor], targets: tuple[int, int], *, padded: bool
) -> tuple[Axis, Axis]:
    rows, columns = (
        Axis(size, count, first, target, padded)
        for size, count, first, target in zip(sizes, counts, firsts, targets, strict=True)
    )
    return rows, columns


def _turn(lines: Tensor, axis: Axis) -> Tensor:
    """Put the other side first: [w, 3 * H] -> [H, w * 3]."""
    return lines.reshape(axis.target * NUM_CHANNELS, -1).transpose(1, 0)


def _resample(lines: Tensor, axis: Axis, kernel: Kernel) -> Tensor:
    """Resize the first side as Pillow does: [size, m] -> whole numbers, float32 [target, m]."""
    taps = pillow_taps(axis, kernel)
    sums = taps.weights.apply("MatMul", lines.take(taps.indices).cast(np.float32))
    upper, lower = sums.slice(0, BLOCK, axis=1), sums.slice(BLOCK, 2 * BLOCK, axis=1)
    # Each is a whole number below 2^24, the lower one as fractions, so nothing here is rounded but by `floor`.
    total = (upper + lower.floor()) * 2.0 ** (LOW_BITS - PRECISION_BITS)
    whole = (total + 0.5).floor()
    if kernel == "bicubic":
        whole = whole.at_least(0.0).at_most(255.0)
    num_blocks = -(-axis.target // BLOCK)
    lines = whole.reshape(num_blocks * BLOCK, -1)
    return lines if num_blocks * BLOCK == axis.target else lines.slice(0, axis.target)


def _average(turned: Tensor, columns: Axis, rows: Axis) -> Tensor:
    """Resize as OpenCV's INTER_AREA does: uint8 [W, 3 * H] -> whole numbers, float32 [h, 3 * w]."""
    grows = ((columns.count > columns.size) + (rows.count > rows.size)).at_most(1)
    divisible = _divisible(columns) * _divisible(rows)
    across = opencv_taps(columns, divisible=divisible, grows=grows, unit=2.0**-4)
    down = opencv_taps(rows, divisible=divisible, grows=grows, unit=2.0**-8)

    # Sums of single precision, each product rounded before it is added, in the order of the pixels: a sum over the
    # first axis is computed so.
    narrowed = (turned.take(across.indices).cast(np.float32) * across.weights.reshape(0, 0, 1)).sum(0)
    gathered = _turn(narrowed, columns).take(down.indices)
    sums = (gathered * down.weights.reshape(0, 0, 1)).sum(0)

    # Divisible sides: one division, whose halves go to even numbers but for squares of four pixels.
    area = ((columns.size // columns.count) * (rows.size // rows.count)).at_least(1).cast(np.float32)
    divides, enlarges = divisible.cast(np.float32), grows.cast(np.float32)
    factor = (divides / area + (1.0 - divides)) * (1.0 - enlarges)
    is_square = columns.size.equals(2 * columns.count) * rows.size.equals(2 * rows.count)
    shrunk = (sums * factor + factor * is_square.cast(np.float32) * 0.5).round()

    # One of the two is zero.
    return shrunk + _interpolate(gathered.slice(0, 2), (down.weights * enlarges).slice(0, 2).reshape(0, 0, 1))


def _divisible(axis: Axis) -> Tensor:
    """Return a flag: whether OpenCV finds a side to be a multiple, by the reciprocal of a reciprocal in float64."""
    numbers = np.arange(1, 1 << 10)
    missed = numbers[1.0 / (1.0 / numbers) != numbers]
    multiple = axis.size // axis.count
    return (multiple * axis.count).equals(axis.size) * (1 - multiple.equals(missed).sum(0))


def _interpolate(gathered: Tensor, weights: Tensor) -> Tensor:
    """Do OpenCV's second step between two neighbours, which cuts bits off: [2, h, m] and [2, h, 1] -> [1, h, m].

    Products have up to 26 bits. They are computed in two halves, which float32 holds; the units of both sides' weights
    are those that make the fractions what is cut off.
    """
    values = gathered.floor()
    upper = (values * 2.0**-8).floor()
    lower = values - upper * 2.0**8
    products = (weights * upper + (weights * lower).floor() * 2.0**-8).floor()
    return (products.sum(0) * 0.25 + 0.5).floor()
