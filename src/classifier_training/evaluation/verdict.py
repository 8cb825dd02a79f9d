"""Targets for a model, and whether its test images show that it reaches them: ready, not ready, or too few images.

A target is reached when the 95 % interval of the metric lies above it, and missed when it lies below. Otherwise it is
open, and more test images have to decide. A model is ready when it reaches all of its targets. That is a statement
about all targets at once: the chance to call a model ready that misses one of them is at most 2.5 %, whatever their
number (intersection-union test; Berger 1982).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from classifier_training.core.display import left_to_right, shorten
from classifier_training.core.errors import UserError, enumerate_words, nearest, plural, shown
from classifier_training.core.register import TYPE_KEY, register
from classifier_training.core.runtime import setting
from classifier_training.core.settings import in_braces
from classifier_training.core.types import NOT_TEST, TRAIN
from classifier_training.evaluation.intervals import EXACT, GROUPED_EXACT, Estimate, exact_shares, images_to_decide

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from classifier_training.evaluation.measures import Measures

TARGET_RECALL = 0.9
"""Target of every class's recall where no target is set."""

OTHERS = "*"
"""Stands for every class that is not named, in a target by class."""

ROUNDING = 1e-6
"""A share times a number of images is at most so far from a whole number of them."""

NUM_NAMED, MAX_NAME = 4, 48

Share = Annotated[float, Field(gt=0, lt=1)]
ByClass = Annotated[Share | dict[str, Share] | None, BeforeValidator(in_braces)]
Standing = Literal["reached", "missed", "open"]
Status = Literal["ready", "not ready", "too few test images"]


@register(group="evaluation_target", name="default")
@dataclass(frozen=True, kw_only=True)
class Targets:
    """What a model must reach to be ready for use.

    Args:
        recall: share of the images of a class that must be found, as a number for all classes or by class, such as
            {cat: 0.95, *: 0.8}, where * is every other class. It is 0.9 where no target at all is set.
        precision: share of the predictions of a class that must be correct, in the same form.
        accuracy: share of all images that must be correctly classified.
        balanced_accuracy: mean of the recalls of the classes that must be reached.
    """

    recall: ByClass = None
    precision: ByClass = None
    accuracy: Share | None = None
    balanced_accuracy: Share | None = None

    @property
    def is_default(self) -> bool:
        """Whether none is set, so that every class needs the default recall."""
        return all(value is None for value in (self.recall, self.precision, self.accuracy, self.balanced_accuracy))

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Targets:
        """Read those of a run's configuration; none for a run from before there were any."""
        node = config.get("target")
        return (
            cls(**{key: value for key, value in node.items() if key != TYPE_KEY}) if isinstance(node, dict) else cls()
        )

    def by_class(self, metric: Literal["recall", "precision"], class_names: Sequence[str]) -> list[float | None]:
        """Return the target of each class [K]; None for a class without one."""
        wanted: float | dict[str, float] | None = self.recall if metric == "recall" else self.precision
        if self.is_default and metric == "recall":
            wanted = TARGET_RECALL
        if not isinstance(wanted, dict):
            return [wanted] * len(class_names)
        return [wanted.get(name, wanted.get(OTHERS)) for name in class_names]

    def check_names(self, class_names: Sequence[str]) -> None:
        """Make sure that the model has the classes that are named.

        Raises:
            UserError: when it does not.
        """
        for metric in ("recall", "precision"):
            value = getattr(self, metric)
            for name in value if isinstance(value, dict) else ():
                if name not in class_names and name != OTHERS:
                    close = nearest(name, class_names)
                    raise UserError(
                        f"target.{metric}={{{shown(name)}: {value[name]:g}}}: the model has no class of that name",
                        f"one of {enumerate_words(map(shown, class_names))}, or {OTHERS} for every other class",
                        setting(f"target.{metric}", f"{{{close[0] if close else OTHERS}: {value[name]:g}}}"),
                    )

    def to_dict(self) -> dict[str, Any]:
        """Return those that apply, in the form that goes into JSON."""
        found = {"recall": TARGET_RECALL if self.is_default else self.recall, "precision": self.precision}
        found |= {"accuracy": self.accuracy, "balanced_accuracy": self.balanced_accuracy}
        return {name: value for name, value in found.items() if value is not None}


NO_TARGETS = Targets()
"""Where nothing is set."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One target, compared with what the test images say.

    Args:
        metric: recall, precision, accuracy, balanced_accuracy, or baseline: better than the majority class.
        label: number of the class; None for a metric of all classes.
        target: to be reached.
        estimate: what was found, with its interval.
        num_images: that it was found on: of the class, predicted as the class, or all.
        standing: reached, missed, or open.
        more_images: how many more the metric must be found on to decide, if what was found stays; None where it is
            decided, and where no reasonable number of images could decide it.
    """

    metric: str
    label: int | None
    target: float
    estimate: Estimate
    num_images: int
    standing: Standing
    more_images: int | None

    @property
    def shortfall(self) -> int:
        """Images that would have to be correct besides those that were, for the share to be the target."""
        missing = (self.target - self.estimate.value) * self.num_images if self.num_images else 0.0
        return max(0, math.ceil(missing - ROUNDING))

    def to_dict(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Return the form that goes into JSON."""
        return {
            "metric": self.metric,
            "class": None if self.label is None else class_names[self.label],
            "target": self.target,
            **self.estimate.to_dict(),
            "num_images": self.num_images,
            "standing": self.standing,
            "more_images": self.more_images,
        }


@dataclass(frozen=True)
class Baseline:
    """What always predicting the most frequent class gives on the same images.

    Args:
        label: number of that class.
        accuracy: share of its images.
        balanced_accuracy: one over the number of classes with images.
    """

    label: int
    accuracy: float
    balanced_accuracy: float

    @classmethod
    def of(cls, measures: Measures, train_counts: Sequence[int] | None) -> Baseline:
        """Take the class with the most training images; where they are not known, with the most of these images."""
        counts = measures.support if train_counts is None or not any(train_counts) else np.asarray(train_counts)
        label = max(range(len(counts)), key=lambda number: (counts[number], measures.support[number]))
        present = max(1, int((measures.support > 0).sum()))
        return cls(
            label,
            float(measures.support[label] / max(1, measures.num_images)),
            1 / present if measures.support[label] else 0.0,
        )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a model can be used, as far as its targets and test images say.

    Args:
        status: ready, not ready, or too few test images.
        split: which images it was scored on.
        targets: the targets.
        checks: one for each target and class, the worst first.
        baseline: what always predicting one class gives.
        class_names: [K].
        num_trained_on: of the images, those that the model was trained on, where that is not what the split says.
    """

    status: Status
    split: str
    targets: Targets
    checks: Sequence[Check]
    baseline: Baseline
    class_names: Sequence[str]
    num_trained_on: int = 0

    def standing(self, standing: Standing, *metrics: str) -> list[Check]:
        """The checks of a standing, the worst first; of some metrics where they are named."""
        return [item for item in self.checks if item.standing == standing and (not metrics or item.metric in metrics)]

    @property
    def status_words(self) -> str:
        """The status; where there is no test split, and images decide too little, with the name of these images."""
        is_open = self.status == "too few test images" and self.standing("open")
        return f"too few {images_of(self.split)}" if is_open else self.status

    @property
    def target_words(self) -> str:
        """The targets and their settings in one line."""
        if self.targets.is_default:
            return f"recall of every class: {per_cent(TARGET_RECALL)} (the default; target.recall=… sets another)"
        return "; ".join(
            f"{name.replace('_', ' ')}: {_by_class_words(value)} (target.{name})"
            for name, value in self.targets.to_dict().items()
        )

    @property
    def words(self) -> str:
        """The grounds of the verdict in one line."""
        missed, undecided = self.standing("missed"), self.standing("open")
        if any(item.metric == "baseline" for item in missed):
            return f"no better than always predicting {named(self.class_names[self.baseline.label])}"
        decided = [item for item in self.checks if item.metric != "baseline"]
        is_one, things = len(decided) == 1, "classes" if {item.metric for item in decided} == {"recall"} else "targets"
        if missed:
            verb = "does not reach" if len(missed) == 1 else "do not reach"
            many = f"{len(missed)} of {len(decided)} {things} {verb} {self._goal}: {self._listed(missed)}"
            return f"{self.name_of(missed[0])} is below {self._goal}" if is_one else many
        if undecided:
            waiting = [item for item in undecided if item.metric != "baseline"] or undecided
            verb = "is" if len(waiting) == 1 else "are"
            listed = self._listed(waiting)
            many = f"{len(waiting)} of {len(decided)} {things} {verb} inconclusive at {self._goal}: {listed}"
            return f"{listed}, at {self._goal}" if is_one else many
        if self.split in NOT_TEST:
            why = "were trained on" if self.split == TRAIN else "chose the weights"
            return f"they are no test images: {images_of(self.split)} {why}"
        if self.num_trained_on:
            return f"{plural(self.num_trained_on, 'image')} of these were trained on, so they are no test images"
        if is_one:
            return f"{self.name_of(decided[0])} reaches {self._goal}"
        return f"all {len(decided)} {things} reach {self._goal}"

    @property
    def _goal(self) -> str:
        """The targets, in words that fit into a sentence."""
        if self.targets.is_default:
            return f"the default target recall of {per_cent(TARGET_RECALL)}"
        (name, value), *others = self.targets.to_dict().items()
        if others:
            return "their targets"
        if isinstance(value, dict):
            return f"their target {name}"
        return f"the target {name.replace('_', ' ')} of {per_cent(value)}"

    def _listed(self, checks: Sequence[Check]) -> str:
        return enumerate_words(map(self.name_of, checks), limit=NUM_NAMED)

    def name_of(self, check: Check) -> str:
        """Name what a check is of, with what was found, or what is missing to decide it."""
        if check.metric == "baseline":
            return f"better than always predicting one class ({more_words(check, self.split)})"
        name = check.metric.replace("_", " ") if check.label is None else named(self.class_names[check.label])
        if check.metric == "precision":
            name = f"precision of {name}"
        if check.standing == "open":
            found = f" {100 * check.estimate.value:.1f} %" if check.num_images else ""
            return f"{name}{found} ({more_words(check, self.split)})"
        differ = len({item.target for item in self.checks if item.metric != "baseline"}) > 1
        return f"{name} {100 * check.estimate.value:.1f} %{f' (target {per_cent(check.target)})' if differ else ''}"

    def __str__(self) -> str:
        return f"verdict: {self.status_words}: {self.words}"

    def to_dict(self) -> dict[str, Any]:
        """Return the form that goes into JSON."""
        return {
            "status": self.status,
            "words": self.words,
            "targets": self.targets.to_dict(),
            "is_default_target": self.targets.is_default,
            "baseline": {
                "class": self.class_names[self.baseline.label],
                "accuracy": self.baseline.accuracy,
                "balanced_accuracy": self.baseline.balanced_accuracy,
            },
            "checks": [item.to_dict(self.class_names) for item in self.checks],
        }


def judge(
    measures: Measures,
    class_names: Sequence[str],
    targets: Targets,
    *,
    split: str,
    train_counts: Sequence[int] | None = None,
    num_trained_on: int = 0,
) -> Verdict:
    """Say whether a model is ready.

    A class without test images leaves its target open. On validation or training images a model is never ready: they
    chose its weights.

    Args:
        measures: metrics of the images.
        class_names: [K].
        targets: to be reached.
        split: which images they are.
        train_counts: training images of each class [K], if they are known.
        num_trained_on: of images of another split or of other data, those that the model was trained on.
    """
    checks = []
    for metric, trials in (("recall", measures.support), ("precision", measures.predicted)):
        for label, target in enumerate(targets.by_class(metric, class_names)):  # type: ignore[arg-type]
            if target is not None:
                found = measures.by_class[metric][label]
                checks.append(_check(metric, label, target, found, int(trials[label])))
    accuracy, balanced = (_known(measures, name) for name in ("acc_top1", "balanced_accuracy"))
    for name, target, found in (
        ("accuracy", targets.accuracy, accuracy),
        ("balanced_accuracy", targets.balanced_accuracy, balanced),
    ):
        if target is not None:
            checks.append(_check(name, None, target, found, measures.num_images))
    baseline = Baseline.of(measures, train_counts)
    if (measures.support > 0).sum() > 1:
        checks.append(_against_baseline(measures, baseline, accuracy, balanced))
    order = {"missed": 0, "open": 1, "reached": 2}
    checks.sort(key=lambda item: (order[item.standing], -item.shortfall))
    standings = {item.standing for item in checks}
    status: Status = "ready"
    if "missed" in standings:
        status = "not ready"
    elif "open" in standings or split in NOT_TEST or num_trained_on:
        status = "too few test images"
    return Verdict(
        status=status, split=split, targets=targets, checks=checks, baseline=baseline, class_names=class_names,
        num_trained_on=num_trained_on,
    )  # fmt: skip


def _check(metric: str, label: int | None, target: float, found: Estimate, num_images: int) -> Check:
    estimate = _with_interval(found, num_images)
    standing: Standing = "open"
    if estimate.low >= target:
        standing = "reached"
    elif estimate.high < target:
        standing = "missed"
    more = images_to_decide(estimate, num_images, target) if standing == "open" else None
    return Check(
        metric=metric, label=label, target=target, estimate=estimate, num_images=num_images, standing=standing,
        more_images=None if more is None else more - num_images,
    )  # fmt: skip


def _against_baseline(measures: Measures, baseline: Baseline, accuracy: Estimate, balanced: Estimate) -> Check:
    """Compare with always predicting one class, image by image: McNemar's exact test.

    Where images come in groups they are not independent, as the test takes them to be: there the interval of the
    accuracy is compared with the accuracy of the baseline. Correcting an imbalance costs accuracy and gains balanced
    accuracy, so it is enough to be better in one of the two.
    """
    recalls = np.array([item.value for item in measures.by_class["recall"]])
    hits = np.nan_to_num(recalls) * measures.support
    gained = float(hits.sum() - hits[baseline.label])
    changed = gained + float(measures.support[baseline.label] - hits[baseline.label])
    better = exact_shares(np.array([gained]), np.array([changed]))[0] if gained else Estimate(0.0, 0.0, 0.0, EXACT)
    is_better, is_worse = better.low > 1 / 2, better.high < 1 / 2
    number = measures.num_images
    needed = images_to_decide(better, round(changed), 1 / 2) if gained else None
    more = None if needed is None else math.ceil(number * (needed / changed - 1))
    if accuracy.method == GROUPED_EXACT:
        is_better, is_worse = accuracy.low > baseline.accuracy, accuracy.high <= baseline.accuracy
        needed = images_to_decide(accuracy, number, baseline.accuracy)
        more = None if needed is None else needed - number
    standing: Standing = "open"
    if is_better or (gained and balanced.low > baseline.balanced_accuracy):
        standing = "reached"
    elif not gained or (is_worse and balanced.high <= baseline.balanced_accuracy):
        standing = "missed"
    shows_balance = accuracy.value < baseline.accuracy
    return Check(
        metric="baseline",
        label=None,
        target=baseline.balanced_accuracy if shows_balance else baseline.accuracy,
        estimate=balanced if shows_balance else accuracy,
        num_images=number,
        standing=standing,
        more_images=more if standing == "open" else None,
    )


def _with_interval(found: Estimate, num_images: int) -> Estimate:
    """Return an estimate with its interval; where it has none, with the exact one for so many images."""
    if np.isfinite([found.low, found.high]).all() or not np.isfinite(found.value):
        return found
    (exact,) = exact_shares(np.array([found.value * num_images]), np.array([num_images]))
    return Estimate(found.value, exact.low, exact.high, EXACT)


def _known(measures: Measures, name: str) -> Estimate:
    """Return a metric of all images; the balanced accuracy, where the bootstrap gave no interval, with another one.

    The variance of a mean of recalls of n_1 to n_K images is that of one share of K² / (1 / n_1 + … + 1 / n_K) images.
    """
    found = measures.overall[name]
    if name != "balanced_accuracy":
        return found
    support = measures.support[measures.support > 0]
    return _with_interval(found, max(1, int(len(support) ** 2 / (1 / support).sum())))


def images_of(split: str) -> str:
    """Name the images of a split; those of data that is not split are test images."""
    return NOT_TEST.get(split, "test images")


def more_words(check: Check, split: str) -> str:
    """Say how many more images of the split an open target needs."""
    images = images_of(split)
    if check.more_images is None:
        return f"too near to the target for {images} to decide"
    images = "predictions" if check.metric == "precision" else images
    return f"needs about {plural(rounded(check.more_images), f'more {images[:-1]}', f'more {images}')}"


def rounded(number: int) -> int:
    """Round up to two digits: it is an estimate."""
    scale: int = 10 ** max(0, len(str(number)) - 2)
    return math.ceil(number / scale) * scale


def named(label: str) -> str:
    """Return a class name as it stands in a sentence: a long one is cut in the middle."""
    return left_to_right(shorten(shown(label), MAX_NAME))


def per_cent(share: float) -> str:
    """Return a target in per cent: 90 %, 97.5 %."""
    return f"{100 * share:.4g} %"


def percent(estimate: Estimate) -> str:
    """Return a share in per cent with its interval."""
    if not np.isfinite(estimate.value):
        return "not defined"
    known = np.isfinite([estimate.low, estimate.high]).all()
    ends = f" [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]" if known else ""
    return f"{100 * estimate.value:.1f} %{ends}"


def _by_class_words(value: float | dict[str, float]) -> str:
    if not isinstance(value, dict):
        return per_cent(value)
    parts = [f"{'other classes' if name == OTHERS else named(name)} {per_cent(one)}" for name, one in value.items()]
    return enumerate_words(parts, limit=NUM_NAMED)
