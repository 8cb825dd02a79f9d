"""Temperature and calibration error against searches and counts by hand."""

from __future__ import annotations

import numpy as np
import pytest

from classifier_training.core.types import softmax
from classifier_training.evaluation.calibration import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    choose_temperature,
    expected_calibration_error,
    fit_temperature,
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


@pytest.mark.parametrize("true_temperature", [0.4, 3.0])
def test_a_temperature_that_helps_held_out_predictions_is_used(true_temperature: float) -> None:
    logits, targets = drawn(400, true_temperature)
    choice = choose_temperature(logits, targets)
    assert choice.reason == ""
    assert choice.temperature == choice.fitted_temperature == pytest.approx(true_temperature, rel=0.2)
    assert choice.log_loss_after is not None
    assert choice.log_loss_before is not None
    assert choice.ece_after is not None
    assert choice.standard_error is not None
    assert choice.log_loss_before - choice.log_loss_after > choice.standard_error > 0
    assert choice.log_loss_before == pytest.approx(cross_entropies(logits, targets).mean(), rel=1e-5)
    assert choice.ece_after < choice.ece_before
    # Cross-fitted, it is no better than the temperature that has seen every prediction.
    own = cross_entropies((logits / choice.temperature).astype(np.float32), targets).mean()
    assert choice.log_loss_after > own
    assert choice.log_loss_after == pytest.approx(own, abs=0.02)


def losses_elsewhere(true_temperature: float, num_images: int, *, always: bool) -> list[float]:
    """How the log loss of 2,000 new predictions changes by the temperature of a few, for 60 such few."""
    changes = []
    for seed in range(60):
        choice = choose_temperature(*drawn(num_images, true_temperature, seed=seed))
        temperature = choice.fitted_temperature if always else choice.temperature
        logits, targets = drawn(2000, true_temperature, seed=1000 + seed)
        scaled = (logits / np.float32(temperature)).astype(np.float32)
        changes.append(float((cross_entropies(scaled, targets) - cross_entropies(logits, targets)).mean()))
    return changes


def test_what_is_calibrated_already_is_seldom_made_worse_and_what_is_not_gains() -> None:
    """The rule against always: it hardly harms where nothing is wrong, and helps where something is."""
    harmed, spared = (losses_elsewhere(1.0, 150, always=always) for always in (True, False))
    assert sum(change > 0 for change in harmed) >= 50
    assert sum(change > 0 for change in spared) <= 8
    assert np.mean(spared) < np.mean(harmed) / 2
    helped = losses_elsewhere(2.0, 300, always=False)
    assert sum(change < 0 for change in helped) >= 55
    assert max(helped) <= 0


def test_predictions_that_are_all_correct_or_no_better_than_chance_keep_their_temperature() -> None:
    _, targets = drawn(400, 1.0)
    for hopeless, bound in (
        (np.eye(4, dtype=np.float32)[targets] * 5, MIN_TEMPERATURE),
        (np.eye(4, dtype=np.float32)[(targets + 1) % 4] * 1e4, MAX_TEMPERATURE),
    ):
        choice = choose_temperature(hopeless, targets)
        assert choice.fitted_temperature == pytest.approx(bound, rel=0.001)
        assert choice.temperature == 1
        assert choice.reason == "no best temperature was found between 0.05 and 20"


def test_too_few_predictions_keep_their_temperature() -> None:
    choice = choose_temperature(*drawn(99, 3.0))
    assert choice.fitted_temperature > 2
    assert choice.temperature == 1
    assert choice.reason == "99 predictions are too few, 100 are needed"
    assert choice.log_loss_after is None


def test_a_lower_log_loss_does_not_excuse_confidences_further_from_the_accuracy() -> None:
    """Sharper probabilities suit the second class, which gets too little, and harm the first, which is right."""
    shares = np.array([0.3, 0.2, *[0.0625] * 8])
    targets = np.random.default_rng(0).choice(10, 600, p=[0.3, 0.65, *[0.05 / 8] * 8])
    choice = choose_temperature(np.tile(np.log(shares), (600, 1)).astype(np.float32), targets)
    assert choice.fitted_temperature < 0.8
    assert choice.log_loss_after is not None
    assert choice.log_loss_before is not None
    assert choice.standard_error is not None
    assert choice.log_loss_before - choice.log_loss_after > choice.standard_error
    assert choice.temperature == 1
    assert choice.reason.startswith("on held-out folds the confidences would be further from the accuracy: ")


def test_the_images_of_a_group_are_judged_together() -> None:
    """Copies of ten images are ten images, however many they are: what fits nine says little of the tenth."""
    logits, targets = drawn(10, 1.0, seed=12)
    many, same = np.repeat(logits, 40, axis=0), np.repeat(targets, 40)
    groups = [str(number) for number in range(10) for _ in range(40)]
    alone, grouped = choose_temperature(many, same), choose_temperature(many, same, groups)
    assert alone.temperature != 1
    assert grouped.fitted_temperature == alone.fitted_temperature
    assert grouped.temperature == 1
    assert grouped.reason.startswith("no gain on held-out folds: log loss ")
    assert grouped.standard_error is not None
    assert alone.standard_error is not None
    assert grouped.standard_error > 2 * alone.standard_error
    one = choose_temperature(many, same, ["a"] * 200 + ["b"] * 200)
    assert (one.temperature, one.reason) == (1, "2 groups of images are too few, 5 are needed")
    # No group is no group: such images are as independent as they would be without groups at all.
    assert choose_temperature(many, same, [""] * 400) == alone


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
