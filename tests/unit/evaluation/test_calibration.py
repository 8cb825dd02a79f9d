"""Temperature and calibration error against searches and counts by hand."""

from __future__ import annotations

import numpy as np
import pytest

from classifier_training.core.types import softmax
from classifier_training.evaluation.calibration import (
    MIN_TEMPERATURE,
    expected_calibration_error,
    fit_temperature,
    scale_probabilities,
)
from classifier_training.evaluation.metrics import cross_entropies


def drawn(num_images: int, true_temperature: float, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are too sure by a known factor, and targets drawn from what they should have been."""
    generator = np.random.default_rng(seed)
    honest = generator.normal(0, 2, (num_images, 4))
    # The largest of logits plus Gumbel noise is a draw from their softmax.
    targets = (honest + generator.gumbel(size=honest.shape)).argmax(axis=1)
    return (honest * true_temperature).astype(np.float32), targets


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_the_best_of_a_fine_grid_and_near_the_true_one(true_temperature: float) -> None:
    logits, targets = drawn(4000, true_temperature)
    found = fit_temperature(logits, targets)
    grid = np.exp(np.linspace(np.log(0.1), np.log(10), 2001))
    losses = [cross_entropies((logits / value).astype(np.float32), targets).astype(np.float64).mean() for value in grid]
    assert found == pytest.approx(grid[int(np.argmin(losses))], rel=0.003)
    assert found == pytest.approx(true_temperature, rel=0.1)
    before, after = (
        expected_calibration_error(softmax((logits / value).astype(np.float32)), targets) for value in (1, found)
    )
    assert after < 0.03
    assert after < before or true_temperature == 1.0


def test_answers_without_a_mistake_are_made_no_surer() -> None:
    assert fit_temperature(np.eye(4, dtype=np.float32) * 5, np.arange(4)) == 1.0


def test_answers_that_are_far_too_sure_stay_within_bounds() -> None:
    wrong = np.roll(np.eye(4, dtype=np.float32), 1, axis=1) * 1e4
    assert MIN_TEMPERATURE <= fit_temperature(wrong, np.arange(4)) <= 20.001


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_scaled_probabilities_are_the_softmax_of_scaled_logits(temperature: float) -> None:
    logits = np.random.default_rng(0).normal(0, 4, (50, 6)).astype(np.float32)
    found = scale_probabilities(softmax(logits), temperature)
    assert np.abs(found - softmax(logits / np.float32(temperature))).max() < 1e-6
    assert (found.argmax(axis=1) == logits.argmax(axis=1)).all()


def test_a_certain_answer_stays_one() -> None:
    assert scale_probabilities(np.array([1, 0, 0], dtype=np.float32), 2.5).tolist() == [1, 0, 0]


def test_the_calibration_error_is_what_a_loop_over_bins_gives() -> None:
    logits, targets = drawn(300, 2.0)
    shares = softmax(logits)
    confidences, correct = shares.max(axis=1), shares.argmax(axis=1) == targets
    expected = 0.0
    for number in range(15):
        chosen = (confidences > number / 15) & (confidences <= (number + 1) / 15)
        if chosen.any():
            expected += chosen.mean() * abs(confidences[chosen].mean() - correct[chosen].mean())
    assert expected_calibration_error(shares, targets) == pytest.approx(expected, abs=1e-6)
