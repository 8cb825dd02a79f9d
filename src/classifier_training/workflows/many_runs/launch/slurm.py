"""`launcher=slurm`: jobs of a Slurm cluster, submitted and queued again by submitit."""

from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from classifier_training.core.errors import UserError, first_line, require_extra
from classifier_training.core.register import register
from classifier_training.core.runtime import share_of_cores
from classifier_training.core.settings import Duration
from classifier_training.workflows.many_runs.launch.base import (
    GRACE_SECONDS,
    JobSpec,
    Node,
    Outcome,
    read_outcome,
    refuse_nodes,
    refuse_secrets,
)
from classifier_training.workflows.many_runs.launch.process import JobProcess

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

MAX_TIMEOUTS = 100
"""Times that a job is queued again after it has reached its time limit."""

SIGNAL_SECONDS = GRACE_SECONDS + 30
"""Time before the limit at which a job is told to save, if the limit is long enough."""

POLL_SECONDS = 3.0
"""Time between two questions to the controller."""

GONE_SECONDS = 15.0
"""Time for the record of a job that has left the queue to be seen over a network disk."""

KEPT = ("SLURM_JOB_ID", "SLURM_TMPDIR")
"""Slurm's variables that a job's command sees. By others Lightning would take itself for one of Slurm's tasks, and
queue the job again by itself."""

FIRST_PORT, NUM_PORTS = 20_000, 10_000
"""Ports on which the nodes of a job meet; below those that Linux gives to connections."""

CANCEL = signal.SIGUSR1
"""Sent by `SlurmJobs.cancel`. SIGTERM comes from Slurm, which queues a preempted job again if it waits to be killed."""


@register(group="launcher", name="slurm", extra="slurm")
@dataclass(frozen=True, kw_only=True)
class Slurm:
    """Jobs of a Slurm cluster; its nodes see this program, the data and the output folder by the same paths.

    Args:
        partition: of the cluster; its default when left out.
        time: limit of a job, 1h when left out; one that reaches it or is preempted is saved, queued again and resumed.
        nodes: machines of each job, which train its run together, with trainer=ddp.
        cores: of each job, on each node.
        gpus: of each job, on each node.
        memory_gb: of each job, on each node; the cluster's default when left out.
        account: that is charged.
        qos: quality of service.
        setup: lines of shell code that a job runs first, such as module load cuda.
        options: further options of sbatch by name, such as {constraint: a100}.
    """

    partition: str | None = None
    time: Duration | None = None
    nodes: Annotated[int, Field(ge=1)] = 1
    cores: Annotated[int, Field(ge=1)] = 1
    gpus: Annotated[int, Field(ge=0)] = 0
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    account: str | None = None
    qos: str | None = None
    setup: tuple[str, ...] = ()
    options: Mapping[str, str] | None = None

    def submit(self, jobs: Sequence[JobSpec], *, num_parallel: int | None) -> SlurmJobs:
        """Submit jobs, as one array where there are several.

        Raises:
            UserError: when Slurm's commands are missing, or it refuses the jobs.
        """
        refuse_secrets(jobs, launcher="slurm")
        refuse_nodes(jobs, self.nodes)
        try:
            import submitit
        except ImportError as error:
            raise require_extra("submitit", extra="slurm", purpose="launcher=slurm") from error
        outcomes: dict[str, Outcome | None] = {job.name: None for job in jobs if job.words_to_run() is None}
        left = [job for job in jobs if job.name not in outcomes]
        for job in left:
            job.folder.mkdir(parents=True, exist_ok=True)
            job.record.unlink(missing_ok=True)
        if not left:
            return SlurmJobs({}, outcomes)
        minutes = 60 if self.time is None else math.ceil(self.time.total_seconds() / 60)
        named = {"partition": self.partition, "account": self.account, "qos": self.qos, "setup": list(self.setup)}
        folder = (left[0].folder if len(left) == 1 else left[0].folder.parent) / "slurm"
        try:
            executor = submitit.SlurmExecutor(folder, max_num_timeout=MAX_TIMEOUTS)
            executor.update_parameters(
                job_name=left[0].name if len(left) == 1 else folder.parent.name,
                time=minutes,
                nodes=self.nodes,
                ntasks_per_node=1,
                cpus_per_task=self.cores,
                signal_delay_s=int(min(SIGNAL_SECONDS, 30 * minutes)),
                stderr_to_stdout=True,
                array_parallelism=num_parallel or len(left),
                additional_parameters={"requeue": True, **(self.options or {})},
                **({"gpus_per_node": self.gpus} if self.gpus else {}),
                **({"mem": f"{round(self.memory_gb * 1024)}M"} if self.memory_gb else {}),
                **{name: value for name, value in named.items() if value},
            )
            with executor.batch():
                submitted = [executor.submit(SlurmTask(job, self.cores, self.nodes)) for job in left]
        except (RuntimeError, OSError, submitit.core.utils.FailedJobError) as error:
            raise UserError(
                f"launcher=slurm: {first_line(error)}",
                "a machine with Slurm's commands (sbatch, squeue, scancel), and settings that the cluster accepts",
                "sinfo   shows its partitions and limits: launcher.partition= launcher.time= launcher.cores=",
            ) from error
        ids = {str(one.job_id): job for one, job in zip(submitted, left, strict=True)}
        log.info("submitted to Slurm: %s", ", ".join(sorted({name.partition("_")[0] for name in ids})))
        return SlurmJobs(ids, outcomes)


class SlurmJobs:
    """Jobs in Slurm's queue; see `Submitted`.

    That a job has ended is read from its record. The controller is asked only for those that leave none.
    """

    def __init__(self, ids: Mapping[str, JobSpec], outcomes: dict[str, Outcome | None]) -> None:
        self._ids = dict(ids)
        self._outcomes = outcomes
        self._asked = time.monotonic()
        self._gone: dict[str, float] = {}

    def ended(self) -> Mapping[str, Outcome | None]:
        """Return the outcomes so far; see `Submitted`."""
        for name, job in list(self._ids.items()):
            if (outcome := read_outcome(job.record)) is not None:
                self._end(name, outcome)
        if self._ids and time.monotonic() - self._asked > POLL_SECONDS:
            self._ask()
        return self._outcomes

    def cancel(self) -> None:
        """Have running jobs saved and ended, and take the others off the queue."""
        if not self._ids:
            return
        _call("scancel", "--state=PENDING", *self._ids)
        _call("scancel", f"--signal={CANCEL.name}", *self._ids)
        deadline = time.monotonic() + GRACE_SECONDS
        while self._queued() and time.monotonic() < deadline:
            time.sleep(1.0)
        _call("scancel", *self._ids)

    def _ask(self) -> None:
        queued = self._queued()
        self._asked = time.monotonic()
        for name, job in list(self._ids.items()):
            if queued is None or name in queued:
                self._gone.pop(name, None)
            elif self._asked - self._gone.setdefault(name, self._asked) > GONE_SECONDS:
                done = job.words_to_run() is None
                self._end(name, None if done else Outcome(exit_code=1, seconds=0.0, reason=_state_words(name, job)))

    def _queued(self) -> set[str] | None:
        """Return the ids of our jobs that wait or run; None where the controller does not answer."""
        said = _call("squeue", "--me", "--noheader", "--array", "--format=%i")
        return None if said is None else set(said.split()) & set(self._ids)

    def _end(self, name: str, outcome: Outcome | None) -> None:
        self._outcomes[self._ids.pop(name).name] = outcome


class SlurmTask:
    """What submitit runs on each node of a job.

    Args:
        job: what to run.
        num_cores: of the process.
        num_nodes: of the job.
    """

    def __init__(self, job: JobSpec, num_cores: int, num_nodes: int) -> None:
        self.job, self.num_cores, self.num_nodes = job, num_cores, num_nodes

    def __call__(self) -> int:
        """Run the job; returns its exit code."""
        environment = {
            name: value
            for name, value in os.environ.items()
            if name in KEPT or not name.startswith(("SLURM_", "SUBMITIT_"))
        }
        node = Node()
        if self.num_nodes > 1:
            # All nodes know the first one's address, and the job's number, by which its jobs do not share a port.
            port = FIRST_PORT + int(os.environ["SLURM_JOB_ID"]) % NUM_PORTS
            rank, address = int(os.environ["SLURM_PROCID"]), os.environ["SLURM_LAUNCH_NODE_IPADDR"]
            node = Node(rank=rank, num_nodes=self.num_nodes, address=address, port=port)
        self._process = JobProcess(
            self.job, {**environment, **share_of_cores(self.num_cores)}, is_guarded=True, node=node
        )
        outcomes: list[Outcome | None] = []
        # Signals are handled by the main thread, which must not be in the middle of waiting for the process then.
        self._thread = threading.Thread(target=lambda: outcomes.append(self._process.run()))
        signal.signal(CANCEL, lambda *_: self._process.terminate())
        signal.signal(signal.SIGTERM, self._await_kill)
        self._thread.start()
        while self._thread.is_alive():
            self._thread.join(0.2)
        if not outcomes:
            raise RuntimeError(f"{self.job.name} could not be started; see above")
        return 0 if outcomes[0] is None else outcomes[0].exit_code

    def checkpoint(self) -> Any:
        """Save the job and return what resumes it; called by submitit before the time limit."""
        from submitit.helpers import DelayedSubmission

        self._process.terminate(is_recorded=False)
        self._process.end(time.monotonic() + GRACE_SECONDS)
        self._thread.join()
        return DelayedSubmission(SlurmTask(self.job, self.num_cores, self.num_nodes))

    def _await_kill(self, *_: object) -> None:
        """Let the process save, which gets SIGTERM from Slurm as all do, and wait to be killed.

        A job that is preempted is queued again if it has not ended by itself.
        """
        self._process.terminate(is_recorded=False, is_told=True)
        while True:
            time.sleep(1.0)


def _call(program: str, *arguments: str) -> str | None:
    """Run one of Slurm's commands and return what it says; None where it fails."""
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - fixed commands
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("%s: %s", program, error)
        return None
    return done.stdout if done.returncode == 0 else None


def _state_words(name: str, job: JobSpec) -> str:
    """Say how a job ended that left no record."""
    said = dict(word.partition("=")[::2] for word in (_call("scontrol", "show", "job", name) or "").split())
    state, output = said.get("JobState", "UNKNOWN"), said.get("StdOut", job.folder)
    return f"Slurm's job {name} has left the queue without a result: {state} (see {output})"
