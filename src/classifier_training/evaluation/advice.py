"""What the metrics of an evaluation mean, in plain words, and what to do next, the largest gain first.

A gain is a number of test images: those whose predictions a step is about, or that are missing to a target. Steps whose
gain is not known come after the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from classifier_training.core.errors import enumerate_words, plural
from classifier_training.core.metrics import goal_of
from classifier_training.core.runtime import command
from classifier_training.core.types import TEST, TRAIN, VAL
from classifier_training.evaluation.calibration import MIN_PREDICTIONS
from classifier_training.evaluation.learning_curve import forecast_words
from classifier_training.evaluation.mistakes import most_confused
from classifier_training.evaluation.training_facts import Training
from classifier_training.evaluation.verdict import (
    NO_TARGETS,
    Verdict,
    images_of,
    judge,
    named,
    per_cent,
    percent,
    rounded,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from classifier_training.evaluation.results import Evaluation
    from classifier_training.evaluation.verdict import Check

FEW_IMAGES = 20
"""Training images below which a class needs more images before anything else."""

UNCALIBRATED = 0.05
"""Calibration error above which a confidence misleads."""

SURE = 0.9
"""Confidence of a mistake from which on its label is worth a look."""

MUCH_CONFUSED = 0.1
"""Share of a class's images that are predicted as one other class, from which on it is a warning."""

GAP = 0.1
"""Difference of the accuracies on training and validation images from which on it is said."""

STILL_RISING, MIN_EPOCHS = 0.01, 6
"""Gain of the last third of the epochs from which on training was still improving; and epochs that can tell."""

IMBALANCED = 3.0
NUM_NAMED, NUM_PAIRS = 6, 3

Kind = Literal["error", "warning", "note", "good"]


@dataclass(frozen=True)
class Remark:
    """A finding, and what to do about it.

    Args:
        kind: error, warning, note or good.
        title: what is the case.
        words: on what grounds.
        remedy: what to do; empty when there is nothing to do.
        gain: test images that it is about; 0 where that is not known.
        gain_words: the same in words.
        decides: whether the verdict waits for it.
    """

    kind: Kind
    title: str
    words: str
    remedy: str = ""
    gain: float = 0.0
    gain_words: str = ""
    decides: bool = False


@dataclass(frozen=True, kw_only=True)
class Grounds:
    """What the advice is made from.

    Args:
        evaluation: the metrics and the verdict.
        class_names: [K].
        counts: images by true class (rows) and predicted class (columns), int64 [K, K].
        train_counts: training images of each class, by name; empty where they are not known.
        calibration: content of calibration.json.
        num_sure_mistakes: wrong predictions of high confidence.
        data_checks: lines that the checks before training said.
        training: what is known of it.
        learning_curve: rows of learning_curve.json: how many training images a class needs.
        run: how the run is named on a command line.
        data: likewise its data.
    """

    evaluation: Evaluation
    class_names: Sequence[str]
    counts: NDArray[np.int64]
    train_counts: Mapping[str, int]
    calibration: Mapping[str, object]
    num_sure_mistakes: int
    data_checks: Sequence[str] = ()
    training: Training = field(default_factory=Training)
    learning_curve: Sequence[Mapping[str, Any]] = ()
    run: str = "run=latest"
    data: str = "data.root=…"

    @property
    def verdict(self) -> Verdict:
        """Whether the model reaches its targets; the default ones where the evaluation has no verdict."""
        found = self.evaluation
        return found.verdict or judge(found.measures, self.class_names, NO_TARGETS, split=found.split)

    @property
    def num_mistakes(self) -> int:
        """Wrong predictions."""
        return int(self.counts.sum() - np.trace(self.counts))


def headline(grounds: Grounds) -> str:
    """Return what was found in a sentence or two."""
    evaluation, verdict = grounds.evaluation, grounds.verdict
    accuracy = evaluation.measures.overall["acc_top1"]
    words = (
        f"{percent(accuracy)} of {evaluation.measures.num_images:,} {evaluation.split} images are correctly classified"
    )
    if (evaluation.measures.support > 0).sum() < 2:
        return f"{words}. They are of one class alone, which says little."
    baseline = verdict.baseline
    words += f"; always predicting {named(grounds.class_names[baseline.label])} gives {100 * baseline.accuracy:.1f} %."
    good, weak, undecided = (len(verdict.standing(name, "recall")) for name in ("reached", "missed", "open"))
    judged = good + weak + undecided
    if not judged:
        return words
    wanted = {item.target for item in verdict.checks if item.metric == "recall"}
    target = f"a recall of {per_cent(*wanted)}" if len(wanted) == 1 else "the target recall"
    if good == judged:
        return words  # the verdict says it
    parts = [
        f"{number} {meaning}"
        for number, meaning in (
            (good, f"reach{'es' if good == 1 else ''} {target}"),
            (weak, f"do{'es' if weak == 1 else ''} not" + ("" if good else f" reach {target}")),
            (undecided, f"{'is' if undecided == 1 else 'are'} inconclusive: too few {images_of(evaluation.split)}"),
        )
        if number
    ]
    return f"{words} Of {judged} classes {', '.join(parts)}."


def remarks(grounds: Grounds) -> list[Remark]:
    """Return what there is to say: first what the verdict waits for, then by gain, then by severity."""
    found = [
        *_of_classes(grounds),
        *_of_precision(grounds),
        *_of_confusions(grounds),
        *_of_images(grounds),
        *_of_data(grounds),
        *_of_training(grounds),
        *_of_calibration(grounds),
        *_of_rejecting(grounds),
    ]
    order = ("error", "warning", "note", "good")
    return sorted(found, key=lambda remark: (not remark.decides, -remark.gain, order.index(remark.kind)))


def _of_classes(grounds: Grounds) -> Iterator[Remark]:
    measures, names, verdict = grounds.evaluation.measures, grounds.class_names, grounds.verdict
    weak, undecided, good = (verdict.standing(name, "recall") for name in ("missed", "open", "reached"))
    if any(item.metric == "baseline" for item in verdict.standing("missed")):
        label = named(names[verdict.baseline.label])
        yield Remark(
            "error", f"No better than always predicting {label}",
            f"That would be correct for {100 * verdict.baseline.accuracy:.1f} % of the images.",
            f"check labels and images with {command('analyze')} {grounds.data}, then train longer",
            gain=grounds.num_mistakes, decides=True,
        )  # fmt: skip
    if weak:
        yield _weak(grounds, weak)
    if undecided:
        needed = [
            f"{plural(rounded(item.more_images), 'image')} of {named(names[item.label])}"
            for item in undecided
            if item.more_images and item.label is not None
        ]
        never = len(undecided) - len(needed)
        yield Remark(
            "note",
            f"Inconclusive: {_names(grounds, undecided)}",
            f"Their 95 % intervals contain {_target_words(undecided)}: {_listed(grounds, undecided)}.",
            (f"add {images_of(verdict.split)}: about {enumerate_words(needed, limit=NUM_NAMED)}" if needed else "")
            + ("; " if needed and never else "")
            + (f"of {never} the recall is so near to the target that no reasonable number decides" if never else ""),
            gain_words="they decide if what was found stays",
            decides=verdict.status == "too few test images",
        )
    below = [item for item in undecided if item.shortfall]
    if below:
        gain = sum(item.shortfall for item in below)
        yield Remark(
            "note",
            f"Below the target so far: {_names(grounds, below)}",
            f"What was found is below {_target_words(below)}, though it is too little to decide: "
            f"{_listed(grounds, below)}.",
            _collect(grounds, below),
            gain=gain,
            gain_words=f"{plural(gain, 'more correct image')} would reach the target",
        )
    if good:
        yield Remark(
            "good",
            f"Good enough: {_names(grounds, good)}",
            f"Their recall is above {_target_words(good)}, with 95 % confidence.",
        )
    never_predicted = np.flatnonzero((measures.predicted == 0) & (measures.support > 0)).tolist()
    if never_predicted:
        yield Remark(
            "error",
            f"Never predicted: {enumerate_words((named(names[n]) for n in never_predicted), limit=NUM_NAMED)}",
            "No image was classified as one of these.",
            "train longer, or with imbalance=sampler, and collect images of them",
            gain=int(measures.support[never_predicted].sum()),
            gain_words=plural(int(measures.support[never_predicted].sum()), "mistake"),
        )


def _weak(grounds: Grounds, weak: Sequence[Check]) -> Remark:
    rare = _rare(grounds, weak)
    few = enumerate_words(map(named, rare), limit=NUM_NAMED)
    more = f" {'Class' if len(rare) == 1 else 'Classes'} with under {FEW_IMAGES} training images: {few}."
    gain = sum(item.shortfall for item in weak)
    return Remark(
        "error",
        f"Not good enough: {_names(grounds, weak)}",
        f"Their recall is below {_target_words(weak)}: {_listed(grounds, weak)}." + (more if rare else ""),
        _collect(grounds, weak),
        gain=gain,
        gain_words=f"{plural(gain, 'more correct image')} would reach the target",
        decides=True,
    )


def _rare(grounds: Grounds, checks: Sequence[Check]) -> list[str]:
    names = [grounds.class_names[item.label] for item in checks if item.label is not None]
    return [name for name in names if 0 < grounds.train_counts.get(name, 0) < FEW_IMAGES]


def _collect(grounds: Grounds, checks: Sequence[Check]) -> str:
    """Say which training images to collect: by the learning curves, else of the rarest classes, else of the worst."""
    names = [grounds.class_names[item.label] for item in checks if item.label is not None]
    forecast = [words for name in names for row in grounds.learning_curve if (words := forecast_words(row, name))]
    if forecast:
        return f"collect training images: {enumerate_words(forecast, limit=NUM_NAMED)}"
    if rare := _rare(grounds, checks):
        return f"collect training images of {enumerate_words(map(named, rare), limit=NUM_NAMED)} first"
    return f"collect more varied training images of {named(names[0])} first, like those in its mistakes below"


def _of_precision(grounds: Grounds) -> Iterator[Remark]:
    missed = grounds.verdict.standing("missed", "precision")
    if missed:
        gain = sum(item.shortfall for item in missed)
        yield Remark(
            "error",
            f"Predictions not precise enough: {_names(grounds, missed)}",
            f"Their precision is below {_target_words(missed)}: {_listed(grounds, missed)}.",
            "collect images of the classes that are mistaken for them, or reject unsure predictions "
            "(predict reject.precision=…)",
            gain=gain,
            gain_words=f"{plural(gain, 'wrong prediction')} too many",
            decides=True,
        )


def _names(grounds: Grounds, checks: Sequence[Check]) -> str:
    return enumerate_words(
        (named(grounds.class_names[item.label]) for item in checks if item.label is not None), limit=NUM_NAMED
    )


def _listed(grounds: Grounds, checks: Sequence[Check]) -> str:
    return enumerate_words(
        (
            f"{named(grounds.class_names[item.label])} ({percent(item.estimate) if item.num_images else 'no image'})"
            for item in checks
            if item.label is not None
        ),
        limit=NUM_NAMED,
    )


def _target_words(checks: Sequence[Check]) -> str:
    wanted = sorted({item.target for item in checks})
    return f"the target of {per_cent(wanted[0])}" if len(wanted) == 1 else "their targets"


def _of_confusions(grounds: Grounds) -> Iterator[Remark]:
    found = [item for item in most_confused(grounds.counts, NUM_PAIRS) if item.count > 1]
    if not found:
        return
    names = grounds.class_names
    first, *others = found
    true, predicted = named(names[first.true]), named(names[first.predicted])
    also = ", ".join(
        f"{named(names[item.true])} as {named(names[item.predicted])} ({item.count:,} of {item.support:,})"
        for item in others
    )
    yield Remark(
        "warning" if first.share > MUCH_CONFUSED else "note",
        f"Most confused: {true} is predicted as {predicted}",
        f"{first.count:,} of {first.support:,} images of {true} ({100 * first.share:.0f} %). Its cell below shows them."
        + (f" Next: {also}." if also else ""),
        f"check their labels, then collect images that tell {true} from {predicted}",
        gain=first.count,
        gain_words=f"{first.count:,} of {plural(grounds.num_mistakes, 'mistake')}",
    )


def _of_images(grounds: Grounds) -> Iterator[Remark]:
    evaluation = grounds.evaluation
    if evaluation.split in (TRAIN, VAL):
        why = "chose the weights" if evaluation.split == VAL else "were trained on"
        yield Remark(
            "warning",
            f"These are {evaluation.split} images",
            f"They {why}, so the metrics are better than on new images.",
            "set images aside for a test split" if evaluation.split == VAL else f"split={TEST}",
            decides=True,
        )
    if evaluation.missing_classes:
        listed = enumerate_words(map(named, evaluation.missing_classes), limit=NUM_NAMED)
        yield Remark("warning", f"Not tested: {listed}", "There is no image of these classes.", "add some")
    if evaluation.unreadable:
        number = len(evaluation.unreadable)
        yield Remark(
            "warning",
            f"Images that cannot be read: {number:,}",
            "They are left out of all metrics.",
            "fix or remove them",
            gain=number,
            gain_words=plural(number, "image"),
        )
    if evaluation.unknown_labels:
        number = sum(evaluation.unknown_labels.values())
        listed = enumerate_words(map(named, evaluation.unknown_labels), limit=NUM_NAMED)
        yield Remark(
            "warning",
            f"Labels that the model does not know: {listed}",
            f"{number:,} images are left out of all metrics.",
            "train with images of these classes",
            gain=number,
            gain_words=plural(number, "image"),
        )
    if grounds.num_sure_mistakes:
        number = grounds.num_sure_mistakes
        yield Remark(
            "note",
            f"Mistakes with a confidence of {100 * SURE:.0f} % or more: {number:,}",
            "Such mistakes are often wrong labels.",
            f"look at the worst mistakes below; {command('analyze')} {grounds.run}   ranks the labels that look wrong",
            gain=number,
            gain_words=f"{number:,} of {plural(grounds.num_mistakes, 'mistake')}",
        )


def _of_training(grounds: Grounds) -> Iterator[Remark]:
    training, ready = grounds.training, grounds.verdict.status == "ready"
    if training.is_cut:
        yield Remark(
            "warning",
            "Training was cut before the end of its schedule",
            f"It ended because {training.ended.partition(';')[0]}: at a learning rate that is still high.",
            "train again with time=… instead of trainer.max_time, which plans a schedule that ends in time",
        )
    worse, help_words = training.worsened(len(grounds.class_names))
    if worse:
        yield Remark("warning", "Fine-tuning made it worse", f"{worse[:1].upper()}{worse[1:]}.", help_words)
    if ready:
        return
    monitored = _column(training.epochs, training.monitor)
    third = len(monitored) // 3
    if len(monitored) >= MIN_EPOCHS and not training.is_cut and goal_of(training.monitor) == "max":
        rise = max(monitored) - max(monitored[:-third])
        if rise >= STILL_RISING:
            yield Remark(
                "note",
                "Training was still improving",
                f"The last {plural(third, 'epoch')} of {len(monitored)} raised {training.monitor} by "
                f"{100 * rise:.1f} points.",
                f"train longer: trainer.max_epochs={2 * len(monitored)}",
                gain=rise * grounds.evaluation.measures.num_images,
                gain_words=f"about {plural(max(1, round(rise * grounds.evaluation.measures.num_images)), 'image')} if "
                "the next epochs gained the same",
            )
    fitted, held_out = (_column(training.epochs, f"{split}/acc_top1")[-1:] for split in (TRAIN, VAL))
    if fitted and held_out and fitted[0] - held_out[0] > GAP:
        yield Remark(
            "note",
            "Training images fit much better than new ones",
            f"At the end {100 * fitted[0]:.1f} % of the training images were correctly classified, and "
            f"{100 * held_out[0]:.1f} % of the validation images.",
            "more, and more varied, training images; or stronger augmentation (transforms=…)",
        )
    elif fitted and fitted[0] < 1 - GAP and not training.is_cut:
        yield Remark(
            "note",
            "The network does not fit its own training images",
            f"At the end {100 * fitted[0]:.1f} % of the augmented training images were correctly classified.",
            "train longer, or a larger network: `models` lists them with their cost",
        )
    if 0 < 2 * training.input_side <= training.image_side:
        wanted = min(2 * training.input_side, training.image_side // 32 * 32)
        yield Remark(
            "note",
            f"The network sees {training.input_side} of {training.image_side} pixels",
            f"Images are reduced to a side of {training.input_side} pixels; half of them have a shorter side of at "
            f"least {training.image_side}. Details that tell classes apart may be lost.",
            f"try data.image_size={wanted}: an epoch takes {(wanted / training.input_side) ** 2:.0f} times as long",
        )


def _column(rows: Sequence[Mapping[str, str | float]], name: str) -> list[float]:
    values = [float(row[name]) for row in rows if row.get(name)]
    return [value for value in values if np.isfinite(value)]


def _of_calibration(grounds: Grounds) -> Iterator[Remark]:
    after, temperature = float(str(grounds.calibration["ece_after"])), grounds.calibration["temperature"]
    reason = grounds.calibration.get("reason")
    number = grounds.evaluation.measures.num_images
    words = (
        f"Over {number:,} images confidence and accuracy differ by {100 * after:.1f} points on average. A confidence "
        "of 0.9 is meant to be right nine times in ten: on average, and on images like the validation images."
    )
    if temperature is None:
        remedy = f"set at least {MIN_PREDICTIONS} images aside for validation, and export again"
        kind: Kind = "note" if after <= UNCALIBRATED else "warning"
        yield Remark(kind, "The confidences are not calibrated", words, remedy)
        return
    words += f" No temperature is applied: {reason}." if reason else " They were calibrated on validation images."
    if after > UNCALIBRATED:
        yield Remark(
            "warning", "Confidence is poorly calibrated", words,
            "do not set thresholds by them; have more validation images, like those that the model will see",
        )  # fmt: skip
    else:
        yield Remark("good", "Confidence is well calibrated", words)


def _of_rejecting(grounds: Grounds) -> Iterator[Remark]:
    """Say what rejecting unsure predictions gives now, without any training."""
    accuracy = grounds.evaluation.measures.overall["acc_top1"].value
    rows = grounds.calibration.get("rejecting")
    for row in rows if isinstance(rows, list) else []:
        wanted, found, coverage = row.get("precision"), row.get("found_precision"), row.get("found_coverage")
        if wanted and found and accuracy < wanted <= found and coverage < 1:
            yield Remark(
                "note",
                f"Rejecting unsure predictions: {100 * found:.1f} % of the others are correct",
                f"With reject.precision={wanted:g} {100 * (1 - coverage):.0f} % of these images are rejected, to be "
                "looked at by a person.",
                f"{command('predict')} {grounds.run} reject.precision={wanted:g} source=…, where a person can look at "
                "the rejected images",
            )
            return


def _of_data(grounds: Grounds) -> Iterator[Remark]:
    for line in grounds.data_checks:
        lists = f"{command('analyze')} {grounds.data}   lists them; give each image one label, or remove it"
        remedy = lists if "duplicates" in line else ""
        yield Remark("warning", "Data check", line, remedy)
    counts = {name: number for name, number in grounds.train_counts.items() if number}
    if counts:
        most, fewest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
        ratio = counts[most] / counts[fewest]
        if ratio >= IMBALANCED:
            yield Remark(
                "note",
                f"The classes are imbalanced, {ratio:,.1f} : 1",
                f"{counts[most]:,} training images of {named(most)}, {counts[fewest]:,} of {named(fewest)}. Read the "
                "balanced accuracy, not the accuracy.",
            )
