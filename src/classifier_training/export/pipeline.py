"""`pipeline.onnx`: a whole picture in, probabilities out, with the preprocessing in the graph. Needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper

from classifier_training.core.run_dir import atomic_path
from classifier_training.export.calibration import BAKED_KEY, NOVELTY_KEY, TEMPERATURE_KEY
from classifier_training.export.graph import GraphBuilder
from classifier_training.export.novelty import keep_outputs, remove_novelty
from classifier_training.export.opset import opset_of
from classifier_training.export.resize import fit
from classifier_training.export.session import INPUT_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from classifier_training.core.preprocess import Preprocessing

IMAGE_NAME, PIXELS_NAME, PROBABILITIES_NAME = "image", "pixels", "probabilities"


def write_pipeline(model: Path, preprocessing: Preprocessing, path: Path, *, temperature: float | None = None) -> None:
    """Put the preprocessing before a model's input and a softmax behind its logits.

    Args:
        model: ONNX file from float32 [batch, 3, H, W] to logits [batch, K].
        preprocessing: what to put before it.
        path: where the file goes.
        temperature: to divide the logits by before the softmax; None leaves the model's temperature to who reads the
            metadata.
    """
    with atomic_path(path) as temporary:
        onnx.save(build_pipeline(onnx.load(model), preprocessing, temperature=temperature), temporary)


def build_pipeline(
    model: onnx.ModelProto, preprocessing: Preprocessing, *, temperature: float | None = None
) -> onnx.ModelProto:
    """Return the pipeline `image` uint8 [H, W, 3] -> `probabilities` float32 [K]; see `write_pipeline`."""
    remove_novelty(model)
    graph = model.graph
    opset = opset_of(model)
    head, tail = GraphBuilder("preprocess/", opset=opset), GraphBuilder("answer/", opset=opset)
    head.nodes.append(helper.make_node("Identity", [fit(head, IMAGE_NAME, preprocessing)], [PIXELS_NAME]))
    normalized = normalize(head, PIXELS_NAME, preprocessing)
    head.nodes.append(helper.make_node("Identity", [normalized], [graph.input[0].name], name="preprocess/input"))
    logits = graph.output[0].name
    if temperature not in (None, 1.0):
        logits = tail.add("Div", logits, tail.constant(temperature, np.float32))
    shares = tail.add("Softmax", logits, axis=-1)
    tail.nodes.append(
        helper.make_node("Reshape", [shares, tail.whole(-1)], [PROBABILITIES_NAME], name="answer/flatten")
    )
    num_classes = graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    piped = helper.make_graph(
        [*head.nodes, *graph.node, *tail.nodes],
        "pipeline",
        [helper.make_tensor_value_info(IMAGE_NAME, TensorProto.UINT8, ["height", "width", 3])],
        [helper.make_tensor_value_info(PROBABILITIES_NAME, TensorProto.FLOAT, [num_classes])],
        [*head.constants, *graph.initializer, *tail.constants],
    )
    made = helper.make_model(
        piped, opset_imports=model.opset_import, ir_version=model.ir_version, functions=model.functions
    )
    texts = {item.key: item.value for item in model.metadata_props if item.key != NOVELTY_KEY}
    if temperature is not None:
        texts |= {TEMPERATURE_KEY: "1.0", BAKED_KEY: repr(temperature)}
    helper.set_model_props(made, texts)
    onnx.checker.check_model(made)
    return made


def with_pixels(path: Path, size: tuple[int, int]) -> bytes:
    """Return a pipeline that also gives the fitted picture, `pixels` float32 [1, 3, h, w] of 0..255, for checks."""
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info(PIXELS_NAME, TensorProto.FLOAT, [1, 3, *size]))
    return bytes(model.SerializeToString())


def preprocessing_part(path: Path, size: tuple[int, int]) -> bytes:
    """Return a pipeline's preprocessing alone: `pixels`, as in `with_pixels`, and the network's `input` of it."""
    model = onnx.load(path)
    names = (PIXELS_NAME, INPUT_NAME)
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, *size]) for name in names)
    keep_outputs(model.graph, names)
    return bytes(model.SerializeToString())


def normalize(graph: GraphBuilder, pixels: str, preprocessing: Preprocessing) -> str:
    """Scale, subtract, divide and order the channels: float32 [1, 3, h, w] -> the network's input."""
    std = np.array(preprocessing.std, dtype=np.float64).reshape(1, 3, 1, 1)
    mean = np.array(preprocessing.mean, dtype=np.float64).reshape(1, 3, 1, 1)
    scaled = graph.add("Mul", pixels, graph.constant(1 / (255 * std), np.float32))
    shifted = graph.add("Add", scaled, graph.constant(-mean / std, np.float32))
    if preprocessing.channel_order == "rgb":
        return shifted
    return graph.add("Gather", shifted, graph.whole(2, 1, 0), axis=1)
