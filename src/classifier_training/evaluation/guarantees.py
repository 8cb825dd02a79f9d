"""A confidence above which predictions are correct as often as asked for, on new images too, not only on those seen.

The lowest threshold whose observed share of correct predictions reaches a wish is optimistic: it is the luckiest of
many. Here thresholds are tested instead (Learn then Test; Angelopoulos et al. 2021, arXiv:2110.01052): that fewer
predictions above a threshold are correct than asked for is a null hypothesis, which an exact binomial test rejects.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.evaluation.groups import Groups, effective_trials

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

DELTA = 0.1
"""Default of the chance that a threshold does not hold."""

METHOD = "fixed-sequence tests, exact binomial (Learn then Test, Angelopoulos et al. 2021, arXiv:2110.01052)"

MAX_CELLS = 2**22


def needed_predictions(precision: float, delta: float) -> int:
    """Fewest predictions, all of them correct, that show a precision with a confidence of 1 - delta.

    59 for a precision of 0.95 and a delta of 0.05, since 0.95^59 < 0.05; none are enough for a precision of 1.
    """
    return math.ceil(math.log(delta) / math.log(precision) - 1e-9) if precision < 1 else 2**63 - 1


def num_accepted(
    correct: NDArray[np.bool_],
    last_of_equals: NDArray[np.bool_],
    precision: float,
    delta: float,
    groups: NDArray[np.int64] | None = None,
) -> int:
    """How many of the most confident predictions can be accepted, so that the precision holds for new ones.

    With a chance of 1 - delta over the labelled images, at least the share `precision` of all predictions that are more
    confident than the first one that is not accepted is correct, in the population that the images are drawn from.

    The tests begin at a half, a quarter, an eighth of the predictions and so on, as far as so many can show anything,
    and each sequence goes on to less confident ones until the first test that does not reject. That needs no further
    correction: the first hypothesis that is true is rejected with a chance of at most delta, divided by the number of
    sequences. Where the n-th most confident prediction lies, the n - 1 before it are independent draws of the
    predictions that are more confident; so the test is exact, and its sequence does not depend on the labels.

    Args:
        correct: whether each prediction is, the most confident first [N].
        last_of_equals: whether the next prediction is less confident [N].
        precision: wanted share of correct predictions.
        delta: chance that the precision does not hold.
        groups: of the predictions [N], where those of one group are not independent; the test is then of the
            effective numbers of `effective_trials`, and no longer exact.
    """
    number = len(correct)
    starts = _starts(number, precision, delta)
    if not starts:
        return 0
    passes = _p_values(correct, precision, delta, groups) <= delta / len(starts)
    # Predictions of one confidence are accepted together or not at all: no test lies between them.
    passes |= ~last_of_equals
    best = 0
    for start in starts:
        stopped = np.flatnonzero(~passes[start - 1 :])
        end = start - 1 + (int(stopped[0]) if len(stopped) else number - start + 1)
        reached = np.flatnonzero(last_of_equals[start - 1 : end])
        best = max(best, start + int(reached[-1]) if len(reached) else 0)
    return best


def _starts(number: int, precision: float, delta: float) -> list[int]:
    for many in range(number.bit_length() - 1, 0, -1):
        if number >> many >= needed_predictions(precision, delta / many):
            return [number >> place for place in range(1, many + 1)]
    needed = needed_predictions(precision, delta)
    return [needed] if needed <= number else []


def _p_values(correct: NDArray[np.bool_], precision: float, delta: float, groups: NDArray[np.int64] | None) -> Floats:
    """Of the hypothesis that fewer than `precision` are correct, by the first 1 to N predictions [N]."""
    from scipy.special import betainc

    trials = np.arange(1, len(correct) + 1, dtype=np.float64)
    errors = np.cumsum(~correct).astype(np.float64)
    if groups is not None:
        effective = effective_trials(_prefixes(~correct, groups), 1 - 2 * delta).numbers
        errors, trials = errors / trials * effective, np.maximum(effective, 1e-9)
    # The chance of at most so many errors, if the share of correct ones were just too low.
    some = errors < trials
    return np.where(some, betainc(np.where(some, trials - errors, 1), errors + 1, precision), 1.0)


def _prefixes(wrong: NDArray[np.bool_], groups: NDArray[np.int64]) -> Iterator[tuple[Floats, Floats]]:
    """Errors and predictions of each group among the first 1 to N [G', N], some groups at a time."""
    grouped = Groups(np.unique(groups, return_inverse=True)[1].astype(np.int64))
    step = max(1, MAX_CELLS // len(wrong))
    for first in range(0, len(grouped), step):
        member = grouped.numbers == np.arange(first, min(first + step, len(grouped)))[:, None]
        yield (member & wrong).cumsum(axis=1).astype(float), member.cumsum(axis=1).astype(float)
