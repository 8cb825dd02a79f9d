"""The graph's resize against the Python preprocessing, pixel by pixel, on real and on awkward images."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_images

from classifier_training.core.preprocess import Preprocessing
from classifier_training.export.graph import GraphBuilder
from classifier_training.export.pipeline import fit

KERNELS = [("pillow", "bilinear"), ("pillow", "bicubic"), ("pillow", "area"), ("opencv", "area")]
POLICIES = ["squash", "crop", "letterbox"]
COMMON_SIZES = (224, 256, 299, 384, 96, 100, 128, 64, 32)
KINDS = ("china", "flower", "noise", "text", "gradient")
OPSET = 18


def preprocessing_of(backend: str, kernel: str, policy: str, size: tuple[int, int]) -> Preprocessing:
    return Preprocessing(
        size=size,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        policy=policy,  # type: ignore[arg-type]
        kernel=kernel,  # type: ignore[arg-type]
        backend=backend,  # type: ignore[arg-type]
    )


def build_fit(preprocessing: Preprocessing, *, opset: int = OPSET) -> onnx.ModelProto:
    graph = GraphBuilder("", opset=opset)
    fitted = fit(graph, "image", preprocessing)
    given = helper.make_tensor_value_info("image", TensorProto.UINT8, ["height", "width", 3])
    returned = helper.make_tensor_value_info(fitted, TensorProto.FLOAT, [1, 3, *preprocessing.size])
    alone = helper.make_graph(graph.nodes, "fit", [given], [returned], graph.constants)
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(alone, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))
    onnx.checker.check_model(model, full_check=True)
    return model


def open_fit(model: onnx.ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def difference(session: Any, preprocessing: Preprocessing, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Of each pixel, of 0..255."""
    (found,) = session.run(None, {"image": np.ascontiguousarray(picture)})
    assert found.shape == (1, 3, *preprocessing.size)
    apart: NDArray[np.float32] = np.abs(found[0].transpose(1, 2, 0) - preprocessing.pixels(Image.fromarray(picture)))
    return apart


@functools.cache
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
        "a multiple of the size": noise.integers(0, 256, (192, 320, 3), dtype=np.uint8),
        "a multiple that OpenCV misses": noise.integers(0, 256, (49 * 64, 64, 3), dtype=np.uint8),
        "grows much": noise.integers(0, 256, (8, 8, 3), dtype=np.uint8),
        "grows a little": noise.integers(0, 256, (48, 56, 3), dtype=np.uint8),
        "grows and shrinks": noise.integers(0, 256, (20, 400, 3), dtype=np.uint8),
        "a pixel more": noise.integers(0, 256, (65, 63, 3), dtype=np.uint8),
        "very wide": noise.integers(0, 256, (2, 20_000, 3), dtype=np.uint8),
    }


@pytest.mark.parametrize("size", [(64, 64), (50, 33)])
@pytest.mark.parametrize(
    ("backend", "kernel", "policy"),
    [(backend, kernel, policy) for (backend, kernel), policy in itertools.product(KERNELS, POLICIES)],
)
def test_graph_and_python_give_the_same_pixels(backend: str, kernel: str, policy: str, size: tuple[int, int]) -> None:
    preprocessing = preprocessing_of(backend, kernel, policy, size)
    session = open_fit(build_fit(preprocessing))
    for name, picture in pictures().items():
        if name != "4K" or size == (64, 64):
            assert difference(session, preprocessing, picture).max() == 0, name


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic", "area"])
def test_photographs_that_are_a_little_larger_than_the_input(kernel: str) -> None:
    china = load_sample_images().images[0]
    crops = np.random.default_rng(0)
    preprocessing = preprocessing_of("pillow", kernel, "squash", (224, 224))
    session = open_fit(build_fit(preprocessing))
    for _ in range(20):
        top, left = crops.integers(0, 127), crops.integers(0, 340)
        crop = Image.fromarray(china[top : top + 300, left : left + 300])
        picture = np.asarray(crop.resize((256, 256), Image.Resampling.LANCZOS))
        assert difference(session, preprocessing, picture).max() == 0


@functools.cache
def source(kind: str) -> Image.Image:
    """A large image to cut from."""
    if kind in ("china", "flower"):
        photographs = dict(zip(("china", "flower"), load_sample_images().images, strict=True))
        return Image.fromarray(photographs[kind])
    if kind == "noise":
        return Image.fromarray(np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8))
    if kind == "gradient":
        ramp = np.linspace(0, 255, 1024)
        return Image.fromarray(np.stack(np.broadcast_arrays(ramp, ramp[:, None], 255 - ramp), -1).astype(np.uint8))
    page = Image.new("RGB", (1024, 1024), "white")
    words = ImageDraw.Draw(page)
    for line in range(0, 1024, 12):
        words.text((line % 40, line), "The quick brown fox jumps over the lazy dog. " * 4, fill="black")
    return page


def picture_of(kind: str, height: int, width: int, *, cut: bool) -> NDArray[np.uint8]:
    whole = source(kind)
    if cut and height <= whole.height and width <= whole.width:
        return np.asarray(whole)[:height, :width]
    return np.asarray(whole.resize((width, height), Image.Resampling.LANCZOS))


def cases(number: int) -> Iterator[tuple[Preprocessing, int, int]]:
    """Random preprocessings and source sizes, with all pairs of the common sizes and their neighbours among them."""
    chance = np.random.default_rng(0)
    sizes = [size + step for size in COMMON_SIZES for step in (-1, 0, 1)]
    pairs = list(itertools.product(sizes, sizes))
    chance.shuffle(pairs)
    for row in range(number):
        backend, kernel = KERNELS[chance.integers(len(KERNELS))]
        policy = POLICIES[chance.integers(len(POLICIES))]
        if row < len(pairs):
            (height, target), (width, other) = pairs[row], pairs[chance.integers(len(pairs))]
        else:
            height, width = chance.integers(1, 1000, 2)
            target, other = chance.integers(8, 400, 2)
        if chance.random() < 0.5:
            width, other = height, target
        yield preprocessing_of(backend, kernel, policy, (int(target), int(other))), int(height), int(width)


def check_cases(number: int) -> None:
    wrong, num_pixels = [], 0
    for row, (preprocessing, height, width) in enumerate(cases(number)):
        session = open_fit(build_fit(preprocessing))
        for kind in KINDS:
            apart = difference(session, preprocessing, picture_of(kind, height, width, cut=row % 2 == 0))
            num_pixels += apart.size
            if apart.max():
                wrong.append(f"{kind} {width} x {height}: {int((apart > 0).sum())} pixels, {preprocessing}")
    assert wrong == [], f"{len(wrong)} of {number * len(KINDS)} images, {num_pixels:,} pixels"


def test_pixels_are_the_same_for_random_sizes() -> None:
    check_cases(25)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_pixels_are_the_same_for_all_pairs_of_common_sizes() -> None:
    check_cases(2000)


@pytest.mark.parametrize("opset", [11, 12, 13, 20, 24])
@pytest.mark.parametrize(("backend", "kernel"), KERNELS)
def test_pixels_are_the_same_in_other_opsets(backend: str, kernel: str, opset: int) -> None:
    preprocessing = preprocessing_of(backend, kernel, "letterbox", (50, 33))
    session = open_fit(build_fit(preprocessing, opset=opset))
    for name in ("photograph", "tiny", "grows and shrinks", "twice the size"):
        assert difference(session, preprocessing, pictures()[name]).max() == 0, name


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("backend", "kernel"), KERNELS)
def test_runtimes_need_no_branches_no_float64_and_no_operators_of_others(
    backend: str, kernel: str, policy: str
) -> None:
    model = onnx.shape_inference.infer_shapes(build_fit(preprocessing_of(backend, kernel, policy, (8, 8))))
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"If", "Loop", "Scan", "And", "Or"}
    assert {node.domain for node in model.graph.node} == {""}
    assert [entry.domain for entry in model.opset_import] == [""]
    types = {item.type.tensor_type.elem_type for item in (*model.graph.value_info, *model.graph.output)}
    types |= {item.data_type for item in model.graph.initializer}
    assert types <= {TensorProto.UINT8, TensorProto.INT64, TensorProto.FLOAT, TensorProto.BOOL}
