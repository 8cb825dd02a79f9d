"""`pipeline.onnx`: from a whole image to probabilities, with the preprocessing in the graph. Needs no torch.

Resize, crop and pad are written in ONNX's standard operators and give the pixel values of `core/preprocess.py`. Pillow
and OpenCV resize the width first, then the height. Each output pixel is a weighted sum of a few source pixels;
`resampling.py` computes their positions and weights. Gathering these pixels is several times cheaper than a product
with a whole matrix.

Only the pixels that remain after a crop are computed, and the bars of a letterbox are pixels whose weights are zero.
So the output has a fixed shape without `If`, which some runtimes lack. There is no float64 either, which the WebGPU
build of onnxruntime-web lacks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper

from classifier_training.core.run_dir import atomic_path
from classifier_training.export.bundle import BAKED_KEY, NOVELTY_KEY, TEMPERATURE_KEY
from classifier_training.export.graph import GraphBuilder
from classifier_training.export.novelty import keep_outputs, remove_novelty
from classifier_training.export.opset import opset_of
from classifier_training.export.resampling import BLOCK, LOW_BITS, PRECISION_BITS, Axis, opencv_taps, pillow_taps
from classifier_training.export.rounding import compare_product, quotient
from classifier_training.export.session import INPUT_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from classifier_training.core.preprocess import Kernel, Preprocessing
    from classifier_training.export.graph import Tensor

IMAGE_NAME, PIXELS_NAME, PROBABILITIES_NAME = "image", "pixels", "probabilities"


def write_pipeline(model: Path, preprocessing: Preprocessing, path: Path, *, temperature: float | None = None) -> None:
    """Write a pipeline: a model with its preprocessing before the input and a softmax after the logits.

    Args:
        model: ONNX file from float32 [batch, 3, h, w] to logits, float32 [batch, K].
        preprocessing: from an image to the model's input.
        path: of the pipeline.
        temperature: what the logits are divided by before the softmax. None divides by nothing and leaves the model's
            temperature in the metadata, for the reader to apply.
    """
    with atomic_path(path) as temporary:
        onnx.save(build_pipeline(onnx.load(model), preprocessing, temperature=temperature), temporary)


def build_pipeline(
    model: onnx.ModelProto, preprocessing: Preprocessing, *, temperature: float | None = None
) -> onnx.ModelProto:
    """Return the pipeline `image` uint8 [H, W, 3] -> `probabilities` float32 [K]; see `write_pipeline`."""
    remove_novelty(model)
    graph = model.graph
    opset = opset_of(model)
    head, tail = GraphBuilder("preprocess/", opset=opset), GraphBuilder("answer/", opset=opset)
    head.nodes.append(helper.make_node("Identity", [fit(head, IMAGE_NAME, preprocessing)], [PIXELS_NAME]))
    normalized = normalize(head, PIXELS_NAME, preprocessing)
    head.nodes.append(helper.make_node("Identity", [normalized], [graph.input[0].name], name="preprocess/input"))
    logits = graph.output[0].name
    if temperature not in (None, 1.0):
        logits = tail.add("Div", logits, tail.constant(temperature, np.float32))
    shares = tail.add("Softmax", logits, axis=-1)
    tail.nodes.append(
        helper.make_node("Reshape", [shares, tail.whole(-1)], [PROBABILITIES_NAME], name="answer/flatten")
    )
    num_classes = graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    piped = helper.make_graph(
        [*head.nodes, *graph.node, *tail.nodes],
        "pipeline",
        [helper.make_tensor_value_info(IMAGE_NAME, TensorProto.UINT8, ["height", "width", 3])],
        [helper.make_tensor_value_info(PROBABILITIES_NAME, TensorProto.FLOAT, [num_classes])],
        [*head.constants, *graph.initializer, *tail.constants],
    )
    made = helper.make_model(
        piped, opset_imports=model.opset_import, ir_version=model.ir_version, functions=model.functions
    )
    texts = {item.key: item.value for item in model.metadata_props if item.key != NOVELTY_KEY}
    if temperature is not None:
        texts |= {TEMPERATURE_KEY: "1.0", BAKED_KEY: repr(temperature)}
    helper.set_model_props(made, texts)
    onnx.checker.check_model(made)
    return made


def with_pixels(path: Path, size: tuple[int, int]) -> bytes:
    """Return a pipeline with a second output, for checks: the fitted image, `pixels` float32 [1, 3, h, w], 0 to 255."""
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info(PIXELS_NAME, TensorProto.FLOAT, [1, 3, *size]))
    return bytes(model.SerializeToString())


def preprocessing_part(path: Path, size: tuple[int, int]) -> bytes:
    """Return only the preprocessing of a pipeline, with two outputs: `pixels`, as in `with_pixels`, and `input`.

    Args:
        path: of the pipeline.
        size: height and width of the network's input in pixels.

    Returns:
        The bytes of an ONNX model; `input` is what the network receives, float32 [1, 3, h, w].
    """
    model = onnx.load(path)
    names = (PIXELS_NAME, INPUT_NAME)
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, *size]) for name in names)
    keep_outputs(model.graph, names)
    return bytes(model.SerializeToString())


def normalize(graph: GraphBuilder, pixels: str, preprocessing: Preprocessing) -> str:
    """Add nodes that normalize an image and order its channels.

    Args:
        graph: where the nodes go.
        pixels: name of the fitted image, float32 [1, 3, h, w] of 0 to 255, in RGB.
        preprocessing: mean and standard deviation, in units of 255, and the order of the channels.

    Returns:
        Name of the network's input, float32 [1, 3, h, w].
    """
    std = np.array(preprocessing.std, dtype=np.float64).reshape(1, 3, 1, 1)
    mean = np.array(preprocessing.mean, dtype=np.float64).reshape(1, 3, 1, 1)
    scaled = graph.add("Mul", pixels, graph.constant(1 / (255 * std), np.float32))
    shifted = graph.add("Add", scaled, graph.constant(-mean / std, np.float32))
    if preprocessing.channel_order == "rgb":
        return shifted
    return graph.add("Gather", shifted, graph.whole(2, 1, 0), axis=1)


NUM_CHANNELS = 3


def fit(graph: GraphBuilder, image: str, preprocessing: Preprocessing) -> str:
    """Add nodes that resize, then crop or pad, an image.

    Args:
        graph: where the nodes go.
        image: name of the image in the graph, uint8 [H, W, 3] of any size.
        preprocessing: the target size [h, w], kernel, backend and resize policy.

    Returns:
        Name of the fitted image: float32 [1, 3, h, w] of integers from 0 to 255.
    """
    pixels = graph.tensor(image, np.uint8)
    shape = pixels.apply("Shape", dtype=np.int64)
    rows, columns = _place(shape.slice(0, 1), shape.slice(1, 2), preprocessing)
    # The axis to gather along comes first, uint8 [W, 3 * H], so that each column is contiguous in memory.
    turned = pixels.reshape(0, -1).transpose(1, 0).reshape(columns.size, -1)
    if preprocessing.backend == "pillow":
        narrowed = _resample(turned, columns, preprocessing.kernel)
        fitted = _resample(_turn(narrowed, columns), rows, preprocessing.kernel)
    else:
        fitted = _average(turned, columns, rows)
    height, width = preprocessing.size
    return fitted.reshape(height, width, NUM_CHANNELS).transpose(2, 0, 1).reshape(1, NUM_CHANNELS, height, width).name


def _place(height: Tensor, width: Tensor, preprocessing: Preprocessing) -> tuple[Axis, Axis]:
    """Return where the resized image lies in the output, as `Preprocessing.geometry` does: rows, columns.

    Args:
        height: of the source image in pixels, int64 [1].
        width: of the source image in pixels, int64 [1].
        preprocessing: target size and resize policy.
    """
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
        # Python rounds halves to the even integer, unless the product in float64 is slightly above or below the half.
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
    """Put the rows first, after the columns were resized: [w, 3 * H] -> [H, w * 3]."""
    return lines.reshape(axis.target * NUM_CHANNELS, -1).transpose(1, 0)


def _resample(lines: Tensor, axis: Axis, kernel: Kernel) -> Tensor:
    """Resize the first axis as Pillow does: uint8 or float32 [size, m] -> float32 [target, m] of integers 0 to 255."""
    taps = pillow_taps(axis, kernel)
    sums = taps.weights.apply("MatMul", lines.take(taps.indices).cast(np.float32))
    upper, lower = sums.slice(0, BLOCK, axis=1), sums.slice(BLOCK, 2 * BLOCK, axis=1)
    # Both are exact in float32: in units of their last bit they are integers below 2^24. Only `floor` rounds.
    total = (upper + lower.floor()) * 2.0 ** (LOW_BITS - PRECISION_BITS)
    whole = (total + 0.5).floor()
    if kernel == "bicubic":
        whole = whole.at_least(0.0).at_most(255.0)
    num_blocks = -(-axis.target // BLOCK)
    lines = whole.reshape(num_blocks * BLOCK, -1)
    return lines if num_blocks * BLOCK == axis.target else lines.slice(0, axis.target)


def _average(turned: Tensor, columns: Axis, rows: Axis) -> Tensor:
    """Resize both axes as OpenCV's INTER_AREA does: uint8 [W, 3 * H] -> float32 [h, w * 3] of integers 0 to 255.

    OpenCV has three cases. Where a side grows, it interpolates linearly. Where both sides are multiples of the
    output's, it sums and divides once. Otherwise it adds up weighted pixels. All are computed, and flags choose.
    """
    grows = ((columns.count > columns.size) + (rows.count > rows.size)).at_most(1)
    divisible = _divisible(columns) * _divisible(rows)
    across = opencv_taps(columns, divisible=divisible, grows=grows, unit=2.0**-4)
    down = opencv_taps(rows, divisible=divisible, grows=grows, unit=2.0**-8)

    # OpenCV adds float32 products one by one in the order of the pixels, each rounded before it is added. ReduceSum
    # over the first axis adds in the same order.
    narrowed = (turned.take(across.indices).cast(np.float32) * across.weights.reshape(0, 0, 1)).sum(0)
    gathered = _turn(narrowed, columns).take(down.indices)
    sums = (gathered * down.weights.reshape(0, 0, 1)).sum(0)

    # Divisible sides: the quotient is rounded with halves to even, but halves up for blocks of 2 x 2 pixels.
    area = ((columns.size // columns.count) * (rows.size // rows.count)).at_least(1).cast(np.float32)
    divides, enlarges = divisible.cast(np.float32), grows.cast(np.float32)
    factor = (divides / area + (1.0 - divides)) * (1.0 - enlarges)
    is_square = columns.size.equals(2 * columns.count) * rows.size.equals(2 * rows.count)
    shrunk = (sums * factor + factor * is_square.cast(np.float32) * 0.5).round()

    # One of the two terms is zero.
    return shrunk + _interpolate(gathered.slice(0, 2), (down.weights * enlarges).slice(0, 2).reshape(0, 0, 1))


def _divisible(axis: Axis) -> Tensor:
    """Return a flag, int64 [1]: whether OpenCV takes `size` for a multiple of `count`.

    OpenCV computes 1 / (1 / multiple) in float64, which misses some integers.
    """
    numbers = np.arange(1, 1 << 10)
    missed = numbers[1.0 / (1.0 / numbers) != numbers]
    multiple = axis.size // axis.count
    return (multiple * axis.count).equals(axis.size) * (1 - multiple.equals(missed).sum(0))


def _interpolate(gathered: Tensor, weights: Tensor) -> Tensor:
    """Interpolate between two neighbours as OpenCV does in its second pass, which drops low bits.

    The products have up to 26 bits, more than float32 holds exactly, so they are computed in two halves. The units of
    the weights are chosen so that the dropped bits are the fractions.

    Args:
        gathered: the two neighbours of each output pixel, float32 [2, h, m].
        weights: their weights, float32 [2, h, 1].

    Returns:
        Integers, float32 [1, h, m].
    """
    values = gathered.floor()
    upper = (values * 2.0**-8).floor()
    lower = values - upper * 2.0**8
    products = (weights * upper + (weights * lower).floor() * 2.0**-8).floor()
    return (products.sum(0) * 0.25 + 0.5).floor()
