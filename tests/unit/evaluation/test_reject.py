"""Thresholds and the risk-coverage curve against trying every threshold."""

from __future__ import annotations

import numpy as np
import pytest

from classifier_training.evaluation.reject import (
    MIN_PREDICTIONS,
    NEVER,
    AcceptanceCurve,
    class_curves,
    class_thresholds,
)
from classifier_training.evaluation.selective import risk_coverage

confidences = np.random.default_rng(0).choice(np.linspace(0.2, 1, 17), 60).astype(np.float32)
correct = np.random.default_rng(1).random(60) < confidences


@pytest.mark.parametrize("wanted", [0.3, 0.7, 0.9, 1.0])
def test_the_threshold_for_a_precision_is_the_lowest_that_gives_it(wanted: float) -> None:
    curve = AcceptanceCurve.of(confidences, correct)
    good = [t for t in curve.confidences if curve.correct[curve.confidences >= t].mean() >= wanted]
    assert curve.for_precision(wanted) == (min(good) if good else NEVER)


@pytest.mark.parametrize("wanted", [0.1, 0.5, 0.9, 1.0])
def test_the_threshold_for_a_coverage_is_the_highest_that_gives_it(wanted: float) -> None:
    curve = AcceptanceCurve.of(confidences, correct)
    good = [t for t in curve.confidences if (curve.confidences >= t).mean() >= wanted]
    assert curve.for_coverage(wanted) == max(good)


def test_an_image_at_its_own_threshold_is_accepted_and_a_hopeless_wish_accepts_none() -> None:
    curve = AcceptanceCurve.of(np.array([0.33333334], dtype=np.float32), np.array([True]))
    assert curve.for_precision(1.0) <= 0.33333334
    assert AcceptanceCurve.of(confidences, np.zeros(60, dtype=bool)).for_precision(0.5) == NEVER > 1
    nothing = AcceptanceCurve.of(np.empty(0, dtype=np.float32), np.empty(0, dtype=bool))
    assert nothing.for_precision(0.5) == nothing.for_coverage(0.5) == NEVER


def test_curves_survive_json_and_a_cut_one_is_refused() -> None:
    curve = AcceptanceCurve.of(confidences, correct)
    again = AcceptanceCurve.from_dict(curve.to_dict())
    assert np.array_equal(again.confidences, curve.confidences)
    assert np.array_equal(again.correct, curve.correct)
    with pytest.raises(ValueError, match="60 confidences and 3 marks"):
        AcceptanceCurve.from_dict({**curve.to_dict(), "correct": "101"})


def test_a_class_with_few_answers_takes_the_threshold_of_all() -> None:
    predicted = np.array([0] * 50 + [1] * (MIN_PREDICTIONS - 10))
    shares = np.zeros((60, 3), dtype=np.float32)
    shares[np.arange(60), predicted] = np.maximum(confidences, 0.4)
    targets = np.where(correct, predicted, 2)
    curves = class_curves(shares, targets, ("a", "b", "c"))
    assert [len(curve) for curve in curves.values()] == [50, 10, 0]
    found = class_thresholds(curves, precision=0.9)
    assert found["a"] == curves["a"].for_precision(0.9)
    pooled = AcceptanceCurve.of(shares.max(axis=1), correct)
    assert found["b"] == found["c"] == pooled.for_precision(0.9)


def test_the_risk_coverage_curve_is_what_every_threshold_gives() -> None:
    curve = risk_coverage(confidences, correct)
    assert list(curve.thresholds) == sorted(set(confidences.astype(np.float64)), reverse=True)
    for threshold, coverage, risk in zip(curve.thresholds, curve.coverage, curve.risk, strict=True):
        accepted = confidences >= threshold
        assert coverage == pytest.approx(accepted.mean())
        assert risk == pytest.approx((~correct[accepted]).mean())
    assert curve.coverage[-1] == 1


def test_the_area_is_the_mean_risk_over_all_orders_of_equals() -> None:
    assert risk_coverage(np.array([0.9, 0.8, 0.7]), np.array([True, False, True])).area == pytest.approx(
        (0 + 1 / 2 + 1 / 3) / 3
    )
    generator = np.random.default_rng(0)
    shuffled = []
    for _ in range(4000):
        order = generator.permutation(60)
        order = order[np.argsort(-confidences[order], kind="stable")]
        shuffled.append((np.cumsum(~correct[order]) / np.arange(1, 61)).mean())
    assert risk_coverage(confidences, correct).area == pytest.approx(np.mean(shuffled), abs=2e-3)
