"""Building ONNX graphs by hand. Needs no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


class GraphBuilder:
    """Collects nodes and constants under names of their own.

    Args:
        prefix: of every name.
    """

    def __init__(self, prefix: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._prefix = prefix

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        name = f"{self._prefix}{len(self.nodes)}_{kind.lower()}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: Any, dtype: Any) -> str:
        """Add a constant; returns its name."""
        name = f"{self._prefix}constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def whole(self, *values: int) -> str:
        """Add a vector of whole numbers; returns its name."""
        return self.constant(values, np.int64)

    def choose(self, condition: str, then: GraphBuilder, then_name: str, other: GraphBuilder, other_name: str) -> str:
        """Run one of two graphs, which may use names of this one; returns the output's name."""
        branches = {
            key: helper.make_graph(
                builder.nodes, key, [], [helper.make_empty_tensor_value_info(name)], builder.constants
            )
            for key, builder, name in (("then_branch", then, then_name), ("else_branch", other, other_name))
        }
        return self.add("If", condition, **branches)
