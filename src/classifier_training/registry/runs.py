"""Finding runs by word, name or path."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError, enumerate_words, plural
from classifier_training.core.files import escapes
from classifier_training.core.processes import holder, is_held
from classifier_training.core.run_dir import RunDir
from classifier_training.core.runtime import command
from classifier_training.core.runtime import setting as typed
from classifier_training.registry.mlflow_cache import fetch_model
from classifier_training.registry.mlflow_models import PREFIX
from classifier_training.registry.record import RUN_FILES
from classifier_training.registry.references import Reference, resolve
from classifier_training.registry.scan import run_folders

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

DEFAULT_OUTPUT = "outputs"


def find_run(reference: str, *, output: str = DEFAULT_OUTPUT, setting: str = "run") -> RunDir:
    """Return the run that a word, name or path stands for.

    Args:
        reference: a run folder; latest (the newest exported run); best (the one with the best monitored metric); NAME
            (its newest version); NAME:v2; an alias such as production, or NAME:production where several names have it;
            mlflow:NAME@production, or mlflow:NAME/3, of an MLflow server.
        output: folder of all runs, which everything but a path is looked for in.
        setting: what the user set, for messages.

    Raises:
        UserError: when there is none, or several.
    """
    if reference.startswith(PREFIX):
        return RunDir(fetch_model(reference, setting=setting))
    path = Path(reference).expanduser()
    output = str(Path(output).expanduser())
    word = Reference.parse(reference)
    # A folder of that name is what the shell's completion gave; only latest and best are words before all.
    if os.path.isdir(path) and not word.is_reserved:  # noqa: PTH112 - Path's raises where no one may look
        _refuse_folder_of_runs(path, setting=setting)
        return RunDir(path)
    return RunDir(resolve(word, Path(output), setting=setting))


def _refuse_folder_of_runs(path: Path, *, setting: str) -> None:
    """Raise when runs are below a folder that is none itself."""
    if not path.is_dir() or not RUN_FILES.isdisjoint(entry.name for entry in path.iterdir()):
        return
    below = sorted((found for _, found in run_folders(path)), reverse=True)
    if below:
        raise UserError(
            f"{setting}={path}: a folder of {plural(len(below), 'run')}, and no run itself",
            f"one of them: {enumerate_words(below, limit=NUM_NAMED)}",
            typed(setting, below[0]),
        )


NUM_NAMED = 3
"""Runs of a folder that are listed, the newest first."""


def find_model(reference: str, *, output: str = DEFAULT_OUTPUT, setting: str = "run") -> Path:
    """Return the run folder, or the ONNX file, that a word, name or path stands for.

    Args:
        reference: as for `find_run`, or an .onnx file.
        output: folder of all runs, which everything but a path is looked for in.
        setting: what the user set, for messages.

    Raises:
        UserError: when there is none, or several.
    """
    path = Path(reference).expanduser()
    if path.suffix.lower() != ".onnx" or path.is_dir():
        return find_run(reference, output=output, setting=setting).path
    if not path.is_file():
        raise UserError(
            f"{setting}={reference}: there is no such file",
            "an .onnx file, a run folder, latest, best, NAME, NAME:v2, or an alias",
            f"{setting}=latest takes the newest run below outputs/",
        )
    return path


def find_unfinished(reference: str, *, output: str = DEFAULT_OUTPUT) -> RunDir:
    """Return the run to resume.

    Args:
        reference: a run folder; or latest, for the run that was written to last of those that have a configuration and
            have not finished, with or without a checkpoint; or a NAME, for the latest of that name. A line in the log
            names it with its age.
        output: folder of all runs, which latest is looked for in.

    Raises:
        UserError: when there is none, it has not begun, a process is writing to the latest one, or it is finished and
            the checkpoint to train on from is gone.
    """
    output = str(Path(output).expanduser())
    if reference == "latest":
        return _latest_unfinished(Path(output), reference)
    run_dir = RunDir(Path(reference).expanduser())
    if not run_dir.path.exists() and not escapes(reference) and (named := Path(output) / reference).is_dir():
        return _latest_unfinished(named, reference)
    _refuse_folder_of_runs(run_dir.path, setting="resume")
    if not run_dir.config.is_file() and not run_dir.resumable:
        raise UserError(
            f"resume={reference}: {run_dir.config} does not exist",
            "the folder of a run that had begun",
            "check the path, or start a new run without resume=",
        )
    if run_dir.result.exists() and not run_dir.resumable:
        raise ended(run_dir)
    return run_dir


def find_running(reference: str, *, output: str = DEFAULT_OUTPUT) -> RunDir:
    """Return the run that a process trains.

    Args:
        reference: a run folder; or latest, for the newest run that is in training.
        output: folder of all runs, which latest is looked for in.

    Raises:
        UserError: when there is none.
    """
    output = str(Path(output).expanduser())
    if reference != "latest":
        run = find_run(reference, output=output)
        if run.result.exists() or not is_held(run.lock):
            found = "it has come to its end" if run.result.exists() else "no process trains it"
            raise UserError(
                f"run={run.path}: {found}", "a run in training", f"{command('registry list')} status=running lists them"
            )
        return run
    folders = [RunDir(Path(path)) for _, path in run_folders(Path(output))] if Path(output).is_dir() else []
    running = [run for run in folders if not run.result.exists() and is_held(run.lock)]
    if not running:
        raise UserError(
            f"run=latest: no process trains a run below {Path(output).absolute()}",
            "a run in training",
            "name another folder of runs: output=FOLDER",
        )
    return max(running, key=lambda run: run.path.parts[-2:])


def ended(run_dir: RunDir) -> UserError:
    """Return the error for a finished run without a checkpoint to resume from."""
    start = f"{command('train')} {typed('init_from', run_dir.path)} …   starts a new run from its weights"
    return UserError(
        f"resume={run_dir.path}: the run is finished, and {run_dir.last_checkpoint} is gone",
        "an unfinished run, or a finished one that still has its last checkpoint",
        start,
    )


def _latest_unfinished(output: Path, reference: str) -> RunDir:
    found = [RunDir(Path(path)) for _, path in run_folders(output)] if output.is_dir() else []
    begun = [run for run in found if not run.result.exists() and (run.config.is_file() or run.resumable)]
    if not begun:
        raise UserError(
            f"resume={reference}: no unfinished run below {output.absolute()}",
            "a run that has a configuration and no result.json",
            "name a run elsewhere by its folder: resume=FOLDER",
        )
    run, *older = sorted(begun, key=_last_write, reverse=True)
    age = _age(time.time() - _last_write(run))
    if is_held(run.lock):
        free = next((other for other in older if not is_held(other.lock)), None)
        who = f"process {holder(run.lock) or 'of unknown number'}"
        raise UserError(
            f"resume={reference}: {who} is writing to the latest run, {run.path}",
            "a run that was interrupted",
            "wait for it, or end it"
            + (f"; the one before, written to {_age(time.time() - _last_write(free))} ago: "
               f"{command('train')} {typed('resume', free.path)}" if free else ""),
        )  # fmt: skip
    log.info("resume=%s: %s, last written to %s ago", reference, run.path, age)
    return run


def age_words(run: RunDir) -> str:
    """Say how long ago a run was last written to."""
    return f"{_age(time.time() - _last_write(run))} ago"


def _last_write(run: RunDir) -> float:
    """When a run last wrote something that every run writes, in seconds since 1970."""
    places = (run.config, run.log, run.metrics, run.last_checkpoint.parent, run.last_checkpoint, run.step_checkpoint)
    return max((path.stat().st_mtime for path in places if path.exists()), default=0.0)


def _age(seconds: float) -> str:
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}s"
    return f"{max(seconds, 0):.0f} s"


def unfinished_runs(folder: Path) -> Iterator[RunDir]:
    """Yield the unfinished runs that have a configuration and a checkpoint and that nobody writes to, newest first.

    It looks at two files a run, so thousands of runs are quick.

    Args:
        folder: folder of the days with runs.
    """
    for path in sorted(folder.glob("*/*"), reverse=True):
        run = RunDir(path)
        if not run.result.exists() and run.resumable and run.config.is_file() and not is_held(run.lock):
            yield run
