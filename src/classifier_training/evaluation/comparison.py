"""Two classifiers on the same images: whether one is better, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.errors import enumerate_words
from classifier_training.evaluation.groups import (
    MAX_VALUES,
    resample_groups,
    sign_flip_test,
    sum_of_squares,
    t_quantile,
)
from classifier_training.evaluation.intervals import LEVEL, MAX_CHUNK, MAX_RESAMPLES, SEED, Estimate, bootstrap_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from classifier_training.evaluation.groups import Groups

    Floats = NDArray[np.float64]

SIGNIFICANCE = 0.05

ONE_SIDED_QUANTILE = 1.6448536269514722
"""Of the normal distribution at 95 %."""

NUM_FLIPS = 10_000
"""Random signs from which the two tests are adjusted together."""


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
        p_value: of the exact test, adjusted after Holm for the number of classes.
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
        p_value: the chance of so uneven a division if neither were better: McNemar's exact test or, by groups, the
            exact sign-flip test of the groups' differences.
        accuracy: of the one and of the other.
        balanced_accuracy: of the one and of the other.
        accuracy_difference: the one's minus the other's.
        balanced_accuracy_difference: the one's minus the other's.
        adjusted: p-values of the differences in accuracy and in balanced accuracy, adjusted for being two.
        classes: those that have images.
        num_groups: that tests and intervals are by; None where images count as independent.
    """

    num_images: int
    gained: int
    lost: int
    p_value: float
    accuracy: tuple[float, float]
    balanced_accuracy: tuple[float, float]
    accuracy_difference: Estimate
    balanced_accuracy_difference: Estimate
    adjusted: tuple[float, float]
    classes: tuple[ClassChange, ...]
    num_groups: int | None = None

    @property
    def test(self) -> str:
        """Name of the test."""
        return "McNemar" if self.num_groups is None else f"sign flips of {self.num_groups:,} groups,"

    @property
    def p_worse(self) -> float:
        """The smaller of the adjusted p-values by which the one is worse than the other; 1 where it is not worse."""
        return min([value for sign, value in zip(self.directions, self.adjusted, strict=True) if sign < 0], default=1.0)

    @property
    def directions(self) -> tuple[int, int]:
        """Whether the accuracy and the balanced accuracy are larger (1) or smaller (-1)."""
        return int(np.sign(self.gained - self.lost)), int(np.sign(self.balanced_accuracy_difference.value))

    def verdict(self, name: str, against: str) -> str:
        """Say in one sentence which is better, by how much and how sure that is."""
        overall, balanced = (
            sign if value < SIGNIFICANCE else 0 for sign, value in zip(self.directions, self.adjusted, strict=True)
        )
        evidence = (
            f"{self.gained:,} images gained, {self.lost:,} lost of {self.num_images:,} "
            f"({self.test} p = {self.p_value:.3g}), balanced accuracy {_signed(self.balanced_accuracy_difference)}"
        )
        if not overall and not balanced and min(self.p_value, *self.adjusted) < 2 * SIGNIFICANCE:
            evidence += f"; adjusted for two tests, p = {self.adjusted[0]:.2g} and {self.adjusted[1]:.2g}"
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
            "mcnemar": {"p_value": self.p_value, "method": "exact"} if self.num_groups is None else None,
            "sign_flips": None
            if self.num_groups is None
            else {"p_value": self.p_value, "method": "exact", "groups": self.num_groups},
            "adjusted_p_values": dict(zip(("accuracy", "balanced_accuracy"), self.adjusted, strict=True)),
            "accuracy": _pair(self.accuracy, self.accuracy_difference),
            "balanced_accuracy": _pair(self.balanced_accuracy, self.balanced_accuracy_difference),
            "classes": {item.name: item.to_dict() for item in self.classes},
        }


def compare(
    targets: NDArray[np.int64],
    correct: NDArray[np.bool_],
    correct_against: NDArray[np.bool_],
    class_names: Sequence[str],
    groups: Groups | None = None,
) -> Comparison:
    """Compare the predictions of two classifiers for the same images.

    Whether one is better is asked twice, of the accuracy and of the balanced accuracy. The p-values are adjusted so
    that with two equal classifiers either is below 0.05 in at most one case of twenty; see `_adjust`.

    Args:
        targets: class numbers [N].
        correct: whether the prediction of the one is correct [N].
        correct_against: whether the other is [N].
        class_names: [K].
        groups: of the images, where those of one group are not independent; tests and intervals are then by groups.
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
    differences = correct.astype(np.int64) - correct_against
    if groups is None:
        replicates = _resampled_changes(support[present], gained[present], lost[present])
        p_values = [mcnemar(int(gained[number]), int(lost[number])) for number in present]
        p_value = mcnemar(int(gained.sum()), int(lost.sum()))
        flipped = _flipped_images(support[present], (gained + lost)[present])
    else:
        replicates = _regrouped_changes(groups, targets, differences, present)
        p_values = [sign_flip_test(groups.sums(differences * (targets == number))) for number in present]
        p_value = sign_flip_test(groups.sums(differences))
        weights = differences / support[targets] / len(present)
        flipped = _flipped_groups(np.stack([groups.sums(differences) / len(targets), groups.sums(weights)]))
    found = (accuracies[0] - accuracies[1], balanced[0] - balanced[1])
    adjusted = holm(p_values)
    return Comparison(
        num_images=len(targets),
        gained=int(gained.sum()),
        lost=int(lost.sum()),
        p_value=p_value,
        accuracy=accuracies,
        balanced_accuracy=balanced,
        accuracy_difference=_paired(found[0], replicates[0], groups),
        balanced_accuracy_difference=_paired(found[1], replicates[1], groups),
        adjusted=_adjust(np.array(found), flipped),
        num_groups=None if groups is None else len(groups),
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


def fisher(hits: int, trials: int, hits_against: int, trials_against: int) -> float:
    """Fisher's exact test (1935): the chance of two shares of different images at least as far apart, two-sided.

    Twice the smaller of the two one-sided chances, as in `mcnemar`, so that either side has half of it.
    """
    from scipy.stats import hypergeom

    if not trials or not trials_against:
        return 1.0
    drawn = hypergeom(trials + trials_against, hits + hits_against, trials)
    return min(1.0, 2 * float(min(drawn.cdf(hits), drawn.sf(hits - 1))))


def largest_loss(gained: float, lost: float, number: float) -> float:
    """Upper end of the one-sided 95 % interval of the loss (lost - gained) / number of a classifier against another.

    Tango's score interval for paired shares (1998, Statistics in Medicine 17, 891-908), which holds for few images and
    where none changed: the loss at which so small a difference would have a chance of one in twenty.

    Args:
        gained: images that the one alone classifies correctly.
        lost: images that the other alone classifies correctly.
        number: of all images.
    """
    low, high = (lost - gained) / number, 1.0
    while high - low > 1e-7:
        middle = (low + high) / 2
        linear = (2 * number - lost + gained) * middle - lost - gained
        product = 2 * number * -gained * middle * (1 - middle)
        # The share of gained images that is most likely if the loss were `middle`.
        share = (np.sqrt(max(linear**2 - 4 * product, 0.0)) - linear) / (4 * number)
        spread = np.sqrt(number * max(2 * share + middle * (1 - middle), 0.0))
        if number * middle - (lost - gained) < ONE_SIDED_QUANTILE * spread:
            low = middle
        else:
            high = middle
    return high


def design_effect(differences: NDArray[np.int64], groups: Groups) -> float:
    """How many times as many images in groups are needed for a difference between two classifiers.

    After Korn and Graubard, as `effective_trials` does for shares: where no image changed, each group counts as one.

    Args:
        differences: 1 for an image gained, -1 for one lost, 0 for the others [N].
        groups: of the images.
    """
    number = len(differences)
    centred = differences - differences.mean()
    independent = float((centred**2).sum())
    if not differences.any() or len(groups) < 2 or independent <= 0:
        return number / len(groups)
    quantiles = float(t_quantile(len(groups), LEVEL)) / float(t_quantile(number, LEVEL))
    return max(1.0, sum_of_squares(groups.sums(centred)) / independent * quantiles**2)


def holm(p_values: Sequence[float], num_tests: int | None = None) -> list[float]:
    """Adjust the p-values of several tests so that one false alarm among them stays as rare as in one (Holm 1979).

    Args:
        p_values: the smallest ones, if there are more tests than these.
        num_tests: how many there are; as many as p-values when left out.
    """
    order = np.argsort(p_values, kind="stable")
    number = len(order) if num_tests is None else num_tests
    scaled = np.asarray(p_values)[order] * (number - np.arange(len(order)))
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return [float(value) for value in adjusted]


def _resampled_changes(
    support: NDArray[np.int64], gained: NDArray[np.int64], lost: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Differences in accuracy and balanced accuracy [B] when the images of each class are resampled.

    Both predictions of an image stay together.
    """
    random = np.random.default_rng(SEED)
    shares = np.stack([gained, lost, support - gained - lost], axis=1) / support[:, None]
    sampled = random.multinomial(support, shares, size=(MAX_RESAMPLES, len(support)))
    changes = np.asarray(sampled[..., 0] - sampled[..., 1], dtype=np.float64)
    return changes.sum(axis=1) / support.sum(), (changes / support).mean(axis=1)


def _regrouped_changes(
    groups: Groups, targets: NDArray[np.int64], differences: NDArray[np.int64], present: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Differences in accuracy and balanced accuracy [B] when whole groups are resampled."""
    from scipy.sparse import csr_array

    places, rows = np.searchsorted(present, targets), np.arange(len(targets))
    values = (differences, np.ones(len(targets)))
    parts = [csr_array((one, (places, rows)), shape=(len(present), len(rows)), dtype=np.float32) for one in values]
    overall, balanced = [], []
    for weights in resample_groups(groups, MAX_RESAMPLES, seed=SEED, max_values=MAX_CHUNK):
        changes, support = (np.asarray(part @ weights, dtype=np.float64) for part in parts)
        overall.append(changes.sum(axis=0) / support.sum(axis=0))
        # A class may be missing from a resample.
        shares = np.divide(changes, support, out=np.zeros_like(changes), where=support > 0)
        balanced.append(shares.sum(axis=0) / (support > 0).sum(axis=0))
    return np.concatenate(overall), np.concatenate(balanced)


def _flipped_images(support: NDArray[np.int64], changed: NDArray[np.int64]) -> Floats:
    """Differences in accuracy and balanced accuracy [2, B] when each changed image takes either sign by chance."""
    random = np.random.default_rng(SEED)
    changes = 2.0 * random.binomial(changed, 0.5, size=(NUM_FLIPS, len(changed))) - changed
    return np.stack([changes.sum(axis=1) / support.sum(), (changes / support).mean(axis=1)])


def _flipped_groups(differences: Floats) -> Floats:
    """The same [2, B] when each group's differences [2, G] take either sign together."""
    random = np.random.default_rng(SEED)
    differences = differences[:, differences.any(axis=0)]
    step = max(1, MAX_VALUES // max(differences.shape[1], 1))
    parts = [
        differences @ (2.0 * random.integers(0, 2, (differences.shape[1], min(step, NUM_FLIPS - begin))) - 1)
        for begin in range(0, NUM_FLIPS, step)
    ]
    return np.concatenate(parts, axis=1)


def _adjust(found: Floats, flipped: Floats) -> tuple[float, float]:
    """Adjust the p-values of two differences for being two, by the step-down maxT of Westfall and Young (1993).

    The same random signs give both differences, so that two which always go together, as with as many images of every
    class, cost nothing.

    Args:
        found: the differences [2].
        flipped: the same with random signs [2, B].
    """
    from scipy.special import ndtr

    spread = np.maximum(np.sqrt((flipped**2).mean(axis=1)), np.finfo(np.float64).tiny)
    # Equal up to rounding counts as reached.
    own, others = np.abs(found) / spread * (1 - 1e-9), np.abs(flipped) / spread[:, None]
    first, second = np.argsort(-own).tolist()
    reached = np.array([(others.max(axis=0) >= own[first]).sum(), (others[second] >= own[second]).sum()])
    p_values = (1 + reached) / (1 + NUM_FLIPS)
    # Beyond what so many signs resolve, the tail of the normal distribution, twice for two tests.
    tails = np.minimum(4 * ndtr(-own[[first, second]]), p_values)
    adjusted = np.empty(2)
    adjusted[[first, second]] = np.maximum.accumulate(np.where(reached == 0, tails, p_values))
    return float(adjusted[0]), float(adjusted[1])


def _paired(value: float, replicates: Floats, groups: Groups | None) -> Estimate:
    found = bootstrap_interval(value, replicates, groups)
    return found if np.isnan(found.low) else Estimate(found.value, found.low, found.high, f"paired {found.method}")


def _signed(difference: Estimate) -> str:
    ends = "" if np.isnan(difference.low) else f" [{difference.low:+.4f}, {difference.high:+.4f}]"
    return f"{difference.value:+.4f}{ends}"


def _pair(values: tuple[float, float], difference: Estimate) -> dict[str, Any]:
    return {"run": values[0], "against": values[1], "difference": difference.to_dict()}


def equal(some: Sequence[str], others: Sequence[str]) -> NDArray[np.bool_]:
    """Which names are the same at the same place [N]."""
    return np.array([one == other for one, other in zip(some, others, strict=True)], dtype=bool)
