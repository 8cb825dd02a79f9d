"""Networks in older opsets, and what their files say that they need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from classifier_training.core.errors import UserError
from classifier_training.export.formats.onnx import check_opset, evaluation_copy, export_onnx
from classifier_training.export.opset import EXPORTER_OPSET, FIRST_RUNTIMES, describe_requirements, lower_opset
from classifier_training.export.session import onnx_runner
from classifier_training.models.timm_models import timm_model

SIZE = 64


class Rare(nn.Module):
    """A network with an operator that is younger than opset 11."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        summed: torch.Tensor = torch.einsum("bchw,bchw->bc", images, images)
        found: torch.Tensor = self.head(summed)
        return found


class Varied(nn.Module):
    """Operators whose older versions take attributes for inputs, lack attributes, or mean another axis."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.linear = nn.Linear(3, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first, second = torch.split(nn.functional.hardswish(self.norm(images)), [20, SIZE - 20], dim=2)
        gated = first.sum(dim=(2, 3)) * second.amax(dim=(2, 3)).softmax(dim=-1)
        padded = nn.functional.pad(gated.unsqueeze(1), (1, 2)).squeeze(1)[:, :3]
        scores: torch.Tensor = self.linear(nn.functional.layer_norm(padded, (3,)))
        return scores


def network_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "varied":
        return Varied()
    return timm_model(5, name=name, pretrained=False).network


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext", "varied"])
def test_a_network_answers_alike_in_all_opsets(name: str, tmp_path: Path) -> None:
    network = evaluation_copy(network_of(name))
    newest = tmp_path / "newest.onnx"
    export_onnx(network, newest, image_size=SIZE, opset=EXPORTER_OPSET, metadata={})
    inputs = np.random.default_rng(0).standard_normal((3, 3, SIZE, SIZE)).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(inputs)).numpy()
    for opset in (11, 12, 13, 15, 17):
        path = tmp_path / f"{opset}.onnx"
        onnx.save(lower_opset(onnx.load(newest), opset), path)
        found = onnx_runner(path)(inputs)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        lowest = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
        first = FIRST_RUNTIMES[opset]
        assert describe_requirements(path) == {"opset": opset, "ir_version": lowest, "min_onnxruntime": first}


@pytest.mark.parametrize("opset", [11, 18, 22])
def test_a_file_has_the_lowest_ir_version_and_says_nothing_of_this_machine(opset: int, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(evaluation_copy(network_of("test_resnet")), path, image_size=SIZE, opset=opset, metadata={"a": "b"})
    model = onnx.load(path)
    assert model.ir_version == helper.find_min_ir_version_for(list(model.opset_import))
    assert model.opset_import[0].version == opset
    assert {item.key: item.value for item in model.metadata_props} == {"a": "b"}
    assert b"site-packages" not in path.read_bytes()


def test_an_operator_that_an_opset_lacks_is_named_with_the_opset_that_has_it() -> None:
    with pytest.raises(UserError, match=r"opset 11: .*Einsum") as caught:
        check_opset(Rare(), image_size=SIZE, opset=11)
    assert "format.onnx.opset=12" in caught.value.remedy
    check_opset(Rare(), image_size=SIZE, opset=12)


def shape_model(**attributes: Any) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Shape", ["x"], ["y"], **attributes)],
        "shape",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["a", "b", "c"])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.INT64, ["n"])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize(
    ("bounds", "expected"), [({}, [2, 3, 4]), ({"start": 1}, [3, 4]), ({"start": 0, "end": 1}, [2])]
)
def test_a_part_of_a_shape_is_cut_out_of_the_whole(bounds: dict[str, int], expected: list[int]) -> None:
    import onnxruntime

    lowered = lower_opset(shape_model(**bounds), 11)
    session = onnxruntime.InferenceSession(lowered.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.zeros((2, 3, 4), dtype=np.float32)})[0].tolist() == expected


def test_a_softmax_over_another_axis_is_refused_before_its_meaning_changes() -> None:
    graph = helper.make_graph(
        [helper.make_node("Softmax", ["x"], ["y"], axis=1)],
        "softmax",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["a", 3, 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["a", 3, 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    with pytest.raises(UserError, match="Softmax") as caught:
        lower_opset(model, 12)
    assert "opset=13" in caught.value.remedy
