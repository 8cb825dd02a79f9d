"""Which source pixels an output pixel is made of, and their weights, as ONNX operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

if TYPE_CHECKING:
    from classifier_training.core.preprocess import Kernel
    from classifier_training.export.graph import GraphBuilder

CUBIC_SHARPNESS = -0.5
"""The parameter a of Keys 1981, "Cubic convolution interpolation", as Pillow has it."""

SUPPORT = {"area": 0.5, "bilinear": 1.0, "bicubic": 2.0}
"""How far a kernel reaches, in output pixels."""


def pillow_taps(graph: GraphBuilder, length: str, count: str, kernel: Kernel) -> tuple[str, str]:
    """Pillow's antialiased kernels along one axis: int64 [count, taps] and float64 [count, taps].

    Args:
        graph: to add to.
        length: source pixels, int64 [1].
        count: output pixels, int64 [1].
        kernel: whose weights.
    """
    size, counted = _as_double(graph, length), _as_double(graph, count)
    scale = graph.add("Div", size, counted)
    # Where a picture shrinks, the kernel reaches over all pixels that become one.
    reach = graph.add("Max", scale, _number(graph, 1.0))
    half = graph.add("Mul", reach, _number(graph, SUPPORT[kernel]))
    output, tap = _grid(graph, count, graph.add("Mul", half, _number(graph, 2.0)))
    centre = graph.add("Mul", graph.add("Add", output, _number(graph, 0.5)), scale)
    low = graph.add("Floor", graph.add("Add", graph.add("Sub", centre, half), _number(graph, 0.5)))
    position = graph.add("Add", graph.add("Max", low, _number(graph, 0.0)), tap)
    high = graph.add("Floor", graph.add("Add", graph.add("Add", centre, half), _number(graph, 0.5)))
    offset = graph.add("Sub", graph.add("Add", position, _number(graph, 0.5)), centre)
    distance = graph.add("Mul", offset, graph.add("Div", _number(graph, 1.0), reach))
    within = graph.add("Less", position, graph.add("Min", high, size))
    weight = graph.add("Where", within, _kernel(graph, distance, kernel), _number(graph, 0.0))
    return _normalized(graph, position, weight, size)


def opencv_taps(graph: GraphBuilder, length: str, count: str, shrinks: str) -> tuple[str, str]:
    """OpenCV's INTER_AREA along one axis: int64 [count, taps] and float64 [count, taps].

    Args:
        graph: to add to.
        length: source pixels, int64 [1].
        count: output pixels, int64 [1].
        shrinks: whether no side grows, bool [1]; otherwise OpenCV goes over to two neighbours.
    """
    size = _as_double(graph, length)
    # OpenCV takes the reciprocal of a reciprocal. What is rounded down below jumps where the last bit differs.
    inverse = graph.add("Div", _as_double(graph, count), size)
    scale = graph.add("Div", _number(graph, 1.0), inverse)
    output, tap = _grid(graph, count, graph.add("Max", scale, _number(graph, 1.0)))
    start = graph.add("Mul", output, scale)
    first = graph.add("Floor", start)
    position = graph.add("Add", first, tap)

    end = graph.add("Min", graph.add("Add", start, scale), size)
    last_edge = graph.add("Min", graph.add("Add", position, _number(graph, 1.0)), end)
    overlap = graph.add("Max", graph.add("Sub", last_edge, graph.add("Max", position, start)), _number(graph, 0.0))

    # The fraction between two neighbours keeps whole pixels flat; it is rounded to single precision on the way.
    next_output = graph.add("Add", output, _number(graph, 1.0))
    next_source = graph.add("Mul", graph.add("Add", first, _number(graph, 1.0)), inverse)
    single = graph.add("Cast", graph.add("Sub", next_output, next_source), to=TensorProto.FLOAT)
    positive = graph.add("Max", single, graph.constant(0.0, np.float32))
    share = _as_double(graph, graph.add("Sub", positive, graph.add("Floor", positive)))
    rest = graph.add("Sub", _number(graph, 1.0), share)
    near = graph.add("Where", graph.add("Equal", tap, _number(graph, 0.0)), rest, _number(graph, 0.0))
    far = graph.add("Where", graph.add("Equal", tap, _number(graph, 1.0)), share, _number(graph, 0.0))
    weight = graph.add("Where", shrinks, overlap, graph.add("Add", near, far))
    return _normalized(graph, position, weight, size)


def _kernel(graph: GraphBuilder, distance: str, kernel: Kernel) -> str:
    """Weight at a distance in output pixels."""
    x = graph.add("Abs", distance)
    if kernel == "area":
        inside = graph.add(
            "And",
            graph.add("Greater", distance, _number(graph, -0.5)),
            graph.add("LessOrEqual", distance, _number(graph, 0.5)),
        )
        return _as_double(graph, inside)
    if kernel == "bilinear":
        return graph.add("Max", graph.add("Sub", _number(graph, 1.0), x), _number(graph, 0.0))

    def polynomial(*coefficients: float) -> str:
        """Horner's scheme, the highest power first."""
        value = _number(graph, coefficients[0])
        for coefficient in coefficients[1:]:
            value = graph.add("Add", graph.add("Mul", value, x), _number(graph, coefficient))
        return value

    a = CUBIC_SHARPNESS
    near = polynomial(a + 2, -(a + 3), 0.0, 1.0)
    far = polynomial(a, -5 * a, 8 * a, -4 * a)
    outer = graph.add("Where", graph.add("Less", x, _number(graph, 2.0)), far, _number(graph, 0.0))
    return graph.add("Where", graph.add("Less", x, _number(graph, 1.0)), near, outer)


def _grid(graph: GraphBuilder, count: str, width: str) -> tuple[str, str]:
    """Numbers of the output pixels, float64 [count, 1], and of their taps, float64 [taps]: the width and one more."""
    zero, one = graph.constant(0, np.int64), graph.constant(1, np.int64)
    order = graph.add("Range", zero, graph.add("Squeeze", count), one)
    num_taps = graph.add("Add", graph.add("Ceil", width), _number(graph, 1.0))
    taps = graph.add("Squeeze", graph.add("Cast", num_taps, to=TensorProto.INT64))
    return (
        graph.add("Unsqueeze", _as_double(graph, order), graph.whole(1)),
        _as_double(graph, graph.add("Range", zero, taps, one)),
    )


def _normalized(graph: GraphBuilder, position: str, weight: str, size: str) -> tuple[str, str]:
    total = graph.add("ReduceSum", weight, graph.whole(1))
    last = graph.add("Sub", size, _number(graph, 1.0))
    indices = graph.add("Cast", graph.add("Min", position, last), to=TensorProto.INT64)
    return indices, graph.add("Div", weight, total)


def _number(graph: GraphBuilder, value: float) -> str:
    return graph.constant(value, np.float64)


def _as_double(graph: GraphBuilder, name: str) -> str:
    return graph.add("Cast", name, to=TensorProto.DOUBLE)
