"""The reject option: how confident a prediction must be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.evaluation.guarantees import needed_predictions, num_accepted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from classifier_training.evaluation.groups import Groups

NEVER = 2.0
"""A threshold that no confidence reaches."""

MIN_PREDICTIONS = 20
"""Validation predictions that a class needs for a threshold of its own; below, that of all classes together is used.

It is for thresholds without a guarantee; those with one need as many as `needed_predictions` says.
"""

DECIMALS = 6


@dataclass(frozen=True)
class AcceptanceCurve:
    """Labelled predictions, the most confident first, from which any threshold follows.

    Args:
        confidences: float64 [N], falling.
        correct: bool [N].
        groups: number of the group of each, int64 [N]; None where predictions count as independent.
    """

    confidences: NDArray[np.float64]
    correct: NDArray[np.bool_]
    groups: NDArray[np.int64] | None = None

    @classmethod
    def of(
        cls,
        confidences: NDArray[np.floating],
        correct: NDArray[np.bool_],
        groups: NDArray[np.int64] | None = None,
    ) -> AcceptanceCurve:
        """Sort predictions; confidences are rounded down, so that an image at its own threshold is accepted."""
        order = np.argsort(-confidences, kind="stable")
        scale = 10**DECIMALS
        rounded = np.floor(confidences[order].astype(np.float64) * scale) / scale
        return cls(rounded, correct[order], None if groups is None else groups[order])

    @classmethod
    def pooled(cls, curves: Sequence[AcceptanceCurve]) -> AcceptanceCurve:
        """Put the predictions of several curves into one."""
        groups = [curve.groups for curve in curves if curve.groups is not None]
        return cls.of(
            np.concatenate([curve.confidences for curve in curves]),
            np.concatenate([curve.correct for curve in curves]),
            np.concatenate(groups) if len(groups) == len(curves) else None,
        )

    def __len__(self) -> int:
        return len(self.correct)

    def for_precision(self, wanted: float) -> float:
        """Lowest threshold from which on the observed share of correct predictions is `wanted`; NEVER without one.

        For new images it is too low more often than not; see `for_guaranteed_precision`.
        """
        shares = np.cumsum(self.correct) / np.arange(1, len(self) + 1)
        good = np.flatnonzero((shares >= wanted) & self._last_of_equals)
        return float(self.confidences[good[-1]]) if len(good) else NEVER

    def for_guaranteed_precision(self, wanted: float, delta: float) -> float:
        """Lowest threshold at which tests show the precision for new images, too; NEVER where they show none.

        See `num_accepted`. 0 where all predictions can be accepted.
        """
        number = num_accepted(self.correct, self._last_of_equals, wanted, delta, self.groups)
        if number in (0, len(self)):
            return 0.0 if number else NEVER
        # What is more confident than the first that is not accepted; confidences are rounded down to DECIMALS.
        return float(self.confidences[number]) + float(10.0**-DECIMALS)

    @property
    def num_independent(self) -> int:
        """Predictions that count as independent: of groups, one for each."""
        return len(self) if self.groups is None else len(np.unique(self.groups))

    @property
    def _last_of_equals(self) -> NDArray[np.bool_]:
        """Whether the next prediction is less confident [N]: those of one confidence are accepted together."""
        return np.append(self.confidences[1:] < self.confidences[:-1], [True])[: len(self)]

    def for_coverage(self, wanted: float) -> float:
        """Highest threshold that at least the share `wanted` of the predictions reaches."""
        if not len(self):
            return NEVER
        # A share such as 0.9 of 10 predictions is 9 of them, whatever the last bit of the product says.
        number = max(int(np.ceil(wanted * len(self) - 1e-9)), 1)
        return float(self.confidences[number - 1])

    def to_dict(self) -> dict[str, Any]:
        """Return the form that goes into model_info.json."""
        return {
            "confidences": self.confidences.tolist(),
            "correct": "".join("01"[int(hit)] for hit in self.correct),
            **({} if self.groups is None else {"groups": self.groups.tolist()}),
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> AcceptanceCurve:
        """Read what `to_dict` gave.

        Raises:
            ValueError: when the lists are not of one length.
        """
        confidences = np.array(found["confidences"], dtype=np.float64)
        correct = np.array([mark == "1" for mark in found["correct"]], dtype=np.bool_)
        if confidences.shape != correct.shape:
            raise ValueError(f"{len(confidences)} confidences and {len(correct)} marks")
        groups = np.array(found["groups"], dtype=np.int64) if "groups" in found else None
        if groups is not None and groups.shape != correct.shape:
            raise ValueError(f"{len(groups)} groups and {len(correct)} marks")
        return cls(confidences, correct, groups)


def class_curves(
    probabilities: NDArray[np.float32],
    targets: NDArray[np.int64],
    class_names: Sequence[str],
    groups: Groups | None = None,
) -> dict[str, AcceptanceCurve]:
    """Return the curve of the predictions of each class.

    Args:
        probabilities: float [N, K].
        targets: int64 [N].
        class_names: [K].
        groups: of the images, where those of one group are not independent.
    """
    predicted, confidences = probabilities.argmax(axis=1), probabilities.max(axis=1)
    rows = {name: predicted == number for number, name in enumerate(class_names)}
    return {
        name: AcceptanceCurve.of(
            confidences[chosen], (predicted == targets)[chosen], None if groups is None else groups.numbers[chosen]
        )
        for name, chosen in rows.items()
    }


def class_thresholds(
    curves: Mapping[str, AcceptanceCurve], *, precision: float | None = None, coverage: float | None = None
) -> dict[str, float]:
    """Return the confidence that a prediction needs, by the predicted class, for exactly one of two wishes.

    These are met on the images of the curves; `guaranteed_thresholds` are for new ones.

    Args:
        curves: predictions by class.
        precision: wanted share of correct predictions among the accepted ones of each class.
        coverage: wanted share of accepted predictions of each class.
    """
    pooled = AcceptanceCurve.pooled(list(curves.values()))

    def threshold(curve: AcceptanceCurve) -> float:
        if precision is not None:
            return curve.for_precision(precision)
        assert coverage is not None
        return curve.for_coverage(coverage)

    return {name: threshold(curve if len(curve) >= MIN_PREDICTIONS else pooled) for name, curve in curves.items()}


@dataclass(frozen=True, kw_only=True)
class GuaranteedThresholds:
    """Thresholds whose precision holds for new images, too.

    Args:
        by_class: the confidence that a prediction needs, by the predicted class; NEVER where no threshold can be shown.
        shared: classes with too few validation predictions for a threshold of their own; they have one together.
        needed: predictions that a threshold needs, if all are correct.
        most: predictions that there are, of the class or the shared classes that have most; of groups, one for each.
    """

    by_class: Mapping[str, float]
    shared: Sequence[str]
    needed: int
    most: int

    @property
    def never(self) -> list[str]:
        """Classes whose predictions are all rejected."""
        return [name for name, value in self.by_class.items() if value == NEVER]

    @property
    def possible(self) -> bool:
        """Whether there are enough predictions to show the precision for any class."""
        return self.most >= self.needed


def guaranteed_thresholds(
    curves: Mapping[str, AcceptanceCurve], *, precision: float, delta: float
) -> GuaranteedThresholds:
    """Return thresholds at which the precision holds for new images, with a confidence of 1 - delta for each of them.

    Classes with fewer predictions than could show it are tested together, and the precision is then of these together.

    Args:
        curves: predictions by class.
        precision: wanted share of correct predictions among the accepted ones of each class.
        delta: chance that it does not hold.
    """
    needed = needed_predictions(precision, delta)
    shared = [name for name, curve in curves.items() if curve.num_independent < needed]
    tested = {name: curve for name, curve in curves.items() if name not in shared}
    together = AcceptanceCurve.pooled([curves[name] for name in shared]) if shared else None
    found = {name: curve.for_guaranteed_precision(precision, delta) for name, curve in tested.items()}
    if together is not None:
        found |= dict.fromkeys(shared, together.for_guaranteed_precision(precision, delta))
    tested_curves = [*tested.values(), *([together] if together is not None else [])]
    return GuaranteedThresholds(
        by_class={name: found[name] for name in curves},
        shared=shared,
        needed=needed,
        most=max(curve.num_independent for curve in tested_curves),
    )
