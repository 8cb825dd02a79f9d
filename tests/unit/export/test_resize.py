"""The graph's resize against the Python preprocessing, pixel by pixel, on real and on awkward pictures."""

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image
from sklearn.datasets import load_sample_images

from classifier_training.core.preprocess import Preprocessing
from classifier_training.export.graph import GraphBuilder
from classifier_training.export.resize import fit

KERNELS = [("pillow", "bilinear"), ("pillow", "bicubic"), ("pillow", "area"), ("opencv", "area")]
POLICIES = ["squash", "crop", "letterbox"]
OPSET = 20


def pictures() -> dict[str, NDArray[np.uint8]]:
    china, flower = load_sample_images().images
    noise = np.random.default_rng(0)
    return {
        "photograph": china,
        "wide": china[:100],
        "tall": flower[:, :33],
        "tiny": flower[:5, :7],
        "one pixel": flower[:1, :1],
        "one row": flower[:1, :50],
        "two columns": china[:300, :2],
        "4K": np.kron(china, np.ones((6, 6, 1), dtype=np.uint8))[:2160, :3840],
        "noise": noise.integers(0, 256, (719, 1283, 3), dtype=np.uint8),
        "checkers": noise.integers(0, 2, (401, 299, 3), dtype=np.uint8) * 255,
        "the size": noise.integers(0, 256, (64, 64, 3), dtype=np.uint8),
        "twice the size": noise.integers(0, 256, (128, 128, 3), dtype=np.uint8),
        "grows much": noise.integers(0, 256, (8, 8, 3), dtype=np.uint8),
        "grows a little": noise.integers(0, 256, (48, 56, 3), dtype=np.uint8),
        "grows and shrinks": noise.integers(0, 256, (20, 400, 3), dtype=np.uint8),
        "a pixel more": noise.integers(0, 256, (65, 63, 3), dtype=np.uint8),
    }


def build_fit(preprocessing: Preprocessing) -> onnx.ModelProto:
    graph = GraphBuilder("")
    fitted = fit(graph, "image", preprocessing)
    given = helper.make_tensor_value_info("image", TensorProto.UINT8, ["height", "width", 3])
    returned = helper.make_tensor_value_info(fitted, TensorProto.FLOAT, [1, 3, *preprocessing.size])
    alone = helper.make_graph(graph.nodes, "fit", [given], [returned], graph.constants)
    model = helper.make_model(alone, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize("size", [(64, 64), (32, 48)])
@pytest.mark.parametrize(
    ("backend", "kernel", "policy"),
    [(backend, kernel, policy) for (backend, kernel), policy in itertools.product(KERNELS, POLICIES)],
)
def test_graph_and_python_give_the_same_pixels(backend: str, kernel: str, policy: str, size: tuple[int, int]) -> None:
    preprocessing = Preprocessing(
        size=size,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        policy=policy,  # type: ignore[arg-type]
        kernel=kernel,  # type: ignore[arg-type]
        backend=backend,  # type: ignore[arg-type]
    )
    model = build_fit(preprocessing)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for name, picture in pictures().items():
        (found,) = session.run(None, {"image": np.ascontiguousarray(picture)})
        expected = preprocessing.pixels(Image.fromarray(picture))
        assert found.shape == (1, 3, *size), name
        difference = np.abs(found[0].transpose(1, 2, 0) - expected.astype(np.float32))
        assert difference.max() <= 1, name
        if name == "the size" and size == (64, 64):
            assert difference.max() == 0


@pytest.mark.parametrize(("backend", "kernel"), KERNELS)
def test_standard_operators_alone(backend: str, kernel: str) -> None:
    model = build_fit(
        Preprocessing(size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1), kernel=kernel, backend=backend)  # type: ignore[arg-type]
    )
    branches = [attribute.g for node in model.graph.node for attribute in node.attribute if attribute.g.node]
    assert len(branches) == 2
    assert {node.domain for graph in (model.graph, *branches) for node in graph.node} == {""}
    assert [entry.domain for entry in model.opset_import] == [""]
