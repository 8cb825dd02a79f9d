"""What whole numbers say of float64, against float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from classifier_training.export.graph import GraphBuilder, Tensor
from classifier_training.export.rounding import Rounded, compare_product, pillow_borders, quotient, reciprocal

OPSET = 18


def run(compute: Callable[[GraphBuilder, Tensor], list[Tensor]], values: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Run a graph that is built from one input of whole numbers."""
    graph = GraphBuilder("", opset=OPSET)
    outputs = compute(graph, graph.tensor("values", np.int64))
    made = helper.make_graph(
        graph.nodes,
        "numbers",
        [helper.make_tensor_value_info("values", TensorProto.INT64, values.shape)],
        [helper.make_tensor_value_info(output.name, TensorProto.INT64, ["n"]) for output in outputs],
        graph.constants,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[NDArray[np.int64]] = session.run(None, {"values": values})
    return found


def pairs() -> NDArray[np.int64]:
    """Sides of images, int64 [2, n]."""
    common = [size + step for size in (32, 64, 96, 100, 128, 224, 256, 299, 384) for step in (-1, 0, 1)]
    small = list(itertools.product(range(1, 60), range(1, 60)))
    large = np.random.default_rng(0).integers(1, 1500, (2000, 2)).tolist()
    return np.array([*itertools.product(common, common), *small, *large, (3, 4000), (8000, 7)], dtype=np.int64).T


def exact(numerator: int, denominator: int, exponent: int, error: int) -> Fraction:
    return Fraction(numerator, denominator) + Fraction(error, denominator) * Fraction(2) ** (exponent - 52)


def rows(tensor: Tensor, number: int) -> Tensor:
    return tensor.slice(number, number + 1).reshape(-1)


def test_quotients_and_reciprocals_are_those_of_float64() -> None:
    def compute(graph: GraphBuilder, values: Tensor) -> list[Tensor]:
        found = [divide(rows(values, 0), rows(values, 1)) for divide in (quotient, reciprocal)]
        return [part for value in found for part in (value.exponent, value.error)]

    values = pairs()
    found = np.stack(run(compute, values)).T.tolist()
    for (numerator, denominator), parts in zip(values.T.tolist(), found, strict=True):
        assert exact(numerator, denominator, *parts[:2]) == Fraction(numerator / denominator)
        assert exact(numerator, denominator, *parts[2:]) == Fraction(1 / (denominator / numerator))


def test_products_lie_on_the_side_of_the_exact_value_on_which_they_lie_in_float64() -> None:
    cases = [
        (factor, numerator, denominator, 2 * factor * numerator // denominator)
        for numerator, denominator in pairs().T[:2000].tolist()
        for factor in range(1, 60)
        if 2 * factor * numerator % denominator == 0
    ]

    def compute(graph: GraphBuilder, values: Tensor) -> list[Tensor]:
        factor, numerator, denominator, doubled = (rows(values, number) for number in range(4))
        found: list[Tensor] = []
        for value in (quotient(numerator, denominator), reciprocal(numerator, denominator)):
            found += compare_product(factor, Rounded(*vars(value).values()), doubled)
        return found

    found = np.stack(run(compute, np.array(cases, dtype=np.int64).T)).T.tolist()
    sides = set()
    for (factor, numerator, denominator, doubled), (above, below, above_too, below_too) in zip(
        cases, found, strict=True
    ):
        product, through = factor * (numerator / denominator), factor * (1 / (denominator / numerator))
        assert (above, below) == (product > doubled / 2, product < doubled / 2)
        assert (above_too, below_too) == (through > doubled / 2, through < doubled / 2)
        sides.add((above, below))
    assert len(sides) == 3


def pillow_counts(size: int, count: int, output: int) -> list[int]:
    """The pixels of an area, in the float64 arithmetic of Pillow's box filter."""
    scale = size / count
    reach = max(scale, 1.0)
    middle = (output + 0.5) * scale
    first, end = max(int(middle - 0.5 * reach + 0.5), 0), min(int(middle + 0.5 * reach + 0.5), size)
    return [pixel for pixel in range(first, end) if -0.5 < ((pixel - middle) + 0.5) * (1.0 / reach) <= 0.5]


def test_pixels_on_the_border_of_an_area_are_counted_as_pillow_counts_them() -> None:
    triples, expected = [], []
    for count in (12, 48, 96, 224):
        for size in range(1, 600):
            for output in range(count):
                # The middle of pixel p lies on a border where (2p + 1) * count - (2o + 1) * size = +-max(size, count).
                for column, sign in enumerate((-1, 1)):
                    pixel, rest = divmod((2 * output + 1) * size + sign * max(size, count) - count, 2 * count)
                    if rest == 0 and 0 <= pixel < size:
                        triples.append((size, count, output))
                        expected.append((column, pixel in pillow_counts(size, count, output)))

    def compute(graph: GraphBuilder, values: Tensor) -> list[Tensor]:
        return list(pillow_borders(rows(values, 0), rows(values, 1), rows(values, 2)))

    found = run(compute, np.array(triples, dtype=np.int64).T)
    assert [(column, bool(found[column][row])) for row, (column, _) in enumerate(expected)] == expected
    assert len(set(expected)) == 4
