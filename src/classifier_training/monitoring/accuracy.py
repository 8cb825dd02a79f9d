"""An estimate of the accuracy on predictions without labels, from how sure the model is of them.

Where the images are as before, whatever their labels, the accuracy is the mean calibrated confidence, moved by what
that missed on the validation images (difference of confidences; Guillory et al. 2021, arXiv:2107.03315). Under a label
shift that was closer, on two data sets, than recalls weighted with estimated shares of the classes. Where the images
have changed in a known way, confidence alone may promise far too much. Then the strength of the change follows from the
statistics of the images, and the accuracy is what changed copies of the validation images, whose labels are known, have
at that strength (after Deng and Zheng 2021, arXiv:2007.02915). Of foreign images, and of a change that no copy was
like, nothing is known.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.errors import plural
from classifier_training.monitoring.shifts import FOREIGN, LABELS, MIN_NUMBER, NUM_IMAGE, OTHER
from classifier_training.monitoring.statistics import CONFIDENCE

if TYPE_CHECKING:
    from classifier_training.monitoring.reference import Reference
    from classifier_training.monitoring.shifts import ShiftTest
    from classifier_training.monitoring.sketch import Sketch

NORMAL_QUANTILE = 1.96

BEYOND = 0.25
"""How far past the strongest copies a change may be, as a share of the last step between two strengths."""

AGREEMENT = 0.08
"""Difference up to which the copies and the confidence count as two measurements of the same, and are averaged."""

CONFIDENCES, COPIES = "difference of confidences", "changed copies of the validation images"


@dataclass(frozen=True)
class AccuracyEstimate:
    """What the accuracy probably is.

    Args:
        value: None where it cannot be known.
        low: end of the 95 % interval.
        high: the other end.
        method: how it was estimated.
        why_not: why it cannot be known.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    method: str = ""
    why_not: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        if self.value is None or self.low is None or self.high is None:
            return f"cannot be known: {self.why_not}"
        return f"{self.value:.3f} ({self.low:.3f}-{self.high:.3f})"


def estimate_accuracy(reference: Reference, sketch: Sketch, test: ShiftTest) -> AccuracyEstimate:
    """Estimate the accuracy of predictions.

    Args:
        reference: of the model.
        sketch: of the predictions.
        test: what `shifts.compare` found of them.
    """
    if sketch.number < MIN_NUMBER:
        return AccuracyEstimate(None, why_not=f"{plural(sketch.number, 'prediction')}; {MIN_NUMBER} are needed")
    if test.kind == FOREIGN:
        return AccuracyEstimate(None, why_not="images unlike the training images have no correct class")
    if test.kind == OTHER:
        return AccuracyEstimate(None, why_not="the images have changed in a way that was not measured before")
    before, number = reference.accuracy, sketch.number
    change = float(sketch.means[CONFIDENCE] - reference.sketch.means[CONFIDENCE])
    variance = before * (1 - before) / max(reference.sketch.number, 1)
    if test.kind in ("", LABELS):
        value = min(max(before + change, 0.0), 1.0)
        return _interval(value, variance + value * (1 - value) / number, CONFIDENCES)
    lost, error = _by_copies(reference, test)
    if lost is None:
        return AccuracyEstimate(None, why_not=f"the {test.kind} is stronger than any that was measured")
    error = math.hypot(error, (lost - change) / 4)
    if abs(lost - change) <= AGREEMENT:
        lost = (lost + change) / 2
    value = min(max(before + lost, 0.0), 1.0)
    return _interval(value, variance + value * (1 - value) / number + error**2, COPIES)


def _by_copies(reference: Reference, test: ShiftTest) -> tuple[float | None, float]:
    """The change of the accuracy under a known change of the images, and its standard error; None if it is too strong.

    The statistics of the copies are a path from the validation images to the strongest ones. The accuracy is that at
    the nearest place of the path.
    """
    copies = [one for one in reference.responses if one.kind == test.kind]
    if not copies:
        return None, 0.0
    shifts = np.stack([(one.shift / reference.scale)[:NUM_IMAGE] for one in copies])
    # Each statistic counts alike, but for those that the change hardly moves.
    weights = 1 / (1 + np.abs(shifts).max(axis=0))
    corners = [np.zeros(NUM_IMAGE), *(shifts * weights)]
    losses = [0.0, *(one.accuracy for one in copies)]
    seen = test.effects[:NUM_IMAGE] * weights
    places = []
    for step, (start, end) in enumerate(pairwise(corners)):
        way = end - start
        limit = math.inf if step == len(copies) - 1 else 1.0
        part = min(max(float((seen - start) @ way / max(way @ way, 1e-12)), 0.0), limit)
        places.append((float(np.linalg.norm(start + part * way - seen)), step, part))
    _, step, part = min(places)
    if part > 1 + BEYOND:
        return None, 0.0
    lost = losses[step] + part * (losses[step + 1] - losses[step])
    # Of the number of images that are lost, and of how the accuracy may bend between two strengths.
    return lost, math.hypot(math.sqrt(abs(lost) / copies[step].number), 0.15 * (losses[step + 1] - losses[step]))


def _interval(value: float, variance: float, method: str) -> AccuracyEstimate:
    half = NORMAL_QUANTILE * math.sqrt(max(variance, 0.0))
    return AccuracyEstimate(value, max(0.0, value - half), min(1.0, value + half), method)
