"""The score for images unlike the training data, put into an ONNX file and taken out again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from classifier_training.core.preprocess import Preprocessing
from classifier_training.core.types import softmax
from classifier_training.evaluation.novelty import FeatureSubspace
from classifier_training.export.formats.onnx import export_onnx
from classifier_training.export.novelty import (
    add_novelty,
    copy_novelty,
    expose_features,
    remove_novelty,
    write_without_novelty,
)
from classifier_training.export.pipeline import write_pipeline
from classifier_training.export.quantize import write_half
from classifier_training.export.session import onnx_runner, open_session

SIZE = 16
PREPROCESSING = Preprocessing(size=(SIZE, SIZE), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    ).eval()


@pytest.fixture(params=["feature_subspace", "energy"])
def scored(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model with the output `novelty`, made in each of the two ways."""
    path = tmp_path / "model.onnx"
    export_onnx(network(), path, image_size=SIZE, opset=None, metadata={})
    model = onnx.load(path)
    subspace = None
    if request.param == "feature_subspace":
        assert expose_features(model)
        subspace = FeatureSubspace.fit(np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32))
    add_novelty(model, subspace)
    onnx.save(model, path)
    return path


def inputs() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(5, 3, SIZE, SIZE)).astype(np.float32)


def test_a_file_in_half_precision_has_the_score_and_makes_a_pipeline(scored: Path, tmp_path: Path) -> None:
    plain, half, pipeline = tmp_path / "plain.onnx", tmp_path / "half.onnx", tmp_path / "pipeline.onnx"
    write_without_novelty(scored, plain)
    write_half(plain, half)
    copy_novelty(scored, half)
    names = ["logits", "novelty"]
    found, expected = (open_session(path).run(names, {"input": inputs()}) for path in (half, scored))
    for value, other in zip(found, expected, strict=True):
        assert np.allclose(value, other, atol=0.02)
    write_pipeline(half, PREPROCESSING, pipeline)
    pixels = np.random.default_rng(2).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    (shares,) = open_session(pipeline).run(None, {"image": pixels})
    logits = onnx_runner(half)(PREPROCESSING.normalize(pixels)[None])
    assert np.allclose(shares, softmax(logits)[0], atol=1e-3)


def test_what_was_added_is_taken_out_again(scored: Path) -> None:
    model = onnx.load(scored)
    remove_novelty(model)
    onnx.checker.check_model(model, full_check=True)
    assert [output.name for output in model.graph.output] == ["logits"]
    made = {name for node in model.graph.node for name in node.output}
    used = {name for node in model.graph.node for name in node.input}
    assert made - used == {"logits"}, "nothing is computed for nobody"
    assert {item.name for item in model.graph.initializer} <= used
    (logits,) = open_session(model.SerializeToString()).run(None, {"input": inputs()})
    assert (logits == onnx_runner(scored)(inputs())).all()
