"""Whether predictions have changed: by day, against the validation images, with a bound on false alarms.

Two questions are asked of each day, and of the week that ends with it. Have the shares of the predicted classes
changed (a chi-squared test)? Have the statistics of the images, and of the model's confidence and novelty, changed by
more than the shares explain (a z-test of each)? The second compares with the validation images weighted to the day's
predicted classes, so that a change of the labels alone (Lipton et al. 2018, arXiv:1802.03916) is not taken for one of
the images. Testing the model's outputs and a few numbers of its inputs one by one, corrected for their number, is what
Rabanser et al. (2019, arXiv:1810.11953) found to work best.

The level is Bonferroni's: of a month without a change, at most one in twenty has an alarm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.monitoring.statistics import IMAGE_STATISTICS, NAMES, UNLIKE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from classifier_training.monitoring.reference import Reference
    from classifier_training.monitoring.sketch import Sketch

    Floats = NDArray[np.float64]

FALSE_ALARMS, MONTH = 0.05, 30
"""Chance of an alarm in this many days without a change."""

WINDOWS = (1, 7)
"""Days that are tested together: one finds a large change soon, seven find a small one."""

MIN_NUMBER = 50
"""Predictions of a window; fewer are not tested."""

MARGIN = 0.1
"""Change of a mean, in standard deviations, that is too small to be of interest: no two collections are the same."""

MIN_LABELS = 0.05
"""Total variation between the shares of the classes that is too small to be of interest."""

MIN_CELL = 5
"""Expected predictions of a class that the chi-squared test counts by itself; rarer ones are counted together."""

LEVEL = FALSE_ALARMS / MONTH / len(WINDOWS)
"""Of the tests of one window."""

FAMILIES, TESTED = 2, len(NAMES)
"""The shares of the classes and the statistics have half of the level each; the statistics share theirs."""

MIN_LIKENESS = 0.5
"""Cosine with a known change from which on a change is called after it."""

NUM_IMAGE, NUM_MOVED = len(IMAGE_STATISTICS), 3
"""Statistics of the images, and how many of them, the most moved, say what share of the images has changed."""

MIN_SHARE = 0.6
"""Share of the images from which on all count as changed."""

MAX_UNLIKE, MIN_EXCESS = 1.5, 0.3
"""How much more unlike the training images a part of the images is than the strongest known copies, to be foreign: a
multiple, and standard deviations besides."""

LABELS, FOREIGN, OTHER = "label shift", "foreign images", "other"


@dataclass(frozen=True, eq=False)
class ShiftTest:
    """The comparison of a window with the validation images.

    Args:
        window: days in it.
        number: of predictions.
        label_p: p-value that the shares of the predicted classes are as before; 1 where they differ by too little.
        distance: total variation between these shares.
        p_values: that each statistic is as before, within the margin [F].
        effects: change of each statistic, in standard deviations, beyond what the shares explain [F].
        kind: what the change is; empty without one.
        share: of the images that has changed, about.
    """

    window: int
    number: int
    label_p: float
    distance: float
    p_values: Floats
    effects: Floats
    kind: str = ""
    share: float = 1.0

    @property
    def p_value(self) -> float:
        """Of all tests of the window together, corrected for their number."""
        return min(1.0, FAMILIES * min(self.label_p, TESTED * float(self.p_values.min())))

    @property
    def is_shift(self) -> bool:
        """Whether there is a change."""
        return self.p_value < LEVEL

    @property
    def is_partial(self) -> bool:
        """Whether only a part of the images has changed, such as those of one camera."""
        return self.is_covariate and self.share < MIN_SHARE

    @property
    def is_covariate(self) -> bool:
        """Whether the images have changed, not their labels alone."""
        return FAMILIES * TESTED * float(self.p_values.min()) < LEVEL


def compare(reference: Reference, sketch: Sketch, *, window: int = 1) -> ShiftTest:
    """Compare predictions with those of the validation images.

    Args:
        reference: of the model.
        sketch: of the predictions, by the same model.
        window: days in it.
    """
    from scipy.stats import norm

    label_p, distance = _compare_labels(reference.sketch.predicted, sketch.predicted)
    shares = sketch.shares
    known = np.maximum(sketch.known, 1)
    means = sketch.totals / known
    expected = shares @ reference.class_means
    deviations = reference.scale
    own = np.maximum(sketch.squares / known - np.square(means), 0)
    # The variance between the classes is part of the window's own, so that this errs on the safe side.
    variance = np.maximum(own, np.square(deviations))
    counts = np.maximum(reference.sketch.predicted, 1)
    errors = np.sqrt(variance / known + np.square(deviations) * float((np.square(shares) / counts).sum()))
    usable = (sketch.known >= MIN_NUMBER) & (reference.sketch.known > 0)
    effects = np.where(usable, (means - expected) / deviations, 0.0)
    z = np.maximum(np.abs(effects) - MARGIN, 0) * deviations / errors
    found = ShiftTest(window, sketch.number, label_p, distance, 2 * norm.sf(z), effects)
    if not found.is_shift:
        return found
    if not found.is_covariate:
        return replace(found, kind=LABELS)
    is_unlike = effects[UNLIKE] > 0 and FAMILIES * TESTED * found.p_values[UNLIKE] < LEVEL
    spread = np.maximum(own / np.square(deviations) - 1, 0)
    kind, share = name_kind(reference, effects, spread, is_unlike=bool(is_unlike))
    return replace(found, kind=kind, share=share)


def judge_days(reference: Reference, days: Mapping[str, Sketch]) -> list[ShiftTest]:
    """Test each day, and the week that ends with it where the day alone shows nothing.

    Days that show a change by themselves are left out of the weeks, so that a change that is over is not found again.

    Args:
        reference: of the model.
        days: sketches by day, YYYY-MM-DD, in order.

    Returns:
        One test a day: of the day, or of the week where only that shows a change.
    """
    found: list[ShiftTest] = []
    quiet: dict[date, Sketch] = {}
    for name, sketch in days.items():
        day, width = date.fromisoformat(name), WINDOWS[-1]
        test = compare(reference, sketch)
        if not test.is_shift:
            quiet[day] = sketch
            week = [one for place, one in quiet.items() if day - place < timedelta(days=width)]
            if len(week) > 1:
                together = week[0]
                for one in week[1:]:
                    together = together.merge(one)
                wider = compare(reference, together, window=width)
                test = wider if wider.is_shift else test
        found.append(test)
    return found


def change_point(reference: Reference, days: Mapping[str, Sketch], last: ShiftTest) -> tuple[str, str]:
    """Say since when predictions have been as they are now: the most likely first day, and the earliest that may be.

    The likelihood of each first day is that of a constant change in the direction of the last one, after days like the
    validation images (Hinkley 1970, doi:10.1093/biomet/57.1.1); days within 2 of the highest logarithm may be it.

    Args:
        reference: of the model.
        days: sketches by day, in order.
        last: test of the last day.
    """
    numbers = np.array([sketch.number for sketch in days.values()], np.float64)
    if last.kind == LABELS:
        before = reference.sketch.shares
        direction = list(days.values())[-1].shares - before
        scores = np.array([(sketch.shares - before) @ direction for sketch in days.values()])
        spread = float(before @ np.square(direction) - (before @ direction) ** 2)
    else:
        scores = np.array([compare(reference, sketch).effects @ last.effects for sketch in days.values()])
        scale = np.outer(reference.deviations, reference.deviations)
        correlation = np.divide(reference.covariance, scale, out=np.zeros_like(scale), where=scale > 0)
        spread = float(last.effects @ correlation @ last.effects)
    weighted, total = np.cumsum((numbers * scores)[::-1])[::-1], np.cumsum(numbers[::-1])[::-1]
    gains = np.square(np.maximum(weighted, 0)) / (2 * total * max(spread, 1e-12))
    names = list(days)
    return names[int(gains.argmax())], names[int(np.flatnonzero(gains >= gains.max() - 2)[0])]


def name_kind(reference: Reference, effects: Floats, spread: Floats, *, is_unlike: bool) -> tuple[str, float]:
    """Say which known change moves the statistics in the direction of these effects.

    Foreign images among others move statistics, too, perhaps in the direction of a known change. But then only a part
    of the images is moved, which spreads the statistics, and more of that part is unlike the training images than of
    images with the known change.

    Args:
        reference: of the model.
        effects: change of each statistic, in standard deviations [F].
        spread: growth of its variance, as a multiple of what it was [F].
        is_unlike: whether more images than before are unlike the training images.

    Returns:
        The kind, and the share of the images that has changed.
    """
    most = np.argsort(-np.abs(effects[:NUM_IMAGE]))[:NUM_MOVED]
    # Of a share q that is moved by D, the mean is moved by qD and the variance grows by q (1 - q) D^2.
    share = float((np.square(effects[most]) / np.maximum(np.square(effects[most]) + spread[most], 1e-12)).max())
    shifts = [one.shift / reference.scale for one in reference.responses]
    likeness, place = max(((_likeness(effects, one), number) for number, one in enumerate(shifts)), default=(0.0, -1))
    if likeness < MIN_LIKENESS:
        return (FOREIGN if is_unlike else OTHER), share
    kind = reference.responses[place].kind
    known = max(one[UNLIKE] for one, response in zip(shifts, reference.responses, strict=True) if response.kind == kind)
    if is_unlike and share < MIN_SHARE and effects[UNLIKE] / share > MAX_UNLIKE * known + MIN_EXCESS:
        return FOREIGN, share
    return kind, share


def _likeness(one: Floats, other: Floats) -> float:
    """Cosine of two changes, in the logarithm of their size, so that the largest number does not decide alone."""
    first, second = (np.sign(change) * np.log1p(np.abs(change)) for change in (one, other))
    return float(first @ second / max(np.linalg.norm(first) * np.linalg.norm(second), 1e-12))


def _compare_labels(before: NDArray[np.int64], now: NDArray[np.int64]) -> tuple[float, float]:
    """P-value that two counts of the classes have the same shares, and the total variation between them."""
    from scipy.stats import chi2

    distance = float(np.abs(before / max(before.sum(), 1) - now / max(now.sum(), 1)).sum() / 2)
    table = np.stack([before, now]).astype(np.float64)
    rare = table.sum(axis=0) * table.sum(axis=1).min() / table.sum() < MIN_CELL
    table = np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)])
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2 or distance <= MIN_LABELS or now.sum() < MIN_NUMBER:
        return 1.0, distance
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    return float(chi2.sf((np.square(table - expected) / expected).sum(), table.shape[1] - 1)), distance
