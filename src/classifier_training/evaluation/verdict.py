"""What the metrics of an evaluation mean, in plain words: what is good enough, what is not, what to do next.

A class is judged by the 95 % interval of its recall and one target: it is good enough when the whole interval lies
above the target, weak when it lies below, and open when the target lies within, which is for more images to decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from classifier_training.core.errors import enumerate_words, shown
from classifier_training.core.types import TEST, TRAIN, VAL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from classifier_training.evaluation.intervals import Estimate
    from classifier_training.evaluation.mistakes import Confusion
    from classifier_training.evaluation.results import Evaluation

TARGET_RECALL = 0.9
"""Share of a class's images that must be found for the class to count as good enough."""

FEW_IMAGES = 20
"""Training images below which a class needs more images before anything else."""

UNCALIBRATED = 0.05
"""Calibration error above which a confidence misleads."""

SURE = 0.9
"""Confidence of a mistake from which on its label is worth a look."""

NUM_NAMED = 6

Kind = Literal["error", "warning", "note", "good"]


@dataclass(frozen=True)
class Remark:
    """A sentence of the verdict.

    Args:
        kind: error, warning, note or good.
        title: what is the case.
        words: on what grounds.
        remedy: what to do; empty when there is nothing to do.
    """

    kind: Kind
    title: str
    words: str
    remedy: str = ""


@dataclass(frozen=True, kw_only=True)
class Grounds:
    """What a verdict is made from.

    Args:
        evaluation: the metrics.
        class_names: [K].
        confusions: the most frequent first.
        train_counts: training images of each class, by name; empty where they are not known.
        calibration: content of calibration.json.
        num_sure_mistakes: wrong predictions of high confidence.
        data_checks: lines that the checks before training said.
    """

    evaluation: Evaluation
    class_names: Sequence[str]
    confusions: Sequence[Confusion]
    train_counts: Mapping[str, int]
    calibration: Mapping[str, object]
    num_sure_mistakes: int
    data_checks: Sequence[str] = ()


@dataclass(frozen=True)
class Standing:
    """Classes by where they stand, each in the order of their recall, the worst first."""

    good: tuple[int, ...]
    weak: tuple[int, ...]
    open: tuple[int, ...]

    @classmethod
    def of(cls, recalls: Sequence[Estimate]) -> Standing:
        """Judge the recall of each class [K]; one without images stands nowhere."""
        found: dict[str, list[int]] = {"good": [], "weak": [], "open": []}
        values = np.array([item.value for item in recalls])
        for number in np.argsort(values, kind="stable").tolist():
            if np.isfinite(values[number]):
                found[_stands(recalls[number])].append(number)
        return cls(**{name: tuple(numbers) for name, numbers in found.items()})


def _stands(recall: Estimate) -> str:
    low, high = (recall.low, recall.high) if np.isfinite(recall.low) else (recall.value, recall.value)
    if low >= TARGET_RECALL:
        return "good"
    return "weak" if high < TARGET_RECALL else "open"


def headline(grounds: Grounds) -> str:
    """Return the verdict in a sentence or two."""
    evaluation = grounds.evaluation
    accuracy = evaluation.measures.overall["acc_top1"]
    standing = Standing.of(evaluation.measures.by_class["recall"])
    judged = len(standing.good) + len(standing.weak) + len(standing.open)
    words = (
        f"{percent(accuracy)} of {evaluation.measures.num_images:,} {evaluation.split} images are correctly classified"
    )
    if judged < 2:
        return f"{words}. They are of one class alone, which says little."
    if len(standing.good) == judged:
        return f"{words}, and every class is good enough."
    target = f"a recall of {100 * TARGET_RECALL:.0f} %"
    parts = [
        f"{number} {meaning}"
        for number, meaning in (
            (len(standing.good), f"reach{'es' if len(standing.good) == 1 else ''} {target}"),
            (
                len(standing.weak),
                f"do{'es' if len(standing.weak) == 1 else ''} not" + ("" if standing.good else f" reach {target}"),
            ),
            (len(standing.open), f"{'is' if len(standing.open) == 1 else 'are'} inconclusive: too few test images"),
        )
        if number
    ]
    return f"{words}. Of {judged} classes {', '.join(parts)}."


def remarks(grounds: Grounds) -> list[Remark]:
    """Return what there is to say, the most severe first."""
    found = [
        *_of_classes(grounds),
        *_of_confusions(grounds),
        *_of_images(grounds),
        *_of_calibration(grounds),
        *_of_data(grounds),
    ]
    order = ("error", "warning", "note", "good")
    return sorted(found, key=lambda remark: order.index(remark.kind))


def _of_classes(grounds: Grounds) -> list[Remark]:
    measures, names = grounds.evaluation.measures, grounds.class_names
    recalls = measures.by_class["recall"]
    standing = Standing.of(recalls)
    found = []
    rare = [names[number] for number in standing.weak if 0 < grounds.train_counts.get(names[number], 0) < FEW_IMAGES]

    def listed(numbers: Sequence[int]) -> str:
        return enumerate_words(
            (f"{shown(names[number])} ({percent(recalls[number])})" for number in numbers), limit=NUM_NAMED
        )

    if standing.weak:
        named = enumerate_words(map(shown, rare), limit=NUM_NAMED)
        more = f" {'Class' if len(rare) == 1 else 'Classes'} with under {FEW_IMAGES} training images: {named}."
        found.append(
            Remark(
                "error",
                f"Not good enough: {enumerate_words((shown(names[n]) for n in standing.weak), limit=NUM_NAMED)}",
                f"Under {100 * TARGET_RECALL:.0f} % of their images are found: {listed(standing.weak)}."
                + (more if rare else ""),
                f"collect training images of {enumerate_words(map(shown, rare), limit=NUM_NAMED)} first"
                if rare
                else f"collect more varied training images of {shown(names[standing.weak[0]])} first, like those in "
                "its mistakes below",
            )
        )
    if standing.open:
        found.append(
            Remark(
                "note",
                f"Inconclusive: {enumerate_words((shown(names[n]) for n in standing.open), limit=NUM_NAMED)}",
                f"Their 95 % intervals contain the target of {100 * TARGET_RECALL:.0f} %: {listed(standing.open)}.",
                "set more images of these classes aside for the test; about 140 narrow an interval to 5 points each "
                "way",
            )
        )
    if standing.good:
        found.append(
            Remark(
                "good",
                f"Good enough: {enumerate_words((shown(names[n]) for n in standing.good), limit=NUM_NAMED)}",
                f"At least {100 * TARGET_RECALL:.0f} % of their images are found, with 95 % confidence.",
            )
        )
    never = [names[n] for n in np.flatnonzero((measures.predicted == 0) & (measures.support > 0)).tolist()]
    if never:
        found.append(
            Remark(
                "error",
                f"Never predicted: {enumerate_words(map(shown, never), limit=NUM_NAMED)}",
                "No image was classified as one of these.",
                "train longer, or with imbalance=sampler, and collect images of them",
            )
        )
    return found


def _of_confusions(grounds: Grounds) -> list[Remark]:
    if not grounds.confusions:
        return []
    first = grounds.confusions[0]
    true, predicted = shown(grounds.class_names[first.true]), shown(grounds.class_names[first.predicted])
    if first.count < 2:
        return []
    return [
        Remark(
            "warning" if first.share > 1 - TARGET_RECALL else "note",
            f"Most confused: {true} is predicted as {predicted}",
            f"{first.count:,} of {first.support:,} images of {true} ({100 * first.share:.0f} %). Its cell "
            "below shows them.",
            f"check their labels, then collect images that tell {true} from {predicted}",
        )
    ]


def _of_images(grounds: Grounds) -> list[Remark]:
    evaluation = grounds.evaluation
    found = []
    if evaluation.split in (TRAIN, VAL):
        why = "chose the weights" if evaluation.split == VAL else "were trained on"
        found.append(
            Remark(
                "warning",
                f"These are {evaluation.split} images",
                f"They {why}, so the metrics are better than on new images.",
                "set images aside for a test split" if evaluation.split == VAL else f"split={TEST}",
            )
        )
    if evaluation.missing_classes:
        named = enumerate_words(map(shown, evaluation.missing_classes), limit=NUM_NAMED)
        found.append(Remark("warning", f"Not tested: {named}", "There is no image of these classes.", "add some"))
    if evaluation.unreadable:
        number = len(evaluation.unreadable)
        found.append(
            Remark(
                "warning",
                f"Images that cannot be read: {number:,}",
                "They are left out of all metrics.",
                "fix or remove them",
            )
        )
    if evaluation.unknown_labels:
        number = sum(evaluation.unknown_labels.values())
        named = enumerate_words(map(shown, evaluation.unknown_labels), limit=NUM_NAMED)
        found.append(
            Remark(
                "warning",
                f"Labels that the model does not know: {named}",
                f"{number:,} images are left out of all metrics.",
                "train with images of these classes",
            )
        )
    if grounds.num_sure_mistakes:
        found.append(
            Remark(
                "note",
                f"Mistakes with a confidence of {100 * SURE:.0f} % or more: {grounds.num_sure_mistakes:,}",
                "Such mistakes are often wrong labels.",
                "look at the worst mistakes below; analyze run=… ranks the labels that look wrong",
            )
        )
    return found


def _of_calibration(grounds: Grounds) -> list[Remark]:
    after, temperature = float(str(grounds.calibration["ece_after"])), grounds.calibration["temperature"]
    reason = grounds.calibration.get("reason")
    number = grounds.evaluation.measures.num_images
    words = f"A confidence is off by {100 * after:.1f} points on average, over {number:,} images."
    if temperature is None:
        remedy = "set at least 30 images aside for validation, and export again"
        kind: Kind = "note" if after <= UNCALIBRATED else "warning"
        return [Remark(kind, "The confidences are not calibrated", words, remedy)]
    words += f" No temperature is applied: {reason}." if reason else " They were calibrated on validation images."
    if after > UNCALIBRATED:
        return [
            Remark(
                "warning", "Confidence is poorly calibrated", words,
                "do not set thresholds by them; have more validation images, like those that the model will see",
            )
        ]  # fmt: skip
    return [Remark("good", "Confidence is well calibrated", words)]


def _of_data(grounds: Grounds) -> list[Remark]:
    found = [Remark("warning", "Data check", line) for line in grounds.data_checks]
    counts = {name: number for name, number in grounds.train_counts.items() if number}
    if counts:
        most, fewest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
        ratio = counts[most] / counts[fewest]
        if ratio >= IMBALANCED:
            found.append(
                Remark(
                    "note",
                    f"The classes are imbalanced, {ratio:,.1f} : 1",
                    f"{counts[most]:,} training images of {shown(most)}, {counts[fewest]:,} of {shown(fewest)}.",
                    "read the balanced accuracy, not the accuracy",
                )
            )
    return found


IMBALANCED = 3.0


def percent(estimate: Estimate) -> str:
    """Return a share in per cent with its interval."""
    if not np.isfinite(estimate.value):
        return "not defined"
    known = np.isfinite([estimate.low, estimate.high]).all()
    ends = f" [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]" if known else ""
    return f"{100 * estimate.value:.1f} %{ends}"
