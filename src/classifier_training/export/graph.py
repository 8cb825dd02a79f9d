"""Build ONNX graphs node by node; operators are written as Python arithmetic. Needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Number: TypeAlias = "Tensor | int | float | NDArray[np.generic]"

DEFAULT_OPSET = 18


class GraphBuilder:
    """Collects the nodes and constants of a graph, each under a unique name.

    Args:
        prefix: what every name begins with.
        opset: version of ONNX's operators that the nodes are written in.
    """

    def __init__(self, prefix: str, *, opset: int = DEFAULT_OPSET) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.opset = opset
        self._prefix = prefix
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        name = f"{self._prefix}{len(self.nodes)}_{kind.lower()}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: Any, dtype: Any) -> str:
        """Add a constant, or reuse an equal one of the same type and shape; returns its name."""
        array = np.asarray(value, dtype=dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = f"{self._prefix}constant_{len(self.constants)}"
            self.constants.append(numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def whole(self, *values: int) -> str:
        """Add an int64 vector; returns its name."""
        return self.constant(values, np.int64)

    def reduce(self, kind: str, tensor: str, axis: int, *, keepdims: bool = False) -> str:
        """Add a reduction over one axis; returns its output's name. Older opsets take the axis as an attribute."""
        if self.opset < (13 if kind == "ReduceSum" else 18):
            return self.add(kind, tensor, axes=[axis], keepdims=int(keepdims))
        return self.add(kind, tensor, self.whole(axis), keepdims=int(keepdims))

    def tensor(self, name: str, dtype: type[np.generic]) -> Tensor:
        """Wrap a tensor of this graph, such as an input, to compute with it."""
        return Tensor(self, name, dtype)

    def number(self, value: Any, dtype: type[np.generic] = np.int64) -> Tensor:
        """Add a constant and wrap it to compute with it."""
        return Tensor(self, self.constant(value, dtype), dtype)


class Tensor:
    """A tensor of a graph that is being built. Arithmetic with it adds nodes and returns the tensor of the result.

    Shapes broadcast as in NumPy. Python numbers and arrays become constants of the tensor's type. `//` and `%` are
    defined for integers >= 0 only: ONNX rounds quotients towards zero. Comparisons return flags, int64 tensors of 0 and
    1. Flags are combined with `*` and `+`, because the WebGPU provider of onnxruntime-web 1.30 computes the operators
    And and Or wrongly where shapes broadcast.

    Args:
        graph: the graph that the tensor belongs to.
        name: its name in the graph.
        dtype: type of its elements.
    """

    def __init__(self, graph: GraphBuilder, name: str, dtype: type[np.generic]) -> None:
        self.graph, self.name, self.dtype = graph, name, dtype

    def apply(self, kind: str, *others: Number, dtype: type[np.generic] | None = None, **attributes: Any) -> Tensor:
        """Add a node whose first input is this tensor. `dtype` is the type of its output, unless it stays the same."""
        inputs = [self.like(other).name for other in others]
        return Tensor(self.graph, self.graph.add(kind, self.name, *inputs, **attributes), dtype or self.dtype)

    def like(self, other: Number) -> Tensor:
        """Return a number or array as a constant of this tensor's type, and a tensor unchanged."""
        return other if isinstance(other, Tensor) else self.graph.number(other, self.dtype)

    def __add__(self, other: Number) -> Tensor:
        return self.apply("Add", other)

    def __sub__(self, other: Number) -> Tensor:
        return self.apply("Sub", other)

    def __rsub__(self, other: Number) -> Tensor:
        return self.like(other) - self

    def __mul__(self, other: Number) -> Tensor:
        return self.apply("Mul", other)

    def __rmul__(self, other: Number) -> Tensor:
        return self.like(other) * self

    def __truediv__(self, other: Number) -> Tensor:
        return self.apply("Div", other)

    def __floordiv__(self, other: Number) -> Tensor:
        return self.apply("Div", other)

    def __mod__(self, other: Number) -> Tensor:
        return self.apply("Mod", other)

    def __lt__(self, other: Number) -> Tensor:
        return self._flags("Less", other)

    def __gt__(self, other: Number) -> Tensor:
        return self._flags("Greater", other)

    def equals(self, other: Number) -> Tensor:
        """Return flags: 1 where the elements are equal."""
        return self._flags("Equal", other)

    def _flags(self, kind: str, other: Number) -> Tensor:
        return self.apply(kind, other, dtype=np.bool_).cast(np.int64)

    def __neg__(self) -> Tensor:
        return self.apply("Neg")

    def __abs__(self) -> Tensor:
        return self.apply("Abs")

    def choose(self, then: Tensor, other: Number) -> Tensor:
        """Return the elements of `then` where this tensor of flags is 1, and those of `other` where it is 0."""
        return _where(self.cast(np.bool_), then, other)

    def at_least(self, other: Number) -> Tensor:
        """Return the elementwise maximum."""
        return self._extreme("Max", other)

    def at_most(self, other: Number) -> Tensor:
        """Return the elementwise minimum."""
        return self._extreme("Min", other)

    def _extreme(self, kind: str, other: Number) -> Tensor:
        if self.dtype is np.float32:
            return self.apply(kind, other)
        # Before opset 12 these operators take no integers, and ONNX Runtime's are wrong on x86 where two integers are
        # more than 2^31 apart.
        second = self.like(other)
        return _where(self.apply("Greater" if kind == "Max" else "Less", second, dtype=np.bool_), self, second)

    def cast(self, dtype: type[np.generic]) -> Tensor:
        """Convert to another type; fractions are truncated."""
        return self.apply("Cast", to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), dtype=dtype)

    def floor(self) -> Tensor:
        """Round down."""
        return self.apply("Floor")

    def round(self) -> Tensor:
        """Round to the nearest integer, halves to the even one."""
        return self.apply("Round")

    def sum(self, axis: int) -> Tensor:
        """Sum over an axis, which is kept with length 1."""
        return Tensor(self.graph, self.graph.reduce("ReduceSum", self.name, axis, keepdims=True), self.dtype)

    def reshape(self, *shape: int | Tensor) -> Tensor:
        """Reshape. A length may be an int64 [1] tensor; -1 is inferred, 0 keeps the length of the input."""
        if all(isinstance(length, int) for length in shape):
            wanted = self.graph.whole(*(length for length in shape if isinstance(length, int)))
        else:
            parts = [length.name if isinstance(length, Tensor) else self.graph.whole(length) for length in shape]
            wanted = self.graph.add("Concat", *parts, axis=0)
        return Tensor(self.graph, self.graph.add("Reshape", self.name, wanted), self.dtype)

    def transpose(self, *order: int) -> Tensor:
        """Permute the axes."""
        return self.apply("Transpose", perm=order)

    def slice(self, start: int, end: int, *, axis: int = 0) -> Tensor:
        """Return the elements from start to end, exclusive, along one axis."""
        where = [self.graph.whole(number) for number in (start, end, axis)]
        return Tensor(self.graph, self.graph.add("Slice", self.name, *where), self.dtype)

    def take(self, indices: Tensor, *, axis: int = 0) -> Tensor:
        """Return the elements at int64 indices along one axis."""
        return self.apply("Gather", indices, axis=axis)


def _where(condition: Tensor, then: Tensor, other: Number) -> Tensor:
    return Tensor(then.graph, then.graph.add("Where", condition.name, then.name, then.like(other).name), then.dtype)


def concatenate(tensors: Sequence[Tensor], *, axis: int) -> Tensor:
    """Concatenate tensors of one type along an axis."""
    first = tensors[0]
    return first.apply("Concat", *tensors[1:], axis=axis)


def count_up(length: Tensor) -> Tensor:
    """Return 0, 1, …, length - 1: int64 [1] -> int64 [length]."""
    graph = length.graph
    zero, one = graph.constant(0, np.int64), graph.constant(1, np.int64)
    return graph.tensor(graph.add("Range", zero, graph.add("Reshape", length.name, graph.whole()), one), np.int64)
