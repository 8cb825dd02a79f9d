"""Many runs, each in a process of its own with its share of the cores or its GPU."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING

from classifier_training.core.errors import InterruptedRunError
from classifier_training.core.run_dir import write_json
from classifier_training.core.runtime import num_cores, share_of_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

log = logging.getLogger(__name__)

GRACE_SECONDS = 60.0
"""Time for a job to write its checkpoint after SIGTERM."""

TAIL_BYTES = 20_000


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command to run.

    Args:
        name: for display; unique among the jobs of a call.
        folder: of its log, record and outputs.
        words: returns the arguments of the command line when the job is started, or None where nothing is left to
            do.
    """

    name: str
    folder: Path
    words: Callable[[], Sequence[str] | None]

    @property
    def log(self) -> Path:
        """Output of the process."""
        return self.folder / "job.log"

    @property
    def record(self) -> Path:
        """Outcome of its last process."""
        return self.folder / "job.json"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Outcome of the last process of a job.

    Args:
        exit_code: 0 for success; negative for a signal.
        seconds: duration.
        reason: why it failed; empty for success.
    """

    exit_code: int
    seconds: float
    reason: str = ""


def read_outcome(record: Path) -> Outcome | None:
    """Read the record of a job; None if it is missing or damaged."""
    try:
        return Outcome(**json.loads(record.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


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


def run_jobs(jobs: Sequence[Job], *, num_parallel: int, remedy: str) -> dict[str, Outcome | None]:
    """Run jobs in parallel; a failed job does not stop the others.

    Each has its share of the cores, or one of the GPUs in turn. If another process runs a job already, such as the
    child of a killed command, its end is waited for. Ctrl-C and SIGTERM are passed to the running jobs as SIGTERM.

    Args:
        jobs: what to run.
        num_parallel: jobs at a time.
        remedy: what the user does after an interruption.

    Returns:
        The outcome of each by name; None for those with nothing left to do.

    Raises:
        InterruptedRunError: when a signal ended it; no process is left.
    """
    slots: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(num_parallel):
        slots.put(number)
    runner = _Runner(num_parallel=num_parallel, gpus=visible_gpus())

    def run(job: Job) -> Outcome | None:
        slot = slots.get()
        try:
            return runner.run(job, slot)
        finally:
            slots.put(slot)

    with ThreadPoolExecutor(num_parallel) as pool, _signals_raise():
        futures = {job.name: pool.submit(run, job) for job in jobs}
        try:
            wait(futures.values())
        except _Signal as stopped:
            for future in futures.values():
                future.cancel()
            runner.stop()
            raise InterruptedRunError(stopped.number, remedy) from stopped
    return {name: future.result() for name, future in futures.items()}


class _Runner:
    """Starts processes; after `stop`, none."""

    def __init__(self, *, num_parallel: int, gpus: Sequence[str]) -> None:
        self._environment = {**os.environ, **share_of_cores(max(1, num_cores() // num_parallel))}
        self._gpus = gpus
        self._stopping = Event()
        self._lock = Lock()
        self._running: set[subprocess.Popen[bytes]] = set()

    def run(self, job: Job, slot: int) -> Outcome | None:
        """Run one job to its end; in a thread."""
        job.folder.mkdir(parents=True, exist_ok=True)
        with (job.folder / "job.lock").open("w") as held:
            while not _locked(held.fileno()):
                log.info("%s: another process runs it; waiting", job.name)
                if self._stopping.wait(5.0):
                    return None
            words = job.words()
            if words is None:
                return None
            log.info("%s: started", job.name)
            started = time.monotonic()
            code = self._process(job, words, slot, held.fileno())
            outcome = Outcome(
                exit_code=code,
                seconds=time.monotonic() - started,
                reason=failure_words(code, _tail(job.log)) if code else "",
            )
            write_json(job.record, asdict(outcome))
        if not self._stopping.is_set():
            log.log(
                logging.WARNING if code else logging.INFO,
                "%s: %s after %.0f s", job.name, outcome.reason or "done", outcome.seconds,
            )  # fmt: skip
        return outcome

    def stop(self) -> None:
        """Terminate all processes; kill those that are still running after the grace period."""
        self._stopping.set()
        with self._lock:
            running = list(self._running)
        for process in running:
            process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("process %d is still running %.0f s after SIGTERM; killing it", process.pid, GRACE_SECONDS)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def _process(self, job: Job, words: Sequence[str], slot: int, held: int) -> int:
        environment = dict(self._environment)
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[slot % len(self._gpus)]
        with job.log.open("ab") as written:
            with self._lock:
                if self._stopping.is_set():
                    return -signal.SIGTERM
                # In a session of its own it does not receive Ctrl-C, which is passed on as SIGTERM. It inherits the
                # open lock, which is thus held for as long as the job runs, even if this process is killed.
                process = subprocess.Popen(  # noqa: S603 - our own program
                    [sys.executable, "-m", "classifier_training", *words],
                    stdin=subprocess.DEVNULL, stdout=written, stderr=subprocess.STDOUT,
                    env=environment, start_new_session=True, pass_fds=(held,),
                )  # fmt: skip
                self._running.add(process)
            code = process.wait()
        with self._lock:
            self._running.discard(process)
        return code


def failure_words(code: int, tail: str) -> str:
    """Say why a process failed, from its exit code and the last of what it said."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}" + (", as by a system that runs out of memory" if code == -signal.SIGKILL else "")
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    said = (errors or lines or [""])[-1].removeprefix("error: ")
    return f"exit code {code}: {said}" if said else f"exit code {code}"


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return file.read().decode("utf-8", "replace")


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class _Signal(BaseException):
    """SIGINT or SIGTERM, raised in the thread that waits for jobs."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    def raise_signal(number: int, _frame: FrameType | None) -> None:
        # A second signal must not interrupt the shutdown.
        for each in watched:
            signal.signal(each, signal.SIG_IGN)
        raise _Signal(number)

    watched = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, raise_signal) for number in watched}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
