"""`optimizer.lr=auto`: the learning-rate range test (Smith 2017, arXiv:1506.01186)."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from classifier_training.core.types import Batch
    from classifier_training.training.trial import Trial

log = logging.getLogger(__name__)

LOWEST_LR, HIGHEST_LR, NUM_STEPS = 1e-7, 10.0, 100

SMOOTHING = 0.98
"""Memory of the running mean of losses, as fastai's."""

DIVERGED = 4.0
"""A smoothed loss this many times the lowest ends the sweep."""

SKIPPED_STEPS = 5
"""First steps whose running mean is of too few losses to be looked at."""


@dataclass(frozen=True)
class LrRange:
    """A sweep of the learning rate.

    Args:
        rates: of each step [S], rising exponentially.
        losses: smoothed [S].
    """

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]


def sweep(trial: Trial, steps: Iterator[Sequence[Batch]], *, num_steps: int = NUM_STEPS) -> LrRange:
    """Step through the learning rates from the lowest to the highest, until the loss diverges.

    Groups of parameters keep the ratio of their learning rates.

    Args:
        trial: what is stepped; its optimizer was made with the learning rate 1.
        steps: the batches of each step, without end.
        num_steps: steps from the lowest to the highest.
    """
    ratios = [float(group["lr"]) for group in trial.optimizer.param_groups]
    largest = max(ratios)
    rates, losses = [], []
    mean, lowest = 0.0, math.inf
    for number in range(num_steps):
        rate = LOWEST_LR * (HIGHEST_LR / LOWEST_LR) ** (number / (num_steps - 1))
        for group, ratio in zip(trial.optimizer.param_groups, ratios, strict=True):
            group["lr"] = rate * ratio / largest
        loss = trial.step(next(steps))
        if not math.isfinite(loss):
            break
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smoothed = mean / (1 - SMOOTHING ** (number + 1))
        rates.append(rate)
        losses.append(smoothed)
        lowest = min(lowest, smoothed)
        if smoothed > DIVERGED * lowest:
            break
    return LrRange(np.array(rates), np.array(losses))


def suggest(found: LrRange) -> float:
    """Return the learning rate half way down the longest valley of the losses, as fastai suggests by default.

    There the loss falls well, and the rate is clear of the one from which it rises.

    Raises:
        UserError: when the loss falls nowhere.
    """
    rates, losses = found.rates[SKIPPED_STEPS:], found.losses[SKIPPED_STEPS:]
    valley = longest_fall(losses)
    if len(valley) < 3 or losses[valley[-1]] >= losses[0]:
        raise UserError(
            f"optimizer.lr=auto: the loss falls at no learning rate from {LOWEST_LR:g} to {HIGHEST_LR:g}",
            "a network that learns something of the data in a hundred steps",
            "a number, as in optimizer.lr=0.001; and look whether the labels belong to the images",
        )
    # Rounded to what is printed, so that the number can be typed again.
    return float(f"{rates[(valley[0] + valley[-1]) // 2]:.2e}")


def longest_fall(values: NDArray[np.float64]) -> list[int]:
    """Return the places of the longest strictly falling subsequence; of several, one that begins late."""
    lengths = np.ones(len(values), dtype=np.int64)
    before = np.full(len(values), -1)
    for place in range(len(values)):
        higher = np.flatnonzero(values[:place] > values[place])
        if len(higher):
            # The last of the longest, so that a plateau before the fall is no part of it.
            before[place] = higher[::-1][lengths[higher][::-1].argmax()]
            lengths[place] = lengths[before[place]] + 1
    places = []
    place = int(lengths.argmax()) if len(values) else -1
    while place >= 0:
        places.append(place)
        place = int(before[place])
    return places[::-1]
