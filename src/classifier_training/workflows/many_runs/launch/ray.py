"""`launcher=ray`: tasks of a Ray cluster."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from contextlib import contextmanager
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
    passed_on,
    refuse_nodes,
    refuse_secrets,
)
from classifier_training.workflows.many_runs.launch.process import JobProcess

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MAX_RETRIES = 3
"""Times that a job is started again since its worker or node has died."""

FOREVER_SECONDS = 1e9
"""A time limit that is none: only a wait with a limit is interrupted when a task is cancelled."""

SWITCHES = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
"""Variables by which Ray reports no usage, and does not install the project anew for its tasks under `uv run`."""


@register(group="launcher", name="ray", extra="ray")
@dataclass(frozen=True, kw_only=True)
class Ray:
    """Tasks of a Ray cluster; its machines have this program, and see the data and output folders by the same paths.

    Args:
        address: of the cluster: auto, HOST:PORT or ray://HOST:PORT; that in $RAY_ADDRESS when left out, and without one
            Ray is started on this machine.
        nodes: machines of each job, which train its run together, with trainer=ddp.
        cores: of each job, on each node; with predict of each process.
        gpus: the same.
        memory_gb: the same; it decides where there is room for one, and limits none.
        time: after which a job is interrupted, so that it can be resumed; no limit when left out.
        environment: names of environment variables that jobs have as this process has them.
    """

    address: str | None = None
    nodes: Annotated[int, Field(ge=1)] = 1
    cores: Annotated[int, Field(ge=1)] = 1
    gpus: Annotated[int, Field(ge=0)] = 0
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    time: Duration | None = None
    environment: tuple[str, ...] = ()

    def submit(self, jobs: Sequence[JobSpec], *, num_parallel: int | None) -> RayJobs:
        """Connect to the cluster, or start one, and queue the jobs.

        Raises:
            UserError: when there is no such cluster, or it has no machine that is large enough.
        """
        refuse_secrets(jobs, launcher="ray")
        refuse_nodes(jobs, self.nodes)
        ray, is_own = self.connect()
        return RayJobs(ray, self.wanted, jobs, self, num_parallel=num_parallel or len(jobs), is_own=is_own)

    @property
    def wanted(self) -> dict[str, float]:
        """Resources of each job on each node, by Ray's names."""
        return {
            "CPU": float(self.cores),
            **({"GPU": float(self.gpus)} if self.gpus else {}),
            **({"memory": self.memory_gb * 2**30} if self.memory_gb else {}),
        }

    def connect(self) -> tuple[Any, bool]:
        """Connect to the cluster, or start one; returns the module `ray`, and whether it was not connected before.

        Raises:
            UserError: when there is no such cluster, or it has no machine that is large enough.
        """
        try:
            import ray
        except ImportError as error:
            raise require_extra("ray", extra="ray", purpose="launcher=ray") from error
        is_own = not ray.is_initialized()
        if is_own:
            with _signals_kept(), _switched():
                starts = not (self.address or os.environ.get("RAY_ADDRESS"))
                try:
                    ray.init(
                        # Without an address Ray would look for the last cluster of this machine, dead or alive.
                        address="local" if starts else self.address,
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        include_dashboard=False if starts else None,
                    )
                except (ConnectionError, ValueError, RuntimeError) as error:
                    raise UserError(
                        f"launcher.address={self.address}: {first_line(error)}",
                        "a Ray cluster that this machine can reach",
                        "ray status   shows whether there is one; without launcher.address Ray is started here",
                    ) from error
        try:
            self._refuse_too_large(self.wanted, resources(ray))
        except UserError:
            if is_own:
                ray.shutdown()
            raise
        return ray, is_own

    def _refuse_too_large(self, wanted: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> None:
        fitting = sum(all(node.get(name, 0.0) >= number for name, number in wanted.items()) for node in nodes)
        if fitting >= self.nodes:
            return
        if fitting:
            raise UserError(
                f"launcher.nodes={self.nodes}: the cluster has {fitting} with what a job asks for",
                f"at most {fitting}",
                f"launcher.nodes={fitting}",
            )
        largest = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in wanted}
        if "memory" in largest:
            largest["memory"] /= 2**30
        shown = ", ".join(
            f"{setting}={largest[name]:.4g}"
            for name, setting in (("CPU", "cores"), ("GPU", "gpus"), ("memory", "memory_gb"))
            if name in largest
        )
        raise UserError(
            "launcher=ray: no machine of the cluster has what a job asks for",
            f"at most {shown}",
            f"launcher.cores={max(1, int(largest['CPU']))}" + (" launcher.gpus=0" if not largest.get("GPU", 1) else ""),
        )


class RayJobs:
    """Jobs as tasks of Ray; see `Submitted`."""

    def __init__(
        self,
        ray: Any,
        wanted: Mapping[str, float],
        jobs: Sequence[JobSpec],
        launcher: Ray,
        *,
        num_parallel: int,
        is_own: bool,
    ) -> None:
        self._ray, self._wanted, self._launcher, self._is_own = ray, wanted, launcher, is_own
        self._num_parallel = num_parallel
        self._waiting = list(jobs)
        self._num_jobs = len(jobs)
        self._running: dict[Any, JobSpec] = {}
        self._groups: dict[Any, Any] = {}
        self._outcomes: dict[str, Outcome | None] = {}
        self._start()

    def ended(self) -> Mapping[str, Outcome | None]:
        """Return the outcomes so far; see `Submitted`."""
        references = list(self._running)
        done, _ = self._ray.wait(references, num_returns=len(references), timeout=0) if references else ([], [])
        for reference in done:
            job = self._running.pop(reference)
            if group := self._groups.pop(reference, None):
                self._ray.util.remove_placement_group(group)
            try:
                self._outcomes[job.name] = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                reason = f"the task failed: {first_line(getattr(error, 'cause', None) or error)}"
                self._outcomes[job.name] = Outcome(exit_code=1, seconds=0.0, reason=reason)
        self._start()
        if len(self._outcomes) == self._num_jobs:
            self._close()
        return self._outcomes

    def cancel(self) -> None:
        """Cancel all tasks, which terminate their processes, and wait for these."""
        self._waiting.clear()
        references = list(self._running)
        for reference in references:
            self._ray.cancel(reference)
        if references:
            # A task that does not end kills its process after the grace period.
            self._ray.wait(references, num_returns=len(references), timeout=GRACE_SECONDS + 10)
        for group in filter(None, self._groups.values()):
            self._ray.util.remove_placement_group(group)
        self._groups.clear()
        self._close()

    def _start(self) -> None:
        while self._waiting and len(self._running) < self._num_parallel:
            job, own = self._waiting.pop(0), self._launcher
            seconds = None if own.time is None else own.time.total_seconds()
            variables = {**passed_on((*own.environment, *job.environment)), **share_of_cores(own.cores)}
            options, group = asked(self._wanted), None
            if own.nodes > 1:
                group = self._ray.util.placement_group([dict(self._wanted)] * own.nodes, strategy="STRICT_SPREAD")
                options |= _in_group(group, 0)
            task = self._ray.remote(run_job).options(
                **options, name=job.name, max_retries=MAX_RETRIES, retry_exceptions=[NodeLostError]
            )
            reference = task.remote(job, variables, seconds, self._wanted, own.nodes)
            self._running[reference], self._groups[reference] = job, group

    def _close(self) -> None:
        if self._is_own and self._ray.is_initialized():
            self._ray.shutdown()


class NodeLostError(Exception):
    """A machine that a job shared with others is gone; the job is to be started again."""


def run_job(
    job: JobSpec, variables: Mapping[str, str], seconds: float | None, wanted: Mapping[str, float], num_nodes: int
) -> Outcome | None:
    """Run a job on the machine of this task, and on others as tasks of this one, which end with it.

    Args:
        job: what to run.
        variables: of the environment, besides those of the machine.
        seconds: time limit; None for none.
        wanted: resources on each machine, by Ray's names.
        num_nodes: number of machines.

    Raises:
        NodeLostError: when another machine is gone.
    """
    if num_nodes == 1:
        return run_on_node(job, variables, seconds, Node())
    import ray

    with socket.socket() as found:
        found.bind(("", 0))
        port = found.getsockname()[1]
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    nodes = [Node(rank=rank, num_nodes=num_nodes, address=address, port=port) for rank in range(num_nodes)]
    group = ray.util.get_current_placement_group()
    others = [
        ray.remote(run_on_node)
        .options(**asked(wanted), **_in_group(group, node.rank), max_retries=0)
        .remote(job, variables, seconds, node)
        for node in nodes[1:]
    ]
    outcome = run_on_node(job, variables, seconds, nodes[0])
    if outcome is not None and outcome.exit_code:
        try:
            ray.get(others, timeout=GRACE_SECONDS)
        except ray.exceptions.RayError as error:
            raise NodeLostError(f"{job.name}: {first_line(error)}") from error
    return outcome


def run_on_node(job: JobSpec, variables: Mapping[str, str], seconds: float | None, node: Node) -> Outcome | None:
    """Run a job's command on the machine of this task; see `run_job`."""
    process = JobProcess(
        job, {**os.environ, **variables}, seconds=seconds or FOREVER_SECONDS, is_guarded=True, node=node
    )
    try:
        return process.run()
    except KeyboardInterrupt:
        # Ray's way to cancel a task.
        process.terminate()
        process.end(time.monotonic() + GRACE_SECONDS)
        raise


def resources(ray: Any) -> list[Mapping[str, float]]:
    """Return what each machine of the cluster has, by Ray's names."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def asked(wanted: Mapping[str, float]) -> dict[str, Any]:
    """Return resources by the names that Ray's tasks have for them."""
    return {"num_cpus": wanted["CPU"], "num_gpus": wanted.get("GPU", 0), "memory": wanted.get("memory")}


def _in_group(group: Any, place: int) -> dict[str, Any]:
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    return {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=place)}


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep the handlers of signals, in whose place Ray puts its own."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _switched() -> Iterator[None]:
    """Set Ray's switches unless the user has."""
    added = {name: value for name, value in SWITCHES.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
