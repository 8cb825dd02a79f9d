"""Requests that wait for the model are answered together, in batches."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.inference.predictor import Outputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray


@dataclass
class _Job:
    """Inputs that stay together, float32 [n, 3, H, W], and who waits for their outputs."""

    inputs: NDArray[np.float32]
    future: asyncio.Future[Outputs] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Runs a model on batches of what arrives. All methods belong to one event loop; the model runs in threads.

    A batch begins as soon as the model is free. It waits for images only while some are being prepared, and no longer
    than `max_wait_s`: an image alone never waits.

    Args:
        run: inputs, float32 [B, 3, H, W], to outputs; called in threads.
        max_batch: most images in a batch.
        max_wait_s: seconds that the first image of a batch waits for those that are being prepared.
        num_runs: batches in the model at the same time.
        ended: called with the images and seconds of each batch.
        pool: threads that the model runs in; own ones when left out.
    """

    def __init__(
        self,
        run: Callable[[NDArray[np.float32]], Outputs],
        *,
        max_batch: int,
        max_wait_s: float,
        num_runs: int,
        ended: Callable[[int, float], None],
        pool: ThreadPoolExecutor | None = None,
    ) -> None:
        self._run, self._ended = run, ended
        self._max_batch, self._max_wait = max_batch, max_wait_s
        self._pool = pool or ThreadPoolExecutor(num_runs, thread_name_prefix="model")
        self._waiting: deque[_Job] = deque()
        self._num_free, self._num_coming = num_runs, 0
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def coming(self) -> Iterator[None]:
        """Announce an image that is being prepared in this block."""
        self._num_coming += 1
        try:
            yield
        finally:
            self._num_coming -= 1
            self._pump()

    async def infer(self, inputs: NDArray[np.float32]) -> Outputs:
        """Return the outputs for inputs, float32 [n, 3, H, W]; of more than `max_batch`, those of several batches."""
        starts = range(0, len(inputs), self._max_batch)
        jobs = [_Job(inputs[start : start + self._max_batch]) for start in starts]
        self._waiting.extend(jobs)
        self._pump()
        return _joined(await asyncio.gather(*(job.future for job in jobs)))

    def close(self) -> None:
        """End the threads, once the batches that run are done."""
        self._pool.shutdown(wait=False)

    def _pump(self) -> None:
        """Begin the batches that can begin."""
        while self._waiting and self._num_free:
            number = images = 0
            for job in self._waiting:
                if images + len(job.inputs) > self._max_batch:
                    break
                number, images = number + 1, images + len(job.inputs)
            is_full = images == self._max_batch or number < len(self._waiting)
            if not is_full and self._num_coming and self._waits():
                return
            self._start([self._waiting.popleft() for _ in range(number)])

    def _waits(self) -> bool:
        """Whether the first image may wait for others; if so, a timer is set for its end."""
        left = self._waiting[0].since + self._max_wait - time.monotonic()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(left, self._pump) if left > 0 else None
        return left > 0

    def _start(self, jobs: list[_Job]) -> None:
        self._num_free -= 1
        running = asyncio.get_running_loop().run_in_executor(self._pool, self._answer, [job.inputs for job in jobs])
        running.add_done_callback(lambda done: self._finish(jobs, done))

    def _answer(self, inputs: list[NDArray[np.float32]]) -> tuple[Outputs, float]:
        started = time.perf_counter()
        found = self._run(inputs[0] if len(inputs) == 1 else np.concatenate(inputs))
        return found, time.perf_counter() - started

    def _finish(self, jobs: list[_Job], done: asyncio.Future[tuple[Outputs, float]]) -> None:
        self._num_free += 1
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        first = 0
        for job in jobs:
            rows = slice(first, first := first + len(job.inputs))
            if job.future.done():
                continue  # whoever waited has gone
            if error is not None:
                job.future.set_exception(error)
            else:
                logits, novelty = done.result()[0]
                job.future.set_result(Outputs(logits[rows], None if novelty is None else novelty[rows]))
        if error is None:
            self._ended(first, done.result()[1])
        self._pump()


def _joined(parts: Sequence[Outputs]) -> Outputs:
    if len(parts) == 1:
        return parts[0]
    scores = [part.novelty for part in parts if part.novelty is not None]
    return Outputs(np.concatenate([part.logits for part in parts]), np.concatenate(scores) if scores else None)
