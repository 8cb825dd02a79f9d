"""Features are kept by content, and temperatures fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from classifier_training.core.errors import CheckFailedError, UserError
from classifier_training.core.types import Batch
from classifier_training.models.shallow_classifiers import LinearVectors
from classifier_training.training.shallow import Described, describe_split, fit_classifier, fit_sharpness, open_cache


def batches(number: int = 40, *, seed: int = 0) -> list[Batch]:
    images = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (number, 3, 8, 8)).astype(np.uint8))
    rows = torch.arange(number)
    return [Batch(images[part], part % 3, part) for part in torch.split(rows, 16)]


def test_features_are_computed_once_and_found_again_in_any_order() -> None:
    calls = 0

    def describe(pixels: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += len(pixels)
        return pixels.flatten(1)[:, :5]

    def run(given: list[Batch], **settings: int) -> Described:
        with open_cache({"test": 1, **settings}, wanted_bytes=1e6, store_gb=None, keeps=True) as cache:
            return describe_split(given, describe, cache)

    first = run(batches())
    again = run(batches()[::-1])
    assert (calls, first.num_kept, again.num_kept) == (40, 0, 40)
    order = np.argsort(again.indices)
    np.testing.assert_array_equal(again.features[order], first.features)
    assert run(batches(seed=1)).num_kept == 0
    assert run(batches(), bins=3).num_kept == 0
    with open_cache({"test": 1}, wanted_bytes=1e6, store_gb=None, keeps=False) as cache:
        assert describe_split(batches(), describe, cache).num_kept == 0


def test_without_a_readable_picture_there_is_nothing_to_describe(tmp_path: Path) -> None:
    with open_cache({}, wanted_bytes=0, store_gb=None, keeps=False) as cache, pytest.raises(UserError, match="none of"):
        describe_split([], lambda pixels: pixels, cache)


def test_the_temperature_fits_shares_of_right_answers() -> None:
    targets = np.zeros(4000, dtype=np.int64)
    targets[3000:] = 1
    logits = np.tile(np.array([[1.0, -1.0]], dtype=np.float32), (4000, 1))
    factor = fit_sharpness(logits, targets)
    assert 1 / (1 + np.exp(-2 * factor)) == pytest.approx(0.75, abs=0.01)
    # No mistake at all: sure, but not beyond what so few answers can tell.
    assert 1 < fit_sharpness(logits[:20], targets[:20]) < 5


def test_a_class_without_a_readable_image_is_named() -> None:
    part = Described(np.zeros((4, 2), np.float32), np.array([0, 1, 0, 1]), np.arange(4), 0)
    with pytest.raises(UserError, match="1 of 3 classes"):
        fit_classifier(LinearVectors(3), None, part, part, class_weights=None)


def test_a_network_that_answers_otherwise_than_scikit_learn_is_caught() -> None:
    from sklearn.svm import LinearSVC

    class Wrong(LinearVectors):
        def learned_state(self, estimator: object) -> dict[str, torch.Tensor]:
            found = super().learned_state(estimator)
            return {name: -value for name, value in found.items()}

    features = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    targets = (features[:, 0] > 0).astype(np.int64)
    part = Described(features, targets, np.arange(60), 0)
    with pytest.raises(CheckFailedError, match="otherwise than scikit-learn"):
        fit_classifier(Wrong(2), LinearSVC(), part, part, class_weights=None)
