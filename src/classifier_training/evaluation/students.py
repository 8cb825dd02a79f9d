"""What a teacher was worth: students with and without it, over seeds, in numbers and in words.

Advice needs evidence: a teacher and a student that are better than a guess, and a gain that is above 0 both over the
seeds (Student's interval of the paired gains) and over the images (the tests of `comparison`).
"""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from classifier_training.evaluation.comparison import SIGNIFICANCE
from classifier_training.evaluation.intervals import mean_interval
from classifier_training.evaluation.leaderboard import deviation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from classifier_training.evaluation.comparison import Comparison
    from classifier_training.evaluation.intervals import Estimate


class TeachingSettings(NamedTuple):
    """How a student was taught; see `Distillation`."""

    temperature: float
    alpha: float
    hint_weight: float

    def __str__(self) -> str:
        hints = f", hints {self.hint_weight:g}" if self.hint_weight else ""
        return f"temperature {self.temperature:g}, alpha {self.alpha:g}{hints}"


@dataclass(frozen=True, kw_only=True)
class StudentScore:
    """One run of a student.

    Args:
        run: its folder.
        taught: how; None for the student alone.
        seed: of the run.
        validation: its monitored metric on validation, turned so that larger is better.
        accuracy: on the held-out images, as are the next two.
        balanced_accuracy: mean recall of the classes.
        agreement: share of the images for which it predicts the class that its teacher does.
    """

    run: str
    taught: TeachingSettings | None
    seed: int
    validation: float
    accuracy: float
    balanced_accuracy: float
    agreement: float


@dataclass(frozen=True, kw_only=True)
class Served:
    """What a network costs to serve, and what it is worth.

    Args:
        name: for people.
        accuracy: on the held-out images; the mean of several runs.
        size_mb: of its files, in MB.
        latency_ms: median for one image.
    """

    name: str
    accuracy: float
    size_mb: float
    latency_ms: float


@dataclass(frozen=True, kw_only=True)
class Skill:
    """Whether a network is better than a guess.

    Args:
        accuracy: on the held-out images.
        balanced_accuracy: on the same.
        most_frequent: share of the most frequent class among them, the accuracy of always predicting it.
        num_classes: that have images; a guess has a balanced accuracy of one over that.
    """

    accuracy: Estimate
    balanced_accuracy: Estimate
    most_frequent: float
    num_classes: int

    @property
    def is_shown(self) -> bool:
        """Whether either interval lies above what a guess gets."""
        guesses = (self.most_frequent, 1 / self.num_classes)
        # Without an interval all predictions are alike, and correct.
        return any(
            (item.value if math.isnan(item.low) else item.low) > guess
            for item, guess in zip((self.accuracy, self.balanced_accuracy), guesses, strict=True)
        )

    def __str__(self) -> str:
        return (
            f"accuracy {self.accuracy}, always predicting the most frequent class {self.most_frequent:.4f}; balanced "
            f"accuracy {self.balanced_accuracy}, a guess {1 / self.num_classes:.4f}"
        )


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the held-out images say of the networks.

    Args:
        num_images: held out.
        teacher: whether it is better than a guess.
        student: whether the best student with the teacher is.
        gain: that student against the student alone with the same seed.
        lead: that student against the teacher.
    """

    num_images: int
    teacher: Skill
    student: Skill
    gain: Comparison
    lead: Comparison


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The runs of one way to teach, over seeds; a spread is the standard deviation, None of a single run.

    Args:
        taught: the way; None for the student alone.
        num_runs: how many seeds.
        validation: mean monitored metric, larger is better.
        accuracy: mean.
        accuracy_spread: of it.
        balanced_accuracy: mean.
        agreement: mean.
        gain: mean accuracy minus that of the student alone with the same seed; None for the student alone.
        gain_spread: of it.
        gain_low: end of the gain's 95 % interval over the seeds; None of one seed.
        gain_high: the other end.
        gain_kept: share of the teacher's lead over the student alone that is kept; None where it has no lead.
    """

    taught: TeachingSettings | None
    num_runs: int
    validation: float
    accuracy: float
    accuracy_spread: float | None
    balanced_accuracy: float
    agreement: float
    gain: float | None
    gain_spread: float | None
    gain_low: float | None
    gain_high: float | None
    gain_kept: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the form that goes into JSON."""
        return {**asdict(self), "taught": None if self.taught is None else self.taught._asdict()}


def summarize(scores: Sequence[StudentScore], *, teacher_accuracy: float) -> list[Summary]:
    """Sum up runs by the way they were taught, the student alone first; runs are paired with it by their seed."""
    alone = {score.seed: score.accuracy for score in scores if score.taught is None}
    ways = list(dict.fromkeys(score.taught for score in scores))
    ways.sort(key=lambda taught: taught is not None)
    return [
        _summarize([score for score in scores if score.taught == taught], alone, teacher_accuracy) for taught in ways
    ]


def choose(summaries: Sequence[Summary]) -> Summary:
    """Return the way to teach that validates best; the held-out images have no say in it."""
    return max((item for item in summaries if item.taught is not None), key=lambda item: item.validation)


def conclude(alone: Summary, best: Summary, teacher: Served, student: Served, evidence: Evidence) -> str:
    """Say in a paragraph what the teacher was worth and, where that is shown, which network to ship.

    Args:
        alone: the student without a teacher.
        best: the way to teach that validated best.
        teacher: what the teacher costs.
        student: what the student costs.
        evidence: of the held-out images.
    """
    assert best.gain is not None
    kept = "" if best.gain_kept is None else f", {best.gain_kept:.0%} of the teacher's lead"
    accuracy = (
        f"On {evidence.num_images:,} held-out images {teacher.name} as the teacher has an accuracy of "
        f"{teacher.accuracy:.2%}, "
        f"{student.name} alone on {_with_spread(alone.accuracy, alone.accuracy_spread)}, and with the teacher on "
        f"{_with_spread(best.accuracy, best.accuracy_spread)} ({best.taught}; {best.num_runs} "
        f"{'seed' if best.num_runs == 1 else 'seeds'}): {100 * best.gain:+.2f} points{kept}."
    )
    alike = (
        f"Its predictions agree with the teacher's on {best.agreement:.2%} of the images; alone, on "
        f"{alone.agreement:.2%}."
    )
    cost = (
        f"The student takes {student.size_mb:.2f} MB against {teacher.size_mb:.2f} MB "
        f"({teacher.size_mb / student.size_mb:.1f} times smaller) and {student.latency_ms:.2f} ms an image against "
        f"{teacher.latency_ms:.2f} ms ({teacher.latency_ms / student.latency_ms:.1f} times faster on this machine)."
    )
    verdict = evidence.gain.verdict("the student with the teacher", "the student alone")
    verdict = f"{verdict[0].upper()}{verdict[1:]}"
    return " ".join([accuracy, alike, cost, verdict, _over_seeds(best), _advice(best, teacher, student, evidence)])


def _summarize(scores: Sequence[StudentScore], alone: dict[int, float], teacher_accuracy: float) -> Summary:
    taught = scores[0].taught
    gains = [] if taught is None else [item.accuracy - alone[item.seed] for item in scores if item.seed in alone]
    gain = statistics.fmean(gains) if gains else None
    lead = teacher_accuracy - statistics.fmean(alone.values()) if alone else 0.0
    accuracies = [item.accuracy for item in scores]
    ends = mean_interval(gains) if len(gains) > 1 else None
    return Summary(
        taught=taught,
        num_runs=len(scores),
        validation=statistics.fmean(item.validation for item in scores),
        accuracy=statistics.fmean(accuracies),
        accuracy_spread=deviation(accuracies),
        balanced_accuracy=statistics.fmean(item.balanced_accuracy for item in scores),
        agreement=statistics.fmean(item.agreement for item in scores),
        gain=gain,
        gain_spread=deviation(gains),
        gain_low=None if ends is None else ends.low,
        gain_high=None if ends is None else ends.high,
        gain_kept=gain / lead if gain is not None and lead > 0 else None,
    )


def _with_spread(value: float, spread: float | None) -> str:
    return f"{value:.2%}" if spread is None else f"{value:.2%} ± {100 * spread:.2f}"


def _over_seeds(best: Summary) -> str:
    if best.gain_low is None or best.gain_high is None:
        return "One seed does not tell the teacher's part from luck: 'seeds=[0,1,2,3,4]' does."
    ends = f"[{100 * best.gain_low:+.2f}, {100 * best.gain_high:+.2f}]"
    return f"Over {best.num_runs} seeds the 95 % interval of the gain is {ends} points."


def _advice(best: Summary, teacher: Served, student: Served, evidence: Evidence) -> str:
    for name, skill in (("teacher", evidence.teacher), ("student with the teacher", evidence.student)):
        if not skill.is_shown:
            return f"Nothing to ship: the {name} is not shown to be better than a guess ({skill})."
    sign = _gain_sign(best, evidence.gain)
    if sign == 0:
        return (
            "Inconclusive: whether the teacher helps is not shown over both seeds and images. More seeds, or more "
            "held-out images, can show it; until then the student trained alone is the simpler choice."
        )
    if sign < 0:
        return "Of the students, ship the one that was trained alone: this teacher makes it worse."
    if evidence.lead.p_worse < SIGNIFICANCE:
        missing, balanced = teacher.accuracy - best.accuracy, -evidence.lead.balanced_accuracy_difference.value
        points = f"{100 * missing:.2f} points of accuracy"
        if missing <= 0:
            points = f"{100 * balanced:.2f} points of balanced accuracy"
        return (
            f"Ship the student with the teacher where {student.size_mb:.1f} MB or {student.latency_ms:.1f} ms matter "
            f"(browser, phone, edge CPU); the teacher where {points} are worth {teacher.latency_ms:.1f} ms."
        )
    is_known = min(evidence.lead.adjusted) < SIGNIFICANCE
    against = "it is no worse than the teacher" if is_known else "these images do not tell it from the teacher"
    return f"Ship the student with the teacher: it is better than alone, and {against}."


def _gain_sign(best: Summary, gain: Comparison) -> int:
    """1 or -1 where seeds and images both show that the teacher helps, or harms; else 0."""
    if best.gain_low is None or best.gain_high is None or min(gain.adjusted) >= SIGNIFICANCE:
        return 0
    over_seeds = int(best.gain_low > 0) - int(best.gain_high < 0)
    shown = {sign for sign, value in zip(gain.directions, gain.adjusted, strict=True) if value < SIGNIFICANCE}
    return over_seeds if shown == {over_seeds} else 0
