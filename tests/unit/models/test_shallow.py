"""The features are scikit-image's, and the network predicts as scikit-learn does."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from classifier_training.core.errors import UserError
from classifier_training.export.formats.onnx import export_onnx
from classifier_training.models import shallow_classifiers
from classifier_training.models.shallow import INPUT, RandomForest, ShallowModel, SupportVectorMachine
from classifier_training.models.shallow_features import ColorHistograms, HistogramOfGradients, LocalBinaryPatterns, grey
from classifier_training.training.shallow import logits_of


@pytest.fixture(scope="module")
def pictures() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Two photographs and noise, [3, 64, 96, 3]."""
    photographs = [np.asarray(Image.fromarray(image).resize((96, 64))) for image in load_sample_images().images]
    return np.stack([*photographs, np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)])


def tensor(pictures: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize(("orientations", "cell", "block"), [(9, 8, 2), (8, 6, 3), (4, 16, 1)])
def test_hog_is_scikit_images(pictures: Any, orientations: int, cell: int, block: int) -> None:
    from skimage.feature import hog

    found = HistogramOfGradients(orientations=orientations, cell_size=cell, block_size=block)(tensor(pictures))
    for picture, values in zip(pictures, found.numpy(), strict=True):
        expected = hog(
            picture,
            orientations=orientations,
            pixels_per_cell=(cell, cell),
            cells_per_block=(block, block),
            channel_axis=-1,
        )
        np.testing.assert_allclose(values, expected, atol=3e-4)


def test_every_gradient_of_whole_grey_levels_falls_in_the_bin_of_its_angle() -> None:
    across, down = (part.ravel() for part in np.meshgrid(np.arange(-255, 256), np.arange(-255, 256)))
    angles = np.rad2deg(np.arctan2(down, across)) % 180
    layer = HistogramOfGradients(orientations=9, cell_size=8, block_size=2)
    turned = (down < 0) | ((down == 0) & (across < 0))
    x, y = np.where(turned, -across, across), np.where(turned, -down, down)
    reached = y * layer._cosines.numpy().reshape(-1, 1) - x * layer._sines.numpy().reshape(-1, 1) >= 0
    moves = (across != 0) | (down != 0)
    np.testing.assert_array_equal(reached.sum(axis=0)[moves], np.floor(angles[moves] / 20) % 9)


@pytest.mark.parametrize(("points", "radius", "share"), [(8, 1.0, 1.0), (16, 2.0, 0.996), (24, 3.0, 0.998)])
def test_local_binary_patterns_are_scikit_images(pictures: Any, points: int, radius: float, share: float) -> None:
    from skimage.feature import local_binary_pattern

    greys = grey(tensor(pictures))
    found = LocalBinaryPatterns(points=points, radius=radius, grid=1).codes(greys).numpy()[:, 0]
    for picture, codes in zip(pictures, found, strict=True):
        own: Any = np.asarray(Image.fromarray(picture).convert("L"))
        # Where a neighbour between pixels is level with the centre, scikit-image decides by the noise of its rounding.
        expected = local_binary_pattern(own, points, radius, "uniform")  # type: ignore[no-untyped-call]
        assert (codes == expected).mean() >= share


@pytest.mark.parametrize("bins", [2, 12, 16])
def test_colour_histograms_are_scikit_images(pictures: Any, bins: int) -> None:
    from skimage.color import rgb2hsv

    found = ColorHistograms(space="hsv", bins=bins, grid=1)(tensor(pictures)).numpy()
    for picture, shares in zip(pictures, found, strict=True):
        hue, saturation, _ = np.moveaxis(rgb2hsv(picture), -1, 0)
        value = picture.max(axis=-1)
        expected = [
            np.histogram(channel, bins, (0, span))[0] / value.size
            for channel, span in ((hue, 1), (saturation, 1), (value, 256))
        ]
        # A hue on the edge of two bins may go to either.
        np.testing.assert_allclose(shares, np.concatenate(expected), atol=0.01 if bins == 12 else 2e-3)
        assert shares.reshape(3, bins).sum(axis=1) == pytest.approx(1)


def digits() -> tuple[Any, Any]:
    """Inputs, float32 [300, 3, 32, 32], and digits, [300]."""
    images, targets = load_digits(return_X_y=True)
    grown = [
        np.asarray(Image.fromarray((image.reshape(8, 8) * 15.9).astype(np.uint8)).resize((32, 32)).convert("RGB"))
        for image in images[:300]
    ]
    inputs = (np.stack(grown).transpose(0, 3, 1, 2).astype(np.float32) / 255 - 0.5) / 0.5
    return inputs, targets[:300]


FEW: dict[str, Any] = {"hog_orientations": 4, "lbp_points": 4, "color_bins": 4}
"""Features that take half as long to export."""

MODELS = {
    "svm": SupportVectorMachine(),
    "linear": SupportVectorMachine(kernel="linear", **FEW),
    "forest": RandomForest(num_trees=20, **FEW),
}


@pytest.mark.parametrize(
    ("name", "num_classes"),
    [
        ("svm", 10),
        ("linear", 2),
        ("forest", 10),
        *(pytest.param(*rest, marks=pytest.mark.nightly) for rest in (("svm", 2), ("linear", 10), ("forest", 2))),
    ],
)
def test_scikit_learn_the_network_and_its_onnx_file_give_the_same_predictions(
    name: str, num_classes: int, tmp_path: Any
) -> None:
    model: ShallowModel = MODELS[name]
    inputs, targets = digits()
    inputs, targets = inputs[targets < num_classes], targets[targets < num_classes]
    network = model(num_classes).network.eval()
    pixels = torch.from_numpy(inputs) * 127.5 + 127.5
    features = network.describe(pixels.round()).numpy()  # type: ignore[operator]
    half = len(targets) // 2
    estimator: Any = model.estimator(0)
    estimator.fit(features[:half], targets[:half])
    network.classifier.adopt(estimator)  # type: ignore[union-attr, operator]
    expected = estimator.predict(features)
    assert (expected[half:] == targets[half:]).mean() > 0.7
    np.testing.assert_array_equal(logits_of(network.classifier, features).argmax(axis=1), expected)  # type: ignore[arg-type]

    restored = model(num_classes).network.eval()
    restored.load_state_dict(network.state_dict())
    export_onnx(restored, tmp_path / "model.onnx", image_size=32, opset=None, metadata={})
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for size in (1, 7):
        parts = [
            session.run(None, {"input": inputs[start : start + size]})[0] for start in range(0, len(targets), size)
        ]
        np.testing.assert_array_equal(np.concatenate(parts).argmax(axis=1), expected)


def test_features_in_onnx_runtime_are_the_same_to_the_bit(tmp_path: Any) -> None:
    network = SupportVectorMachine()(2).network.eval()
    network.forward = lambda inputs: network.describe(torch.floor(inputs * 127.5 + 128).clamp(0, 255))  # type: ignore[operator]
    inputs, _ = digits()
    export_onnx(network, tmp_path / "features.onnx", image_size=32, opset=None, metadata={})
    found = onnxruntime.InferenceSession(tmp_path / "features.onnx").run(None, {"input": inputs[:50]})[0]
    np.testing.assert_array_equal(found, network(torch.from_numpy(inputs[:50])).numpy())


def test_a_network_that_is_not_fitted_knows_nothing() -> None:
    network = RandomForest()(3).network
    assert network(torch.zeros(2, 3, INPUT.size, INPUT.size)).tolist() == [[0, 0, 0]] * 2


def test_a_forest_too_large_to_be_written_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shallow_classifiers, "MAX_BYTES", 1000)
    estimator: Any = RandomForest(num_trees=5).estimator(0)
    estimator.fit(np.random.default_rng(0).random((50, 4)), np.arange(50) % 3)
    with pytest.raises(UserError, match=r"5 trees.*leaves"):
        shallow_classifiers.Forest(3).adopt(estimator)
