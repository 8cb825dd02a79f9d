"""Quantization and its gate, on a network that eight bits hurt and on one that they do not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image
from torch import nn

from classifier_training.core.errors import CheckFailedError, UserError
from classifier_training.core.preprocess import Preprocessing
from classifier_training.core.types import SplitTable, softmax
from classifier_training.export.examples import Examples, read_examples
from classifier_training.export.formats.onnx import export_onnx
from classifier_training.export.gate import Batches, write_gated
from classifier_training.export.graph import GraphBuilder
from classifier_training.export.pipeline import normalize, write_pipeline
from classifier_training.export.session import onnx_runner, open_session
from classifier_training.export.verify import verify_pipeline
from classifier_training.workflows.serving.export import refuse_rounding

CLASS_NAMES = ("a", "b", "c")
SIZE = 16


def network(*, uneven: bool) -> nn.Module:
    """A network of three layers; uneven has one channel whose range drowns the others in eight bits."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
    if uneven:
        # Relu lets a factor through, so in float the answers stay as they are.
        with torch.no_grad():
            for parameter in (first.weight, first.bias):
                assert parameter is not None
                parameter[0] *= 3000
            second.weight[:, 0] /= 3000
    return nn.Sequential(
        first, nn.ReLU(), second, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)
    ).eval()


def exported(folder: Path, *, uneven: bool) -> tuple[Path, Batches]:
    """Write the network, and give images labelled with its own answers, so that its accuracy is 1."""
    path = folder / "model.onnx"
    export_onnx(network(uneven=uneven), path, image_size=SIZE, opset=None, metadata={"class_names": "[]"})
    inputs = np.random.default_rng(0).normal(size=(120, 3, SIZE, SIZE)).astype(np.float32)
    inputs *= np.linspace(0.2, 2, 120, dtype=np.float32)[:, None, None, None]
    logits = onnx_runner(path)(inputs)
    # The mean over images is taken off, or an untrained network would give one answer to all.
    model = onnx.load(path)
    bias = next(item for item in model.graph.initializer if list(item.dims) == [3])
    values = onnx.numpy_helper.to_array(bias) - np.median(logits, axis=0)
    bias.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), bias.name))
    onnx.save(model, path)
    targets = onnx_runner(path)(inputs).argmax(axis=1).astype(np.int64)

    def batches() -> Iterator[Examples]:
        for start in range(0, 120, 40):
            part = slice(start, start + 40)
            yield Examples(tuple("" for _ in range(40)), targets[part], inputs[part])

    return path, batches


def gated(folder: Path, scheme: str, *, uneven: bool, max_drop: float = 1.0, force: bool = False):  # type: ignore[no-untyped-def]
    path, batches = exported(folder, uneven=uneven)
    gate = write_gated(
        path, folder / "small.onnx", scheme,  # type: ignore[arg-type]
        calibration=batches, validation=batches, class_names=CLASS_NAMES, max_drop=max_drop, force=force,
    )  # fmt: skip
    return gate, path


@pytest.mark.parametrize(("scheme", "weight"), [("int8", onnx.TensorProto.INT8), ("uint8", onnx.TensorProto.UINT8)])
def test_activations_are_unsigned_weights_per_channel_and_figures_of_the_file(
    tmp_path: Path, scheme: str, weight: int
) -> None:
    gate, source = gated(tmp_path, scheme, uneven=False, max_drop=10)
    model = onnx.load(tmp_path / "small.onnx")
    constants = {item.name: item for item in model.graph.initializer}
    kinds = {item.data_type for item in constants.values() if len(item.dims) == 4}
    assert kinds == {weight}
    scales = [constants[node.input[1]] for node in model.graph.node if node.op_type == "DequantizeLinear"]
    assert {tuple(scale.dims) for scale in scales} >= {(8,), (16,), ()}
    activations = [constants[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert {item.data_type for item in activations} == {onnx.TensorProto.UINT8}
    assert {item.key: item.value for item in model.metadata_props}["class_names"] == "[]"
    assert not gate.operators_in_float
    assert gate.passed
    assert gate.size_bytes == (tmp_path / "small.onnx").stat().st_size
    inputs = np.concatenate([batch.inputs for batch in exported(tmp_path, uneven=False)[1]()])
    small, large = (softmax(onnx_runner(path)(inputs)) for path in (tmp_path / "small.onnx", source))
    assert gate.max_probability_difference == pytest.approx(np.abs(small - large).max(), abs=1e-6)
    assert gate.top1_agreement == pytest.approx((small.argmax(1) == large.argmax(1)).mean())
    assert gate.float_accuracy == 1.0
    assert gate.accuracy == pytest.approx(gate.top1_agreement)
    json.dumps(gate.to_dict(), allow_nan=False)


def test_no_level_of_a_pixel_lies_between_two_steps_of_the_input(tmp_path: Path) -> None:
    path, _ = exported(tmp_path, uneven=False)
    side = onnx.load(path).graph.input[0].type.tensor_type.shape.dim[-1].dim_value
    levels = np.random.default_rng(0).integers(0, 256, (40, 3, side, side))
    levels[:, :, 0, :2] = [0, 255]
    inputs = (levels / 127.5 - 1).astype(np.float32)

    def batches() -> Iterator[Examples]:
        yield Examples(("",) * 40, np.zeros(40, np.int64), inputs)

    write_gated(
        path, tmp_path / "small.onnx", "int8", calibration=batches, validation=batches, class_names=CLASS_NAMES,
        max_drop=100, force=True,
    )  # fmt: skip
    run = onnx_runner(tmp_path / "small.onnx")
    np.testing.assert_array_equal(run(inputs), run(inputs * np.float32(1 + 1e-6)))


def test_operators_that_hurt_are_kept_in_float_until_the_gate_passes(tmp_path: Path) -> None:
    gate, _ = gated(tmp_path, "int8", uneven=True, max_drop=2)
    assert gate.passed
    assert gate.accuracy_drop_points <= 2
    assert gate.operators_in_float
    model = onnx.load(tmp_path / "small.onnx")
    assert any(node.op_type == "QuantizeLinear" for node in model.graph.node), "something is still quantized"


def test_too_large_a_loss_is_refused_unless_forced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without operators to keep, as in a network whose every layer hurts.
    monkeypatch.setattr("classifier_training.export.gate._growing", lambda *_: iter(()))
    with pytest.raises(CheckFailedError, match=r"int8 loses .* points of top-1 accuracy on 120 validation images"):
        gated(tmp_path, "int8", uneven=True)
    assert not (tmp_path / "small.onnx").exists()
    gate, _ = gated(tmp_path, "int8", uneven=True, force=True)
    assert not gate.passed
    assert (tmp_path / "small.onnx").exists()


def test_half_precision_keeps_float_doors(tmp_path: Path) -> None:
    gate, _ = gated(tmp_path, "fp16", uneven=False)
    model = onnx.load(tmp_path / "small.onnx")
    onnx.checker.check_model(model, full_check=True)
    doors = [*model.graph.input, *model.graph.output]
    assert {door.type.tensor_type.elem_type for door in doors} == {onnx.TensorProto.FLOAT}
    assert onnx.TensorProto.FLOAT16 in {item.data_type for item in model.graph.initializer}
    assert gate.max_probability_difference < 0.01


def test_a_quantized_pipeline_is_judged_by_its_network_on_its_own_input(tmp_path: Path) -> None:
    """Python and the graph normalize a pixel with other roundings, which may lie on two sides of a quantizer's edge."""
    preprocessing = Preprocessing(size=(4, 4), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    graph = GraphBuilder("")
    normalize(graph, "pixels", preprocessing)
    levels = np.arange(256, dtype=np.uint8)
    pixels = np.broadcast_to(levels[:, None, None, None], (256, 4, 4, 3))
    python = preprocessing.normalize(pixels)[:, 0, 0, 0]
    scale, shift = (numpy_helper.to_array(item)[0, 0, 0, 0] for item in graph.constants)
    own = levels.astype(np.float32) * scale + shift
    # A level whose two values differ, and a step whose edge lies between them.
    level = next(number for number in range(200, 256) if own[number] != python[number])
    step = np.float32((float(own[level]) + float(python[level])) / 41)
    assert round(float(own[level] / step)) != round(float(python[level] / step))

    builder = GraphBuilder("net/")
    zero = builder.constant(0, np.uint8)
    quantized = builder.add("QuantizeLinear", "input", builder.constant(step, np.float32), zero)
    levels_of = builder.add("Cast", quantized, to=onnx.TensorProto.FLOAT)
    mean = builder.add("ReduceMean", levels_of, builder.whole(2, 3), keepdims=0)
    first = builder.add("Slice", mean, builder.whole(0), builder.whole(1), builder.whole(1))
    centred = builder.add("Sub", first, builder.constant(20.5, np.float32))
    both = builder.add("Concat", centred, builder.add("Neg", centred), axis=1)
    builder.nodes.append(onnx.helper.make_node("Mul", [both, builder.constant(4, np.float32)], ["logits"], name="last"))
    value = onnx.helper.make_tensor_value_info
    net = onnx.helper.make_graph(
        builder.nodes, "net",
        [value("input", onnx.TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [value("logits", onnx.TensorProto.FLOAT, ["batch", 2])],
        builder.constants,
    )  # fmt: skip
    opset = onnx.helper.make_opsetid("", 20)
    onnx.save(onnx.helper.make_model(net, opset_imports=[opset], ir_version=10), tmp_path / "model.onnx")
    write_pipeline(tmp_path / "model.onnx", preprocessing, tmp_path / "pipeline.onnx")
    Image.new("RGB", (4, 4), (level, level, level)).save(tmp_path / "a.png")
    table = SplitTable("val", [str(tmp_path / "a.png")], np.zeros(1, dtype=np.int64), [""])
    real = read_examples(table, preprocessing, number=1)
    network = onnx_runner(tmp_path / "model.onnx")

    (shares,) = open_session(tmp_path / "pipeline.onnx").run(None, {"image": np.full((4, 4, 3), level, np.uint8)})
    assert np.abs(shares - softmax(network(real.inputs))[0]).max() > 0.9, "two opposite answers for one image"
    parity = verify_pipeline(tmp_path / "pipeline.onnx", preprocessing, lambda inputs: softmax(network(inputs)), real)
    assert parity.passed
    assert parity.max_probability_difference < 1e-5


@pytest.mark.parametrize("architecture", ["svm", "random_forest"])
def test_a_model_that_counts_grey_levels_keeps_float32(architecture: str) -> None:
    with pytest.raises(UserError, match="quantization=fp16: the features of this model count whole grey levels"):
        refuse_rounding(architecture, "fp16")
    refuse_rounding(architecture, "none")
    refuse_rounding("resnet18", "int8")
