"""`predict launcher=ray`: the parts of a job, computed by a pool of processes on a Ray cluster with Ray Data."""

from __future__ import annotations

import logging
import os
import pickle
import platform
import signal
import time
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from classifier_training.core.display import progress
from classifier_training.core.errors import InterruptedRunError, UserError, first_line
from classifier_training.core.register import entry_of
from classifier_training.core.runtime import console, share_of_cores
from classifier_training.core.storage.places import is_local
from classifier_training.inference.batches import Plan
from classifier_training.inference.parts import JobPlan, PartFolder, digest_of, files_only
from classifier_training.inference.rows import Summary
from classifier_training.inference.sources import Item
from classifier_training.workflows.many_runs.launch.base import passed_on
from classifier_training.workflows.many_runs.launch.local import LOCAL
from classifier_training.workflows.many_runs.launch.ray import Ray, asked, resources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from classifier_training.inference.predictor import Predictor
    from classifier_training.inference.rows import RowSettings
    from classifier_training.workflows.many_runs.launch.base import Launcher

log = logging.getLogger(__name__)

IN_FLIGHT = 2
"""Parts that a process has at a time: one that it computes, and one that waits, so that it is never idle."""

LOG_SECONDS = 30.0
"""Between two lines on the progress, where there is no terminal for a bar."""

LOGS = "/tmp/ray/session_latest/logs on their machine"  # noqa: S108 - a place to look at


@dataclass(frozen=True, kw_only=True)
class PartJob:
    """What a process needs to compute parts; plain data, which means the same on every machine.

    Args:
        open_predictor: opens the model, by the absolute paths of its files.
        model_sha256: of the model.
        settings: of the rows.
        threshold: of the summaries.
        parts: where the parts go.
        done: those that were there when the command began.
        directory: that relative paths begin at.
        witness: path of an image that is there; None where none is on a disk.
        variables: of the environment, besides those of the machine.
    """

    open_predictor: Callable[[], Predictor]
    model_sha256: str
    settings: RowSettings
    threshold: float
    parts: PartFolder
    done: frozenset[int]
    directory: str
    witness: str | None
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)


class Computed(NamedTuple):
    """A part that is there.

    Args:
        part: its number.
        summary: of its rows.
        is_new: whether it was computed now.
    """

    part: int
    summary: Summary
    is_new: bool


class PartWorker:
    """A process of the pool: it opens the model once, and then computes part after part.

    Args:
        job: what to compute.
    """

    def __init__(self, job: PartJob) -> None:
        os.environ.update(job.variables)
        self._job = job
        self._predictor: Predictor | None = None

    def __call__(self, batches: Any) -> Any:
        """Compute a part and write it, unless it is there already.

        Args:
            batches: pyarrow table of the part's batches, a row a batch: its number, and the paths and errors of its
                images, as bytes, because a path need not be text.

        Returns:
            A table of one row: `Computed` or the error, pickled.
        """
        import pyarrow as pa

        try:
            found: Computed | UserError = self._part(batches)
        except UserError as error:
            # As a value, it comes back as it is, and Ray does not log it with a traceback.
            found = error
        return pa.table({"found": pa.array([pickle.dumps(found)], pa.binary())})

    def _part(self, batches: Any) -> Computed:
        job = self._job
        plan = job.parts.plan
        part = batches["batch"][0].as_py() // plan.batches_per_part
        summary = Summary(job.threshold, 0)
        rows = job.parts.read(part) if part in job.done else None
        is_new = rows is None
        if rows is None:
            found = self._open().row_batches(_items(batches), job.settings, batch_size=plan.batch_size)
            rows = [row for _, batch in found for row in batch]
            job.parts.write(part, rows)
        for row in rows:
            summary.add(row)
        return Computed(part, summary, is_new)

    def _open(self) -> Predictor:
        """Open the model at the first part that is not there.

        Raises:
            UserError: when this machine does not see the files of the one that the command runs on.
        """
        if self._predictor is None:
            job, here = self._job, platform.node()
            try:
                os.chdir(job.directory)
            except OSError as error:
                raise _unseen(here, job.directory) from error
            if job.witness is not None and not os.path.exists(job.witness):  # noqa: PTH110
                raise _unseen(here, job.witness)
            if not job.parts.is_plan_seen():
                raise _unseen(here, job.parts.folder)
            predictor = job.open_predictor()
            if predictor.model_sha256 != job.model_sha256:
                raise UserError(
                    f"launcher=ray: {predictor.model_path} is another model on the machine {here}",
                    "one model, which all machines see by the same path",
                    "run=FOLDER of a run in a shared folder",
                )
            self._predictor = predictor
        return self._predictor


def _unseen(machine: str, path: str) -> UserError:
    return UserError(
        f"launcher=ray: the machine {machine} does not see {path}",
        "the model, the images and the output by the same paths on every machine",
        "use a shared folder, or images and output in a store (s3://…)",
    )


def _items(batches: Any) -> list[Item]:
    return [
        Item(os.fsdecode(path), "", error=None if error is None else os.fsdecode(error))
        for paths, errors in zip(batches["paths"].to_pylist(), batches["errors"].to_pylist(), strict=True)
        for path, error in zip(paths, errors, strict=True)
    ]


def blocks(plan: Plan, job_plan: JobPlan) -> Iterator[Any]:
    """Yield a table for each part; see `PartWorker`."""
    import pyarrow as pa

    names = pa.list_(pa.binary())
    for part in range(job_plan.num_parts):
        numbers = job_plan.batches_of(part)
        batches = [plan[number] for number in numbers]
        paths = [[os.fsencode(item.path) for item in batch] for batch in batches]
        errors = [[None if item.error is None else os.fsencode(item.error) for item in batch] for batch in batches]
        yield pa.table({"batch": [*numbers], "paths": pa.array(paths, names), "errors": pa.array(errors, names)})


def compute_parts(launcher: Ray, job: PartJob, plan: Plan) -> Iterator[Computed]:
    """Compute the parts of a job that are not there, and yield each part as it comes: in no order.

    Args:
        launcher: the cluster, and what each process of the pool has.
        job: what to compute.
        plan: the batches of the source.

    Raises:
        UserError: when there is no such cluster, a machine cannot compute parts, or a process failed too often.
    """
    ray, is_own = launcher.connect()
    from ray import data as ray_data

    context = ray_data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    places = sum(
        min(int(node.get(name, 0.0) // number) for name, number in launcher.wanted.items()) for node in resources(ray)
    )
    pool = ray_data.ActorPoolStrategy(
        size=min(places, job.parts.plan.num_parts), max_tasks_in_flight_per_actor=IN_FLIGHT
    )
    options = {name: value for name, value in asked(launcher.wanted).items() if value}
    try:
        # A block a part: Ray Data gives a process a block at a time, and cannot divide its work further.
        found = ray_data.from_arrow(list(blocks(plan, job.parts.plan))).map_batches(
            PartWorker, fn_constructor_args=(job,), batch_size=None, batch_format="pyarrow", compute=pool, **options
        )
        for table in found.iter_batches(batch_size=None, batch_format="numpy"):
            for pickled in table["found"]:
                one = pickle.loads(pickled)  # noqa: S301 - written by our own processes
                if isinstance(one, UserError):
                    raise one
                yield one
    except ray.exceptions.RayError as error:
        raise UserError(
            f"launcher=ray: {first_line(getattr(error, 'cause', None) or error)}",
            "machines that can compute the parts",
            f"give the same command again, which resumes; logs of the processes: {LOGS}",
        ) from error
    finally:
        if is_own:
            ray.shutdown()


def label_on_ray(
    launcher: Ray,
    parts: PartFolder,
    items: Iterable[Item],
    *,
    open_predictor: Callable[[], Predictor],
    settings: Mapping[str, Any],
    row_settings: RowSettings,
    batch_size: int,
    summary: Summary,
) -> int:
    """Compute the parts of a job that are not there; returns how many images were done before.

    Args:
        launcher: the cluster, and what each process of the pool has.
        parts: where they go.
        items: the images.
        open_predictor: opens the model on every machine.
        settings: all that the rows depend on, as plain values; among them the model's SHA-256 as `model`.
        row_settings: of the rows.
        batch_size: images in a batch.
        summary: of all rows; it is added to.

    Raises:
        UserError: see `compute_parts` and `PartFolder.open`.
        InterruptedRunError: when the launcher's time is over.
    """
    plan = Plan(files_only(items), batch_size)
    job_plan = JobPlan(settings=settings, batch_size=batch_size, num_images=len(plan.paths), digest=digest_of(plan))
    done = parts.open(job_plan)
    num_before, total = sum(map(job_plan.images_in, done)), job_plan.num_images
    if done:
        log.info("resuming after the %d images in %s", num_before, parts.folder)
    job = PartJob(
        open_predictor=open_predictor,
        model_sha256=settings["model"],
        settings=row_settings,
        threshold=summary.threshold,
        parts=parts,
        done=done,
        directory=str(Path.cwd()),
        witness=next((path for path in plan.paths[:batch_size] if is_local(path) and Path(path).exists()), None),
        variables={**passed_on(launcher.environment), **share_of_cores(launcher.cores)},
    )
    pace = _Pace(total)
    deadline = None if launcher.time is None else time.monotonic() + launcher.time.total_seconds()
    with progress("labelling", total=lambda: total) as advance:
        for one in compute_parts(launcher, job, plan):
            summary.merge(one.summary)
            advance(one.summary.images)
            pace.add(one)
            if deadline is not None and time.monotonic() > deadline and summary.images < total:
                raise InterruptedRunError(
                    signal.SIGTERM, f"give the same command again; it resumes after the images in {parts.folder}"
                )
    wanted = total if summary.num_shown is None else summary.num_shown
    summary.shown.extend(islice(parts.rows(), wanted))
    parts.mark_complete({"images": summary.images, "errors": summary.errors, "labels": dict(summary.labels)})
    return num_before


class _Pace:
    """Logs the progress of a job now and then, where there is no terminal for a bar.

    Args:
        total: images of the job.
    """

    def __init__(self, total: int) -> None:
        self._total, self._done, self._new = total, 0, 0
        self._began: float | None = None
        self._told = time.monotonic()

    def add(self, one: Computed) -> None:
        """Count a part."""
        now, images = time.monotonic(), one.summary.images
        self._done += images
        if self._began is None:
            # The first part waits for the processes to start.
            self._began = now
        else:
            self._new += images if one.is_new else 0
        if console().is_terminal or now - self._told < LOG_SECONDS or not self._new:
            return
        self._told, rate = now, self._new / (now - self._began)
        left = timedelta(seconds=round((self._total - self._done) / rate))
        log.info("labelled %s of %s images, %.0f a second; ETA %s", f"{self._done:,}", f"{self._total:,}", rate, left)


def ray_of(launcher: Launcher, *, output: str | None, sort_into: str | None) -> Ray | None:
    """Return the cluster that predictions are computed on; None for this machine.

    Raises:
        UserError: for another launcher, and for a setting that a cluster does not take.
    """
    if launcher == LOCAL:
        return None
    known = entry_of(launcher)
    name = "launcher" if known is None else f"launcher={known.name}"
    if not isinstance(launcher, Ray):
        raise UserError(f"{name}: predict does not run there", "this machine, or a Ray cluster", "launcher=ray")
    if output is None:
        raise UserError(
            f"{name} without output", "a folder or file that all machines can write to", "output=/shared/predictions/"
        )
    if launcher.nodes > 1:
        raise UserError(
            f"launcher.nodes={launcher.nodes}: predict uses all machines of the cluster, and needs one for each image",
            "launcher.cores and launcher.gpus of each process",
            "leave launcher.nodes= out",
        )
    if sort_into is not None:
        raise UserError(
            f"{name} with sort_into={sort_into}: the machines only write predictions",
            "one of the two",
            "leave sort_into= out; the same command without launcher= sorts on this machine",
        )
    return launcher
