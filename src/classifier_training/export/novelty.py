"""The score for images unlike the training data as an output of an ONNX file. Needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from classifier_training.core.run_dir import atomic_path
from classifier_training.evaluation.novelty import TINY, FeatureSubspace
from classifier_training.export.bundle import NOVELTY_NAME
from classifier_training.export.graph import GraphBuilder
from classifier_training.export.opset import opset_of
from classifier_training.export.session import OUTPUT_NAME

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

FEATURES_NAME = "features"
PREFIX = "novelty/"
"""Of all names that the score adds to a graph."""


def expose_features(model: onnx.ModelProto) -> bool:
    """Make the input of the last linear layer an output, `features` float32 [batch, D].

    Returns:
        Whether there is one: a network may also end in a convolution or a pooling.
    """
    graph = model.graph
    if any(output.name == FEATURES_NAME for output in graph.output):
        return True
    makers = {name: node for node in graph.node for name in node.output}
    weights = {item.name: item for item in graph.initializer}
    node = makers.get(OUTPUT_NAME)
    while node is not None and node.op_type in ("Identity", "Add"):
        # The bias of a linear layer that was written as a product and a sum.
        node = next((makers[name] for name in node.input if name in makers), None)
    if node is None or node.op_type not in ("Gemm", "MatMul") or node.input[1] not in weights:
        return False
    transposed = any(item.name == "transB" and item.i for item in node.attribute)
    width = weights[node.input[1]].dims[1 if transposed else 0]
    source = node.input[0]
    graph.node.append(helper.make_node("Identity", [source], [FEATURES_NAME], name=f"{PREFIX}{FEATURES_NAME}"))
    graph.output.append(helper.make_tensor_value_info(FEATURES_NAME, TensorProto.FLOAT, ["batch", width]))
    return True


def add_novelty(model: onnx.ModelProto, subspace: FeatureSubspace | None) -> None:
    """Add the output `novelty` float32 [batch]: from the features, or the energy of the logits where there are none."""
    builder = GraphBuilder(PREFIX, opset=opset_of(model))
    if subspace is None:
        total = builder.reduce("ReduceLogSumExp", OUTPUT_NAME, 1)
        builder.nodes.append(helper.make_node("Neg", [total], [NOVELTY_NAME], name=f"{PREFIX}{NOVELTY_NAME}"))
    else:
        mean, basis = f"{PREFIX}mean", f"{PREFIX}basis"
        builder.constants += [
            numpy_helper.from_array(subspace.mean, mean),
            numpy_helper.from_array(subspace.basis, basis),
        ]
        centred = builder.add("Sub", FEATURES_NAME, mean)
        inside = builder.reduce("ReduceSumSquare", builder.add("MatMul", centred, basis), 1)
        whole = builder.reduce("ReduceSumSquare", centred, 1)
        share = builder.add("Div", inside, builder.add("Max", whole, builder.constant(TINY, np.float32)))
        one = builder.constant(1, np.float32)
        builder.nodes.append(helper.make_node("Sub", [one, share], [NOVELTY_NAME], name=f"{PREFIX}{NOVELTY_NAME}"))
    model.graph.node.extend(builder.nodes)
    model.graph.initializer.extend(builder.constants)
    model.graph.output.append(helper.make_tensor_value_info(NOVELTY_NAME, TensorProto.FLOAT, ["batch"]))
    onnx.checker.check_model(model)


def remove_novelty(model: onnx.ModelProto, *, keep_features: bool = False) -> None:
    """Take the score and, unless they are kept, the features out of a graph; others need not carry them along.

    Whatever was computed for them alone goes, too: a converter may have put nodes of its own behind the features.
    """
    keep_outputs(model.graph, (OUTPUT_NAME, FEATURES_NAME) if keep_features else (OUTPUT_NAME,))


def keep_outputs(graph: onnx.GraphProto, names: Collection[str]) -> None:
    """Leave in a graph only the outputs of these names, and what they are computed from."""
    _keep(graph.output, [item for item in graph.output if item.name in names])
    makers = {name: node for node in graph.node for name in node.output}
    needed: set[str] = set()
    waiting = [item.name for item in graph.output]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += _inputs(makers[name]) if name in makers else []
    _keep(graph.node, [node for node in graph.node if needed.intersection(node.output)])
    for items in (graph.initializer, graph.value_info):
        _keep(items, [item for item in items if item.name in needed])


def _inputs(node: onnx.NodeProto) -> list[str]:
    """Names that a node takes, or the nodes of a graph inside it."""
    inner = [one for item in node.attribute for one in item.g.node]
    return [*node.input, *(name for one in inner for name in _inputs(one))]


def _keep(items: Any, kept: list[Any]) -> None:
    copies = [type(item).FromString(item.SerializeToString()) for item in kept]
    del items[:]
    items.extend(copies)


def write_without_novelty(source: Path, target: Path) -> None:
    """Copy an ONNX file without the score, its features kept."""
    model = onnx.load(source)
    remove_novelty(model, keep_features=True)
    with atomic_path(target) as temporary:
        onnx.save(model, temporary)


def copy_novelty(source: Path, target: Path) -> None:
    """Give a file that was made from another, and has its `features`, the other's score."""
    origin, model = onnx.load(source), onnx.load(target)
    if all(output.name != NOVELTY_NAME for output in origin.graph.output):
        return
    constants = {item.name: numpy_helper.to_array(item) for item in origin.graph.initializer}
    mean, basis = constants.get(f"{PREFIX}mean"), constants.get(f"{PREFIX}basis")
    add_novelty(model, None if mean is None or basis is None else FeatureSubspace(mean, basis))
    with atomic_path(target) as temporary:
        onnx.save(model, temporary)
