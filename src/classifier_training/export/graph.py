"""Building ONNX graphs by hand. Needs no torch."""

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
    """Collects nodes and constants under names of their own.

    Args:
        prefix: of every name.
        opset: of the graph that they go into.
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
        """Add a constant, unless there is the same already; returns its name."""
        array = np.asarray(value, dtype=dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = f"{self._prefix}constant_{len(self.constants)}"
            self.constants.append(numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def whole(self, *values: int) -> str:
        """Add a vector of whole numbers; returns its name."""
        return self.constant(values, np.int64)

    def reduce(self, kind: str, tensor: str, axis: int, *, keepdims: bool = False) -> str:
        """Reduce one axis; older opsets give it as an attribute, newer ones as an input."""
        if self.opset < (13 if kind == "ReduceSum" else 18):
            return self.add(kind, tensor, axes=[axis], keepdims=int(keepdims))
        return self.add(kind, tensor, self.whole(axis), keepdims=int(keepdims))

    def tensor(self, name: str, dtype: type[np.generic]) -> Tensor:
        """Return what is called so in this graph as something to compute with."""
        return Tensor(self, name, dtype)

    def number(self, value: Any, dtype: type[np.generic] = np.int64) -> Tensor:
        """Add a constant as something to compute with."""
        return Tensor(self, self.constant(value, dtype), dtype)


class Tensor:
    """A tensor of a graph that is being built; computing with it adds nodes.

    Shapes broadcast as in NumPy. Python numbers and arrays become constants of the tensor's own type. `//` and `%` are
    for whole numbers that are not negative: ONNX rounds quotients towards zero. Comparisons give flags, int64 of 0 and
    1, to multiply and add: the WebGPU provider of onnxruntime-web 1.30 computes the operators And and Or wrongly where
    shapes broadcast.

    Args:
        graph: that it belongs to.
        name: in the graph.
        dtype: of its elements.
    """

    def __init__(self, graph: GraphBuilder, name: str, dtype: type[np.generic]) -> None:
        self.graph, self.name, self.dtype = graph, name, dtype

    def apply(self, kind: str, *others: Number, dtype: type[np.generic] | None = None, **attributes: Any) -> Tensor:
        """Add a node whose first input is this tensor; `dtype` is the result's, where it is another one."""
        inputs = [self.like(other).name for other in others]
        return Tensor(self.graph, self.graph.add(kind, self.name, *inputs, **attributes), dtype or self.dtype)

    def like(self, other: Number) -> Tensor:
        """Return a number or array as a constant of this tensor's type; a tensor as it is."""
        return other if isinstance(other, Tensor) else self.graph.number(other, self.dtype)

    def __add__(self, other: Number) -> Tensor:
        return self.apply("Add", other)

    def __radd__(self, other: Number) -> Tensor:
        return self.like(other) + self

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

    def __rtruediv__(self, other: Number) -> Tensor:
        return self.like(other) / self

    def __floordiv__(self, other: Number) -> Tensor:
        return self.apply("Div", other)

    def __mod__(self, other: Number) -> Tensor:
        return self.apply("Mod", other)

    def __lt__(self, other: Number) -> Tensor:
        return self._flags("Less", other)

    def __gt__(self, other: Number) -> Tensor:
        return self._flags("Greater", other)

    def equals(self, other: Number) -> Tensor:
        """Compare element by element."""
        return self._flags("Equal", other)

    def _flags(self, kind: str, other: Number) -> Tensor:
        return self.apply(kind, other, dtype=np.bool_).cast(np.int64)

    def __neg__(self) -> Tensor:
        return self.apply("Neg")

    def __abs__(self) -> Tensor:
        return self.apply("Abs")

    def choose(self, then: Tensor, other: Number) -> Tensor:
        """Choose between whole numbers by the flags that this tensor holds."""
        return _where(self.cast(np.bool_), then, other)

    def at_least(self, other: Number) -> Tensor:
        """Return the larger of two."""
        return self._extreme("Max", other)

    def at_most(self, other: Number) -> Tensor:
        """Return the smaller of two."""
        return self._extreme("Min", other)

    def _extreme(self, kind: str, other: Number) -> Tensor:
        if self.dtype is np.float32:
            return self.apply(kind, other)
        # Before opset 12 these operators know no whole numbers, and ONNX Runtime's are wrong on x86 where two numbers
        # lie more than 2^31 apart.
        second = self.like(other)
        return _where(self.apply("Greater" if kind == "Max" else "Less", second, dtype=np.bool_), self, second)

    def cast(self, dtype: type[np.generic]) -> Tensor:
        """Convert; fractions are cut off."""
        return self.apply("Cast", to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), dtype=dtype)

    def floor(self) -> Tensor:
        """Round down."""
        return self.apply("Floor")

    def round(self) -> Tensor:
        """Round to the nearest whole number, halves to even ones."""
        return self.apply("Round")

    def sum(self, axis: int) -> Tensor:
        """Add up along an axis, which stays with a length of one."""
        return Tensor(self.graph, self.graph.reduce("ReduceSum", self.name, axis, keepdims=True), self.dtype)

    def reshape(self, *shape: int | Tensor) -> Tensor:
        """Reshape; a length may be a tensor, int64 [1]; -1 is what is left, 0 what it was."""
        if all(isinstance(length, int) for length in shape):
            wanted = self.graph.whole(*(length for length in shape if isinstance(length, int)))
        else:
            parts = [length.name if isinstance(length, Tensor) else self.graph.whole(length) for length in shape]
            wanted = self.graph.add("Concat", *parts, axis=0)
        return Tensor(self.graph, self.graph.add("Reshape", self.name, wanted), self.dtype)

    def transpose(self, *order: int) -> Tensor:
        """Put the axes into another order."""
        return self.apply("Transpose", perm=order)

    def slice(self, start: int, end: int, *, axis: int = 0) -> Tensor:
        """Cut a piece out along one axis."""
        where = [self.graph.whole(number) for number in (start, end, axis)]
        return Tensor(self.graph, self.graph.add("Slice", self.name, *where), self.dtype)

    def take(self, indices: Tensor, *, axis: int = 0) -> Tensor:
        """Gather along one axis."""
        return self.apply("Gather", indices, axis=axis)


def _where(condition: Tensor, then: Tensor, other: Number) -> Tensor:
    return Tensor(then.graph, then.graph.add("Where", condition.name, then.name, then.like(other).name), then.dtype)


def concatenate(tensors: Sequence[Tensor], *, axis: int) -> Tensor:
    """Put tensors of one type one behind the other."""
    first = tensors[0]
    return first.apply("Concat", *tensors[1:], axis=axis)


def count_up(length: Tensor) -> Tensor:
    """Return 0, 1, 2, … of a length, int64 [1] -> int64 [length]."""
    graph = length.graph
    zero, one = graph.constant(0, np.int64), graph.constant(1, np.int64)
    return graph.tensor(graph.add("Range", zero, graph.add("Reshape", length.name, graph.whole()), one), np.int64)
