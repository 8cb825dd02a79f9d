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
from classifier_training.export.formats.onnx import export_onnx
from classifier_training.export.novelty import (
    MAX_DIMENSIONS,
    FeatureSubspace,
    add_novelty,
    alarm_threshold,
    copy_novelty,
    expose_features,
    expose_other_features,
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


def near_a_plane(number: int, *, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    directions = np.linalg.qr(np.random.default_rng(9).normal(size=(20, 3)))[0]
    inside = generator.normal(size=(number, 3)) @ directions.T
    return np.asarray(5 + inside + 0.01 * generator.normal(size=(number, 20)), dtype=np.float32)


def test_what_leaves_the_plane_of_the_training_features_is_found() -> None:
    subspace = FeatureSubspace.fit(near_a_plane(200, seed=0))
    assert subspace.basis.shape == (20, 3)
    assert np.allclose(subspace.basis.T @ subspace.basis, np.eye(3), atol=1e-5)
    own = subspace.scores(near_a_plane(1000, seed=1))
    threshold = alarm_threshold(subspace.scores(near_a_plane(1000, seed=2)))
    assert 0.03 < (own > threshold).mean() < 0.08
    elsewhere = near_a_plane(100, seed=3) + np.random.default_rng(4).normal(size=(100, 20)).astype(np.float32)
    scores = subspace.scores(elsewhere)
    assert (scores > threshold).all()
    assert ((scores >= 0) & (scores <= 1)).all()


def test_a_subspace_leaves_a_direction_out_and_bears_equal_features() -> None:
    full = FeatureSubspace.fit(np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32))
    assert full.basis.shape == (4, 3)
    wide = FeatureSubspace.fit(np.random.default_rng(0).normal(size=(300, 200)).astype(np.float32))
    assert wide.basis.shape[1] == MAX_DIMENSIONS
    equal = FeatureSubspace.fit(np.ones((5, 4), dtype=np.float32))
    assert np.isfinite(equal.scores(np.ones((2, 4), dtype=np.float32))).all()


def test_no_more_than_the_share_lies_above_the_threshold() -> None:
    scores = np.arange(100, dtype=np.float32)
    assert (scores > alarm_threshold(scores)).sum() <= 5
    assert (scores > alarm_threshold(scores, false_alarm_rate=0.2)).sum() in (19, 20)


def test_the_features_of_a_network_that_ends_in_a_convolution_are_means_over_its_input(tmp_path: Path) -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    whole = nn.Sequential(body, nn.Conv2d(8, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    path = tmp_path / "model.onnx"
    export_onnx(whole, path, image_size=SIZE, opset=None, metadata={})
    model = onnx.load(path)
    assert not expose_features(model)
    assert expose_other_features(model)
    features, logits = open_session(model.SerializeToString()).run(["features", "logits"], {"input": inputs()})
    with torch.no_grad():
        assert np.allclose(features, body(torch.from_numpy(inputs())).mean(dim=(2, 3)), atol=1e-5)
        assert np.allclose(logits, whole(torch.from_numpy(inputs())), atol=1e-5)


def test_the_features_behind_a_score_are_exposed_as_they_are(scored: Path) -> None:
    model = onnx.load(scored)
    assert expose_features(model)
    features, logits = open_session(model.SerializeToString()).run(["features", "logits"], {"input": inputs()})
    head = list(network().children())[-1]
    with torch.no_grad():
        assert np.allclose(head(torch.from_numpy(features)), logits, atol=1e-5)
