"""What a set of label corrections bought: two runs on the same images, by the labels of before and by the new ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.errors import plural
from classifier_training.core.labels import label_indices, sort_labels
from classifier_training.core.types import TEST
from classifier_training.evaluation.comparison import Comparison, compare, equal
from classifier_training.evaluation.groups import Groups
from classifier_training.evaluation.intervals import NORMAL_QUANTILE, Estimate, mean_interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LEFT_OUT = ("dropped", "moved", "unknown_labels", "in_one_run_alone")
"""Why an image is left out: a correction drops or moves it, one of the models does not know its label, or others."""

OPTIMISTIC = "there is no test split: these images chose the weights of both runs"


@dataclass(frozen=True, kw_only=True)
class JudgedImage:
    """An image that both runs were scored on.

    Args:
        path: of the image.
        original: its label before the corrections.
        corrected: its label now.
        before: class that the run before predicted.
        after: class that the new run predicted.
        group: that it is of; empty for one of its own.
        is_checked: whether a line of corrections is about it, keep among them: a person looked at its label.
    """

    path: str
    original: str
    corrected: str
    before: str
    after: str
    group: str = ""
    is_checked: bool = False

    def to_dict(self) -> dict[str, str]:
        """Return the form that goes into JSON."""
        return {"path": self.path, "label": self.corrected, "before": self.before, "after": self.after}


@dataclass(frozen=True, kw_only=True)
class CorrectionsEffect:
    """Two runs on the same images.

    Which labels were corrected is not chance: where only labels that a model contradicted were looked at, wrong labels
    that it agrees with stay, and the corrected labels favour it. The difference of two runs depends on the labels of
    those images alone whose predictions differ; once these were looked at, it favours neither.

    Args:
        images: that both were scored on, one at the least.
        split: of the images.
        left_out: other images that one of the two was scored on, by reason, one of `LEFT_OUT`.
    """

    images: Sequence[JudgedImage]
    split: str
    left_out: Mapping[str, int]

    @cached_property
    def corrected(self) -> Comparison:
        """The new run against the one before, by the labels of now."""
        return self._compare([image.corrected for image in self.images])

    @cached_property
    def original(self) -> Comparison:
        """The same by the labels of before."""
        return self._compare([image.original for image in self.images])

    def _compare(self, labels: Sequence[str]) -> Comparison:
        names = sort_labels(labels)
        return compare(
            label_indices(labels, names),
            equal([image.after for image in self.images], labels),
            equal([image.before for image in self.images], labels),
            names,
            Groups.of([image.group for image in self.images]),
        )

    @property
    def num_changed(self) -> int:
        """Images whose label was corrected."""
        return sum(image.original != image.corrected for image in self.images)

    @property
    def differing(self) -> list[JudgedImage]:
        """Images for which the two runs predict different classes."""
        return [image for image in self.images if image.before != image.after]

    @property
    def unchecked(self) -> list[JudgedImage]:
        """Those of the differing that nobody has looked at."""
        return [image for image in self.differing if not image.is_checked]

    @property
    def became_right(self) -> list[JudgedImage]:
        """Images that only the new run classifies correctly, by the labels of now."""
        return [image for image in self.differing if image.after == image.corrected]

    @property
    def became_wrong(self) -> list[JudgedImage]:
        """Images that only the run before classifies correctly."""
        return [image for image in self.differing if image.before == image.corrected]

    @property
    def words(self) -> list[str]:
        """Say what changed, in a line for each set of labels."""
        number = plural(len(self.images), f"{self.split} image")
        if not self.num_changed:
            return [f"{_scores(self.corrected)} on {number}, of which no label was corrected"]
        return [
            f"{_scores(self.corrected)} on the corrected labels of {number}",
            f"{_scores(self.original)} on the original labels ({plural(self.num_changed, 'label')} corrected)",
        ]

    @property
    def left_out_words(self) -> str:
        """Say how many images were left out, and why; empty where none were."""
        return ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in self.left_out.items() if number)

    @property
    def cautions(self) -> list[str]:
        """Say what the numbers do not tell."""
        found = [OPTIMISTIC] if self.split != TEST else []
        if self.num_changed and self.unchecked:
            labels, differing = (
                plural(self.num_changed, f"{self.split} label"), plural(len(self.differing), "image")
            )  # fmt: skip
            found.append(
                f"{labels} corrected: where only labels that a model contradicts are looked at, the new labels "
                f"favour that model. {len(self.unchecked):,} of the {differing} that the two runs "
                "predict differently were not looked at; with all of them looked at, the difference favours neither"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the form that goes into JSON."""
        return {
            "split": self.split,
            "num_images": len(self.images),
            "labels_corrected": self.num_changed,
            "left_out": {name: self.left_out.get(name, 0) for name in LEFT_OUT},
            "words": self.words,
            "cautions": self.cautions,
            "corrected_labels": _against(self.corrected),
            "original_labels": _against(self.original),
            "became_right": [image.to_dict() for image in self.became_right],
            "became_wrong": [image.to_dict() for image in self.became_wrong],
            "num_differing": len(self.differing),
            "unchecked": [image.to_dict() for image in self.unchecked],
        }


@dataclass(frozen=True, kw_only=True)
class PooledEffect:
    """The mean over pairs of runs with the same seed, by one set of labels.

    Args:
        before: balanced accuracy of the runs without the corrections.
        after: of those with them.
        difference: the mean of the pairs' differences. Its interval holds for other seeds and other images; for a
            single pair for other images alone.
        by_seed: the difference of each pair, by seed.
    """

    before: float
    after: float
    difference: Estimate
    by_seed: Mapping[int, float]

    def __str__(self) -> str:
        return f"balanced accuracy {self.before:.3f} -> {self.after:.3f} ({difference_words(self.difference)})"

    def to_dict(self) -> dict[str, Any]:
        """Return the form that goes into JSON."""
        return {
            "balanced_accuracy": {
                "before": self.before, "after": self.after, "difference": self.difference.to_dict(),
            },
            "by_seed": {str(seed): value for seed, value in self.by_seed.items()},
        }  # fmt: skip


def pool(effects: Mapping[int, CorrectionsEffect], *, corrected: bool) -> PooledEffect:
    """Average the differences of pairs of runs, with an interval over seeds and images.

    The differences vary with the seed, which Student's interval of their mean is about, and with the images, whose part
    is the variance of a sum over images, within classes, of what each adds to the mean over seeds (linearization). The
    two reaches are added in quadrature. What an image does with one seed alone is in both, so that the interval is
    rather too wide than too narrow.

    Args:
        effects: by seed, one at the least.
        corrected: by the labels of now, else by those of before.
    """
    pairs = {seed: effect.corrected if corrected else effect.original for seed, effect in effects.items()}
    differences = [pair.balanced_accuracy_difference.value for pair in pairs.values()]
    over_seeds = mean_interval(differences)
    reach = NORMAL_QUANTILE * _image_error(list(effects.values()), corrected=corrected)
    method = "images" if len(pairs) == 1 else "seeds and images"
    if len(pairs) > 1:
        reach = float(np.hypot(reach, over_seeds.high - over_seeds.value))
    mean = over_seeds.value
    return PooledEffect(
        before=float(np.mean([pair.balanced_accuracy[1] for pair in pairs.values()])),
        after=float(np.mean([pair.balanced_accuracy[0] for pair in pairs.values()])),
        difference=Estimate(mean, mean - reach, mean + reach, method),
        by_seed=dict(zip(pairs, differences, strict=True)),
    )


def _image_error(effects: Sequence[CorrectionsEffect], *, corrected: bool) -> float:
    """Standard error of the mean difference in balanced accuracy, over images of each class, or over their groups."""
    added: dict[tuple[str, str], float] = {}
    is_grouped = any(effect.corrected.num_groups is not None for effect in effects)
    for effect in effects:
        labels = [image.corrected if corrected else image.original for image in effect.images]
        support = Counter(labels)
        for image, label in zip(effect.images, labels, strict=True):
            value = (int(image.after == label) - int(image.before == label)) / support[label]
            # Groups may have images of several classes.
            key = ("", image.group or image.path) if is_grouped else (label, image.path)
            added[key] = added.get(key, 0.0) + value / len(support) / len(effects)
    variance = 0.0
    for name in {stratum for stratum, _ in added}:
        values = np.array([value for (stratum, _), value in added.items() if stratum == name])
        if len(values) > 1:
            variance += len(values) * float(values.var(ddof=1))
    return float(np.sqrt(variance))


def difference_words(difference: Estimate) -> str:
    """Write a difference with its interval."""
    ends = "no interval"
    if not np.isnan(difference.low):
        ends = f"95 % interval {difference.low:+.3f} to {difference.high:+.3f}"
    return f"{difference.value:+.3f}, {ends}"


def _scores(found: Comparison) -> str:
    after, before = found.balanced_accuracy
    return (
        f"balanced accuracy {before:.3f} -> {after:.3f} ({difference_words(found.balanced_accuracy_difference)}; "
        f"{plural(found.gained, 'image')} became right, {found.lost:,} wrong)"
    )


def _against(found: Comparison) -> dict[str, Any]:
    """Return a comparison for JSON, in which the run before is `before` and not `against`."""
    values = found.to_dict()
    for name in ("accuracy", "balanced_accuracy"):
        pair = values[name]
        values[name] = {"before": pair["against"], "after": pair["run"], "difference": pair["difference"]}
    for item in values["classes"].values():
        item["recall_before"] = item.pop("recall_against")
    return values
