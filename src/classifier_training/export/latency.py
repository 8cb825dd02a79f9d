"""How fast a file answers, against another one, on this machine. Needs no torch."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import UserError
from classifier_training.core.runtime import leave_interrupts, num_cores
from classifier_training.export.session import INPUT_NAME, open_session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

log = logging.getLogger(__name__)

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


def measure_latency_ms(model: Path) -> float | None:
    """Return the median time of an answer for one image on the CPU with all cores, in ms; None where it fails.

    The model is opened in another process: it may take more memory than this one should.
    """
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=leave_interrupts)
    with pool:
        try:
            return pool.submit(_measure, model).result()
        except (UserError, BrokenProcessPool) as error:
            log.warning("%s: its latency cannot be measured: %s", model, error)
            return None


def _measure(model: Path) -> float:
    session = open_session(model)
    (wanted,) = [item for item in session.get_inputs() if item.name == INPUT_NAME]
    dtype = np.float16 if "float16" in wanted.type else np.float32
    # Answers to noise take as long as others.
    pixels = np.random.default_rng(0).standard_normal((1, *wanted.shape[1:])).astype(dtype)
    (found,) = measure_side_by_side([lambda: session.run(None, {INPUT_NAME: pixels})])
    return found.median_ms
