"""How well a class's probability ranks its own images before the others: ROC and precision-recall, in one sort."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    """The images in the order of one class's probability, the highest first; those of equal rank form a step.

    Args:
        order: rows of the images in that order, int32 [N].
        ends: place in that order of the last image of each step, int32 [S].
        hits: images of the class up to and with each step, float [S].
        is_positive: whether each image, in that order, is of the class [N].
    """

    order: NDArray[np.int32]
    ends: NDArray[np.int32]
    hits: Floats
    is_positive: NDArray[np.bool_]

    @classmethod
    def of(cls, scores: Floats, is_positive: NDArray[np.bool_]) -> Ranking:
        """Sort images by the class's probability [N]."""
        order = np.argsort(-scores)
        ordered, positive = scores[order], is_positive[order]
        ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
        hits = np.cumsum(positive)[ends].astype(np.float64)
        # Rankings of many classes are held at once.
        return cls(order.astype(np.int32), ends.astype(np.int32), hits, positive)

    @property
    def num_positive(self) -> float:
        """Images of the class."""
        return float(self.hits[-1])

    @property
    def num_negative(self) -> float:
        """Images of the other classes."""
        return float(len(self.order) - self.hits[-1])

    @cached_property
    def _false_alarms(self) -> Floats:
        return self.ends + 1 - self.hits

    @cached_property
    def _placements(self) -> tuple[Floats, Floats]:
        """For an image in each step, by step: the share of the other kind that it is ordered correctly against.

        These are DeLong's structural components: of images of the class, and of others; a tie counts half.
        """
        positives, negatives = np.diff(self.hits, prepend=0), np.diff(self._false_alarms, prepend=0)
        below = (self.num_negative - self._false_alarms + negatives / 2) / self.num_negative
        above = (self.hits - positives / 2) / self.num_positive
        return below, above

    @property
    def roc_curve(self) -> tuple[Floats, Floats]:
        """False and true positive rates from the origin on, both [S + 1]; each side has an image."""
        alarms = np.concatenate([[0], self._false_alarms]) / self.num_negative
        return alarms, np.concatenate([[0], self.hits]) / self.num_positive

    @property
    def auroc(self) -> float:
        """Area under the ROC curve; NaN when one side has no image."""
        if not self.num_positive or not self.num_negative:
            return float("nan")
        below, _ = self._placements
        return float((np.diff(self.hits, prepend=0) * below).sum() / self.num_positive)

    @property
    def auroc_variance(self) -> float:
        """DeLong's variance of the area, in the time of a sort (Sun & Xu 2014, doi:10.1109/LSP.2014.2337313).

        NaN when one side has fewer than two images.
        """
        if min(self.num_positive, self.num_negative) < 2:
            return float("nan")
        variance = 0.0
        counts = (np.diff(self.hits, prepend=0), np.diff(self._false_alarms, prepend=0))
        for number, placements in zip(counts, self._placements, strict=True):
            total = number.sum()
            variance += float((number * (placements - self.auroc) ** 2).sum() / (total - 1) / total)
        return variance

    def auroc_influence(self) -> Floats:
        """What each image, in its own row, adds to the area beyond its share [N]; the squares sum to its variance."""
        sizes = np.diff(self.ends, prepend=-1)
        shares = []
        for placements, number in zip(self._placements, (self.num_positive, self.num_negative), strict=True):
            # One image alone has no spread, and adds none.
            scale = np.sqrt(number * max(number - 1, 1))
            shares.append(np.repeat((placements - self.auroc) / scale, sizes))
        found = np.empty(len(self.order))
        found[self.order] = np.where(self.is_positive, *shares)
        return found

    @property
    def average_precision(self) -> float:
        """Area under the precision-recall curve by steps, without interpolation; NaN for a class without images."""
        if not self.num_positive:
            return float("nan")
        found = np.diff(self.hits, prepend=0) * self.hits / (self.ends + 1)
        return float(found.sum() / self.num_positive)

    def average_precision_influence(self) -> Floats:
        """What each image, in its own row, adds to the average precision by counting a little more [N].

        The derivative by the image's weight, at weights of 1; it sums to 0 over the images (the infinitesimal
        jackknife; Efron and Tibshirani 1993, chapter 21). The class has an image.
        """
        positives, predicted = np.diff(self.hits, prepend=0), self.ends + 1.0

        def later(values: Floats) -> Floats:
            return values[::-1].cumsum()[::-1]

        # An image counts in the precision at every step from its own on; one of the class raises it there.
        lowered = later(positives * self.hits / predicted**2)
        raised = later(positives / predicted)
        precision = self.hits / predicted
        of_class = precision + raised - lowered - self.average_precision
        sizes = np.diff(self.ends, prepend=-1)
        found = np.empty(len(self.order))
        found[self.order] = np.where(self.is_positive, np.repeat(of_class, sizes), np.repeat(-lowered, sizes))
        return found / self.num_positive

    def resampled_average_precisions(self, weights: NDArray[np.float32]) -> Floats:
        """Average precision when each image counts as often as its weight says.

        Args:
            weights: of the images, by row, in each resample [N, B].

        Returns:
            The value for each resample [B]; NaN without an image of the class.
        """
        from scipy.sparse import csr_array

        # Only steps that hold an image of the class add to the area: the others are summed up between them.
        new_hits = np.diff(self.hits, prepend=0) > 0
        ends, hits = self.ends[new_hits] + 1, self.hits[new_hits].astype(np.int64)
        positives = self.order[self.is_positive]

        def sums(rows: NDArray[np.int32], bounds: NDArray[np.integer]) -> Floats:
            pointers = np.concatenate([[0], bounds])
            picked = csr_array(
                (np.ones(pointers[-1], np.float32), rows[: pointers[-1]], pointers), shape=(len(bounds), len(weights))
            )
            return np.asarray(picked @ weights)

        positive = sums(positives, hits)
        found = positive.cumsum(axis=0)
        predicted = sums(self.order, ends).cumsum(axis=0)
        precision = np.divide(found, predicted, out=np.zeros_like(found), where=predicted > 0)
        total = (positive * precision).sum(axis=0, dtype=np.float64)
        return np.asarray(np.divide(total, found[-1], out=np.full_like(total, np.nan), where=found[-1] > 0))
