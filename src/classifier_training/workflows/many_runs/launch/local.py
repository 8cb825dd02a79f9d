"""`launcher=local`: processes of this machine, each with its share of the cores or its GPU."""

from __future__ import annotations

import os
import queue
import re
import shutil
import subprocess
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.core.register import register
from classifier_training.core.runtime import num_cores, share_of_cores
from classifier_training.workflows.many_runs.launch.base import GRACE_SECONDS, LOCAL_NAME
from classifier_training.workflows.many_runs.launch.process import JobProcess

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from classifier_training.workflows.many_runs.launch.base import JobSpec, Outcome


@register(group="launcher", name=LOCAL_NAME)
@dataclass(frozen=True, kw_only=True)
class Local:
    """This machine: one run trains in this process, and of several each in a process of its own."""

    def submit(self, jobs: Sequence[JobSpec], *, num_parallel: int | None) -> LocalJobs:
        """Start jobs in threads, one at a time unless told; each has its share of the cores, or a GPU in turn."""
        return LocalJobs(jobs, num_parallel=num_parallel or 1)


LOCAL = Local()


class LocalJobs:
    """Jobs in processes of this machine; see `Submitted`."""

    def __init__(self, jobs: Sequence[JobSpec], *, num_parallel: int) -> None:
        slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(num_parallel):
            slots.put(number)
        shared = {**os.environ, **share_of_cores(max(1, num_cores() // num_parallel))}
        gpus = visible_gpus()
        self._pool = ThreadPoolExecutor(num_parallel)
        self._processes: list[JobProcess] = []
        self._is_cancelled = threading.Event()

        def run(job: JobSpec) -> Outcome | None:
            slot = slots.get()
            own = {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {}
            process = JobProcess(job, {**shared, **own})
            self._processes.append(process)
            if self._is_cancelled.is_set():
                process.terminate()
            try:
                return process.run()
            finally:
                slots.put(slot)

        self._futures: dict[str, Future[Outcome | None]] = {job.name: self._pool.submit(run, job) for job in jobs}

    def ended(self) -> Mapping[str, Outcome | None]:
        """Return the outcomes so far; see `Submitted`."""
        return {name: future.result() for name, future in self._futures.items() if future.done()}

    def cancel(self) -> None:
        """Terminate all processes, and kill those that are still running after the grace period."""
        # First: a job that a thread has taken may not be among the processes yet.
        self._is_cancelled.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        for process in self._processes:
            process.end(deadline)
        self._pool.shutdown(wait=True)


def visible_gpus() -> list[str]:
    """Return the identifiers of the visible CUDA devices, without loading CUDA."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name and name != "-1"]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    listed = subprocess.run([program, "-L"], capture_output=True, text=True, check=False)  # noqa: S603 - a fixed command
    return re.findall(r"^GPU (\d+):", listed.stdout, re.MULTILINE)
