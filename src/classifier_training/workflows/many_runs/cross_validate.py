"""`train data.num_folds=5`: a run for each fold, in a process of its own, and what they give together.

Each fold is an ordinary run in `folds/`, which begins as a run that is resumed: its config.yaml and splits.csv are
written here, so that all folds divide the same images, whatever becomes of the data in the meantime.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.conf.overrides import value_at, word, written
from classifier_training.conf.resume import changed_settings, masked_key, on_resume, saved_values
from classifier_training.core.errors import CheckFailedError, UserError, plural
from classifier_training.core.processes import is_held, work_in
from classifier_training.core.run_dir import RunDir, write_json, write_text
from classifier_training.core.run_reader import RunReader, read_rows
from classifier_training.core.runtime import command, console, num_cores, setting
from classifier_training.core.settings import Resume
from classifier_training.core.types import TRAIN, VAL
from classifier_training.data.checking.statistics import dataset_statistics
from classifier_training.data.corrections import append_corrections
from classifier_training.data.index import tabulate
from classifier_training.data.splitting.manifest import write_manifest
from classifier_training.data.splitting.splits import in_fold
from classifier_training.workflows.many_runs.fold_scores import CrossValidation, score_folds
from classifier_training.workflows.many_runs.jobs import run_jobs
from classifier_training.workflows.many_runs.launch.base import JobSpec
from classifier_training.workflows.many_runs.launch.local import LOCAL, visible_gpus
from classifier_training.workflows.training.end import interrupts_told
from classifier_training.workflows.training.inputs import read_inputs
from classifier_training.workflows.training.job import record_inputs
from classifier_training.workflows.training.start import begin, config_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from classifier_training.training.settings import TrainerSettings
    from classifier_training.workflows.many_runs.launch.base import Launcher
    from classifier_training.workflows.training.inputs import Inputs
    from classifier_training.workflows.training.settings import TrainSettings
    from classifier_training.workflows.training.start import Begun

log = logging.getLogger(__name__)

OWN = ("data.fold", "time")
"""Settings of which each fold has its own value."""

MEMORY_BYTES = 4 * 2**30
"""That a fold may take, where several are trained at a time on a CPU."""

SHARE_OF_END = 0.1
"""Of the time that is given: for the predictions of all training images, and the report."""

POLL_SECONDS = 1.0


def cross_validate(settings: TrainSettings) -> CrossValidation:
    """Train every fold, or those that are not finished, and score them together.

    Args:
        settings: of all folds, with data.num_folds and without data.fold.

    Raises:
        UserError: when the settings or the data do not allow it.
        CheckFailedError: when a fold failed; the others are kept.
        InterruptedRunError: when a signal came; the run can be resumed.
    """
    if (key := masked_key(settings.config)) is not None:
        raise UserError(
            f"data.num_folds={settings.data.num_folds} with a secret in {key}={value_at(settings.config, key)}: each "
            "fold is a process of its own, and secrets are not written down for them",
            "no secret in the settings",
            "give it by the environment, such as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        )
    with ExitStack() as stack:
        begun = begin(settings, (), stack)
        run_dir, root = (begun.resumed, None) if begun.resumed else _open(begun)
        if begun.resumed:
            begun.run_log.open(run_dir.log)
            run_dir.result.unlink(missing_ok=True)
            write_text(run_dir.config, config_text(begun.config))
        folds = run_dir.fold_runs
        number = num_parallel(settings.trainer, len(folds)) if settings.launcher == LOCAL else None
        _train(run_dir, folds, begun.config, number=number, launcher=settings.launcher)
        with interrupts_told(run_dir):
            return score_folds(run_dir, begun, root=root)


def _open(begun: Begun) -> tuple[RunDir, Path]:
    """Make the run folder with those of the folds; returns it, and the folder of the images."""
    settings = begun.settings
    refuse_devices(settings.trainer)
    inputs = read_inputs(begun)
    loaded, num_folds = inputs.loaded, settings.data.num_folds
    assert loaded.folds is not None
    assert num_folds is not None
    parallel = num_parallel(settings.trainer, num_folds)
    seconds = None if settings.time is None else _share_of_time(begun, num_folds, parallel)
    run_dir = RunDir.create(Path(settings.output), category=settings.category, name=settings.name)
    begun.stack.enter_context(work_in(run_dir))
    begun.run_log.open(run_dir.log)
    if loaded.corrections:
        append_corrections(run_dir.corrections, loaded.corrections)
    write_manifest(run_dir.splits, loaded.index.with_splits(_trained(loaded.index)), loaded.folds)
    write_json(run_dir.statistics, _statistics(inputs))
    for number in range(num_folds):
        own: dict[str, Any] = {**begun.config["data"], "fold": number}
        config = {**begun.config, "data": own, "time": seconds}
        record_inputs(run_dir.fold(number), config, in_fold(loaded.index, loaded.folds, number), loaded.corrections)
    record_inputs(run_dir, begun.config, loaded.index)
    sizes = np.bincount([fold for fold in loaded.folds if fold >= 0])
    few, many = f"{sizes.min():,}", f"{sizes.max():,}"
    each = few if few == many else f"{few} to {many}"
    share = "" if seconds is None else f", each within {seconds:.0f} s"
    log.info(
        "cross-validation: %d folds of %s images, %d at a time%s; run folder: %s",
        num_folds, each, parallel, share, run_dir.path,
    )  # fmt: skip
    return run_dir, loaded.index.root


def _trained(index: Any) -> Iterator[str]:
    return (TRAIN if sample.split == VAL else sample.split for sample in index.samples)


def _statistics(inputs: Inputs) -> dict[str, Any]:
    """The statistics of the data with all that the folds divide as one training split."""
    loaded = inputs.loaded
    whole = tabulate(loaded.index.with_splits(_trained(loaded.index)))
    return {**loaded.statistics, **dataset_statistics(whole, loaded.image_sizes), "checks": inputs.checks}


def _share_of_time(begun: Begun, num_folds: int, parallel: int) -> float:
    assert begun.settings.time is not None
    total = begun.settings.time.total_seconds()
    left = total * (1 - SHARE_OF_END) - begun.clock.so_far()["total"]
    seconds = left / math.ceil(num_folds / parallel)
    if seconds < 1:
        raise UserError(
            f"time={total:g}s leaves no time for {num_folds} folds",
            "some seconds for each fold",
            f"time={math.ceil(total + 60 * num_folds)}s, or fewer folds",
        )
    return round(seconds, 1)


def refuse_devices(trainer: TrainerSettings) -> None:
    """Raise where a fold is to use several GPUs: each has one.

    Raises:
        UserError: then.
    """
    if isinstance(trainer.num_devices, int) and trainer.num_devices > 1:
        raise UserError(
            f"trainer.num_devices={trainer.num_devices} with data.num_folds: each fold is trained on one GPU",
            "as many folds at a time as there are GPUs",
            "leave trainer.num_devices out, or train one fold on all GPUs: data.fold=0",
        )


def num_parallel(trainer: TrainerSettings, num_folds: int) -> int:
    """Return how many folds are trained at a time: one a GPU; on a CPU one a core, as far as memory goes.

    A network that is trained on one core gets through more images for each core than on several.
    """
    if trainer.accelerator not in ("cpu", "mps") and (gpus := visible_gpus()):
        return min(num_folds, len(gpus))
    if trainer.accelerator == "mps" or (trainer.accelerator == "auto" and sys.platform == "darwin"):
        return 1
    from classifier_training.training.batch_size import available_memory_bytes

    return max(1, min(num_folds, num_cores(), int(available_memory_bytes() // MEMORY_BYTES)))


def _train(
    run_dir: RunDir, folds: Sequence[RunDir], config: Mapping[str, Any], *, number: int | None, launcher: Launcher
) -> None:
    again = f"{command('train')} {setting('resume', run_dir.path)}"
    left = {fold.path.absolute(): words for fold in folds if (words := next_words(fold, config)) is not None}
    jobs = [JobSpec(name=f"fold {path.name}", folder=path, words=tuple(words)) for path, words in left.items()]
    done = [fold for fold in folds if fold.path.absolute() not in left]
    if done:
        log.info("%s of %d finished before", plural(len(done), "fold"), len(folds))
    with _told(folds, str(config["monitor"]), known=done):
        outcomes = run_jobs(jobs, num_parallel=number, remedy=again, launcher=launcher)
    failed = [job for job in jobs if not RunDir(job.folder).result.exists()]
    if failed:
        first = outcomes[failed[0].name]
        raise CheckFailedError(
            f"{', '.join(job.name for job in failed)} of {len(folds)} did not finish: "
            f"{first.reason if first else 'not run to its end'} (all it said: {failed[0].log})",
            "finished runs of all folds",
            f"fix that, and resume: {again}   finished folds stay",
        )


def next_words(fold: RunDir, config: Mapping[str, Any]) -> list[str] | None:
    """Return what resumes a fold with the settings of all; None where it is finished with them.

    Args:
        fold: the run of the fold.
        config: of the cross-validation, from now on.
    """
    changes = [(key, now) for key, _, now in changed_settings(saved_values(fold.config), config) if key not in OWN]
    if fold.result.exists() and all(on_resume(key) is Resume.EXACT for key, _ in changes):
        return None
    words = [f"{key}={written(key, now)}" for key, now in changes]
    if config.get("extend") is not None and "trainer.max_epochs" in dict(changes):
        words.append(word("extend", config["extend"]))
    return ["train", word("resume", fold.path.absolute()), *words]


@contextmanager
def _told(folds: Sequence[RunDir], monitor: str, *, known: Sequence[RunDir]) -> Iterator[None]:
    """Say the score of each fold when it is there; on a terminal one line shows how far all are."""
    stop, told = threading.Event(), {fold.path for fold in known}

    def tell() -> None:
        for fold in folds:
            if fold.path not in told and fold.result.exists():
                told.add(fold.path)
                log.info("%s", _score_words(fold, monitor))

    with console().status("") if console().is_terminal else nullcontext() as status:

        def watch() -> None:
            while not stop.wait(POLL_SECONDS):
                tell()
                if status is not None:
                    status.update(" | ".join(_state(fold, monitor) for fold in folds))

        thread = threading.Thread(target=watch, daemon=True, name="folds")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
    tell()


def _score_words(fold: RunDir, monitor: str) -> str:
    reader = RunReader(fold)
    result, name = reader.result, monitor.partition("/")[2]
    scored = [f"{result.get('split')}/{name} {value:.4f}"] if (value := result.get("metrics", {}).get(name)) else []
    # A run without an export says no best metric.
    best = reader.info.get("training_info", {}).get("best_metric")
    if best:
        scored = [f"{best['name']} {best['value']:.4f}", *(scored if result.get("split") != VAL else [])]
    return f"fold {fold.path.name}: {', '.join(scored) or 'done'}"


def _state(fold: RunDir, monitor: str) -> str:
    """Say how far a fold is, in a few characters."""
    try:
        rows = read_rows(fold.metrics)
    except (OSError, UserError):
        rows = []
    name = f"fold {fold.path.name}"
    if fold.result.exists():
        return f"{name} done"
    if not rows:
        return f"{name} begins" if is_held(fold.path / "job.lock") else f"{name} waits"
    try:
        return f"{name} epoch {len(rows)} {float(rows[-1][monitor]):.3f}"
    except (KeyError, ValueError):
        return f"{name} epoch {len(rows)}"
