"""Thresholds that hold for new images: by how often they do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from classifier_training.evaluation.guarantees import needed_predictions, num_accepted
from classifier_training.evaluation.reject import NEVER, AcceptanceCurve, guaranteed_thresholds

Share = Callable[[np.ndarray], np.ndarray]


def test_so_many_predictions_are_needed_as_clopper_and_pearson_say() -> None:
    assert needed_predictions(0.95, 0.05) == 59
    assert needed_predictions(0.95, 0.1) == 45
    for precision, delta in ((0.9, 0.1), (0.99, 0.05)):
        number = needed_predictions(precision, delta)
        low = [stats.binomtest(n, n, alternative="greater").proportion_ci(1 - delta).low for n in (number - 1, number)]
        assert low[0] < precision <= low[1]
    # 20 of 20 show no more than 0.86 with 95 % confidence.
    assert needed_predictions(0.86, 0.05) == 20
    assert needed_predictions(0.87, 0.05) > 20
    assert needed_predictions(1.0, 0.1) > 10**9


def test_too_few_predictions_are_never_enough_and_enough_right_ones_are() -> None:
    right = np.linspace(1, 0.5, 44), np.ones(44, bool)
    assert AcceptanceCurve.of(*right).for_guaranteed_precision(0.95, 0.1) == NEVER
    right = np.linspace(1, 0.5, 45), np.ones(45, bool)
    assert AcceptanceCurve.of(*right).for_guaranteed_precision(0.95, 0.1) == 0
    assert AcceptanceCurve.of(*right).for_precision(0.95) == 0.5


def test_the_threshold_is_above_the_first_prediction_that_is_not_accepted() -> None:
    correct = np.arange(400) < 300
    confidences = np.linspace(0.999, 0.2, 400)
    curve = AcceptanceCurve.of(confidences, correct)
    threshold = curve.for_guaranteed_precision(0.95, 0.1)
    number = int((confidences >= threshold).sum())
    assert 300 <= number < 316
    assert stats.binom.cdf(number - 300, number, 0.05) <= 0.1 / 3 < stats.binom.cdf(number - 299, number + 1, 0.05)
    tied = AcceptanceCurve.of(np.round(confidences, 1), correct)
    threshold = tied.for_guaranteed_precision(0.95, 0.1)
    accepted = tied.confidences >= threshold
    assert set(np.unique(tied.confidences[accepted])) & set(np.unique(tied.confidences[~accepted])) == set()


@pytest.mark.parametrize("number", [90, 400])
@pytest.mark.parametrize(
    "share",
    [
        lambda place: 0.99 - 0.3 * place,
        lambda place: np.where(place < 0.5, 0.95, 0.9),  # just too low from a half on
        lambda place: 0.95 + 0.04 * np.sin(25 * place) - 0.1 * place,
    ],
)
def test_the_precision_is_missed_no_more_often_than_delta_says(share: Share, number: int) -> None:
    """A prediction's place among all, from 0 to 1, says how often such ones are correct; the observed share misses."""
    random = np.random.default_rng(number)
    grid = (np.arange(20_000) + 0.5) / 20_000
    true = np.cumsum(share(grid)) / np.arange(1, len(grid) + 1)
    missed = {"tested": 0, "observed": 0}
    rounds = 300
    for _ in range(rounds):
        places = np.sort(random.random(number))
        curve = AcceptanceCurve.of(1 - places, random.random(number) < share(places))
        for how, threshold in (
            ("tested", curve.for_guaranteed_precision(0.95, 0.1)),
            ("observed", curve.for_precision(0.95)),
        ):
            accepted = int(min(max(1 - threshold, 0), 1) * len(grid))
            missed[how] += bool(accepted) and true[accepted - 1] < 0.95
    assert missed["tested"] <= 0.1 * rounds
    assert missed["observed"] >= 0.4 * rounds


def test_predictions_of_groups_are_tested_by_groups() -> None:
    random = np.random.default_rng(2)
    missed = {"groups": 0, "images": 0}
    for _ in range(120):
        # Forty groups of twenty images.
        groups = np.repeat(np.arange(40), 20)
        # Groups are wrong as a whole; 0.93 of them are not.
        correct = (random.random(40) < 0.93)[groups]
        order = random.permutation(800)
        for how, given in (("groups", groups[order]), ("images", None)):
            number = num_accepted(correct[order], np.ones(800, bool), 0.95, 0.1, given)
            missed[how] += number > 0
    assert missed["groups"] <= 0.12 * 120
    assert missed["images"] >= 0.15 * 120


def test_classes_with_few_predictions_are_tested_together_and_what_cannot_be_shown_is_never_accepted() -> None:
    def curve(number: int, wrong: int = 0) -> AcceptanceCurve:
        correct = np.arange(number) < number - wrong
        return AcceptanceCurve.of(np.linspace(0.99, 0.6, number), correct)

    curves = {"many": curve(60), "bad": curve(60, 40), "few": curve(30), "rare": curve(20)}
    found = guaranteed_thresholds(curves, precision=0.95, delta=0.1)
    assert (found.shared, found.needed, found.most, found.possible) == (["few", "rare"], 45, 60, True)
    assert found.never == ["bad"]
    assert found.by_class["many"] == found.by_class["few"] == found.by_class["rare"] == 0
    small = guaranteed_thresholds({"a": curve(20), "b": curve(20)}, precision=0.95, delta=0.1)
    assert (small.possible, small.most, small.never) == (False, 40, ["a", "b"])
