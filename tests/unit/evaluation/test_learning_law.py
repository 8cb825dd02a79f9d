from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from classifier_training.evaluation.learning_law import CurvePoints, LearningCurves, Shapes, summarize_points

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHARES = np.array([0.1, 0.2, 0.35, 0.6, 1.0])
NUM_DRAWS = 4


def odds(now: NDArray[np.float64], rest: float, exponent: float, growth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of errors by the law; classes by growths."""
    found = (now / (1 - now))[:, None] * (rest + (1 - rest) * growth**-exponent)
    return found / (1 + found)


def simulate(errors: NDArray[np.float64], *, num_images: int, num_held_out: int, seed: int) -> CurvePoints:
    """Points of classes with these shares of errors [K, J]: an image that is hard for one head is so for the others."""
    generator = np.random.default_rng(seed)
    number = len(errors)
    targets = np.repeat(np.arange(number), num_held_out)
    hardness = generator.normal(size=len(targets))
    correct = []
    for place, share in enumerate(SHARES):
        draws = NUM_DRAWS if share < 1 else 1
        mixed = 0.8 * hardness + 0.6 * generator.normal(size=(draws, len(targets)))
        # The normal distribution's upper tail as a share.
        ranks = np.vectorize(_tail)(mixed)
        correct.append(ranks > errors[targets, place])
    now = np.full(number, num_images)
    return summarize_points(now, np.ceil(now[:, None] * SHARES).astype(np.int64), correct, targets)


def _tail(value: float) -> float:
    from math import erfc, sqrt

    return 0.5 * erfc(value / sqrt(2))


def interval(curves: LearningCurves, place: int, growth: float) -> tuple[float, float, float]:
    """Both ends and the middle of the forecast."""
    low, middle, high = np.quantile(curves.sample(place, np.array([1.0, growth]))[0][:, 1], (0.05, 0.5, 0.95))
    return float(low), float(middle), float(high)


def test_a_known_law_is_recovered_from_many_images() -> None:
    now = np.array([0.3, 0.2, 0.1, 0.25])
    points = simulate(odds(now, 0.1, 0.6, SHARES), num_images=400, num_held_out=3000, seed=0)
    truth = 1 - odds(now, 0.1, 0.6, np.array([3.0]))[:, 0]
    curves = LearningCurves(points)
    for place in range(len(now)):
        low, middle, high = interval(curves, place, 3.0)
        assert low <= truth[place] <= high
        assert middle == pytest.approx(truth[place], abs=0.02)
        assert middle > 1 - now[place] + 0.03


def test_a_flat_curve_stays_flat() -> None:
    points = simulate(np.full((4, 5), 0.3), num_images=400, num_held_out=1000, seed=1)
    curves = LearningCurves(points)
    for place in range(4):
        recall, limit = curves.sample(place, np.array([1.0, 5.0]))
        assert np.median(recall[:, 1]) == pytest.approx(0.7, abs=0.04)
        assert (limit > 0.9).mean() < 0.05


def test_recall_that_falls_with_more_images_is_forecast_to_fall() -> None:
    errors = np.stack([np.linspace(0.05, 0.3, 5)] * 3)
    curves = LearningCurves(simulate(errors, num_images=300, num_held_out=1000, seed=2))
    assert interval(curves, 0, 4.0)[1] < 0.7


def test_a_class_without_errors_is_not_promised_to_have_none() -> None:
    errors = np.vstack([np.zeros((1, 5)), odds(np.array([0.1, 0.2]), 0.2, 0.5, SHARES)])
    low, middle, high = interval(LearningCurves(simulate(errors, num_images=100, num_held_out=40, seed=3)), 0, 2.0)
    assert 0.85 < low < middle < high < 1


def test_intervals_contain_what_comes_as_often_as_they_say() -> None:
    generator = np.random.default_rng(4)
    inside, widths = [], []
    for repeat in range(60):
        rest, exponent = generator.uniform(0, 0.8), generator.uniform(0.2, 1.0)
        now = generator.uniform(0.05, 0.5, size=4)
        points = simulate(odds(now, rest, exponent, SHARES), num_images=100, num_held_out=40, seed=100 + repeat)
        truth = 1 - odds(now, rest, exponent, np.array([5.0]))[:, 0]
        curves = LearningCurves(points)
        for place in range(4):
            low, _, high = interval(curves, place, 5.0)
            inside.append(low <= truth[place] <= high)
            widths.append(high - low)
    assert 0.85 <= np.mean(inside) <= 0.99
    assert np.mean(widths) < 0.35


def test_classes_learn_from_each_other() -> None:
    now = np.linspace(0.1, 0.4, 12)
    points = simulate(odds(now, 0.0, 0.8, SHARES), num_images=100, num_held_out=30, seed=5)
    truth = 1 - odds(now, 0.0, 0.8, np.array([5.0]))[:, 0]

    def error(*, shares: bool) -> float:
        curves = LearningCurves(points, shares=shares)
        return float(np.mean([abs(interval(curves, place, 5.0)[1] - truth[place]) for place in range(12)]))

    assert error(shares=True) < error(shares=False)


def test_the_same_seed_gives_the_same_forecast_and_points_survive_json() -> None:
    points = simulate(odds(np.array([0.2, 0.3]), 0.2, 0.5, SHARES), num_images=50, num_held_out=30, seed=6)
    first, second = (LearningCurves(item) for item in (points, CurvePoints.from_dict(points.to_dict())))
    growth = np.array([1.0, 2.0, 5.0])
    assert np.array_equal(first.sample(1, growth, seed=3)[0], second.sample(1, growth, seed=3)[0])
    assert not np.array_equal(first.sample(1, growth, seed=3)[0], first.sample(1, growth, seed=4)[0])


def test_the_curve_of_another_classifier_begins_at_its_recall() -> None:
    points = simulate(odds(np.array([0.4, 0.3]), 0.1, 0.6, SHARES), num_images=100, num_held_out=200, seed=7)
    recall, _ = LearningCurves(points).sample(0, np.array([1.0, 5.0]), hits=(950, 1000))
    assert np.median(recall[:, 0]) == pytest.approx(0.95, abs=0.01)
    assert np.median(recall[:, 1]) > np.median(recall[:, 0])


def test_every_shape_is_0_now_and_has_a_limit() -> None:
    shapes = Shapes.usual()
    assert shapes.prior.sum() == pytest.approx(1)
    assert np.allclose(shapes.log_odds(np.array([1.0])), 0)
    far, limit = shapes.log_odds(np.array([1e30])), shapes.log_odds(np.array([np.inf]))
    finite = np.isfinite(limit)
    assert np.allclose(far[finite], limit[finite], atol=1e-3)
