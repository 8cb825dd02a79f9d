"""Sets of labels that hold the true one as often as asked for: split conformal prediction.

The sets are those of the least ambiguous set-valued classifiers (LAC; Sadinle, Lei and Wasserman 2019,
doi:10.1080/01621459.2017.1395341): all classes whose probability reaches a threshold. Of all sets with the same
coverage these are the smallest on average, and they need no random numbers, so that the same image always gets the same
set. APS and RAPS (Romano et al. 2020; Angelopoulos et al. 2021) cover hard images better, by larger sets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.types import row_blocks
from classifier_training.evaluation.groups import Groups

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from classifier_training.core.types import SplitResult

    Floats = NDArray[np.float64]

METHOD = "split conformal prediction, LAC (Sadinle et al. 2019, doi:10.1080/01621459.2017.1395341)"

DECIMALS = 6


@dataclass(frozen=True)
class TrueScores:
    """The probabilities that labelled images gave to their true classes, from which thresholds of label sets follow.

    Args:
        probabilities: of the true class, rounded down, float64 [N].
        targets: its number, int64 [N].
        groups: number of the group of each image, int64 [N]; None where images count as independent.
    """

    probabilities: Floats
    targets: NDArray[np.int64]
    groups: NDArray[np.int64] | None = None

    @classmethod
    def of(
        cls, probabilities: NDArray[np.floating], targets: NDArray[np.int64], groups: Groups | None = None
    ) -> TrueScores:
        """Take the probabilities of the true classes, from those of all classes [N, K]."""
        given = probabilities[np.arange(len(targets)), targets].astype(np.float64)
        rounded = np.floor(given * 10**DECIMALS) / 10**DECIMALS
        return cls(rounded, targets.astype(np.int64), None if groups is None else groups.numbers)

    @cached_property
    def _weights(self) -> Floats:
        """Weight of each image [N], summing to 1: every group has the same, and its images share it."""
        if self.groups is None:
            return np.full(len(self.targets), 1 / len(self.targets))
        grouped = Groups(np.unique(self.groups, return_inverse=True)[1].astype(np.int64))
        return 1 / grouped.sizes[grouped.numbers] / len(grouped)

    def _num_units(self, rows: NDArray[np.bool_]) -> int:
        return int(rows.sum()) if self.groups is None else len(np.unique(self.groups[rows]))

    def allows(self, coverage: float) -> bool:
        """Whether there are enough images for a threshold: `needed_images` of them, or of their groups."""
        return self._num_units(np.ones(len(self.targets), bool)) >= needed_images(coverage)

    def threshold(self, coverage: float) -> float:
        """Probability from which on a class is in the set, so that it holds the true one with this chance.

        The chance is over the labelled images and a new one, drawn alike (Vovk, Gammerman and Shafer 2005). It is that
        of a new image of a new group, where images come in groups: the distribution of the scores is then the mean of
        the groups' (Dunn, Wasserman and Ramdas 2023, doi:10.1080/01621459.2022.2060112).

        Returns:
            0, which all classes reach, where there are too few images.
        """
        return self._threshold(coverage, np.ones(len(self.targets), bool))

    def class_thresholds(self, coverage: float, num_classes: int) -> Floats:
        """The threshold of each class [K] with which the coverage holds among the images of that class, too.

        That is Mondrian conformal prediction: each threshold comes from the images of its class alone. It is 0, so that
        the class is in every set, where these are too few.
        """
        return np.array([self._threshold(coverage, self.targets == number) for number in range(num_classes)])

    def _threshold(self, coverage: float, rows: NDArray[np.bool_]) -> float:
        number = self._num_units(rows)
        if number < needed_images(coverage):
            return 0.0
        order = np.argsort(-self.probabilities[rows], kind="stable")
        weights = self._weights[rows][order]
        reached = np.cumsum(weights) / weights.sum()
        # The ceil((n + 1) coverage)-th of n scores, written for weights.
        place = int(np.searchsorted(reached, min(coverage * (number + 1) / number, 1) - 1e-9))
        return float(self.probabilities[rows][order][min(place, len(order) - 1)])

    def outcome(self, coverage: float, result: SplitResult) -> dict[str, Any]:
        """What sets of a coverage are on other labelled images, by the probabilities that these were given."""
        threshold = self.threshold(coverage)
        held, sizes = np.empty(len(result.targets), bool), np.empty(len(result.targets), np.int64)
        for rows in row_blocks(result.logits.shape):
            sets = label_sets(result.probabilities_of(rows), threshold)
            sizes[rows] = sets.sum(axis=1)
            held[rows] = sets[np.arange(len(sets)), result.targets[rows]]
        return {
            "coverage": coverage,
            "method": METHOD,
            "threshold": threshold,
            "found_coverage": float(held.mean()),
            "mean_size": float(sizes.mean()),
            "share_of_one_label": float((sizes == 1).mean()),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the form that goes into model_info.json."""
        found = {"method": METHOD, "probabilities": self.probabilities.tolist(), "targets": self.targets.tolist()}
        return found if self.groups is None else {**found, "groups": self.groups.tolist()}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> TrueScores:
        """Read what `to_dict` gave.

        Raises:
            ValueError: when the lists are not of one length.
        """
        scores = cls(
            np.array(found["probabilities"], dtype=np.float64),
            np.array(found["targets"], dtype=np.int64),
            np.array(found["groups"], dtype=np.int64) if "groups" in found else None,
        )
        lengths = {len(part) for part in (scores.probabilities, scores.targets, scores.groups) if part is not None}
        if len(lengths) != 1:
            raise ValueError(f"lists of {' and '.join(map(str, sorted(lengths)))} values")
        return scores


def needed_images(coverage: float) -> int:
    """Fewest images, or groups, from which a threshold for a coverage can come: 9 for 0.9, 19 for 0.95, 99 for 0.99."""
    return math.ceil(coverage / (1 - coverage) - 1e-9)


def label_sets(probabilities: NDArray[np.floating], thresholds: Floats | float) -> NDArray[np.bool_]:
    """Which classes are in the set of each image [N, K]; the most probable one always is, so that no set is empty.

    Args:
        probabilities: [N, K].
        thresholds: one, or one for each class [K].
    """
    sets = np.asarray(probabilities >= thresholds)
    sets[np.arange(len(sets)), probabilities.argmax(axis=1)] = True
    return sets
