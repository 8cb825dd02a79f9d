"""How fast a file answers, against another one, on this machine. Needs no torch."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.runtime import num_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NUM_RUNS, NUM_WARM_UPS = 30, 5


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds for one image.

    Args:
        median_ms: half of the runs were faster.
        quartiles_ms: a quarter and three quarters of the runs were faster.
        num_runs: that were timed.
        num_threads: of the runtime.
    """

    median_ms: float
    quartiles_ms: tuple[float, float]
    num_runs: int
    num_threads: int


def measure_side_by_side(candidates: Sequence[Callable[[], object]], *, num_runs: int = NUM_RUNS) -> list[Latency]:
    """Time functions in turn, so that a noisy moment hits all of them."""
    seconds = np.empty((num_runs, len(candidates)))
    for run in range(-NUM_WARM_UPS, num_runs):
        for column, candidate in enumerate(candidates):
            start = time.perf_counter()
            candidate()
            if run >= 0:
                seconds[run, column] = time.perf_counter() - start
    low, middle, high = np.quantile(seconds * 1e3, [0.25, 0.5, 0.75], axis=0)
    return [
        Latency(
            median_ms=float(middle[column]),
            quartiles_ms=(float(low[column]), float(high[column])),
            num_runs=num_runs,
            num_threads=num_cores(),
        )
        for column in range(len(candidates))
    ]
