from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from classifier_training.evaluation.comparison import (
    Comparison,
    compare,
    design_effect,
    holm,
    largest_loss,
    mcnemar,
)
from classifier_training.evaluation.groups import Groups

NAMES = ("a", "b", "c")


def made(counts: dict[int, tuple[int, int, int]]) -> Comparison:
    """Compare on images given by class: both right, gained, lost."""
    rows = [
        (label, own, other)
        for label, (both, gained, lost) in counts.items()
        for own, other, number in ((True, True, both), (True, False, gained), (False, True, lost))
        for _ in range(number)
    ]
    targets, own, other = (np.array(column) for column in zip(*rows, strict=True))
    return compare(targets, own, other, NAMES)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (3, 3), (9, 1), (0, 7), (40, 22)])
def test_mcnemar_is_the_sign_test_of_what_changed(gained: int, lost: int) -> None:
    expected = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1
    assert mcnemar(gained, lost) == pytest.approx(expected, abs=1e-12)


def test_several_tests_are_adjusted_after_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_a_better_run_is_called_so_with_its_evidence() -> None:
    found = made({0: (50, 20, 2), 1: (60, 3, 3)})
    assert (found.gained, found.lost, found.num_images) == (23, 5, 138)
    assert found.accuracy == pytest.approx((133 / 138, 115 / 138))
    assert found.balanced_accuracy_difference.value == pytest.approx(18 / 72 / 2)
    assert 0 < found.balanced_accuracy_difference.low < 0.125 < found.balanced_accuracy_difference.high < 0.25
    assert found.accuracy_difference.method == "paired bootstrap"
    said = found.verdict("new", "old")
    assert said.startswith("new is better than old: 23 images gained, 5 lost of 138 (McNemar p = 0.00091")
    assert said.endswith("; class that gained: 'a'.")
    assert [item.verdict for item in found.classes] == ["gained", "unclear"]
    assert made({0: (50, 2, 20), 1: (60, 3, 3)}).verdict("new", "old").startswith("new is worse than old")


def test_what_cannot_be_told_is_not_told() -> None:
    assert (
        made({0: (20, 2, 1), 1: (20, 0, 1)}).verdict("x", "y").startswith("These images do not tell which of x and y")
    )
    same = made({0: (20, 0, 0), 1: (5, 0, 0)})
    assert same.verdict("x", "y") == "x and y classify the same of the 25 images correctly."
    assert np.isnan(same.balanced_accuracy_difference.low)
    assert same.to_dict()["accuracy"]["difference"] == {"value": 0.0, "low": None, "high": None, "method": "none"}


def test_more_right_answers_may_come_at_the_cost_of_rare_classes() -> None:
    found = made({0: (900, 60, 10), 1: (20, 0, 12), 2: (20, 1, 10)})
    assert found.verdict("x", "y").startswith("x has the better accuracy, y the better balanced accuracy: ")
    assert found.accuracy_difference.value > 0 > found.balanced_accuracy_difference.high


def test_the_paired_bootstrap_is_that_of_the_images() -> None:
    found = made({0: (50, 20, 2), 1: (60, 3, 3)})
    random = np.random.default_rng(0)
    changes = {72: np.repeat([0, 1, -1], [50, 20, 2]), 66: np.repeat([0, 1, -1], [60, 3, 3])}
    drawn = np.mean([random.choice(change, (4000, size)).mean(axis=1) for size, change in changes.items()], axis=0)
    ends = np.quantile(drawn, [0.025, 0.975])
    difference = found.balanced_accuracy_difference
    assert (difference.low, difference.high) == pytest.approx(tuple(ends), abs=0.01)


@pytest.mark.parametrize(("number", "gain", "loss"), [(60, 0.0, 0.05), (100, 0.02, 0.05), (300, 0.01, 0.02)])
def test_the_bound_of_a_loss_is_below_the_true_loss_in_one_case_of_twenty(
    number: int, gain: float, loss: float
) -> None:
    chance = 0.0
    for gained in range(12):
        for lost in range(40):
            if largest_loss(gained, lost, number) < loss - gain:
                chance += stats.multinomial.pmf(
                    [gained, lost, number - gained - lost], number, [gain, loss, 1 - gain - loss]
                )
    assert chance < 0.07


def test_the_bound_of_a_loss_is_known_in_simple_cases() -> None:
    quantile = stats.norm.ppf(0.95)
    assert largest_loss(0, 0, 100) == pytest.approx(quantile**2 / (100 + quantile**2), abs=1e-6)
    # With many images it is the normal one of the paired difference.
    gained, lost, number = 200, 300, 10_000
    spread = np.sqrt(gained + lost - (lost - gained) ** 2 / number) / number
    assert largest_loss(gained, lost, number) == pytest.approx(0.01 + quantile * spread, rel=0.01)
    assert largest_loss(5, 5, 100) == pytest.approx(largest_loss(5, 5, 100.0))
    assert largest_loss(0, 100, 100) == pytest.approx(1, abs=1e-6)


def test_the_bound_of_a_loss_grows_with_every_image_lost_and_falls_with_every_one_gained() -> None:
    for gained in range(0, 30, 3):
        ends = [largest_loss(gained, lost, 80) for lost in range(50)]
        assert (np.diff(ends) > 0).all()
    for lost in range(0, 30, 3):
        ends = [largest_loss(gained, lost, 80) for gained in range(50)]
        assert (np.diff(ends) < 0).all()


def test_images_that_change_together_count_as_fewer() -> None:
    alike = np.repeat([1, -1, 0, 0, 0, -1, 0, 0, 1, -1], 6)
    groups = Groups(np.repeat(np.arange(10), 6))
    assert 5 < design_effect(alike, groups) < 9
    assert design_effect(np.zeros(60, np.int64), groups) == 6
    scattered = np.random.default_rng(0).permutation(alike)
    assert design_effect(scattered, groups) < 2
