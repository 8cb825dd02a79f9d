"""Unfinished runs of the configuration that is about to be trained: named, and offered for resuming on a terminal."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier_training.conf.resume import keeps_exactness, saved_values
from classifier_training.core.errors import UserError, plural
from classifier_training.core.register import VERB, entry
from classifier_training.core.run_dir import days_folder
from classifier_training.core.run_reader import read_rows
from classifier_training.core.runtime import command, console, in_notebook, setting
from classifier_training.core.settings import Trait
from classifier_training.data.splitting.manifest import read_manifest
from classifier_training.registry.runs import age_words, unfinished_runs
from classifier_training.workflows.training.settings import TrainSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from classifier_training.core.run_dir import RunDir

log = logging.getLogger(__name__)

NUM_LOOKED_FOR = 200
"""Images of an unfinished run that are looked for in the data."""


def tell_unfinished(settings: TrainSettings) -> None:
    """Say how to resume an unfinished run of the same configuration, if there is one. A new run starts anyway."""
    found = find_unfinished_like(settings)
    if found is not None:
        log.info(
            "an unfinished run has the same settings; to resume it instead: %s %s",
            command("train"), setting("resume", found.path),
        )  # fmt: skip


def offer_unfinished(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Ask on a terminal whether to resume an unfinished run of the same configuration, if there is one.

    Without a terminal, as in a pipe, a notebook or CI, nothing is asked. Enter means no.

    Args:
        arguments: of `TrainSettings`.

    Returns:
        The arguments, with resume= where the answer is yes.
    """
    settings = TrainSettings(**arguments)
    if settings.resume or not (sys.stdin and sys.stdin.isatty() and console().is_terminal) or in_notebook():
        return arguments
    found = find_unfinished_like(settings)
    if found is None:
        return arguments
    done = read_epochs_done(found)
    epochs = "its first epoch is not done" if not done else f"{plural(done, 'epoch')} done"
    if folds := found.fold_runs:
        epochs = f"{sum(fold.result.exists() for fold in folds)} of {plural(len(folds), 'fold')} done"
    console().print(f"an unfinished run has the same settings and data: {found.path}", markup=False, soft_wrap=True)
    question = f"{epochs}, last written to {age_words(found)}. Resume it? [y/N] "
    try:
        answer = console().input(question, markup=False)
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        return arguments
    return {**arguments, "resume": str(found.path)}


def find_unfinished_like(settings: TrainSettings) -> RunDir | None:
    """Return the newest unfinished run that these settings would resume as it was, if there is one."""
    folder = days_folder(Path(settings.output), category=settings.category, name=settings.name)
    for run in unfinished_runs(folder):
        try:
            saved = saved_values(run.config)
        except UserError:
            # A damaged one is no run to resume.
            continue
        if is_alike(saved, settings.config) and has_same_data(run, settings.config):
            return run
    return None


def is_alike(saved: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether two configurations differ in nothing that a weight depends on.

    A run of one can then be resumed with the other.

    Args:
        saved: of an unfinished run.
        config: of the new one.
    """
    return _weighty(saved) == _weighty(config)


def _weighty(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings that a weight depends on, by dotted key, with the names of the components."""
    train, found = entry(VERB, "train"), dict[str, Any]()
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            found |= _weighty(value, f"{key}.")
        elif not train.traits(key) & {Trait.START, Trait.PLACE, Trait.PRESET} and not keeps_exactness(key):
            found[key] = value
    return found


def has_same_data(run: RunDir, config: Mapping[str, Any]) -> bool:
    """Whether the images that an unfinished run is of are in the data folder; of very many some are looked for.

    Args:
        run: with splits.csv.
        config: names the data.
    """
    root = config["data"].get("root")
    if not isinstance(root, str) or not Path(root).is_dir():
        return True
    try:
        rows = read_manifest(run.splits)
    except UserError:
        return False
    return all((Path(root) / row.path).exists() for row in rows[:: max(1, len(rows) // NUM_LOOKED_FOR)])


def read_epochs_done(run: RunDir) -> int:
    """Return how many epochs of an unfinished run have been recorded."""
    try:
        return len(read_rows(run.metrics))
    except (OSError, UserError):
        return 0
