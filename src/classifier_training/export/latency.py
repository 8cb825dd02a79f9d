"""How fast a file answers, against another one, on this machine. Needs no torch."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.runtime import num_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NUM_RUNS, NUM_WARM_UPS = 30, 3
BLOCK = 10
REST_SECONDS = 0.25


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
    """Time functions in turn, a block of runs each, so that a noisy minute hits all of them.

    Each block begins with a rest and warm-up runs: the threads of the one before go on spinning for a while, and would
    take the cores away.
    """
    seconds: list[list[float]] = [[] for _ in candidates]
    for start in range(0, num_runs, BLOCK):
        for candidate, timed in zip(candidates, seconds, strict=True):
            time.sleep(REST_SECONDS)
            for _ in range(NUM_WARM_UPS):
                candidate()
            for _ in range(min(BLOCK, num_runs - start)):
                began = time.perf_counter()
                candidate()
                timed.append(time.perf_counter() - began)
    quantiles = np.quantile(np.array(seconds).T * 1e3, [0.25, 0.5, 0.75], axis=0)
    low, middle, high = quantiles
    return [
        Latency(
            median_ms=float(middle[column]),
            quartiles_ms=(float(low[column]), float(high[column])),
            num_runs=num_runs,
            num_threads=num_cores(),
        )
        for column in range(len(candidates))
    ]
