"""Work on the samples of a batch side by side."""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import torch
from torch.utils.data import get_worker_info

from classifier_training.core.runtime import num_cores

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")


def map_samples(work: Callable[[int], Result], number: int) -> list[Result]:
    """Call `work` with 0 to number - 1: in threads of one torch thread each, or in a row in a loader process.

    What a sample's arithmetic gives then depends on nothing but the sample: neither on how many cores there are nor on
    who loads it.
    """
    if get_worker_info() is not None:
        return [work(place) for place in range(number)]
    pool = _pool(os.getpid())
    # A task a thread, not a sample: handing one over takes as long as a small picture.
    parts = [range(start, number, num_cores()) for start in range(min(number, num_cores()))]
    done = pool.map(lambda places: [work(place) for place in places], parts)
    results: dict[int, Result] = {}
    for places, found in zip(parts, done, strict=True):
        results.update(zip(places, found, strict=True))
    return [results[place] for place in range(number)]


@functools.cache
def _pool(_process: int) -> ThreadPoolExecutor:
    # The number of threads is each thread's own in OpenMP, but torch also keeps it for threads to come.
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(num_cores(), "samples", initializer=torch.set_num_threads, initargs=(1,))
    for task in [pool.submit(_wait_a_little) for _ in range(num_cores())]:
        task.result()
    torch.set_num_threads(before)
    return pool


def _wait_a_little() -> None:
    # So long that every thread is started, for the one before is still busy when the next task comes.
    import time

    time.sleep(0.01)
