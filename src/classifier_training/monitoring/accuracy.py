"""An estimate of the accuracy on predictions without labels, from how sure the model is of them.

Where the images are as before, the accuracy is the mean calibrated confidence, moved by what that missed on the
validation images (difference of confidences; Guillory et al. 2021, arXiv:2107.03315). Where they have changed in a
known way, confidence alone promises too much; then the fall of the accuracy follows from the fall of the confidence as
it does for changed copies of the validation images, whose labels are known (after Deng and Zheng 2021,
arXiv:2007.02915). Where the labels alone have changed, it is the recall of each class weighted with the new shares,
which follow from the predicted ones by the confusion matrix (expectation maximisation; Saerens et al. 2002,
doi:10.1162/089976602753284446). Of foreign images, and of a change that no copy was like, nothing is known.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.errors import plural
from classifier_training.monitoring.shifts import FOREIGN, LABELS, MIN_NUMBER, OTHER
from classifier_training.monitoring.statistics import CONFIDENCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from classifier_training.monitoring.reference import Reference, Response
    from classifier_training.monitoring.shifts import Test
    from classifier_training.monitoring.sketch import Sketch

    Floats = NDArray[np.float64]

NORMAL_QUANTILE = 1.96

BEYOND = 1.5
"""Fall of the confidence up to which the copies tell the accuracy, as a multiple of the deepest fall among them."""

STEPS = 200
"""Of the expectation maximisation."""

CONFIDENCES, COPIES, RECALLS = "difference of confidences", "changed copies of the validation images", "recall by class"


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


def estimate_accuracy(reference: Reference, sketch: Sketch, test: Test) -> AccuracyEstimate:
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
    if test.kind == LABELS and reference.confusion is not None:
        value, variance = _by_recalls(reference.confusion, sketch.predicted)
        return _interval(value, variance + value * (1 - value) / number, RECALLS)
    variance = before * (1 - before) / max(reference.sketch.number, 1)
    if test.kind in ("", LABELS):
        value = min(max(before + change, 0.0), 1.0)
        return _interval(value, variance + value * (1 - value) / number, CONFIDENCES)
    lost, error = _by_copies(reference.responses, test.kind, change)
    if lost is None:
        return AccuracyEstimate(
            None, why_not="the confidence has fallen further than under any change that was measured"
        )
    value = min(max(before + lost, 0.0), 1.0)
    return _interval(value, variance + value * (1 - value) / number + error**2, COPIES)


def _by_copies(responses: Sequence[Response], kind: str, change: float) -> tuple[float | None, float]:
    """The change of the accuracy that goes with a change of the confidence, and its standard error; None out of range.

    Between the strengths that were measured it is interpolated.
    """
    known = sorted((float(one.shift[CONFIDENCE]), one.accuracy, one.number) for one in responses if one.kind == kind)
    if change >= 0 or not known:
        return change, 0.0
    deepest, lost, number = known[0]
    if change < BEYOND * deepest or deepest >= 0:
        return None, 0.0
    if change < deepest:
        return lost * change / deepest, abs(lost) * (change / deepest - 1) + math.sqrt(abs(lost) / number)
    falls, losses, numbers = zip(*known, (0.0, 0.0, math.inf), strict=True)
    found = float(np.interp(change, falls, losses))
    # Of images that are lost, and of how the accuracy may bend in between: a quarter of the gap to the confidence.
    return found, math.hypot(math.sqrt(abs(found) / min(numbers)), (found - change) / 4)


def _by_recalls(confusion: NDArray[np.int64], predicted: NDArray[np.int64]) -> tuple[float, float]:
    """The accuracy under new shares of the classes, and its variance."""
    counts = confusion + 1 / len(confusion)
    given = counts / counts.sum(axis=1, keepdims=True)
    shares = np.full(len(given), 1 / len(given))
    seen = predicted / max(predicted.sum(), 1)
    for _ in range(STEPS):
        shares = shares * (given @ (seen / np.maximum(shares @ given, 1e-12)))
    recalls = np.diag(given)
    return float(shares @ recalls), float(np.square(shares) @ (recalls * (1 - recalls) / counts.sum(axis=1)))


def _interval(value: float, variance: float, method: str) -> AccuracyEstimate:
    half = NORMAL_QUANTILE * math.sqrt(max(variance, 0.0))
    return AccuracyEstimate(value, max(0.0, value - half), min(1.0, value + half), method)
