"""The process of a job on the machine that it runs on."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from classifier_training.core.run_dir import write_json
from classifier_training.core.secrets import mask_words
from classifier_training.workflows.many_runs.launch.base import GRACE_SECONDS, Node, Outcome, failure_words, read_tail

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from classifier_training.workflows.many_runs.launch.base import JobSpec

log = logging.getLogger(__name__)

GUARD = Path(__file__).with_name("guard.py")

LOCK_SECONDS = 5.0
"""Time between two looks at the lock of a job that another process runs."""


class JobProcess:
    """Runs a job as a process of this machine; it can be terminated from another thread or a signal handler.

    Args:
        job: what to run.
        environment: of the process.
        seconds: longest duration; it is terminated then.
        is_guarded: whether it ends with this process; see `guard`.
        node: which of the job's machines this is; the record is left to that of rank 0.
    """

    def __init__(
        self,
        job: JobSpec,
        environment: Mapping[str, str],
        *,
        seconds: float | None = None,
        is_guarded: bool = False,
        node: Node | None = None,
    ) -> None:
        node = node or Node()
        self._job = job
        self._environment = {**environment, **node.variables}
        self._seconds = seconds
        self._prefix = [sys.executable, "-I", "-S", str(GUARD)] if is_guarded else []
        self._stopping = Event()
        self._is_recorded = self._leads = node.rank == 0
        self._ending = f"-{node.rank}" if node.rank else ""
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> Outcome | None:
        """Run the job to its end and record it; None where nothing is left to do.

        If another process runs it already, such as the child of a killed command, its end is waited for.
        """
        job = self._job
        job.folder.mkdir(parents=True, exist_ok=True)
        with (job.folder / f"job{self._ending}.lock").open("w") as held:
            while not _locked(held.fileno()):
                log.info("%s: another process runs it; waiting", job.name)
                if self._stopping.wait(LOCK_SECONDS):
                    return None
            words = job.words_to_run()
            if words is None:
                return None
            log.info("%s: started", job.name)
            started = time.monotonic()
            code, is_late = self._run(words, held.fileno())
            reason = failure_words(code, read_tail(self._log)) if code else ""
            if is_late:
                reason = f"ended after {self._seconds:.0f} s, its time limit"
            outcome = Outcome(
                exit_code=code, seconds=time.monotonic() - started, reason=reason, words=mask_words(job.words)
            )
            if self._is_recorded:
                write_json(job.record, asdict(outcome))
        if not self._stopping.is_set():
            log.log(
                logging.WARNING if code else logging.INFO,
                "%s: %s after %.0f s", job.name, outcome.reason or "done", outcome.seconds,
            )  # fmt: skip
        return outcome

    def terminate(self, *, is_recorded: bool = True, is_told: bool = False) -> None:
        """Send SIGTERM to the process; none is started any more.

        Args:
            is_recorded: whether this ends the job; otherwise it is going to be started again.
            is_told: whether the process has got a signal from elsewhere; a second one would end it at once.
        """
        self._is_recorded = is_recorded and self._leads
        self._stopping.set()
        if self._process is not None and not is_told:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    def end(self, deadline: float) -> None:
        """Wait for the process, and kill it and its children when it is still running at a time by time.monotonic()."""
        process = self._process
        if process is None:
            return
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("process %d is still running %.0f s after SIGTERM; killing it", process.pid, GRACE_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    @property
    def _log(self) -> Path:
        return self._job.log.with_stem(self._job.log.stem + self._ending)

    def _run(self, words: Sequence[str], held: int) -> tuple[int, bool]:
        """Run a command; returns its exit code, and whether it was terminated since it took too long."""
        with self._log.open("ab") as written:
            if self._stopping.is_set():
                return -signal.SIGTERM, False
            # In a session of its own it does not receive Ctrl-C, which is passed on as SIGTERM. It inherits the
            # open lock, which is thus held for as long as the job runs, even if this process is killed.
            self._process = process = subprocess.Popen(  # noqa: S603 - our own program
                [*self._prefix, sys.executable, "-m", "classifier_training", *words],
                stdin=subprocess.DEVNULL, stdout=written, stderr=subprocess.STDOUT, cwd=self._job.directory,
                env=self._environment, start_new_session=True, pass_fds=(held,),
            )  # fmt: skip
            if self._stopping.is_set():
                # It was told to end while the process was being started.
                process.terminate()
            try:
                return process.wait(self._seconds), False
            except subprocess.TimeoutExpired:
                process.terminate()
                self.end(time.monotonic() + GRACE_SECONDS)
                return process.wait(), True


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
