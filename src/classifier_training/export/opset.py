"""Convert a graph to an older opset, so that older runtimes load it; tell what a file requires. Needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper

from classifier_training.core.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

EXPORTER_OPSET = 18
"""The oldest opset that PyTorch's exporter writes; older ones are converted from it."""

EIGHT_BIT_OPSET = 13
"""From which on eight-bit operators have a scale for each channel."""

FIRST_RUNTIMES = {
    11: "1.0", 12: "1.3", 13: "1.6", 14: "1.8", 15: "1.10", 16: "1.11", 17: "1.12", 18: "1.14", 19: "1.15", 20: "1.17",
    21: "1.18", 22: "1.21", 23: "1.23", 24: "1.24", 25: "1.24",
}  # fmt: skip
"""First version of ONNX Runtime that loads a file of each opset, if the file has the opset's lowest IR version."""

AXES_AS_INPUT = {"ReduceSum": 13, "Squeeze": 13, "Unsqueeze": 13}
"""First opset in which an operator takes its axes as an input; 18 for all other reductions."""


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators in a model."""
    return int(next(entry.version for entry in model.opset_import if entry.domain == ""))


def minimize_requirements(model: onnx.ModelProto) -> None:
    """Give a model the lowest IR version that its opset allows, and remove the exporter's node metadata.

    The metadata needs a later IR version. It names the place of each operator in the source code, with paths of the
    machine that exported it.
    """
    graph = model.graph
    for item in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del item.metadata_props[:]
    model.ir_version = helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)


def describe_requirements(path: Path) -> dict[str, Any]:
    """Return what an ONNX file requires of a runtime: opset, IR version and first version of ONNX Runtime."""
    model = onnx.load(path, load_external_data=False)
    opset = opset_of(model)
    # A file may have a higher IR version than its opset needs; then the runtime of a higher opset is required.
    loading = next(number for number in FIRST_RUNTIMES if number >= opset and _ir_version(number) >= model.ir_version)
    return {"opset": opset, "ir_version": model.ir_version, "min_onnxruntime": FIRST_RUNTIMES[loading]}


def lower_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return the same graph in the operators of an older opset.

    The converter of the package onnx lacks most conversions to older versions, though most versions of an operator
    differ only in the types that they accept.

    Args:
        model: in the exporter's opset or a newer one.
        opset: version of the result.

    Raises:
        UserError: for an operator that cannot be expressed in the older opset.
    """
    try:
        return _lowered(model, opset)
    except _UnavailableError as error:
        lowest = next(number for number in range(opset + 1, opset_of(model) + 1) if _can_lower(model, number))
        raise UserError(
            f"opset {opset}: the network's operator {error}",
            f"an opset that has all of the network's operators: {lowest} or higher",
            f"format.onnx.opset={lowest} (in training callbacks.onnx_export.opset={lowest}), or leave it out",
        ) from error


class _UnavailableError(Exception):
    """An operator that cannot be expressed in the older opset; the message begins with the operator."""


def _can_lower(model: onnx.ModelProto, opset: int) -> bool:
    try:
        _lowered(model, opset)
    except _UnavailableError:
        return False
    return True


def _lowered(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = numpy_helper.to_array(helper.get_node_attr_value(node, "value"))
    nodes = []
    for node in lowered.graph.node:
        nodes += _lower_node(node, opset_of(model), opset, constants)
    del lowered.graph.node[:]
    lowered.graph.node.extend(nodes)
    next(entry for entry in lowered.opset_import if entry.domain == "").version = opset
    lowered.ir_version = _ir_version(opset)
    try:
        onnx.checker.check_model(lowered, full_check=True)
    except Exception as error:  # the checker's and the shape inference's own, which share no base
        raise _UnavailableError(f"that follows is not of that opset: {str(error).splitlines()[0]}") from error
    return lowered


def _lower_node(
    node: onnx.NodeProto, newer: int, older: int, constants: dict[str, np.ndarray[Any, Any]]
) -> list[onnx.NodeProto]:
    """Return nodes of the opset `older` that compute what a node of the opset `newer` computes.

    Args:
        node: the node, which may be changed.
        newer: its opset.
        older: opset of the result.
        constants: values of the graph's constants by their names.

    Raises:
        _UnavailableError: when there are none.
    """
    kind = node.op_type
    if node.domain:
        return [node]
    before, after = _schema(kind, newer), _schema(kind, older)
    if after is None and kind in _DECOMPOSITIONS:
        return _DECOMPOSITIONS[kind](node)
    if before is None or after is None:
        raise _UnavailableError(f"{kind} is not in it")
    if kind in ("Softmax", "LogSoftmax") and older < 13:
        if _value(node, "axis", -1) != -1:
            raise _UnavailableError(f"{kind} works on the last axis alone before opset 13")
        _set(node, "axis", -1)
    if kind == "Shape" and older < 15 and node.attribute:
        return _shape_and_slice(node)
    if kind == "Reshape" and older < 14 and 0 not in constants.get(node.input[1], ()):
        # `allowzero` makes a difference only for lengths of zero, which a computed shape has only in empty batches.
        _set(node, "allowzero", 0)
    added = (kind.startswith("Reduce") and older < 18) or kind in AXES_AS_INPUT
    if added and older < AXES_AS_INPUT.get(kind, 18):
        _input_to_attribute(node, 1, "axes", constants)
    if kind == "Split" and older < 13:
        _input_to_attribute(node, 1, "split", constants)
    if len(node.input) > len(after.inputs) and not _is_variadic(after):
        raise _UnavailableError(f"{kind} takes only {len(after.inputs)} inputs there")
    kept = []
    for attribute in node.attribute:
        if attribute.name in after.attributes:
            kept.append(attribute)
            continue
        default = before.attributes[attribute.name].default_value
        is_default = default.name and helper.get_attribute_value(attribute) == helper.get_attribute_value(default)
        if not is_default and (kind, attribute.name) != ("Split", "num_outputs"):
            raise _UnavailableError(f"{kind} has no {attribute.name} there")
    del node.attribute[:]
    node.attribute.extend(kept)
    return [node]


def _hard_swish(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    parts = _Parts(node)
    gate = parts.add("HardSigmoid", node.input[0], alpha=1 / 6, beta=0.5)
    return parts.finish("Mul", node.input[0], gate)


def _layer_normalization(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    if _value(node, "axis", -1) != -1 or len(node.output) > 1:
        raise _UnavailableError("LayerNormalization over several axes is not in it")
    parts = _Parts(node)
    centred = parts.add("Sub", node.input[0], parts.add("ReduceMean", node.input[0], axes=[-1]))
    variance = parts.add("ReduceMean", parts.add("Mul", centred, centred), axes=[-1])
    epsilon = parts.constant(np.array(_value(node, "epsilon", 1e-5), dtype=np.float32))
    deviation = parts.add("Sqrt", parts.add("Add", variance, epsilon))
    scaled = ("Mul", parts.add("Div", centred, deviation), node.input[1])
    if len(node.input) < 3 or not node.input[2]:
        return parts.finish(*scaled)
    return parts.finish("Add", parts.add(*scaled), node.input[2])


_DECOMPOSITIONS = {"HardSwish": _hard_swish, "LayerNormalization": _layer_normalization}


class _Parts:
    """Collects the nodes that replace another one."""

    def __init__(self, whole: onnx.NodeProto) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._whole = whole

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; returns its output's name."""
        name = f"{self._whole.output[0]}/{len(self.nodes)}_{kind.lower()}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: np.ndarray[Any, Any]) -> str:
        """Add a constant; returns its name."""
        return self.add("Constant", value=numpy_helper.from_array(value))

    def finish(self, kind: str, *inputs: str) -> list[onnx.NodeProto]:
        """Add the last node, which has the output of the replaced one; returns all nodes."""
        output = list(self._whole.output[:1])
        return [*self.nodes, helper.make_node(kind, list(inputs), output, name=self._whole.name)]


def _shape_and_slice(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Replace `Shape` with start and end by `Shape` and `Slice`."""
    parts = _Parts(node)
    whole = parts.add("Shape", node.input[0])
    start, end = _value(node, "start", 0), _value(node, "end", np.iinfo(np.int64).max)
    return parts.finish("Slice", whole, *(parts.constant(np.array([value])) for value in (start, end)))


def _input_to_attribute(
    node: onnx.NodeProto, place: int, name: str, constants: dict[str, np.ndarray[Any, Any]]
) -> None:
    if len(node.input) <= place or not node.input[place]:
        return
    if node.input[place] not in constants:
        raise _UnavailableError(f"{node.op_type} has {name} that are computed, which are no attribute")
    values = constants[node.input[place]]
    del node.input[place:]
    _set(node, name, [int(value) for value in values.reshape(-1)])


def _value(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)


def _set(node: onnx.NodeProto, name: str, value: Any) -> None:
    kept = [item for item in node.attribute if item.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def _schema(kind: str, opset: int) -> defs.OpSchema | None:
    try:
        return defs.get_schema(kind, opset, "")
    except defs.SchemaError:
        return None


def _is_variadic(schema: defs.OpSchema) -> bool:
    return any(item.option == defs.OpSchema.FormalParameterOption.Variadic for item in schema.inputs)


def _ir_version(opset: int) -> int:
    return int(helper.find_min_ir_version_for([helper.make_opsetid("", opset)]))
