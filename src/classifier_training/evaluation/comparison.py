"""Two classifiers on the same images: whether one is better, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.errors import enumerate_words
from classifier_training.evaluation.intervals import MAX_RESAMPLES, SEED, Estimate, bootstrap_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class ClassChange:
    """What changed in one class.

    Args:
        name: of the class.
        support: its images.
        recall: of the one classifier.
        recall_against: of the other.
        gained: images that the one alone classifies correctly.
        lost: images that the other alone classifies correctly.
        p_value: McNemar's, exact, adjusted after Holm for the number of classes.
    """

    name: str
    support: int
    recall: float
    recall_against: float
    gained: int
    lost: int
    p_value: float

    @property
    def verdict(self) -> str:
        """Whether the class gained, lost, or neither can be told."""
        if self.p_value >= SIGNIFICANCE:
            return "unclear" if self.gained or self.lost else "same"
        return "gained" if self.gained > self.lost else "lost"

    def to_dict(self) -> dict[str, Any]:
        """Return the form that goes into JSON."""
        return {
            "support": self.support, "recall": self.recall, "recall_against": self.recall_against,
            "gained": self.gained, "lost": self.lost, "p_value": self.p_value, "verdict": self.verdict,
        }  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """One classifier against another on N images.

    Args:
        num_images: N.
        gained: images that the one alone classifies correctly.
        lost: images that the other alone classifies correctly.
        p_value: McNemar's, exact: the chance of so uneven a division if neither were better.
        accuracy: of the one and of the other.
        balanced_accuracy: of the one and of the other.
        accuracy_difference: the one's minus the other's.
        balanced_accuracy_difference: the one's minus the other's.
        classes: those that have images.
    """

    num_images: int
    gained: int
    lost: int
    p_value: float
    accuracy: tuple[float, float]
    balanced_accuracy: tuple[float, float]
    accuracy_difference: Estimate
    balanced_accuracy_difference: Estimate
    classes: tuple[ClassChange, ...]

    def verdict(self, name: str, against: str) -> str:
        """Say in one sentence which is better, by how much and how sure that is."""
        overall = int(np.sign(self.gained - self.lost)) if self.p_value < SIGNIFICANCE else 0
        balanced = _sign(self.balanced_accuracy_difference)
        evidence = (
            f"{self.gained:,} images gained, {self.lost:,} lost of {self.num_images:,} "
            f"(McNemar p = {self.p_value:.3g}), balanced accuracy {_signed(self.balanced_accuracy_difference)}"
        )
        if {overall, balanced} == {1, -1}:
            own, others = ("accuracy", "balanced accuracy")[::overall]
            said = f"{name} has the better {own}, {against} the better {others}"
        elif overall + balanced:
            said = f"{name} is {'better' if overall + balanced > 0 else 'worse'} than {against}"
        elif not self.gained and not self.lost:
            return f"{name} and {against} classify the same of the {self.num_images:,} images correctly."
        else:
            said = f"These images do not tell which of {name} and {against} is better"
        return f"{said}: {evidence}{self._classes()}."

    def _classes(self) -> str:
        parts = []
        for word in ("gained", "lost"):
            names = [repr(item.name) for item in self.classes if item.verdict == word]
            if names:
                parts.append(
                    f"; {'classes' if len(names) > 1 else 'class'} that {word}: {enumerate_words(names, limit=5)}"
                )
        return "".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return the form that goes into JSON."""
        return {
            "num_images": self.num_images,
            "gained": self.gained,
            "lost": self.lost,
            "mcnemar": {"p_value": self.p_value, "method": "exact"},
            "accuracy": _pair(self.accuracy, self.accuracy_difference),
            "balanced_accuracy": _pair(self.balanced_accuracy, self.balanced_accuracy_difference),
            "classes": {item.name: item.to_dict() for item in self.classes},
        }


def compare(
    targets: NDArray[np.int64],
    correct: NDArray[np.bool_],
    correct_against: NDArray[np.bool_],
    class_names: Sequence[str],
) -> Comparison:
    """Compare the predictions of two classifiers for the same images.

    Args:
        targets: class numbers [N].
        correct: whether the prediction of the one is correct [N].
        correct_against: whether the other is [N].
        class_names: [K].
    """
    num_classes = len(class_names)
    support = np.bincount(targets, minlength=num_classes)
    gained = np.bincount(targets[correct & ~correct_against], minlength=num_classes)
    lost = np.bincount(targets[~correct & correct_against], minlength=num_classes)
    present = np.flatnonzero(support)
    recalls = [
        np.bincount(targets[hits], minlength=num_classes)[present] / support[present]
        for hits in (correct, correct_against)
    ]
    accuracies = (float(correct.mean()), float(correct_against.mean()))
    balanced = (float(recalls[0].mean()), float(recalls[1].mean()))
    changes = _resampled_changes(support[present], gained[present], lost[present])
    adjusted = holm([mcnemar(int(gained[number]), int(lost[number])) for number in present])
    return Comparison(
        num_images=len(targets),
        gained=int(gained.sum()),
        lost=int(lost.sum()),
        p_value=mcnemar(int(gained.sum()), int(lost.sum())),
        accuracy=accuracies,
        balanced_accuracy=balanced,
        accuracy_difference=_paired(accuracies[0] - accuracies[1], changes.sum(axis=1) / len(targets)),
        balanced_accuracy_difference=_paired(balanced[0] - balanced[1], (changes / support[present]).mean(axis=1)),
        classes=tuple(
            ClassChange(
                name=class_names[number],
                support=int(support[number]),
                recall=float(recalls[0][place]),
                recall_against=float(recalls[1][place]),
                gained=int(gained[number]),
                lost=int(lost[number]),
                p_value=adjusted[place],
            )
            for place, number in enumerate(present.tolist())
        ),
    )


def mcnemar(gained: int, lost: int) -> float:
    """McNemar's exact test (1947): the chance of a division of the changed images at least as uneven, two-sided."""
    from scipy.special import bdtr

    changed = gained + lost
    return min(1.0, 2 * float(bdtr(min(gained, lost), changed, 0.5))) if changed else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of several tests so that one false alarm among them stays as rare as in one (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return [float(value) for value in adjusted]


def _resampled_changes(
    support: NDArray[np.int64], gained: NDArray[np.int64], lost: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Images gained minus lost in each class when its images are resampled, both predictions together [B, K]."""
    random = np.random.default_rng(SEED)
    shares = np.stack([gained, lost, support - gained - lost], axis=1) / support[:, None]
    sampled = random.multinomial(support, shares, size=(MAX_RESAMPLES, len(support)))
    return np.asarray(sampled[..., 0] - sampled[..., 1], dtype=np.float64)


def _paired(value: float, replicates: NDArray[np.float64]) -> Estimate:
    found = bootstrap_interval(value, replicates)
    return found if np.isnan(found.low) else Estimate(found.value, found.low, found.high, "paired bootstrap")


def _sign(difference: Estimate) -> int:
    return int(difference.low > 0) - int(difference.high < 0)


def _signed(difference: Estimate) -> str:
    ends = "" if np.isnan(difference.low) else f" [{difference.low:+.4f}, {difference.high:+.4f}]"
    return f"{difference.value:+.4f}{ends}"


def _pair(values: tuple[float, float], difference: Estimate) -> dict[str, Any]:
    return {"run": values[0], "against": values[1], "difference": difference.to_dict()}
