"""What `core/preprocess.py` does in Pillow's and OpenCV's arithmetic, in ONNX's standard operators.

Bilinear and bicubic are ONNX's own antialiased Resize, which ONNX Runtime computes as Pillow does. Area averaging is
no operator, so it is a weighted sum of gathered rows, then of gathered columns, with weights that follow from the
sizes: each output pixel needs few source pixels, so gathering them is several times cheaper than a product with a
whole matrix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto

from classifier_training.core.preprocess import PADDING
from classifier_training.export.graph import GraphBuilder
from classifier_training.export.taps import CUBIC_SHARPNESS, opencv_taps, pillow_taps

if TYPE_CHECKING:
    from classifier_training.core.preprocess import Kernel, Preprocessing

PRECISION_BITS = 22
"""Of the fraction in Pillow's fixed-point weights."""


def fit(graph: GraphBuilder, image: str, preprocessing: Preprocessing) -> str:
    """Resize, then crop or pad: uint8 [H, W, 3] of any size -> float32 [1, 3, h, w] of whole numbers 0..255.

    A picture that has the size already is passed on as it is.
    """
    source = graph.add("Slice", graph.add("Shape", image), graph.whole(0), graph.whole(2))
    target = graph.whole(*preprocessing.size)
    same = graph.add("Cast", graph.add("Equal", source, target), to=TensorProto.INT64)
    fits = graph.add("Cast", graph.add("ReduceMin", same, graph.whole(0), keepdims=0), to=TensorProto.BOOL)
    as_is, fitted = GraphBuilder("as_is/"), GraphBuilder("fitted/")
    return graph.choose(
        fits,
        as_is, as_is.add("Cast", _planes(as_is, image), to=TensorProto.FLOAT),
        fitted, _resize_and_cut(fitted, image, source, preprocessing),
    )  # fmt: skip


def _planes(graph: GraphBuilder, image: str) -> str:
    """Put the channels first: uint8 [H, W, 3] -> uint8 [1, 3, H, W]."""
    return graph.add("Unsqueeze", graph.add("Transpose", image, perm=[2, 0, 1]), graph.whole(0))


def _resize_and_cut(graph: GraphBuilder, image: str, source: str, preprocessing: Preprocessing) -> str:
    resized_size = _resized_size(graph, source, preprocessing)
    if preprocessing.kernel == "area":
        resized = resize_area(graph, image, source, resized_size, opencv=preprocessing.backend == "opencv")
    else:
        resized = _resize(graph, image, source, resized_size, preprocessing.kernel)
    if preprocessing.policy == "squash":
        return resized
    # Whole pixels to cut or pad, halved towards zero, as Python does with the same numbers.
    target = graph.whole(*preprocessing.size)
    axes = graph.whole(2, 3)
    if preprocessing.policy == "crop":
        start = graph.add("Div", graph.add("Sub", resized_size, target), graph.whole(2, 2))
        return graph.add("Slice", resized, start, graph.add("Add", start, target), axes)
    missing = graph.add("Sub", target, resized_size)
    before = graph.add("Div", missing, graph.whole(2, 2))
    pads = graph.add("Concat", before, graph.add("Sub", missing, before), axis=0)
    return graph.add("Pad", resized, pads, graph.constant(float(PADDING), np.float32), axes)


def _resized_size(graph: GraphBuilder, source: str, preprocessing: Preprocessing) -> str:
    """Height and width of the resized picture, int64 [2]; the same arithmetic as `Preprocessing.geometry`."""
    target = graph.whole(*preprocessing.size)
    if preprocessing.policy == "squash":
        return target
    wanted = graph.constant(preprocessing.size, np.float64)
    given = graph.add("Cast", source, to=TensorProto.DOUBLE)
    scales = graph.add("Div", wanted, given)
    choose = "ReduceMax" if preprocessing.policy == "crop" else "ReduceMin"
    scale = graph.add(choose, scales, graph.whole(0))
    rounded = graph.add("Cast", graph.add("Round", graph.add("Mul", given, scale)), to=TensorProto.INT64)
    if preprocessing.policy == "crop":
        return graph.add("Max", rounded, target)
    return graph.add("Min", graph.add("Max", rounded, graph.whole(1, 1)), target)


def _resize(graph: GraphBuilder, image: str, source: str, size: str, kernel: Kernel) -> str:
    """Resize as Pillow does: uint8 [H, W, 3] -> float32 [1, 3, h, w] of whole numbers.

    ONNX Runtime's own operator computes its weights in single precision, so now and then a pixel is rounded to the
    other side. Where a side grows, the second pass can make two steps of that one, so there Pillow's fixed-point
    numbers are computed exactly: such pictures are small.
    """
    larger = graph.add("Cast", graph.add("Greater", size, source), to=TensorProto.INT64)
    grows = graph.add("Cast", graph.add("ReduceMax", larger, graph.whole(0), keepdims=0), to=TensorProto.BOOL)
    grown, shrunk = GraphBuilder("grown/"), GraphBuilder("shrunk/")
    return graph.choose(
        grows,
        grown, _resample_exactly(grown, image, source, size, kernel),
        shrunk, _resize_by_operator(shrunk, image, source, size, kernel),
    )  # fmt: skip


def _resize_by_operator(graph: GraphBuilder, image: str, source: str, size: str, kernel: Kernel) -> str:
    # Channels first and on whole numbers: the layout and type for which ONNX Runtime has Pillow's arithmetic.
    planes = _planes(graph, image)
    settings: dict[str, Any] = {"mode": "linear"}
    if kernel == "bicubic":
        settings = {"mode": "cubic", "cubic_coeff_a": CUBIC_SHARPNESS}
    # Pillow rounds, and clips what a cubic overshoots, after the width; two operators do so, one does not.
    height, width = graph.add("Gather", source, graph.whole(0)), graph.add("Gather", size, graph.whole(1))
    for step in (graph.add("Concat", height, width, axis=0), size):
        sizes = graph.add("Concat", graph.whole(1, 3), step, axis=0)
        planes = graph.add("Resize", planes, "", "", sizes, antialias=1, exclude_outside=1, **settings)
    return graph.add("Cast", planes, to=TensorProto.FLOAT)


def _resample_exactly(graph: GraphBuilder, image: str, source: str, size: str, kernel: Kernel) -> str:
    """Pillow's two passes, the width first, in numbers that hold its 30-bit sums."""
    lines = graph.add("Cast", image, to=TensorProto.DOUBLE)
    for axis in (1, 0):
        length, count = graph.add("Gather", source, graph.whole(axis)), graph.add("Gather", size, graph.whole(axis))
        indices, weights = pillow_taps(graph, length, count, kernel)
        shift = graph.constant(2.0**PRECISION_BITS, np.float64)
        half_up = graph.add(
            "Floor", graph.add("Add", graph.add("Mul", weights, shift), graph.constant(0.5, np.float64))
        )
        # The side that is resized comes first: [W, H, 3], then [H, w, 3].
        lines = graph.add("Transpose", lines, perm=[1, 0, 2])
        other = graph.add("Slice", graph.add("Shape", lines), graph.whole(1), graph.whole(2))
        rows = graph.add("Reshape", lines, graph.add("Concat", length, graph.whole(-1), axis=0))
        sums = graph.add("Div", _weigh(graph, rows, indices, half_up), shift)
        whole = round_half_up(graph, sums, np.float64)
        lines = graph.add("Reshape", whole, graph.add("Concat", count, other, graph.whole(3), axis=0))
    planes = graph.add("Unsqueeze", graph.add("Transpose", lines, perm=[2, 0, 1]), graph.whole(0))
    return graph.add("Cast", planes, to=TensorProto.FLOAT)


def round_half_up(graph: GraphBuilder, values: str, dtype: type[np.floating[Any]]) -> str:
    """Round to whole numbers of 0..255."""
    whole = graph.add("Floor", graph.add("Add", values, graph.constant(0.5, dtype)))
    return graph.add("Clip", whole, graph.constant(0.0, dtype), graph.constant(255.0, dtype))


def resize_area(graph: GraphBuilder, image: str, source: str, size: str, *, opencv: bool) -> str:
    """Average areas: uint8 [H, W, 3] -> float32 [1, 3, h, w] of whole numbers.

    Rows first, for they lie together in memory. Pillow goes the other way and rounds in between; as no weight is
    negative, that is at most one step of 255 apart.
    """
    first, second = graph.whole(0), graph.whole(1)
    lengths = [graph.add("Gather", source, index) for index in (first, second)]
    wanted = [graph.add("Gather", size, index) for index in (first, second)]
    pairs = zip(lengths, wanted, strict=True)
    if opencv:
        # OpenCV averages areas only if neither side grows.
        smaller = graph.add("LessOrEqual", size, source)
        whole_numbers = graph.add("Cast", smaller, to=TensorProto.INT64)
        shrinks = graph.add("Cast", graph.add("ReduceMin", whole_numbers, graph.whole(0)), to=TensorProto.BOOL)
        taps = [opencv_taps(graph, length, count, shrinks) for length, count in pairs]
    else:
        taps = [pillow_taps(graph, length, count, "area") for length, count in pairs]
    taps = [(indices, graph.add("Cast", weights, to=TensorProto.FLOAT)) for indices, weights in taps]

    # Both passes gather whole rows, which lie together in memory; between them rows and columns change places.
    flat = graph.add("Reshape", image, graph.add("Concat", lengths[0], graph.whole(-1), axis=0))
    summed = _weigh(graph, flat, *taps[0])
    lines = graph.add("Reshape", summed, graph.add("Concat", wanted[0], lengths[1], graph.whole(3), axis=0))
    turned = graph.add("Transpose", lines, perm=[1, 0, 2])
    flat = graph.add("Reshape", turned, graph.add("Concat", lengths[1], graph.whole(-1), axis=0))
    averaged = _weigh(graph, flat, *taps[1])
    columns = graph.add("Reshape", averaged, graph.add("Concat", wanted[1], wanted[0], graph.whole(3), axis=0))
    planes = graph.add("Transpose", columns, perm=[2, 1, 0])
    return graph.add("Unsqueeze", round_half_up(graph, planes, np.float32), graph.whole(0))


def _weigh(graph: GraphBuilder, rows: str, indices: str, weights: str) -> str:
    """Sum weighted rows: [n, m] with int64 [count, taps] and weights [count, taps] -> [count, 1, m]."""
    gathered = graph.add("CastLike", graph.add("Gather", rows, indices, axis=0), weights)
    return graph.add("MatMul", graph.add("Unsqueeze", weights, graph.whole(1)), gathered)
