"""Which operators suffer from quantisation, so that they can be kept in float. Needs no torch.

One graph holds every activation twice, as it is and quantised, and a switch for each chooses. Turning one switch at a
time shows what the quantisation of that activation alone does to the answers; a ranking by the noise on the
activation itself would miss the few channels that matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper

from classifier_training.core.types import softmax
from classifier_training.export.graph import GraphBuilder
from classifier_training.export.session import INPUT_NAME, OUTPUT_NAME, open_session

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

SWITCHES = "quantised"
"""Input of the switched graph, bool [T]: whether each activation is quantised."""


def rank_operators(
    quantised: Path, float_nodes: Sequence[onnx.NodeProto], inputs: NDArray[np.float32]
) -> list[list[str]]:
    """Rank activations by the harm of their quantisation, the worst first.

    Args:
        quantised: QDQ file in which no activation function was dropped.
        float_nodes: operators of the float model that it was made from.
        inputs: a few real inputs, float32 [B, 3, H, W].

    Returns:
        For each activation the names of the operators that make or take it: those to keep in float.
    """
    model, tensors = _with_switches(onnx.load(quantised))
    session = open_session(model.SerializeToString())

    def answers(switches: NDArray[np.bool_]) -> NDArray[np.float32]:
        return softmax(session.run([OUTPUT_NAME], {INPUT_NAME: inputs, SWITCHES: switches})[0])

    as_float = answers(np.zeros(len(tensors), dtype=np.bool_))
    harm = [float(np.abs(answers(switch) - as_float).mean()) for switch in np.eye(len(tensors), dtype=np.bool_)]
    users = [[node.name for node in float_nodes if tensor in node.input or tensor in node.output] for tensor in tensors]
    return [users[row] for row in np.argsort(-np.array(harm), kind="stable") if users[row]]


def _with_switches(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Put a choice between an activation and its quantised self behind each; returns the activations' names."""
    graph = model.graph
    weights = {constant.name for constant in graph.initializer}
    quantisers = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    chosen: dict[str, int] = {}
    builder = GraphBuilder("switch/")
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        source = quantisers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if source is None or source in weights:
            continue
        number = chosen.setdefault(source, len(chosen))
        name = node.output[0]
        node.output[0] = f"{name}/quantised"
        switch = builder.add("Gather", SWITCHES, builder.constant(number, np.int64), axis=0)
        nodes += builder.nodes[-1:]
        nodes.append(helper.make_node("Where", [switch, node.output[0], source], [name], name=f"switch/{name}"))
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(builder.constants)
    graph.input.append(helper.make_tensor_value_info(SWITCHES, TensorProto.BOOL, [len(chosen)]))
    return model, list(chosen)
