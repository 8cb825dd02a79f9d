"""`pipeline.onnx`: from a whole image to probabilities, with the preprocessing in the graph. Needs no torch."""

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
    """Write a pipeline: a model with its preprocessing before the input and a softmax after the logits.

    Args:
        model: ONNX file from float32 [batch, 3, h, w] to logits, float32 [batch, K].
        preprocessing: from an image to the model's input.
        path: of the pipeline.
        temperature: what the logits are divided by before the softmax. None divides by nothing and leaves the model's
            temperature in the metadata, for the reader to apply.
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
    """Return a pipeline with a second output, for checks: the fitted image, `pixels` float32 [1, 3, h, w], 0 to 255."""
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info(PIXELS_NAME, TensorProto.FLOAT, [1, 3, *size]))
    return bytes(model.SerializeToString())


def preprocessing_part(path: Path, size: tuple[int, int]) -> bytes:
    """Return only the preprocessing of a pipeline, with two outputs: `pixels`, as in `with_pixels`, and `input`.

    Args:
        path: of the pipeline.
        size: height and width of the network's input in pixels.

    Returns:
        The bytes of an ONNX model; `input` is what the network receives, float32 [1, 3, h, w].
    """
    model = onnx.load(path)
    names = (PIXELS_NAME, INPUT_NAME)
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, *size]) for name in names)
    keep_outputs(model.graph, names)
    return bytes(model.SerializeToString())


def normalize(graph: GraphBuilder, pixels: str, preprocessing: Preprocessing) -> str:
    """Add nodes that normalise an image and order its channels.

    Args:
        graph: where the nodes go.
        pixels: name of the fitted image, float32 [1, 3, h, w] of 0 to 255, in RGB.
        preprocessing: mean and standard deviation, in units of 255, and the order of the channels.

    Returns:
        Name of the network's input, float32 [1, 3, h, w].
    """
    std = np.array(preprocessing.std, dtype=np.float64).reshape(1, 3, 1, 1)
    mean = np.array(preprocessing.mean, dtype=np.float64).reshape(1, 3, 1, 1)
    scaled = graph.add("Mul", pixels, graph.constant(1 / (255 * std), np.float32))
    shifted = graph.add("Add", scaled, graph.constant(-mean / std, np.float32))
    if preprocessing.channel_order == "rgb":
        return shifted
    return graph.add("Gather", shifted, graph.whole(2, 1, 0), axis=1)
