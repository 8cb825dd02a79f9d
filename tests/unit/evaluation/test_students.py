from __future__ import annotations

import pytest

from classifier_training.evaluation.students import (
    Served,
    StudentScore,
    TeachingSettings,
    choose,
    conclude,
    summarize,
)

WARM, COLD = TeachingSettings(4.0, 0.7, 0.0), TeachingSettings(1.0, 0.7, 0.5)


def score(taught: TeachingSettings | None, seed: int, accuracy: float, validation: float = 0.5) -> StudentScore:
    return StudentScore(
        run=f"{taught}-{seed}", taught=taught, seed=seed, validation=validation, accuracy=accuracy,
        balanced_accuracy=accuracy, agreement=0.9,
    )  # fmt: skip


SCORES = [
    score(WARM, 0, 0.86, 0.7), score(None, 0, 0.80), score(COLD, 0, 0.95, 0.6),
    score(WARM, 1, 0.90, 0.7), score(None, 1, 0.82), score(COLD, 1, 0.95, 0.6),
]  # fmt: skip


def test_students_are_paired_by_seed_and_the_one_alone_comes_first() -> None:
    alone, warm, cold = summarize(SCORES, teacher_accuracy=0.91)
    assert (alone.taught, warm.taught, cold.taught) == (None, WARM, COLD)
    assert alone.gain is None
    assert warm.gain == pytest.approx((0.06 + 0.08) / 2)
    assert warm.gain_spread == pytest.approx(0.02 / 2**0.5)
    assert warm.gain_kept == pytest.approx(0.07 / 0.10)


def test_the_held_out_images_do_not_choose() -> None:
    assert choose(summarize(SCORES, teacher_accuracy=0.91)).taught == WARM


def test_a_teacher_without_a_lead_keeps_none() -> None:
    assert summarize(SCORES, teacher_accuracy=0.7)[1].gain_kept is None


def test_the_paragraph_has_its_figures() -> None:
    alone, best, _ = summarize(SCORES, teacher_accuracy=0.91)
    teacher = Served(name="big", accuracy=0.91, size_mb=40, latency_ms=8)
    student = Served(name="small", accuracy=best.accuracy, size_mb=4, latency_ms=2)
    words = conclude(alone, best, teacher, student, num_images=1000, verdict="It is better.")
    for part in ("1,000 held-out", "+7.00 points, 70% of", "10.0 times smaller", "4.0 times faster", "It is better."):
        assert part in words
    assert "larger than its spread over 2 seeds (1.41 points)" in words
    assert "3.00 points of accuracy are worth" in words
    single = [item for item in SCORES if item.seed == 0]
    alone, best, _ = summarize(single, teacher_accuracy=0.91)
    assert "One seed does not tell" in conclude(alone, best, teacher, student, num_images=9, verdict="")


def test_a_student_that_gains_nothing_is_shipped_alone() -> None:
    alone, worse = summarize([score(None, 0, 0.8), score(WARM, 0, 0.7)], teacher_accuracy=0.9)
    served = Served(name="x", accuracy=0.9, size_mb=1, latency_ms=1)
    assert "trained alone" in conclude(alone, worse, served, served, num_images=9, verdict="")
