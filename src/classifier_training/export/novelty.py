"""A score for images unlike the training data, and its place as an output of an ONNX file. Needs no torch.

The features of the classes that a network was trained on lie close to a few directions; an image of another kind
reaches outside of them. The score is the share of a centred feature vector's squared length outside the principal
subspace of the training features: the residual of ViM (Wang et al. 2022, arXiv:2203.10807), relative to the length as
in null space analysis (Cook et al. 2020). Where a network's features are not to be had, the energy of its logits
stands in (Liu et al. 2020, arXiv:2010.03759).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from classifier_training.core.run_dir import atomic_path
from classifier_training.export.bundle import NOVELTY_NAME
from classifier_training.export.graph import GraphBuilder
from classifier_training.export.opset import opset_of
from classifier_training.export.session import INPUT_NAME, OUTPUT_NAME

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from numpy.typing import NDArray

FEATURES_NAME = "features"
PREFIX = "novelty/"
"""Of all names that the score adds to a graph."""

FALSE_ALARM_RATE = 0.05
"""Share of the validation images that the threshold calls unlike the training data."""

EXPLAINED = 0.99
"""Share of the training features' variance that the subspace holds."""

MAX_DIMENSIONS = 64
"""Of the subspace: with it the score of 2,048 features takes half a megabyte in the file."""


TINY = 1e-12
"""Keeps a vector without length from being divided by it."""


@dataclass(frozen=True)
class FeatureSubspace:
    """Where the features of training images lie.

    Args:
        mean: float32 [D].
        basis: orthonormal directions as columns, float32 [D, P].
    """

    mean: NDArray[np.float32]
    basis: NDArray[np.float32]

    @classmethod
    def fit(cls, features: NDArray[np.float32]) -> FeatureSubspace:
        """Find the directions of most variance, in training features [N, D] of at least two dimensions."""
        wide = features.astype(np.float64)
        mean = wide.mean(axis=0)
        _, lengths, directions = np.linalg.svd(wide - mean, full_matrices=False)
        explained = np.cumsum(lengths**2) / max(float((lengths**2).sum()), np.finfo(float).tiny)
        number = int(np.searchsorted(explained, EXPLAINED)) + 1
        # One direction at least is left outside, or the score would be nothing but rounding.
        number = min(number, MAX_DIMENSIONS, features.shape[1] - 1, len(directions))
        return cls(mean.astype(np.float32), np.ascontiguousarray(directions[:number].T, dtype=np.float32))

    def scores(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Share outside of the subspace [N], from 0 to 1, of features [N, D]."""
        centred = features - self.mean
        inside = np.square(centred @ self.basis).sum(axis=1)
        return np.asarray(1 - inside / np.maximum(np.square(centred).sum(axis=1), TINY), dtype=np.float32)


def alarm_threshold(scores: NDArray[np.float32], *, false_alarm_rate: float = FALSE_ALARM_RATE) -> float:
    """Return the score above which no more than a share of these images [N] lies."""
    return float(np.quantile(scores.astype(np.float64), 1 - false_alarm_rate, method="higher"))


def expose_features(model: onnx.ModelProto) -> bool:
    """Make the input of the last linear layer an output, `features` float32 [batch, D].

    Returns:
        Whether there is one: a network may also end in a convolution or a pooling.
    """
    graph = model.graph
    if any(output.name == FEATURES_NAME for output in graph.output):
        return True
    makers = {name: node for node in graph.node for name in node.output}
    if FEATURES_NAME in makers:
        # The score is computed from them.
        graph.output.append(helper.make_tensor_value_info(FEATURES_NAME, TensorProto.FLOAT, ["batch", None]))
        return True
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


def expose_other_features(model: onnx.ModelProto) -> bool:
    """Make `features` float32 [batch, D] an output of a network that does not end in a linear layer.

    They are the last vector that was put together of several, as the handcrafted features of shallow models are; or the
    mean, over all places, of what the last convolution takes. Whatever the logits are computed from goes through them.

    Returns:
        Whether there are such.
    """
    graph = onnx.shape_inference.infer_shapes(model).graph
    num_axes = {item.name: len(item.type.tensor_type.shape.dim) for item in graph.value_info}
    nodes = model.graph.node
    vectors = [node.output[0] for node in nodes if node.op_type == "Concat" and num_axes.get(node.output[0]) == 2]
    maps = [node.input[0] for node in nodes if node.op_type == "Conv" and num_axes.get(node.input[0]) == 4]
    source = next((name for name in (*reversed(vectors), *reversed(maps)) if _all_goes_through(model, name)), None)
    if source is None:
        return False
    builder = GraphBuilder(PREFIX, opset=opset_of(model))
    if source in maps:
        source = builder.add("Flatten", builder.add("GlobalAveragePool", source))
    builder.nodes.append(helper.make_node("Identity", [source], [FEATURES_NAME], name=f"{PREFIX}{FEATURES_NAME}"))
    nodes.extend(builder.nodes)
    model.graph.output.append(helper.make_tensor_value_info(FEATURES_NAME, TensorProto.FLOAT, ["batch", None]))
    return True


def _all_goes_through(model: onnx.ModelProto, tensor: str) -> bool:
    """Whether no path leads from the input to the logits that leaves a tensor out."""
    makers = {name: node for node in model.graph.node for name in node.output}
    seen, waiting = {tensor}, [OUTPUT_NAME]
    while waiting:
        name = waiting.pop()
        if name == INPUT_NAME:
            return False
        if name not in seen:
            seen.add(name)
            # How many images there are says nothing of what is in them.
            waiting += _inputs(makers[name]) if name in makers and makers[name].op_type != "Shape" else []
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
