from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from classifier_training.evaluation.learning_law import CurvePoints
from classifier_training.training import learning_curve
from classifier_training.training.learning_curve import FEW_DRAWS, NUM_DRAWS, SHARES, measure_curve
from classifier_training.training.linear_head import Features

COUNTS = (80, 40, 4)


def clouds(counts: tuple[int, ...], seed: int) -> Features:
    """Overlapping clouds in 20 dimensions, one a class."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    values = torch.randn(len(targets), 20, generator=generator)
    values[:, : len(counts)] += 2 * nn.functional.one_hot(targets, len(counts))
    return Features(values, targets, torch.arange(len(targets)))


def test_errors_become_fewer_with_the_images_and_the_seed_decides() -> None:
    train, val = clouds(COUNTS, 0), clouds((300, 300, 300), 1)

    def measure(seed: int) -> CurvePoints:
        return measure_curve(train, val, images_now=np.array(COUNTS), has_bias=True, penalty=0.1, seed=seed)

    points = measure(0)
    assert points.sizes.tolist() == [[8, 16, 28, 48, 80], [4, 8, 14, 24, 40], [2, 2, 2, 3, 4]]
    assert points.held_out.tolist() == [300, 300, 300]
    assert points.num_draws.tolist() == [NUM_DRAWS] * (len(SHARES) - 1) + [1]
    errors = points.errors.sum(axis=0)
    assert errors[0] > 1.3 * errors[-1]
    assert np.linalg.eigvalsh(points.covariance).min() > 0
    assert 0 < points.draw_variance <= 0.25
    assert np.array_equal(measure(0).errors, points.errors)
    assert not np.array_equal(measure(1).errors, points.errors)


def test_of_many_images_a_part_of_each_class_is_used_with_fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning_curve, "MAX_IMAGES", 62)
    monkeypatch.setattr(learning_curve, "FEW_FROM", 62 * 20 * 3)
    points = measure_curve(
        clouds(COUNTS, 0), clouds((100, 100, 100), 1), images_now=np.array(COUNTS), has_bias=True, penalty=0.1, seed=0
    )
    assert points.images_now.tolist() == list(COUNTS)
    assert points.sizes[:, -1].tolist() == [40, 20, 2]
    assert points.held_out.tolist() == [21, 21, 21]
    assert points.num_draws.tolist() == [FEW_DRAWS] * (len(SHARES) - 1) + [1]
