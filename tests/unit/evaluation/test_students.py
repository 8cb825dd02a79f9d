from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from classifier_training.evaluation.comparison import Comparison, compare
from classifier_training.evaluation.intervals import exact_shares
from classifier_training.evaluation.students import (
    Evidence,
    Served,
    Skill,
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


def classified(correct: list[bool], against: list[bool]) -> Comparison:
    return compare(np.arange(len(correct)) % 2, np.array(correct), np.array(against), ("a", "b"))


def skill(hits: int, number: int = 1000) -> Skill:
    (share,) = exact_shares(np.array([hits]), np.array([number]))
    return Skill(accuracy=share, balanced_accuracy=share, most_frequent=0.5, num_classes=2)


def seen(*, gained: int = 70, lost: int = 0, missing: int = 30, teacher: int = 910) -> Evidence:
    """1,000 images, of which the student gains and loses some against itself alone and misses some of the teacher's."""
    rows = range(1000)
    return Evidence(
        num_images=1000,
        teacher=skill(teacher),
        student=skill(880),
        gain=classified([row >= lost for row in rows], [row < 1000 - gained for row in rows]),
        lead=classified([row >= missing for row in rows], [True] * 1000),
    )


TEACHER = Served(name="big", accuracy=0.91, size_mb=40, latency_ms=8)


def concluded(gains: Sequence[float], evidence: Evidence, teacher: Served = TEACHER) -> str:
    scores = [
        item for seed, gain in enumerate(gains) for item in (score(None, seed, 0.8), score(WARM, seed, 0.8 + gain))
    ]
    alone, best = summarize(scores, teacher_accuracy=teacher.accuracy)
    student = Served(name="small", accuracy=best.accuracy, size_mb=4, latency_ms=2)
    return conclude(alone, best, teacher, student, evidence)


def test_the_paragraph_has_its_figures() -> None:
    words = concluded([0.08, 0.07, 0.06], seen())
    for part in ("1,000 held-out", "+7.00 points, 64% of", "10.0 times smaller", "4.0 times faster"):
        assert part in words
    assert "The student with the teacher is better than the student alone: 70 images gained, 0 lost" in words
    assert "Over 3 seeds the 95 % interval of the gain is [+4.52, +9.48] points" in words
    assert words.endswith("the teacher where 4.00 points of accuracy are worth 8.0 ms.")


def test_a_gain_is_advice_only_where_seeds_and_images_show_it() -> None:
    single = concluded([0.07], seen())
    assert "One seed does not tell" in single
    assert "Inconclusive" in single
    assert "Inconclusive" in concluded([0.10, 0.01, -0.01], seen())
    assert "Inconclusive" in concluded([0.08, 0.07, 0.06], seen(gained=4, lost=1))
    for words in (single, concluded([0.08, 0.07, 0.06], seen(gained=4, lost=1))):
        assert "hip the" not in words
    assert "ship the one that was trained alone" in concluded([-0.08, -0.07, -0.06], seen(gained=0, lost=70))


def test_nothing_is_lost_only_where_the_images_could_show_a_loss() -> None:
    assert "do not tell it from the teacher" in concluded([0.08, 0.07, 0.06], seen(missing=3))
    weak = replace(TEACHER, accuracy=0.85)
    better = replace(seen(), lead=classified([True] * 1000, [row >= 30 for row in range(1000)]))
    assert "it is no worse than the teacher" in concluded([0.08, 0.07, 0.06], better, teacher=weak)


def test_a_student_that_is_worse_by_the_mean_over_classes_is_called_so() -> None:
    targets = np.array([0] * 950 + [1] * 50)
    # More images are classified correctly, but of the rare class fewer than half.
    lead = compare(targets, np.array([True] * 970 + [False] * 30), np.array([row >= 30 for row in range(1000)]), "ab")
    assert lead.p_worse < 0.05
    weak = replace(TEACHER, accuracy=0.85)
    words = concluded([0.08, 0.07, 0.06], replace(seen(), lead=lead), teacher=weak)
    assert "points of balanced accuracy are worth" in words


def test_a_teacher_at_chance_is_no_reason_to_ship_anything() -> None:
    words = concluded([0.08, 0.07, 0.06], seen(teacher=510))
    assert "Nothing to ship: the teacher is not shown to be better than a guess" in words
    assert "hip the" not in words
    rare = Skill(
        accuracy=exact_shares(np.array([800]), np.array([1000]))[0],
        balanced_accuracy=exact_shares(np.array([700]), np.array([1000]))[0],
        most_frequent=0.9,
        num_classes=2,
    )
    assert rare.is_shown, "a teacher that finds the rare class is better than a guess, whatever its accuracy"
