"""An estimate of the accuracy on predictions without labels, from how sure the model is of them."""
from __future__ import annotations
from dataclasses import dataclass
@dataclass(frozen=True)
class AccuracyEstimate:
    value: float | None
def estimate_accuracy(reference, sketch, test):
    from classifier_training.monitoring.statistics import CONFIDENCE
    return AccuracyEstimate(sketch.means[CONFIDENCE]+reference.accuracy-reference.sketch.means[CONFIDENCE])
