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

if TYPE_CHECKING:
    from classifier_training.core.preprocess import Preprocessing


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
        resized = _resize(graph, image, source, resized_size, cubic=preprocessing.kernel == "bicubic")
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


def _resize(graph: GraphBuilder, image: str, source: str, size: str, *, cubic: bool) -> str:
    """Resize as Pillow does: uint8 [H, W, 3] -> float32 [1, 3, h, w] of whole numbers."""
    # Channels first and on whole numbers: the layout and type for which ONNX Runtime has Pillow's arithmetic.
    planes = _planes(graph, image)
    steps = [size]
    settings: dict[str, Any] = {"mode": "linear"}
    if cubic:
        # A cubic overshoots, and Pillow rounds and clips after the first side; two operators do so, one does not.
        height, width = graph.add("Gather", source, graph.whole(0)), graph.add("Gather", size, graph.whole(1))
        steps.insert(0, graph.add("Concat", height, width, axis=0))
        settings = {"mode": "cubic", "cubic_coeff_a": -0.5}
    for step in steps:
        sizes = graph.add("Concat", graph.whole(1, 3), step, axis=0)
        planes = graph.add("Resize", planes, "", "", sizes, antialias=1, exclude_outside=1, **settings)
    return graph.add("Cast", planes, to=TensorProto.FLOAT)


def resize_area(graph: GraphBuilder, image: str, source: str, size: str, *, opencv: bool) -> str:
    """Average areas: uint8 [H, W, 3] -> float32 [1, 3, h, w] of whole numbers.

    Rows first, for they lie together in memory. Pillow goes the other way and rounds in between; as no weight is
    negative, that is at most one step of 255 apart.
    """
    first, second = graph.whole(0), graph.whole(1)
    lengths = [graph.add("Gather", source, index) for index in (first, second)]
    wanted = [graph.add("Gather", size, index) for index in (first, second)]
    shrinks = None
    if opencv:
        # OpenCV averages areas only if neither side grows.
        smaller = graph.add("LessOrEqual", size, source)
        whole_numbers = graph.add("Cast", smaller, to=TensorProto.INT64)
        shrinks = graph.add("Cast", graph.add("ReduceMin", whole_numbers, graph.whole(0)), to=TensorProto.BOOL)
    taps = [_taps(graph, length, count, shrinks) for length, count in zip(lengths, wanted, strict=True)]

    # Both passes gather whole rows, which lie together in memory; between them rows and columns change places.
    flat = graph.add("Reshape", image, graph.add("Concat", lengths[0], graph.whole(-1), axis=0))
    summed = _weigh(graph, flat, *taps[0])
    lines = graph.add("Reshape", summed, graph.add("Concat", wanted[0], lengths[1], graph.whole(3), axis=0))
    turned = graph.add("Transpose", lines, perm=[1, 0, 2])
    flat = graph.add("Reshape", turned, graph.add("Concat", lengths[1], graph.whole(-1), axis=0))
    averaged = _weigh(graph, flat, *taps[1])
    columns = graph.add("Reshape", averaged, graph.add("Concat", wanted[1], wanted[0], graph.whole(3), axis=0))
    planes = graph.add("Transpose", columns, perm=[2, 1, 0])
    half_up = graph.add("Floor", graph.add("Add", planes, graph.constant(0.5, np.float32)))
    clipped = graph.add("Clip", half_up, graph.constant(0.0, np.float32), graph.constant(255.0, np.float32))
    return graph.add("Unsqueeze", clipped, graph.whole(0))


def _weigh(graph: GraphBuilder, rows: str, indices: str, weights: str) -> str:
    """Sum weighted rows: [n, m] with int64 [count, taps] and float32 [count, taps] -> float32 [count, 1, m]."""
    gathered = graph.add("Cast", graph.add("Gather", rows, indices, axis=0), to=TensorProto.FLOAT)
    return graph.add("MatMul", graph.add("Unsqueeze", weights, graph.whole(1)), gathered)


def _taps(graph: GraphBuilder, length: str, count: str, shrinks: str | None) -> tuple[str, str]:
    """Source pixels of each output pixel along one axis, int64 [count, taps], and their weights, float32.

    Args:
        graph: to add to.
        length: source pixels, int64 [1].
        count: output pixels, int64 [1].
        shrinks: whether no side grows, for OpenCV's arithmetic; None for Pillow's.
    """

    def number(value: float) -> str:
        return graph.constant(value, np.float64)

    size = graph.add("Cast", length, to=TensorProto.DOUBLE)
    scale = graph.add("Div", size, graph.add("Cast", count, to=TensorProto.DOUBLE))
    zero, one = graph.constant(0, np.int64), graph.constant(1, np.int64)
    order = graph.add("Range", zero, graph.add("Squeeze", count), one)
    output = graph.add("Unsqueeze", graph.add("Cast", order, to=TensorProto.DOUBLE), graph.whole(1))
    reach = graph.add("Max", scale, number(1.0))
    num_taps = graph.add("Cast", graph.add("Add", graph.add("Ceil", reach), number(1.0)), to=TensorProto.INT64)
    tap = graph.add("Cast", graph.add("Range", zero, graph.add("Squeeze", num_taps), one), to=TensorProto.DOUBLE)

    start = graph.add("Mul", output, scale)
    if shrinks is None:
        # Pillow's box: the pixels whose centres are less than half a reach from the output pixel's centre.
        centre = graph.add("Mul", graph.add("Add", output, number(0.5)), scale)
        half = graph.add("Mul", reach, number(0.5))
        low = graph.add("Floor", graph.add("Add", graph.add("Sub", centre, half), number(0.5)))
        first = graph.add("Max", low, number(0.0))
        position = graph.add("Add", first, tap)
        high = graph.add("Floor", graph.add("Add", graph.add("Add", centre, half), number(0.5)))
        distance = graph.add("Div", graph.add("Sub", graph.add("Add", position, number(0.5)), centre), reach)
        near_enough = graph.add(
            "And", graph.add("Greater", distance, number(-0.5)), graph.add("LessOrEqual", distance, number(0.5))
        )
        inside = graph.add("And", near_enough, graph.add("Less", position, graph.add("Min", high, size)))
        weight = graph.add("Cast", inside, to=TensorProto.DOUBLE)
    else:
        first = graph.add("Floor", start)
        position = graph.add("Add", first, tap)
        end = graph.add("Min", graph.add("Add", start, scale), size)
        overlap = graph.add(
            "Sub", graph.add("Min", graph.add("Add", position, number(1.0)), end), graph.add("Max", position, start)
        )
        area = graph.add("Max", overlap, number(0.0))
        # Where a side grows, OpenCV goes over to two neighbours, with a fraction that keeps whole pixels flat.
        fraction = graph.add(
            "Sub", graph.add("Add", output, number(1.0)),
            graph.add("Div", graph.add("Add", first, number(1.0)), scale),
        )  # fmt: skip
        positive = graph.add("Max", fraction, number(0.0))
        share = graph.add("Sub", positive, graph.add("Floor", positive))
        near = graph.add("Mul", graph.add("Cast", graph.add("Equal", tap, number(0.0)), to=TensorProto.DOUBLE),
                         graph.add("Sub", number(1.0), share))  # fmt: skip
        far = graph.add("Mul", graph.add("Cast", graph.add("Equal", tap, number(1.0)), to=TensorProto.DOUBLE), share)
        weight = graph.add("Where", shrinks, area, graph.add("Add", near, far))
    total = graph.add("ReduceSum", weight, graph.whole(1))
    weights = graph.add("Cast", graph.add("Div", weight, total), to=TensorProto.FLOAT)
    last = graph.add("Sub", size, number(1.0))
    indices = graph.add("Cast", graph.add("Min", position, last), to=TensorProto.INT64)
    return indices, weights
