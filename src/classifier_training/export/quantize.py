"""Smaller copies of an ONNX file: half precision, and static quantization to eight bits. Needs no torch.

Static quantization in QDQ form, a scale for each output channel of a weight: the ranges of the activations are
measured on training images first (Jacob et al. 2018, arXiv:1712.05877). Dynamic quantization would turn convolutions
into an operator that few runtimes have.
"""

from __future__ import annotations

import contextlib
import io
import logging
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

from classifier_training.core.run_dir import atomic_path
from classifier_training.core.types import softmax
from classifier_training.export.graph import GraphBuilder
from classifier_training.export.session import INPUT_NAME, OUTPUT_NAME, open_session

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


WIDER = 1.002
"""The step of a quantized input in those that its range asks for; see `_widen_input`."""


class Quantizer:
    """Makes quantized copies of one ONNX file, and measures its activations only once.

    Args:
        source: ONNX file in float32.
        scheme: int8 or uint8.
        calibration: gives batches of real inputs, float32 [B, 3, H, W], from the training split.
        folder: for temporary files.
    """

    def __init__(
        self,
        source: Path,
        scheme: Literal["int8", "uint8"],
        *,
        calibration: Callable[[], Iterator[NDArray[np.float32]]],
        folder: Path,
    ) -> None:
        from onnxruntime.quantization.shape_inference import quant_pre_process

        self.prepared = folder / "prepared.onnx"
        self._scheme = scheme
        self._calibration = calibration
        self._ranges = folder / "ranges.json"
        self._metadata = onnx.load(source).metadata_props
        with _quiet():
            quant_pre_process(source, self.prepared, skip_symbolic_shape=True)

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """The operators of the float model that quantization starts from."""
        return list(onnx.load(self.prepared).graph.node)

    def write(self, target: Path, *, in_float: Collection[str] = (), keep_activations: bool = False) -> None:
        """Write a quantized copy.

        Args:
            target: where to.
            in_float: names of operators to leave alone.
            keep_activations: leave operators such as Relu in the graph where a quantized range does their work.
        """
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        with atomic_path(target) as temporary, _quiet():
            quantize_static(
                self.prepared,
                temporary,
                None if self._ranges.exists() else _reader(self._calibration()),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8 if self._scheme == "int8" else QuantType.QUInt8,
                nodes_to_exclude=list(in_float),
                calibration_cache_path=self._ranges,
                extra_options={"QDQKeepRemovableActivations": keep_activations},
            )
            model = onnx.load(temporary)
            _widen_input(model)
            del model.metadata_props[:]
            model.metadata_props.extend(self._metadata)
            onnx.save(model, temporary)


def write_half(source: Path, target: Path) -> None:
    """Write a copy in half precision whose input and output stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    with _quiet():
        half = convert_float_to_float16(onnx.load(source), keep_io_types=True)
        # The converter puts the cast of the input behind its users.
        OnnxModel(half).topological_sort()
    with atomic_path(target) as temporary:
        onnx.save(half, temporary)


def _widen_input(model: onnx.ModelProto) -> None:
    """Make the step of the quantized input a little larger.

    A network of the mean 0.5 and deviation 0.5 has a step of one level of a pixel, and each level lies half-way between
    two steps: the last bit of the input, which no two programs compute alike, would decide all of them.
    """
    scales = {
        node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == INPUT_NAME
    }
    for tensor in model.graph.initializer:
        if tensor.name in scales:
            wider = onnx.numpy_helper.to_array(tensor) * np.float32(WIDER)
            tensor.CopyFrom(onnx.numpy_helper.from_array(wider, tensor.name))


def _reader(batches: Iterator[NDArray[np.float32]]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            batch = next(batches, None)
            return None if batch is None else {INPUT_NAME: batch}

    return Reader()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the converters' notes about themselves off the screen and out of the log; errors still raise."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)


SWITCHES = "quantized"
"""Input of the switched graph, bool [T]: whether each activation is quantized."""


def rank_operators(
    quantized: Path, float_nodes: Sequence[onnx.NodeProto], inputs: NDArray[np.float32]
) -> list[list[str]]:
    """Rank activations by the harm of their quantization, the worst first.

    Args:
        quantized: QDQ file in which no activation function was dropped.
        float_nodes: operators of the float model that it was made from.
        inputs: a few real inputs, float32 [B, 3, H, W].

    Returns:
        For each activation the names of the operators that make or take it: those to keep in float.
    """
    model, tensors = _with_switches(onnx.load(quantized))
    session = open_session(model.SerializeToString())

    def logits_with(switches: NDArray[np.bool_]) -> NDArray[np.float32]:
        return softmax(session.run([OUTPUT_NAME], {INPUT_NAME: inputs, SWITCHES: switches})[0])

    as_float = logits_with(np.zeros(len(tensors), dtype=np.bool_))
    harm = [float(np.abs(logits_with(switch) - as_float).mean()) for switch in np.eye(len(tensors), dtype=np.bool_)]
    users = [[node.name for node in float_nodes if tensor in node.input or tensor in node.output] for tensor in tensors]
    return [users[row] for row in np.argsort(-np.array(harm), kind="stable") if users[row]]


def _with_switches(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Put a choice between an activation and its quantized self behind each; returns the activations' names."""
    graph = model.graph
    weights = {constant.name for constant in graph.initializer}
    quantizers = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    chosen: dict[str, int] = {}
    builder = GraphBuilder("switch/")
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        source = quantizers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if source is None or source in weights:
            continue
        number = chosen.setdefault(source, len(chosen))
        name = node.output[0]
        node.output[0] = f"{name}/quantized"
        switch = builder.add("Gather", SWITCHES, builder.constant(number, np.int64), axis=0)
        nodes += builder.nodes[-1:]
        nodes.append(helper.make_node("Where", [switch, node.output[0], source], [name], name=f"switch/{name}"))
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(builder.constants)
    graph.input.append(helper.make_tensor_value_info(SWITCHES, TensorProto.BOOL, [len(chosen)]))
    return model, list(chosen)
