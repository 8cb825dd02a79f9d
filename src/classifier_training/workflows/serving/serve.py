"""`serve`: a finished run answers over HTTP."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from classifier_training import __version__
from classifier_training.core.errors import UserError, refuse_missing
from classifier_training.core.register import Choice, Word, register
from classifier_training.core.runtime import raise_open_file_limit
from classifier_training.core.settings import RunText, TypedPath
from classifier_training.inference.rejection import LabelSetSettings, PredictTrainer, RejectSettings
from classifier_training.inference.rows import RowSettings
from classifier_training.monitoring.sketch import SKETCHES
from classifier_training.registry.record import read_record
from classifier_training.registry.runs import find_model
from classifier_training.service.settings import Limits
from classifier_training.workflows.evaluating.run_model import open_runs

if TYPE_CHECKING:
    from classifier_training.monitoring.sketch import SketchWriter
    from classifier_training.service.engine import Arms, Engine
    from classifier_training.service.records import Kind
    from classifier_training.service.sketches import SketchObserver

log = logging.getLogger(__name__)

GOOD_NAME = r"[A-Za-z0-9._-]+"


@dataclass(frozen=True)
class ServeResult:
    """Result of `serve`.

    Args:
        seconds: for which requests were answered.
    """

    seconds: float

    def __str__(self) -> str:
        # Standard output is the log's, a JSON object a line.
        return ""


@register(
    group="verb",
    name="serve",
    examples=(
        "serve run=production port=8080",
        "serve best host=0.0.0.0 name=pets",
        "serve production canary=latest share=0.1 record=records",
        "serve latest reject.precision=0.95 unknown=true",
    ),
)
def serve(
    *,
    run: Annotated[RunText | list[RunText], Word()] = "latest",
    host: str = "127.0.0.1",
    port: Annotated[int, Field(ge=0, le=65535)] = 8080,
    name: Annotated[str, Field(pattern=f"^{GOOD_NAME}$")] = "classifier",
    trainer: Annotated[PredictTrainer, Choice("default", group="predict_trainer")],
    reject: Annotated[RejectSettings, Choice("default", group="predict_reject")],
    label_set: Annotated[LabelSetSettings, Choice("default", group="predict_label_set")],
    limits: Annotated[Limits, Choice("default", group="serve_limits")],
    top_k: Annotated[int, Field(ge=1)] = 3,
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5,
    unknown: bool = False,
    probabilities: bool = False,
    max_batch: Annotated[int, Field(ge=1)] = 8,
    max_wait_ms: Annotated[float, Field(ge=0)] = 5,
    canary: RunText | None = None,
    shadow: RunText | None = None,
    share: Annotated[float, Field(gt=0, le=1)] | None = None,
    reload_s: Annotated[float, Field(ge=0)] = 5,
    drain_s: Annotated[float, Field(ge=0)] = 0,
    grace_s: Annotated[float, Field(gt=0)] = 30,
    record: TypedPath | None = None,
) -> ServeResult:
    """Answer over HTTP with a finished run: image files, and tensors by the Open Inference Protocol V2.

    POST an image to /classify and get predict's row. /docs lists all addresses, / is a page to try it, /metrics is for
    Prometheus. A run that is promoted later is taken over without a pause. SIGTERM ends it once what is under way is
    answered.

    Args:
        run: run folder, latest, best, NAME, NAME:v2, an alias such as production, or an .onnx file; of several in a
            list, the mean of their probabilities is taken.
        host: address that it listens on; 0.0.0.0 for all of the machine's, as in a container.
        port: that it listens on; 0 takes a free one.
        name: of the model in the protocol's addresses: /v2/models/NAME/infer.
        top_k: top predictions to list for each image.
        threshold: confidence below which a prediction is marked as rejected.
        unknown: label rejected images `unknown`; the predicted class is still the first of top_k.
        probabilities: give the probability of every class.
        max_batch: most images that go through the model together; with 1 an answer has the very bytes that predict
            writes with data.batch_size=1.
        max_wait_ms: for which a batch waits for images that are being decoded; an image alone never waits.
        canary: another run that answers a share of the requests, which follows from their X-Request-ID.
        shadow: another run that answers requests, too, with the time that is left; nobody gets its answers.
        share: of the requests that the canary (0.1 when left out) or the shadow has (all).
        reload_s: seconds between two looks at which run the reference stands for; 0 keeps the first.
        drain_s: seconds after SIGTERM for which requests are still taken while /v2/health/ready says no, so that a load
            balancer learns of it.
        grace_s: seconds for requests that are under way at the end.
        record: folder that counts of the answers are added to, by the hour, for `watch`; and with a canary or shadow
            what both predicted, for `registry verdict`. True labels can then be sent to /feedback. There are no images.
    """
    refuse_missing("serve", purpose="serve")
    import gc

    from classifier_training.service.app import Service
    from classifier_training.service.arms import (
        RolloutArms,
        RolloutRecorder,
        follow_verdict,
        low_priority_pool,
        lower_priority,
    )
    from classifier_training.service.engine import PRODUCTION, Engine, SingleArm
    from classifier_training.service.limits import Gate
    from classifier_training.service.logs import json_log
    from classifier_training.service.metrics import Metrics
    from classifier_training.service.records import SHADOW
    from classifier_training.service.reload import State, Watcher
    from classifier_training.service.server import Ending, listen, run_app

    _refuse_idle(canary, shadow, share)
    raise_open_file_limit()
    named = [run] if isinstance(run, str) else list(run)
    gate = Gate(limits)
    metrics = Metrics(gate)

    def find() -> tuple[Path, ...]:
        return tuple(find_model(one) for one in named)

    def open_engine(paths: tuple[Path, ...], arm: str = PRODUCTION) -> Engine:
        predictor = open_runs([str(path) for path in paths], accelerator=trainer.accelerator)
        rows = RowSettings(
            top_k=top_k,
            rule=predictor.rule(threshold, reject, unknown=unknown),
            unknown=unknown,
            probabilities=probabilities,
            set_thresholds=predictor.set_thresholds(label_set),
        )

        def ended(images: int, seconds: float) -> None:
            metrics.batch.labels(arm).observe(images)
            metrics.run.labels(arm).observe(seconds)
            if arm != SHADOW:
                gate.note(images, seconds)

        title, version = _name_of(paths)
        return Engine(
            predictor, run=title, version=version, rows=rows,
            max_batch=max_batch, max_wait_s=max_wait_ms / 1000, ended=ended,
            pool=low_priority_pool() if arm == SHADOW else None,
        )  # fmt: skip

    opened = listen(port, host=host)
    paths = find()
    state = State.of(paths)
    engine = open_engine(paths)
    metrics.opened(PRODUCTION, engine)
    arms: Arms = SingleArm(engine)
    recorder, tasks = None, []
    if (other := canary or shadow) is not None:
        kind: Kind = "canary" if canary else "shadow"
        place = (find_model(other, setting=kind),)
        # Threads inherit the priority of the one that begins them, also those of the model.
        with ThreadPoolExecutor(1, initializer=lower_priority if shadow else None) as opener:
            new = opener.submit(open_engine, place, kind).result()
        if new.predictor.model_sha256 == engine.predictor.model_sha256:
            log.warning("%s: %s is the run that answers already; there is nothing to compare", kind, new.run)
        arms = rollout = RolloutArms(engine, new, kind=kind, share=share or (0.1 if canary else 1.0))
        metrics.opened(kind, new)
        folder = None if record is None else Path(record).expanduser()
        recorder = RolloutRecorder(folder, rollout, metrics)
        if folder is not None and reload_s:
            tasks.append(partial(follow_verdict, rollout, folder, every_s=reload_s))
        log.info("%s: %s has %g of the requests", kind, new.run, rollout.share)
    watcher = Watcher(
        PRODUCTION, arms, find=find, state=state, open_engine=open_engine, metrics=metrics, every_s=reload_s
    )
    observers = []
    try:
        observers += [] if record is None else [sketch_observer(Path(record).expanduser(), arms)]
    except UserError as error:
        if recorder is None:
            raise
        log.warning("nothing is written for watch: %s", error.came)
    service = Service(
        arms, gate, metrics, name=name, version=__version__, observers=observers, recorder=recorder,
        tasks=[watcher.watch, *tasks] if reload_s else [],
    )  # fmt: skip
    log.info("%s on %s", engine.predictor.model_path, engine.predictor.device)
    address = f"http://{host}:{opened.getsockname()[1]}"
    log.info("%s answers at %s; Ctrl-C ends it", engine.run, address)
    # What was loaded stays, and need not be looked through for garbage again.
    gc.collect()
    gc.freeze()
    since = time.monotonic()

    def started() -> None:
        log.info("started", extra={"fields": {"address": address, "run": engine.run, "name": name}})

    def ending(signal: str) -> None:
        service.is_draining = True
        log.info("ending", extra={"fields": {"signal": signal, "images": gate.images}})

    with json_log(dropped=metrics.unlogged.inc):
        run_app(service.app(), opened, started=started, ending=Ending(ending, drain_s=drain_s, grace_s=grace_s))
        log.info("ended")
    return ServeResult(time.monotonic() - since)


def _refuse_idle(canary: str | None, shadow: str | None, share: float | None) -> None:
    """Refuse settings that have no effect.

    Raises:
        UserError: for the first of them.
    """
    if canary is not None and shadow is not None:
        raise UserError(
            f"canary={canary} and shadow={shadow}",
            "one new run at a time",
            "leave one out: a shadow first, then a canary",
        )
    if share is not None and canary is None and shadow is None:
        raise UserError(
            f"share={share:g} without another run", "canary=RUN or shadow=RUN", "add one, or leave share out"
        )


def sketch_observer(folder: Path, arms: Arms) -> SketchObserver:
    """Return what counts the answers of a server in sketches.

    Args:
        folder: that `record` names.
        arms: whose engines answer.

    Raises:
        UserError: when a run has no reference sketch, or the folder cannot be written.
    """
    from classifier_training.service.sketches import SketchObserver

    def open_writer(model: str) -> SketchWriter:
        (predictor, *_) = (one.predictor for one in arms.engines.values() if one.predictor.model_sha256 == model)
        return predictor.sketch_writer(folder / SKETCHES)

    for engine in arms.engines.values():
        # What is refused is refused before the first request.
        engine.predictor.sketch_writer(folder / SKETCHES)
    return SketchObserver(open_writer)


def _name_of(paths: tuple[Path, ...]) -> tuple[str, str]:
    """Return a name of runs for people, and the version of a single one."""
    records = [read_record(path, path.name, [file.name for file in path.iterdir()]) for path in paths if path.is_dir()]
    if len(paths) > 1 or not records:
        return " + ".join(str(path) for path in paths), "1"
    (record,) = records
    return record.version_name, str(record.version or 1)
