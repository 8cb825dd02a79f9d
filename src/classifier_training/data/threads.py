"""Work on the samples of a batch side by side."""

from __future__ import annotations

import functools
import os
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.utils.data import get_worker_info

from classifier_training.core.runtime import num_cores

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")


def map_samples(work: Callable[[int], Result], number: int) -> list[Result]:
    """Call `work` with 0 to number - 1: in threads of one torch thread each, or in a row in a loader process.

    What a sample's arithmetic gives then depends on nothing but the sample: neither on how many cores there are nor on
    who loads it. An error of `work` is raised here.
    """
    if get_worker_info() is not None:
        return [work(place) for place in range(number)]
    tasks = _start_threads(os.getpid())
    # A task a thread, not a sample: handing one over takes as long as a small image.
    parts = [range(start, number, num_cores()) for start in range(min(number, num_cores()))]
    answers: SimpleQueue[Any] = SimpleQueue()
    for part in parts:
        tasks.put((work, part, answers))
    results: dict[int, Result] = {}
    for _ in parts:
        answer = answers.get()
        if isinstance(answer, BaseException):
            raise answer
        results.update(answer)
    return [results[place] for place in range(number)]


@functools.cache
def _start_threads(_process: int) -> SimpleQueue[Any]:
    """Start this process's threads; returns where they take their tasks from.

    A pool of concurrent.futures keeps its locks in Python, where a Ctrl-C between two lines leaves one locked for good.
    """
    tasks: SimpleQueue[Any] = SimpleQueue()
    started = threading.Barrier(num_cores() + 1)
    # The number of threads is each thread's own in OpenMP, but torch also keeps it for threads to come.
    before = torch.get_num_threads()
    for number in range(num_cores()):
        threading.Thread(target=_serve, args=(tasks, started), name=f"samples-{number}", daemon=True).start()
    started.wait()
    torch.set_num_threads(before)
    return tasks


def _serve(tasks: SimpleQueue[Any], started: threading.Barrier) -> None:
    torch.set_num_threads(1)
    started.wait()
    while True:
        work, places, answers = tasks.get()
        try:
            answers.put([(place, work(place)) for place in places])
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits for it
            answers.put(error)
        del work, places, answers
