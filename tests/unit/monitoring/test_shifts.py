"""Shifts of a model that is a formula: found, named and dated, and none found where there is none."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pytest
from tests.predictions import NAMES, SIDE, answer, make_images, make_reference, sketch_of

from classifier_training.monitoring.accuracy import CONFIDENCES, COPIES, estimate_accuracy
from classifier_training.monitoring.corruptions import BLUR, LOW_CONTRAST, NOISE, OVEREXPOSED, UNDEREXPOSED, corrupt
from classifier_training.monitoring.reference import Reference, measure_responses
from classifier_training.monitoring.shifts import (
    FOREIGN,
    LABELS,
    LEVEL,
    OTHER,
    ShiftTest,
    change_point,
    compare,
    judge_days,
    name_kind,
)
from classifier_training.monitoring.sketch import Sketch
from classifier_training.monitoring.statistics import NAMES as STATISTICS
from classifier_training.monitoring.statistics import image_statistics, values_of

REFERENCE = make_reference()


def days_of(sketches: list[Sketch]) -> dict[str, Sketch]:
    """The sketches of consecutive days."""
    return {(date(2026, 1, 1) + timedelta(days=place)).isoformat(): one for place, one in enumerate(sketches)}


def clean(seed: int, number: int = 200, red: float = 0.5) -> Sketch:
    """Predictions of a day that is like the validation images."""
    return sketch_of(REFERENCE, make_images(number, seed=1000 + seed, red=red).pixels)


def changed(kind: str, strength: float, *, seed: int = 0, number: int = 200) -> np.ndarray:
    """Changed images."""
    return corrupt(make_images(number, seed=2000 + seed).pixels, kind, strength, np.random.default_rng(seed))


def foreign(number: int, seed: int = 0) -> np.ndarray:
    """Images of another kind: green checkerboards."""
    board = np.indices((SIDE, SIDE)).sum(axis=0) % 8 < 4
    levels = np.random.default_rng(seed).uniform(0.3, 0.6, (number, 1, 1))
    green = np.where(board, levels, levels + 0.2)
    pixels = np.stack([0.4 * green, green, 0.4 * green], axis=3)
    return np.asarray(np.rint(pixels * 255), dtype=np.uint8)


def test_responses_do_not_depend_on_the_number_of_threads() -> None:
    given = make_images(40, seed=5)
    images = list(zip(given.pixels, given.targets.tolist(), strict=True))
    one, several = (
        measure_responses(images, lambda pixels: pixels, answer, REFERENCE.novelty, num_threads=number)
        for number in (1, 3)
    )
    for first, second in zip(one, several, strict=True):
        assert (first.kind, first.strength, first.accuracy) == (second.kind, second.strength, second.accuracy)
        np.testing.assert_array_equal(first.shift, second.shift)


def test_at_most_one_month_in_twenty_without_a_change_has_an_alarm() -> None:
    given = make_images(8000, seed=3)
    image = image_statistics(given.pixels)
    shares, novelty = answer(given.pixels)
    alarms = 0
    for month in range(20):
        generator = np.random.default_rng(month)
        rows = generator.choice(len(shares), 400, replace=False)
        threshold = float(np.quantile(novelty[rows], 0.95))
        reference = Reference.fit(NAMES, image[rows], shares[rows], novelty[rows], threshold, given.targets[rows])
        values, days = values_of(image, shares, novelty, reference.novelty), []
        for _ in range(30):
            rows = generator.choice(len(shares), 200)
            days.append(Sketch("", NAMES))
            days[-1].add(shares[rows], values[rows], np.zeros(200, bool))
        alarms += any(test.is_shift for test in judge_days(reference, days_of(days)))
    assert alarms <= 1


@pytest.mark.parametrize(
    ("kind", "strength"),
    [(BLUR, 1.0), (NOISE, 0.08), (UNDEREXPOSED, -1.5), (OVEREXPOSED, 1.5), (LOW_CONTRAST, 0.4)],
)
def test_a_known_change_is_found_and_named(kind: str, strength: float) -> None:
    test = compare(REFERENCE, sketch_of(REFERENCE, changed(kind, strength)))
    assert test.is_shift
    assert test.kind == kind
    assert not test.is_partial


def test_a_change_of_some_images_is_named_and_said_to_be_of_a_part() -> None:
    sketch = clean(0, 140).merge(sketch_of(REFERENCE, changed(NOISE, 0.15, number=60)))
    test = compare(REFERENCE, sketch)
    assert test.kind == NOISE
    assert test.is_partial
    assert test.share == pytest.approx(0.3, abs=0.12)


def test_a_label_shift_is_no_change_of_the_images() -> None:
    test = compare(REFERENCE, clean(1, red=0.85))
    assert test.is_shift
    assert not test.is_covariate
    assert test.kind == LABELS
    assert test.distance == pytest.approx(0.35, abs=0.1)


def test_foreign_images_are_named_and_their_accuracy_cannot_be_known() -> None:
    sketch = clean(2, 140).merge(sketch_of(REFERENCE, foreign(60)))
    test = compare(REFERENCE, sketch)
    assert test.kind == FOREIGN
    estimate = estimate_accuracy(REFERENCE, sketch, test)
    assert estimate.value is None
    assert "no correct class" in estimate.why_not
    assert str(estimate).startswith("cannot be known")


def test_a_change_that_was_not_measured_is_other() -> None:
    effects = np.zeros(len(STATISTICS))
    effects[STATISTICS.index("red")] = 2.0
    effects[STATISTICS.index("blue")] = 1.5
    assert name_kind(REFERENCE, effects, np.zeros(len(effects)), is_unlike=False)[0] == OTHER
    assert name_kind(REFERENCE, effects, np.zeros(len(effects)), is_unlike=True)[0] == FOREIGN
    sketch = clean(3)
    other = replace(compare(REFERENCE, sketch), kind=OTHER)
    assert "not measured before" in estimate_accuracy(REFERENCE, sketch, other).why_not


def test_too_few_predictions_are_not_tested() -> None:
    sketch = sketch_of(REFERENCE, changed(NOISE, 0.2, number=40))
    test = compare(REFERENCE, sketch)
    assert not test.is_shift
    assert "50 are needed" in estimate_accuracy(REFERENCE, sketch, test).why_not


def test_a_change_is_dated_and_ends() -> None:
    sketches = [clean(day) for day in range(6)]
    sketches += [sketch_of(REFERENCE, changed(BLUR, 1.0, seed=day)) for day in range(4)]
    days = days_of(sketches)
    tests = judge_days(REFERENCE, days)
    assert [test.is_shift for test in tests] == [False] * 6 + [True] * 4
    assert change_point(REFERENCE, days, tests[-1]) == ("2026-01-07", "2026-01-07")
    over = judge_days(REFERENCE, days_of([*sketches, *(clean(50 + day) for day in range(3))]))
    assert not any(test.is_shift for test in over[-3:]), "a change that is over is not found again in the week"


def test_a_label_shift_is_dated() -> None:
    days = days_of([clean(day, red=0.5 if day < 5 else 0.85) for day in range(9)])
    tests = judge_days(REFERENCE, days)
    assert tests[-1].kind == LABELS
    assert change_point(REFERENCE, days, tests[-1])[0] == "2026-01-06"


def test_a_week_finds_what_a_day_does_not() -> None:
    weak = [sketch_of(REFERENCE, changed(UNDEREXPOSED, -0.06, seed=day, number=60)) for day in range(8)]
    tests = judge_days(REFERENCE, days_of(weak))
    assert not any(test.is_shift and test.window == 1 for test in tests)
    assert tests[-1].is_shift
    assert tests[-1].window == 7
    assert tests[-1].p_value < LEVEL


@pytest.mark.parametrize(("kind", "strength"), [(BLUR, 0.7), (UNDEREXPOSED, -1.5)])
def test_the_accuracy_under_a_known_change_is_estimated(kind: str, strength: float) -> None:
    given = make_images(2000, seed=11)
    pixels = corrupt(given.pixels, kind, strength, np.random.default_rng(0))
    true = float((answer(pixels)[0].argmax(axis=1) == given.targets).mean())
    sketch = sketch_of(REFERENCE, pixels)
    estimate = estimate_accuracy(REFERENCE, sketch, compare(REFERENCE, sketch))
    assert estimate.value == pytest.approx(true, abs=0.05)
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.low <= true <= estimate.high
    assert estimate.method == COPIES


def test_a_change_that_is_stronger_than_any_copy_leaves_the_accuracy_unknown() -> None:
    sketch = sketch_of(REFERENCE, changed(NOISE, 0.45))
    test = compare(REFERENCE, sketch)
    assert test.kind == NOISE
    assert "stronger than any" in estimate_accuracy(REFERENCE, sketch, test).why_not


def test_the_accuracy_of_shifted_labels_follows_from_the_confidence() -> None:
    sketch = clean(4, 1000, red=0.9)
    test = compare(REFERENCE, sketch)
    estimate = estimate_accuracy(REFERENCE, sketch, test)
    given = make_images(1000, seed=1004, red=0.9)
    true = float((answer(given.pixels)[0].argmax(axis=1) == given.targets).mean())
    assert estimate.method == CONFIDENCES
    assert estimate.value == pytest.approx(true, abs=0.05)


def test_unchanged_predictions_have_about_the_accuracy_of_validation() -> None:
    sketch = clean(5, 1000)
    test = compare(REFERENCE, sketch)
    assert isinstance(test, ShiftTest)
    assert estimate_accuracy(REFERENCE, sketch, test).value == pytest.approx(REFERENCE.accuracy, abs=0.04)


def test_a_class_that_comes_now_and_never_before_is_a_label_shift() -> None:
    reference = make_reference()
    reference.sketch.predicted[:] = [400, 0]
    test = compare(reference, clean(6, red=0.5))
    assert test.label_p < LEVEL
