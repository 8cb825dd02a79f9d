"""Alerting rules for Prometheus, on the metrics of `serve`, with the limits that follow from the validation images."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import yaml

from classifier_training.core.errors import shown
from classifier_training.monitoring.shifts import FAMILIES, LEVEL, MARGIN, MIN_NUMBER, TESTED
from classifier_training.monitoring.statistics import CONFIDENCE, UNLIKE

if TYPE_CHECKING:
    from classifier_training.monitoring.reference import Reference

PERIOD = "1d"
"""Over which the rules look back."""

NUMBER = 300
"""Predictions of a period that the limits are for; of fewer, chance alone may raise an alert."""

MAX_CLASSES = 20
"""Up to which the shares of the classes have a rule."""

ARM = 'arm="production"'


def alert_rules(reference: Reference) -> str:
    """Return a rules file: the confidence has fallen, images are unlike the training images, class shares have changed.

    Args:
        reference: of the run that serves.
    """
    count = f"increase(classifier_confidence_count{{{ARM}}}[{PERIOD}])"
    enough = f"sum({count}) >= {MIN_NUMBER}"
    confidence = f"sum(increase(classifier_confidence_sum{{{ARM}}}[{PERIOD}])) / sum({count})"
    means, number = reference.sketch.means, reference.sketch.number
    lowest = float(means[CONFIDENCE]) - _half(float(reference.deviations[CONFIDENCE]), number)
    rules = [
        _rule(
            "ClassifierConfidenceFallen",
            f"{confidence} < {lowest:.4f} and {enough}",
            f"mean confidence of {PERIOD} below {lowest:.3f}; {means[CONFIDENCE]:.3f} on the validation images",
        )
    ]
    # serve shows scores as a multiple of the threshold, which says nothing where that is negative, as of an energy.
    if math.isfinite(means[UNLIKE]) and reference.novelty is not None and reference.novelty.threshold > 0:
        share = float(means[UNLIKE])
        highest = share + _half(math.sqrt(max(share * (1 - share), 0.01)), number)
        below = f'increase(classifier_novelty_ratio_bucket{{{ARM},le="1.0"}}[{PERIOD}])'
        unlike = f"1 - sum({below}) / sum(increase(classifier_novelty_ratio_count{{{ARM}}}[{PERIOD}]))"
        rules.append(
            _rule(
                "ClassifierImagesUnlikeTraining",
                f"{unlike} > {highest:.4f} and {enough}",
                f"more than {highest:.1%} of the images are unlike the training images; {share:.1%} of the validation "
                "images",
            )
        )
    names = reference.sketch.class_names
    if len(names) <= MAX_CLASSES:
        total = f"sum(increase(classifier_predictions_total{{{ARM}}}[{PERIOD}]))"
        parts = [
            f"abs(sum(increase(classifier_predictions_total{{{ARM},label={_quoted(name)}}}[{PERIOD}])) / {total} "
            f"- {share:.4f})"
            for name, share in zip(names, reference.sketch.shares, strict=True)
        ]
        # The expected distance of two samples of the same shares, and as much again for chance.
        limit = MARGIN + math.sqrt(len(names) * (1 / number + 1 / NUMBER) / 2)
        rules.append(
            _rule(
                "ClassifierClassSharesChanged",
                f"({' + '.join(parts)}) / 2 > {limit:.4f} and {enough}",
                f"the shares of the predicted classes are {limit:.0%} or more from those of the validation images",
            )
        )
    rules.append(
        _rule(
            "ClassifierAnswersNotSketched",
            " + ".join(f"increase(classifier_{name}_total[{PERIOD}])" for name in ("unseen_answers", "observer_errors"))
            + " > 0",
            "answers are missing in the sketches that watch reads",
        )
    )
    text = yaml.safe_dump(
        {"groups": [{"name": "classifier-training", "rules": rules}]}, sort_keys=False, width=4096, allow_unicode=True
    )
    return f"# Limits from {number:,} validation images, for {NUMBER} predictions in {PERIOD} or more.\n{text}"


def _half(deviation: float, number: int) -> float:
    """How far a mean of `NUMBER` predictions may be from that of the validation images without an alert."""
    from scipy.stats import norm

    quantile = float(norm.isf(LEVEL / FAMILIES / TESTED / 2))
    return deviation * (MARGIN + quantile * math.sqrt(1 / NUMBER + 1 / max(number, 1)))


def _quoted(name: str) -> str:
    return json.dumps(shown(name), ensure_ascii=False)


def _rule(name: str, expression: str, words: str) -> dict[str, Any]:
    return {
        "alert": name,
        "expr": expression,
        "for": "1h",
        "labels": {"severity": "warning"},
        "annotations": {"summary": words},
    }
